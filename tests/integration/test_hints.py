"""Hints: who follows a run is told at once, who is not told looks by the clock, and who commits never waits."""

import threading
import time
from typing import Any, cast
from uuid import uuid4

import pytest
import redis

from chargehand.memory import keyspace
from chargehand.orchestrator import hints
from chargehand.orchestrator.hints import Follower, Hints

# Longer than any test waits: whatever returns before was told to.
NEVER = 60.0


def client_of(redis_url: str) -> redis.Redis:
    return keyspace.connect(redis_url, connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0)


def test_a_follower_is_told_at_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", NEVER)
    run_id = uuid4()
    worker = Hints(client_of(redis_url), key_prefix="test")
    with Hints(client_of(redis_url), key_prefix="test").follow(run_id) as follower:
        began = time.monotonic()
        threading.Timer(0.2, worker.give, [run_id]).start()
        follower.wait()
    assert time.monotonic() - began < NEVER / 2


def test_a_hint_between_two_waits_is_not_missed(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", NEVER)
    run_id = uuid4()
    worker = Hints(client_of(redis_url), key_prefix="test")
    with Hints(client_of(redis_url), key_prefix="test").follow(run_id) as follower:
        # The subscription itself is confirmed first, as in real life.
        while not worker._client.publish(worker._channel(run_id), ""):
            pass
        follower.wait()
        worker.give(run_id)
        began = time.monotonic()
        follower.wait()
    assert time.monotonic() - began < NEVER / 2


def test_another_runs_hint_wakes_nobody(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", 0.3)
    worker = Hints(client_of(redis_url), key_prefix="test")
    with Hints(client_of(redis_url), key_prefix="test").follow(uuid4()) as follower:
        began = time.monotonic()
        worker.give(uuid4())
        follower.wait()
    assert time.monotonic() - began >= 0.3


def test_without_redis_a_follower_looks_by_the_clock_and_a_writer_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", 0.2)
    nowhere = client_of("redis://127.0.0.1:1/0")
    Hints(nowhere, key_prefix="test").give(uuid4())
    with Hints(nowhere, key_prefix="test").follow(uuid4()) as follower:
        assert follower.is_deaf
        began = time.monotonic()
        follower.wait()
    assert 0.2 <= time.monotonic() - began < 30


def test_a_follower_whose_redis_goes_away_goes_on_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", 0.2)

    class Broken:
        def get_message(self, timeout: float) -> None:
            raise redis.ConnectionError("gone")

    follower = Follower(cast(Any, Broken()))
    began = time.monotonic()
    follower.wait()
    assert follower.is_deaf
    assert time.monotonic() - began >= 0.2


class Counting:
    """A Redis that counts what is published, and that so many listen to."""

    def __init__(self, listeners: int) -> None:
        self.listeners, self.published = listeners, 0

    def publish(self, channel: str, message: str) -> int:
        self.published += 1
        return self.listeners


def test_a_run_that_nobody_follows_costs_one_message_a_second() -> None:
    silent, heard = Counting(0), Counting(1)
    run_id = uuid4()
    for client in (silent, heard):
        worker = Hints(cast(Any, client), key_prefix="test")
        for _ in range(50):
            worker.give(run_id)
    assert (silent.published, heard.published) == (1, 50)

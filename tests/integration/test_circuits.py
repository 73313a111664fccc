"""Circuits on a real Valkey: opened by the fleet's failures, probed by one, closed when Redis is lost or slow."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from chargehand.memory import keyspace
from chargehand.orchestrator import circuits
from chargehand.orchestrator.circuits import LEAST_FAILURES, LOST_SECONDS, TIMEOUT_SECONDS, Circuits, look


class Clock:
    """A process's own clock, which a test moves on; Valkey keeps its own."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def forget(self) -> None:
        """Let what the process was told grow old."""
        self.now += circuits.KNOWN_SECONDS + 0.01


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _short_cool_downs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "COOL_DOWN_MS", 200)


def process(client: redis.Redis, clock: Clock) -> Circuits:
    return Circuits(client, key_prefix="t", clock=clock)


def fail(one: Circuits, times: int = LEAST_FAILURES, name: str = "m") -> None:
    for _ in range(times):
        one.failed("model", name, "HTTP 500: no")


def wait_until_half_open(client: redis.Redis) -> None:
    deadline = time.monotonic() + 60
    while look(client, key_prefix="t")[0].state != "half-open":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_failures_of_several_processes_open_the_circuit_for_all(client: redis.Redis, clock: Clock) -> None:
    fleet = [process(client, clock) for _ in range(LEAST_FAILURES)]
    for one in fleet[:-1]:
        fail(one, 1)
    assert fleet[-1].ask("model", "m") is None
    fail(fleet[-1], 1)
    clock.forget()
    for one in fleet:
        found = one.ask("model", "m")
        assert found is not None
        assert 0 < found.seconds <= 0.2
        assert found.why == "5 of 5 calls failed within a minute, the last one: HTTP 500: no"
    # Not of another name or kind.
    assert fleet[0].ask("model", "other") is None
    assert fleet[0].ask("tool", "m") is None


def test_a_few_failures_among_many_calls_open_nothing(client: redis.Redis, clock: Clock) -> None:
    one = process(client, clock)
    for _ in range(2 * LEAST_FAILURES):
        one.passed("model", "m")
    fail(one, LEAST_FAILURES)
    clock.forget()
    assert one.ask("model", "m") is None
    seen = look(client, key_prefix="t")[0]
    assert (seen.state, seen.failures, seen.calls) == ("closed", LEAST_FAILURES, 3 * LEAST_FAILURES)
    # Half of all calls are too many.
    fail(one, LEAST_FAILURES)
    clock.forget()
    assert one.ask("model", "m") is not None


def test_a_half_open_circuit_lets_exactly_one_of_the_fleet_through(client: redis.Redis, clock: Clock) -> None:
    fail(process(client, clock))
    wait_until_half_open(client)
    fleet = [process(client, clock) for _ in range(10)]
    gate = threading.Barrier(30)

    def ask(number: int) -> Any:
        gate.wait(timeout=60)
        return fleet[number % 10].ask("model", "m")

    with ThreadPoolExecutor(max_workers=30) as threads:
        answers = list(threads.map(ask, range(30)))
    assert answers.count(None) == 1


def test_the_probes_own_thread_may_ask_again_before_it_calls(client: redis.Redis, clock: Clock) -> None:
    one = process(client, clock)
    fail(one)
    wait_until_half_open(client)
    clock.forget()
    assert [one.ask("model", "m") for _ in range(3)] == [None] * 3
    with ThreadPoolExecutor(max_workers=1) as other:
        assert other.submit(one.ask, "model", "m").result() is not None


def test_a_probe_that_passes_closes_the_circuit(client: redis.Redis, clock: Clock) -> None:
    one, other = process(client, clock), process(client, clock)
    fail(one)
    wait_until_half_open(client)
    clock.forget()
    assert one.ask("model", "m") is None
    one.passed("model", "m")
    clock.forget()
    assert one.ask("model", "m") is None
    assert other.ask("model", "m") is None
    assert look(client, key_prefix="t") == []


def test_each_probe_that_fails_opens_it_for_longer(client: redis.Redis, clock: Clock) -> None:
    one = process(client, clock)
    fail(one)
    pauses = []
    for _ in range(3):
        pauses.append(int(client.hget("t:circuit:model:m", "until")) - int(client.hget("t:circuit:model:m", "since")))  # type: ignore[arg-type]
        wait_until_half_open(client)
        clock.forget()
        assert one.ask("model", "m") is None
        fail(one, 1)
    # 200, 400, 800 ms, each between half and all of it.
    for number, pause in enumerate(pauses):
        assert 100 * 2**number <= pause <= 200 * 2**number


def test_a_call_that_began_before_does_not_close_an_open_circuit(client: redis.Redis, clock: Clock) -> None:
    one, slow = process(client, clock), process(client, clock)
    assert slow.ask("model", "m") is None
    fail(one)
    slow.passed("model", "m")
    clock.forget()
    assert slow.ask("model", "m") is not None


def test_a_probe_whose_worker_died_is_not_waited_for(
    client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "PROBE_MS", 50)
    fail(process(client, clock))
    wait_until_half_open(client)
    assert process(client, clock).ask("model", "m") is None
    time.sleep(0.06)
    assert process(client, clock).ask("model", "m") is None


def test_a_healthy_fleet_hardly_asks_redis(client: redis.Redis, clock: Clock) -> None:
    one = process(client, clock)
    one.ask("model", "m")
    before = client.info("stats")["total_commands_processed"]
    for _ in range(1_000):
        assert one.ask("model", "m") is None
        one.passed("model", "m")
    assert client.info("stats")["total_commands_processed"] - before < 10


def test_every_circuit_is_closed_when_redis_is_lost(clock: Clock) -> None:
    away = keyspace.connect("redis://127.0.0.1:1", connect_timeout_seconds=0.1, retries=0)
    one = process(away, clock)
    fail(one, 20)
    assert one.ask("model", "m") is None
    one.passed("model", "m")


def test_an_emptied_redis_closes_them(client: redis.Redis, clock: Clock) -> None:
    one = process(client, clock)
    fail(one)
    client.flushall()
    clock.forget()
    assert one.ask("model", "m") is None


def test_a_redis_that_is_slow_costs_a_turn_one_short_time_out(redis_url: str, clock: Clock) -> None:
    hasty = keyspace.connect(
        redis_url, connect_timeout_seconds=TIMEOUT_SECONDS, socket_timeout_seconds=TIMEOUT_SECONDS, retries=0
    )
    one = process(hasty, clock)
    assert one.ask("model", "m") is None
    with redis.Redis.from_url(redis_url) as operator:
        operator.client_pause(3_000, all=True)
        clock.forget()
        began = time.monotonic()
        for _ in range(100):
            assert one.ask("model", "m") is None
            one.passed("model", "m")
            clock.now += 0.001
        # One time-out, on a machine with other work; a hundred of them would take five seconds.
        assert time.monotonic() - began < 2
        operator.client_unpause()
    deadline = time.monotonic() + 20
    while True:
        # On a busy machine Valkey may be slow once more.
        clock.now += LOST_SECONDS
        fail(one)
        clock.forget()
        if one.ask("model", "m") is not None:
            break
        assert time.monotonic() < deadline

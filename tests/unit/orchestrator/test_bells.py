"""Bells: rung soon and together, once for each run, and none is left behind at the end."""

import threading
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from chargehand.orchestrator import bells
from chargehand.orchestrator.bells import Bells


def test_bells_that_come_while_others_are_rung_go_together_and_each_run_once() -> None:
    rung: list[Sequence[UUID]] = []
    first_is_rung, others_wait = threading.Event(), threading.Event()

    def ring_each(run_ids: Sequence[UUID]) -> None:
        rung.append(run_ids)
        first_is_rung.set()
        assert others_wait.wait(30)

    one, two, three = uuid4(), uuid4(), uuid4()
    ringing = Bells(ring_each)
    ringing.ring(one)
    assert first_is_rung.wait(30)
    for run_id in (two, three, two):
        ringing.ring(run_id)
    others_wait.set()
    ringing.close()
    assert rung == [[one], [two, three]]


def test_after_the_end_nobody_is_told_and_no_thread_starts() -> None:
    rung: list[Sequence[UUID]] = []
    before = threading.active_count()
    ringing = Bells(rung.append)
    ringing.close()
    ringing.ring(uuid4())
    assert (rung, threading.active_count()) == ([], before)


def test_what_cannot_be_told_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "MOST_WAITING", 3)
    held, rung = threading.Event(), []

    def ring_each(run_ids: Sequence[UUID]) -> None:
        assert held.wait(30)
        rung.append(len(run_ids))

    ringing = Bells(ring_each)
    for _ in range(20):
        ringing.ring(uuid4())
    held.set()
    ringing.close()
    assert 3 <= sum(rung) <= 6

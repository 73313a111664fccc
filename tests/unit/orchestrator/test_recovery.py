"""Whose fault it is that a lease expired, and what becomes of its step."""

from dataclasses import replace
from uuid import UUID

import pytest

from chargehand.orchestrator.facts import AnyFact, ModelFailed, StepClaimed, StepRecovered
from chargehand.orchestrator.recovery import Cause, Evidence, Verdict, cause_of, cut_off, judge

LEASE = 15.0
HOUR = 3_600.0
# Its process was killed, the others go on.
KILLED = Evidence(renewed=LEASE + 0.5, heard=LEASE + 0.6, connected=HOUR, fleet_connected=HOUR)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        pytest.param(KILLED, "crash", id="the process was killed"),
        pytest.param(replace(KILLED, heard=None, connected=None), "crash", id="it is not even remembered"),
        pytest.param(replace(KILLED, heard=59.0, renewed=60.0), "crash", id="it holds its breath for a minute"),
        pytest.param(replace(KILLED, heard=3.0), "crash", id="it lives, was never cut off, and let go of the step"),
        pytest.param(replace(KILLED, heard=1.0, connected=1.0), "outage", id="it is back after an outage"),
        pytest.param(replace(KILLED, heard=1.0, connected=15.4), "outage", id="its connection broke in this lease"),
        pytest.param(replace(KILLED, heard=1.0, connected=15.6), "crash", id="its connection broke before this lease"),
        pytest.param(replace(KILLED, fleet_connected=1.0), None, id="everybody has just come back but for this one"),
        pytest.param(replace(KILLED, fleet_connected=0.0), None, id="nobody is there"),
        pytest.param(
            replace(KILLED, heard=HOUR, renewed=HOUR, fleet_connected=8.0), "crash", id="it did not come back"
        ),
    ],
)
def test_a_lease_expires_by_a_crash_an_outage_or_for_a_reason_yet_to_be_seen(
    evidence: Evidence, cause: Cause | None
) -> None:
    assert cause_of(evidence, lease_seconds=LEASE) == cause


def test_a_dead_process_is_never_taken_for_one_that_lives() -> None:
    # Its last beat renewed all it held: when a lease has expired, that beat is a whole lease ago.
    for late in (0.0, 0.1, 1.0, HOUR):
        evidence = replace(KILLED, heard=LEASE + late, renewed=LEASE + late, connected=0.0)
        assert cause_of(evidence, lease_seconds=LEASE) == "crash"


def journey(*, crashes: int, solo_pool_lives: bool) -> list[Verdict]:
    """What a step goes through that crashes so many times."""
    verdicts = [Verdict(crashes=0, solo=False, asks_person=False)]
    for _ in range(crashes):
        last = verdicts[-1]
        verdicts.append(judge(crashes=last.crashes, solo=last.solo, max_crashes=2, solo_pool_lives=solo_pool_lives))
    return verdicts[1:]


def test_a_step_is_tried_alone_after_two_crashes_and_put_before_a_person_after_two_more() -> None:
    verdicts = journey(crashes=4, solo_pool_lives=True)
    assert [verdict.solo for verdict in verdicts] == [False, True, True, True]
    assert [verdict.asks_person for verdict in verdicts] == [False, False, False, True]


def test_without_a_solo_pool_the_third_crash_is_put_before_a_person() -> None:
    verdicts = journey(crashes=3, solo_pool_lives=False)
    assert not any(verdict.solo for verdict in verdicts)
    assert [verdict.asks_person for verdict in verdicts] == [False, False, True]


def test_an_outage_is_nobodys_crash() -> None:
    for solo in (False, True):
        verdict = judge(cause="outage", crashes=9, solo=solo, max_crashes=2, solo_pool_lives=True)
        assert verdict == Verdict(crashes=9, solo=solo, asks_person=False)


Stream = list[tuple[int, float, AnyFact]]


def losses(*holders: str, every: float = 10.0) -> Stream:
    """A step that was claimed by these workers, one after the other, and lost by each."""
    stream: Stream = []
    for epoch, holder in enumerate(holders, start=1):
        stream.append((epoch, (epoch - 0.5) * every, StepClaimed(holder=holder, crashes=epoch - 1)))
        stream.append((epoch, epoch * every, StepRecovered(crashes=epoch)))
    return stream


def test_a_worker_that_connects_anew_after_its_step_was_taken_from_it_had_only_been_cut_off() -> None:
    assert cut_off(losses("a", "b"), {"a": 12.0, "b": 1.0}) == (1,)
    assert cut_off(losses("a", "b"), {"a": 12.0, "b": 23.0}) == (1, 2)


def test_a_worker_that_froze_or_died_is_not_taken_for_one_that_was_cut_off() -> None:
    # Frozen, its connection lasts; dead, it is never seen again; in its next life it has another name.
    assert cut_off(losses("a", "b"), {"a": 1.0, "c": 30.0}) == ()


def test_a_crash_is_taken_back_once() -> None:
    stream = [*losses("a", "b"), (3, 25.0, StepClaimed(holder="c")), (3, 30.0, StepRecovered(crashes=2, cut_off=(1,)))]
    assert cut_off(stream, {"a": 35.0}) == ()
    assert cut_off(stream, {"a": 35.0, "b": 36.0}) == (2,)


def test_what_progress_has_forgiven_and_what_an_outage_took_is_not_taken_back() -> None:
    answer = ModelFailed(call_id=UUID(int=1), error="busy", retryable=True, cost_microusd=0)
    assert cut_off([*losses("a"), (2, 11.0, answer)], {"a": 12.0}) == ()
    outage = StepRecovered(crashes=0, cause="outage")
    assert cut_off([(1, 5.0, StepClaimed(holder="a")), (1, 10.0, outage)], {"a": 12.0}) == ()

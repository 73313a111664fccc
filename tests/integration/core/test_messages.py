"""Messages get lost, come late and come twice; times are moved back, not waited for."""

from typing import TYPE_CHECKING, Any

import pytest

from chargehand.orchestrator.errors import NothingToClaim
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.supervisor.sounding import database_seconds

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House

HOUR = 3_600.0
# As a user has them.
DEFAULT = Settings(lease_seconds=60)
SLOTS = 5
# Half as many messages again lie ahead.
PLACES = 8


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def later(house: "House", seconds: float) -> None:
    """Let time pass for what waits, and for nobody else."""
    house.execute(
        "UPDATE steps SET queued_at = queued_at - make_interval(secs => :seconds), "
        "started_at = started_at - make_interval(secs => :seconds)",
        {"seconds": seconds},
    )


def sent(house: "House", run_id: "UUID") -> int:
    """Messages that were ever sent for the run's steps, as long as nobody has claimed one."""
    return int(house.execute("SELECT sum(emissions) FROM steps WHERE run = :run", {"run": run_id})[0][0])


def rounds(
    house: "House", seconds: float, *, every: float = 1.0, queue_length: int = 0, settings: Settings = DEFAULT
) -> int:
    """Watch and admit while the seconds pass; gives the number of messages that were sent."""
    count = 0
    for _ in range(round(seconds / every)):
        later(house, every)
        # Who lives beats, however long this test takes.
        house.execute(
            "UPDATE pools SET seen_at = clock_timestamp() WHERE seen_at > clock_timestamp() - interval '30 s'"
        )
        house.watch(settings, queue_length=queue_length)
        count += sum(len(emission.links) for admitted in house.admit() for emission in admitted.emissions)
    return count


def test_a_lost_message_costs_seconds(house: "House") -> None:
    run_id = house.start(script("a"))
    # A minute instead, so that what this test takes itself does not matter.
    patient = Settings(lease_seconds=60, unclaimed_seconds=60)
    assert rounds(house, 2, settings=patient) == 0
    later(house, patient.unclaimed_seconds - 2)
    assert rounds(house, 1, settings=patient) == 1
    house.run(run_id, "a")
    assert DEFAULT.unclaimed_seconds <= 3


def test_a_pool_that_is_down_for_an_hour_gets_no_messages(house: "House") -> None:
    run_id = house.submit(*(script(f"s{n}") for n in range(30)))
    house.open_pool("research", slots=SLOTS)
    house.advance(run_id)
    house.admit()
    before = sent(house, run_id)
    house.execute("UPDATE pools SET seen_at = clock_timestamp() - interval '1 min'")

    assert rounds(house, HOUR, every=60.0) == 0

    assert sent(house, run_id) == before == PLACES


def test_a_pool_that_comes_back_first_takes_what_has_waited_in_its_queue(house: "House") -> None:
    # Its messages are an hour old and all there: sent again in the first round they would all be there twice.
    run_id = house.submit(*(script(f"s{n}") for n in range(30)))
    house.open_pool("research", slots=SLOTS)
    house.advance(run_id)
    house.admit()
    later(house, HOUR)
    house.execute("UPDATE pools SET since = clock_timestamp(), seen_at = clock_timestamp()")

    house.watch(DEFAULT, queue_length=PLACES)
    assert house.admit() == []

    # Had they been lost after all, Redis with them, they would be sent again after three seconds.
    house.execute("UPDATE pools SET since = clock_timestamp() - interval '4 s'")
    house.watch(DEFAULT)
    assert [len(admitted.emissions) for admitted in house.admit()] == [PLACES]
    assert sent(house, run_id) == 2 * PLACES


def test_a_message_that_nobody_takes_is_sent_ever_more_seldom(house: "House") -> None:
    house.start(script("a"))
    # After 3, 6, 12 seconds, and then every 24: a worker that drops it, whatever for, is not kept busy with it.
    assert rounds(house, 23) == 3
    assert 9 <= rounds(house, 240, every=4.0) <= 11


def test_a_step_of_two_hours_is_never_run_twice(house: "House") -> None:
    # Its message comes again and again: the broker has long forgotten who took it.
    run_id = house.start(script("a"), script("b", "a"))
    held = house.claim(run_id, "a")
    for _ in range(24):
        later(house, HOUR / 12)
        assert house.watch(DEFAULT).recovered == 0
        assert house.admit() == []
        with pytest.raises(NothingToClaim, match="is running") as refused:
            house.claim(run_id, "a")
        assert not refused.value.ended, "its copy of the chain must stop, or the next link would start"

    held.finish(StepFinished(outcome="succeeded"))

    assert (house.row(run_id, "a").epoch, house.statuses(run_id)) == (1, {"a": "succeeded", "b": "queued"})


def test_what_went_down_with_an_emptied_broker_is_sent_again_at_once(house: "House") -> None:
    # However often it was sent before, however long the queue is by now, however young the pool.
    run_id = house.start(*(script(f"s{n}") for n in range(3)), script("late"))
    house.execute("UPDATE steps SET emissions = 4, queued_at = clock_timestamp() - interval '30 s' WHERE key <> 'late'")
    house.execute("UPDATE pools SET since = clock_timestamp()")
    emptied = database_seconds(house.supervisor) - 20
    patient = Settings(lease_seconds=60, unclaimed_seconds=600)
    assert house.watch(patient, queue_length=10_000).unclaimed == 0

    assert house.watch(patient, queue_length=10_000, whole_since=emptied).unclaimed == 3

    assert house.statuses(run_id) == {"s0": "ready", "s1": "ready", "s2": "ready", "late": "queued"}
    # What is sent now is not lost: nothing is sent twice for it.
    house.admit()
    assert house.watch(patient, whole_since=emptied).unclaimed == 0


def test_all_that_a_pool_had_is_sent_again_in_one_round(house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BATCH", 2)
    house.start(*(script(f"s{n}") for n in range(5)))
    later(house, 30)
    assert house.watch(whole_since=database_seconds(house.supervisor)).unclaimed == 5


def test_what_went_down_with_the_broker_waits_for_a_pool_that_lives(house: "House") -> None:
    house.start(script("a"))
    later(house, 30)
    house.execute("UPDATE pools SET seen_at = clock_timestamp() - interval '1 min'")
    assert house.watch(whole_since=database_seconds(house.supervisor)).unclaimed == 0


def test_nothing_is_sent_again_while_the_broker_does_not_answer(house: "House") -> None:
    house.start(script("a"))
    later(house, HOUR)
    assert watch.watch(house.supervisor, house.settings, broker=None).unclaimed == 0
    assert house.watch().unclaimed == 1

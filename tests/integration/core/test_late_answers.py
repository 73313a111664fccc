"""Money is not fenced: an answer that comes after its step was lost, cancelled or over is settled once, by its call."""

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from chargehand.orchestrator import runs, views
from chargehand.orchestrator.errors import Fenced, LeaseLost, StepCancelled
from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    StepFinished,
    Usage,
)
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor.settling import settle_late_answers
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

CALL = UUID(int=77)


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def recorder_of(house: "House", held: HeldStep) -> StepRecorder:
    return StepRecorder(house.connections, held, lease_seconds=60)


def requested(call_id: UUID, need: int) -> ModelRequested:
    return ModelRequested(
        call_id=call_id,
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=need,
    )


def responded(call_id: UUID, cost: int) -> ModelResponded:
    return ModelResponded(
        call_id=call_id, model="m", content=(), stop_reason="end_turn", usage=Usage(), cost_microusd=cost
    )


def asking(house: "House", run_id: UUID, call_id: UUID, need: int = 100) -> StepRecorder:
    """A worker whose call is in flight."""
    recorder = recorder_of(house, house.claim(run_id, "a"))
    recorder.request([], requested(call_id, need))
    return recorder


def settlements(house: "House", call_id: UUID) -> list[tuple[int, str | None]]:
    rows = house.execute("SELECT cost_microusd, booked FROM settlements WHERE call = :call", {"call": call_id})
    return [(row.cost_microusd, row.booked) for row in rows]


def cost(house: "House", run_id: UUID) -> int:
    with house.as_tenant() as session:
        return views.account(session, run_id).cost_microusd


def test_a_zombies_answer_gives_back_what_its_successor_was_charged(house: "House") -> None:
    run_id, call = house.start(script("a")), uuid4()
    zombie = asking(house, run_id, call)
    successor = house.take_over(run_id, "a")
    recorder_of(house, successor).abandon(CallAbandoned(call_id=call, charged_microusd=100))
    assert house.row(run_id, "a").spent_microusd == 100

    with pytest.raises(LeaseLost):
        zombie.respond(responded(call, 30))
    house.watch()

    assert (house.row(run_id, "a").spent_microusd, cost(house, run_id)) == (30, 30)
    assert house.drift(run_id) == []
    successor.finish(StepFinished(outcome="succeeded"))
    house.advance(run_id)
    assert house.budget(run_id).drawn_microusd == 30
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_of_several_answers_the_first_is_settled_and_only_once(house: "House") -> None:
    run_id, call = house.start(script("a")), uuid4()
    zombies = [asking(house, run_id, call)]
    zombies += [recorder_of(house, zombies[0]._held) for _ in range(2)]
    recorder_of(house, house.take_over(run_id, "a")).abandon(CallAbandoned(call_id=call, charged_microusd=100))

    for zombie, told in zip(zombies, (30, 1, 99), strict=True):
        zombie._reserved[call] = 100
        with pytest.raises(LeaseLost):
            zombie.respond(responded(call, told))
        house.watch()

    assert settlements(house, call) == [(30, "run")]
    assert house.row(run_id, "a").spent_microusd == 30
    assert house.kinds(run_id).count("reservations.returned") == 1


def test_an_answer_that_is_early_waits_until_the_next_worker_has_given_the_call_up(house: "House") -> None:
    # While the call is open in the step's stream, only whoever claims the step next may close it.
    run_id, call = house.start(script("a"), script("b")), uuid4()
    zombie = asking(house, run_id, call)
    house.expire(run_id, "a")
    house.recover()
    with pytest.raises(LeaseLost):
        zombie.respond(responded(call, 30))
    assert settle_late_answers(house.supervisor) == 0
    # Another one of the run is due, and brings the watch loop here.
    other = recorder_of(house, house.claim(run_id, "b"))
    other.request([], requested(CALL, 100))
    house.execute("UPDATE steps SET status = 'failed' WHERE run = :run AND key = 'b'", {"run": run_id})
    with pytest.raises(LeaseLost):
        other.respond(responded(CALL, 20))
    assert settle_late_answers(house.supervisor) == 1
    assert house.row(run_id, "a").reserved_microusd == 100

    house.admit()
    recorder_of(house, house.claim(run_id, "a")).abandon(CallAbandoned(call_id=call, charged_microusd=100))
    assert settle_late_answers(house.supervisor) == 1
    assert settle_late_answers(house.supervisor) == 0

    row = house.row(run_id, "a")
    assert (row.spent_microusd, row.reserved_microusd) == (30, 0)


def test_a_call_that_failed_late_is_given_back_whole(house: "House") -> None:
    run_id, call = house.start(script("a")), uuid4()
    zombie = asking(house, run_id, call)
    recorder_of(house, house.take_over(run_id, "a")).abandon(CallAbandoned(call_id=call, charged_microusd=100))
    with pytest.raises(Fenced):
        zombie.respond(ModelFailed(call_id=call, error="refused at the door", retryable=True, cost_microusd=0))
    house.watch()
    assert (house.row(run_id, "a").spent_microusd, house.drift(run_id)) == (0, [])


def test_the_neighbours_get_the_money_that_a_failed_steps_answer_left(house: "House") -> None:
    run_id, call = house.start(script("a"), script("b"), budget_microusd=100), uuid4()
    zombie = asking(house, run_id, call)
    house.execute("UPDATE steps SET deadline_at = clock_timestamp() WHERE run = :run AND key = 'a'", {"run": run_id})
    house.watch()
    assert house.row(run_id, "a").status == "failed"

    with pytest.raises(Fenced):
        zombie.respond(responded(call, 30))
    house.watch()

    assert house.budget(run_id).drawn_microusd == 30
    house.admit()
    recorder_of(house, house.claim(run_id, "b")).request([], requested(uuid4(), 70))
    assert cost(house, run_id) == 30
    assert house.drift(run_id) == []


def test_an_answer_to_a_cancelled_run_is_settled_until_the_run_is_sealed(house: "House") -> None:
    run_id, call = house.start(script("a")), uuid4()
    zombie = asking(house, run_id, call)
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    with pytest.raises(StepCancelled):
        zombie.respond(responded(call, 30))
    assert settle_late_answers(house.supervisor) == 1

    house.advance(run_id)

    assert (house.row(run_id, "a").spent_microusd, cost(house, run_id)) == (30, 30)
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_a_sealed_run_stays_as_it_was_charged(house: "House") -> None:
    # Its head is in the tenant's chain: a row more, and verification would find the run altered.
    run_id, call = house.start(script("a")), uuid4()
    zombie = asking(house, run_id, call)
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    house.advance(run_id)
    with pytest.raises(StepCancelled):
        zombie.respond(responded(call, 30))

    house.watch()
    house.watch()

    assert settlements(house, call) == [(30, "nowhere")]
    assert (house.row(run_id, "a").spent_microusd, cost(house, run_id)) == (100, 100)
    assert house.objections(run_id) == []


def test_a_settlement_of_a_call_that_was_answered_in_time_changes_nothing(house: "House") -> None:
    run_id, call = house.start(script("a")), uuid4()
    recorder = asking(house, run_id, call)
    recorder.respond(responded(call, 60))
    recorder._held.finish(StepFinished(outcome="succeeded"))
    for named in (call, uuid4()):
        house.execute(
            "INSERT INTO settlements (tenant, call, run, step, cost_microusd) "
            "SELECT tenant, :call, run, id, 1 FROM steps WHERE run = :run",
            {"call": named, "run": run_id},
        )
    house.watch()
    assert settlements(house, call) == [(1, "nowhere")]
    assert (house.row(run_id, "a").spent_microusd, house.drift(run_id)) == (60, [])


def test_what_a_late_answer_cost_beyond_its_reservation_is_accounted_for_too(house: "House") -> None:
    # It was paid, whatever had been reserved: only the account can say so now.
    run_id, call = house.start(script("a"), budget_microusd=200), uuid4()
    zombie = asking(house, run_id, call)
    recorder_of(house, house.take_over(run_id, "a")).abandon(CallAbandoned(call_id=call, charged_microusd=100))
    with pytest.raises(LeaseLost):
        zombie.respond(responded(call, 250))

    house.watch()

    assert (house.row(run_id, "a").spent_microusd, cost(house, run_id), house.drift(run_id)) == (250, 250, [])
    budget = house.budget(run_id)
    assert (budget.drawn_microusd, budget.cap_microusd, budget.overrun_microusd) == (250, 200, 50)

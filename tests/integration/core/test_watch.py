"""The watch loop: what was lost comes back through the front door, and what crashes too often goes to a person."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from chargehand.orchestrator import views
from chargehand.orchestrator.errors import LeaseLost
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepFinished, StepWaiting, Usage
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def age(house: "House", run_id: "UUID", seconds: float) -> None:
    house.execute(
        "UPDATE steps SET queued_at = queued_at - make_interval(secs => :seconds) WHERE run = :run",
        {"run": run_id, "seconds": seconds},
    )


def crash(house: "House", run_id: "UUID", key: str, *, solo_pool: bool = False) -> None:
    """Claim, die, be found."""
    house.admit()
    house.claim(run_id, key, solo_pool=solo_pool)
    house.expire(run_id, key)
    assert house.recover() == 1


def test_a_step_whose_lease_expired_is_admitted_again_like_any_other(house: "House") -> None:
    # Recovery by a direct re-run would be a second way to start a step, past priority, fairness and the pools' places.
    run_id = house.start(script("a"), script("b", "a"))
    house.claim(run_id, "a")
    house.expire(run_id, "a")

    assert house.recover() == 1

    assert house.statuses(run_id) == {"a": "ready", "b": "pending"}
    assert house.kinds(run_id, "a") == ["step.claimed", "step.recovered"]
    assert house.drift(run_id) == []
    house.execute("DELETE FROM pools")
    assert house.admit() == []
    house.open_pool("research")
    assert len(house.admit()) == 1
    assert house.claim(run_id, "a").claim.epoch == 2


def test_a_lease_that_lives_is_left_alone(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    assert house.recover() == 0


def test_a_zombie_cannot_write_after_its_step_was_recovered(house: "House") -> None:
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    house.expire(run_id, "a")
    house.recover()
    before = house.row(run_id, "a").head_seq
    with pytest.raises(LeaseLost, match="its lease had expired"):
        zombie.finish(StepFinished(outcome="succeeded"))
    assert (house.row(run_id, "a").status, house.row(run_id, "a").head_seq) == ("ready", before)


def test_after_two_crashes_a_step_runs_alone_and_after_two_more_a_person_is_asked(house: "House") -> None:
    house.open_pool(SOLO, slots=1)
    run_id = house.start(script("a"))
    crash(house, run_id, "a")
    assert not house.row(run_id, "a").solo
    crash(house, run_id, "a")
    assert house.row(run_id, "a").solo
    crash(house, run_id, "a", solo_pool=True)
    assert house.row(run_id, "a").status == "ready"
    crash(house, run_id, "a", solo_pool=True)

    row = house.row(run_id, "a")
    assert (row.status, row.wait_reason, row.crashes) == ("waiting", "human", 4)
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
    assert "took its worker down 4 times" in asked.question
    assert house.drift(run_id) == []


def test_without_a_solo_pool_a_person_is_asked_after_the_third_crash(house: "House") -> None:
    run_id = house.start(script("a"))
    for _ in range(3):
        crash(house, run_id, "a")
    row = house.row(run_id, "a")
    assert (row.status, row.wait_reason, row.solo) == ("waiting", "human", False)


def test_progress_between_crashes_forgives_them(house: "House") -> None:
    run_id = house.start(script("a"))
    for _ in range(5):
        house.admit()
        held = house.claim(run_id, "a")
        recorder = StepRecorder(house.connections, held, lease_seconds=60)
        request = ModelRequested(
            call_id=new_wait_id(),
            turn=1,
            model="m",
            tier="small",
            routed_because="test",
            prompt_hash="0",
            max_tokens=1,
            reserved_microusd=1,
        )
        recorder.request([], request)
        recorder.respond(
            ModelResponded(
                call_id=request.call_id, model="m", content=(), stop_reason="tool_use", usage=Usage(), cost_microusd=1
            )
        )
        house.expire(run_id, "a")
        house.recover()
    row = house.row(run_id, "a")
    assert (row.status, row.crashes, row.epoch) == ("ready", 1, 5)


def test_one_crash_does_not_charge_the_neighbours_that_went_down_with_it_twice(house: "House") -> None:
    house.open_pool(SOLO, slots=1)
    keys = [f"s{n}" for n in range(5)]
    run_id = house.start(*map(script, keys))
    for key in keys:
        house.claim(run_id, key)
        house.expire(run_id, key)
    house.recover()
    house.admit()
    for key in keys:
        house.run(run_id, key)
    house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"


def test_a_message_that_nobody_claims_is_sent_again_ever_more_patiently(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    patience = house.settings.unclaimed_seconds
    for emission in range(1, 4):
        assert house.row(run_id, "a").emissions == emission
        age(house, run_id, patience * 2 ** (emission - 1))
        assert house.watch().unclaimed == 1
        assert house.statuses(run_id) == {"a": "ready", "b": "pending"}
        house.admit()
        assert house.statuses(run_id) == {"a": "queued", "b": "chained"}
    settings = house.settings.model_copy(update={"unclaimed_seconds": 10.0})
    # Three emissions were in vain: the fourth waits eight times as long.
    age(house, run_id, 70)
    assert house.watch(settings).unclaimed == 0
    age(house, run_id, 20)
    assert house.watch(settings).unclaimed == 1


def test_a_message_is_late_and_not_lost_while_its_queue_is_long(house: "House") -> None:
    run_id = house.start(script("a"))
    age(house, run_id, 1000)
    assert house.watch(queue_length=101).unclaimed == 0
    assert house.watch(queue_length=100).unclaimed == 1


def test_nothing_is_sent_again_while_the_pool_has_no_process(house: "House") -> None:
    run_id = house.start(script("a"))
    age(house, run_id, 1000)
    house.execute("DELETE FROM pools")
    assert house.watch().unclaimed == 0
    assert house.statuses(run_id) == {"a": "queued"}


def test_a_wait_for_time_ends_when_the_time_has_come(house: "House") -> None:
    run_id = house.start(script("a"))
    wait = StepWaiting(wait_id=new_wait_id(), reason="rate", question="?")
    house.claim(run_id, "a").wait(wait, after_seconds=3600)
    assert run_id not in watch.wake(house.supervisor)
    house.execute("UPDATE steps SET run_after = clock_timestamp() WHERE run = :run", {"run": run_id})
    assert watch.wake(house.supervisor) == [run_id]
    assert house.statuses(run_id) == {"a": "ready"}


def test_a_wait_for_a_person_ends_only_by_its_own_answer(house: "House") -> None:
    run_id = house.start(script("a"))
    wait = StepWaiting(wait_id=new_wait_id(), reason="human", question="?")
    house.claim(run_id, "a").wait(wait)
    signal = "INSERT INTO signals (step, wait_id, run, tenant, choice) VALUES (:step, :wait, :run, :tenant, 'retry')"
    values = {"step": step_id(run_id, "a"), "run": run_id, "tenant": house.tenant}

    house.execute(signal, {**values, "wait": new_wait_id()})
    assert watch.wake(house.supervisor) == []
    house.execute(signal, {**values, "wait": wait.wait_id})
    assert watch.wake(house.supervisor) == [run_id]


def test_a_waiting_step_of_a_paused_run_sleeps_on(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a").wait(StepWaiting(wait_id=new_wait_id(), reason="rate", question="?"), after_seconds=0)
    house.execute("UPDATE runs SET status = 'paused' WHERE id = :run", {"run": run_id})
    assert watch.wake(house.supervisor) == []


def test_a_run_past_its_deadline_fails_with_everything_in_it(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"), deadline_seconds=3600)
    house.claim(run_id, "a")
    assert house.watch().overdue == 0
    house.execute("UPDATE runs SET deadline_at = clock_timestamp() WHERE id = :run", {"run": run_id})

    assert house.watch().overdue == 1
    house.advance(run_id)

    row = house.run_row(run_id)
    assert (row.status, row.reason) == ("failed", "its deadline has passed")
    assert set(house.statuses(run_id).values()) == {"cancelled"}
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_a_step_past_its_deadline_fails_and_its_run_goes_on_without_it(house: "House") -> None:
    run_id = house.start(script("a", deadline_seconds=3600), script("b", "a", join="settled"))
    held = house.claim(run_id, "a")
    assert held.claim.deadline_at is not None
    house.execute("UPDATE steps SET deadline_at = clock_timestamp() WHERE run = :run AND key = 'a'", {"run": run_id})
    assert house.watch().overdue == 1
    house.advance(run_id)
    assert house.statuses(run_id) == {"a": "failed", "b": "ready"}
    assert house.drift(run_id) == []


def wanted(need: int, *, turn: int = 1) -> ModelRequested:
    return ModelRequested(
        call_id=uuid4(),
        turn=turn,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=need,
    )


def drawing(house: "House", run_id: "UUID", key: str) -> None:
    """A step that has drawn an allotment of 160, spent 5 of it, and has a call of 10 in flight."""
    held = house.claim(run_id, key)
    recorder = StepRecorder(house.connections, held, lease_seconds=60)
    first, second = (wanted(10, turn=turn) for turn in (1, 2))
    recorder.request([], first)
    recorder.respond(
        ModelResponded(
            call_id=first.call_id, model="m", content=(), stop_reason="end_turn", usage=Usage(), cost_microusd=5
        )
    )
    recorder.request([], second)
    assert house.budget(run_id).drawn_microusd == 160


def test_a_step_past_its_deadline_returns_what_it_had_drawn(house: "House") -> None:
    run_id = house.start(script("a", deadline_seconds=3600), script("b"), budget_microusd=165)
    drawing(house, run_id, "a")
    house.execute("UPDATE steps SET deadline_at = clock_timestamp() WHERE run = :run AND key = 'a'", {"run": run_id})
    watch.end_overdue(house.supervisor)
    assert house.row(run_id, "a").status == "failed"
    assert house.budget(run_id).drawn_microusd == 15, "what is spent and what is in flight"
    # Otherwise the neighbour would wait for ever for money that nobody holds.
    neighbour = StepRecorder(house.connections, house.claim(run_id, "b"), lease_seconds=60)
    neighbour.request([], wanted(100))


def test_a_step_that_crashed_too_often_holds_no_allotment_while_a_person_is_asked(house: "House") -> None:
    run_id = house.start(script("a"))
    drawing(house, run_id, "a")
    house.execute("UPDATE steps SET crashes = 2 WHERE run = :run", {"run": run_id})
    house.expire(run_id, "a")
    house.recover()
    assert house.row(run_id, "a").status == "waiting"
    assert house.budget(run_id).drawn_microusd == 15


def test_rounds_of_two_supervisors_take_different_steps(house: "House") -> None:
    run_id = house.start(script("a"), script("b"))
    for key in ("a", "b"):
        house.claim(run_id, key)
        house.expire(run_id, key)
    with Session(house.supervisor) as other:
        other.connection().exec_driver_sql(f"SELECT FROM steps WHERE id = '{step_id(run_id, 'a')}' FOR NO KEY UPDATE")
        assert house.recover() == 1
        assert house.statuses(run_id) == {"a": "running", "b": "ready"}
    assert house.recover() == 1


def test_a_process_long_silent_is_forgotten(house: "House") -> None:
    house.open_pool("research")
    house.open_pool("coding")
    house.execute("UPDATE pools SET seen_at = clock_timestamp() - interval '1 day' WHERE pool = 'coding'")
    watch.forget_dead_pools(house.supervisor)
    assert house.execute("SELECT pool FROM pools") == [("research",)]

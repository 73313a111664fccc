"""The watch loop: what was lost comes back through the front door, and what crashes too often goes to a person."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.orm import Session

from chargehand.orchestrator import explaining, runs, views
from chargehand.orchestrator.errors import LeaseLost
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepFinished, StepWaiting, Usage
from chargehand.orchestrator.heartbeat import Heartbeat
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.tables import RunRow
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.scripts.registry import SCRIPTS
from chargehand.workers.scripts.registry import script as register

if TYPE_CHECKING:
    from uuid import UUID

    from tests.conftest import WaitUntil
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


def outage(house: "House", *, back: bool) -> None:
    """Postgres was away for longer than a lease; every other process has just come back, and the worker, if `back`."""
    house.execute("UPDATE pools SET since = clock_timestamp(), seen_at = clock_timestamp()")
    seen = "clock_timestamp()" if back else "clock_timestamp() - interval '1 h'"
    house.execute(
        f"INSERT INTO pools (holder, pool, slots, since, seen_at) VALUES ('worker', 'research', 1, {seen}, {seen}) "
        "ON CONFLICT (holder) DO UPDATE SET since = excluded.since, seen_at = excluded.seen_at"
    )


def test_a_worker_that_survives_an_outage_of_postgres_keeps_its_step(house: "House", wait_until: "WaitUntil") -> None:
    # The watch loop is back before the worker's heartbeat: it must not call it dead.
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    house.expire(run_id, "a")
    outage(house, back=False)

    assert house.recover() == 0

    heartbeat = Heartbeat(house.database_url, holder="worker", pool="research", slots=1, lease_seconds=60)
    heartbeat.hold(held.claim.step_id, 1, lambda: pytest.fail("lost"))
    heartbeat.start()
    wait_until(
        lambda: house.execute("SELECT FROM steps WHERE run = :run AND lease_until > clock_timestamp()", {"run": run_id})
    )
    heartbeat.stop()
    assert house.recover() == 0
    held.finish(StepFinished(outcome="succeeded"))
    assert house.row(run_id, "a").crashes == 0


def test_a_step_that_its_living_worker_gave_up_in_an_outage_comes_back_without_a_crash(house: "House") -> None:
    run_id = house.start(script("a"))
    for epoch in range(1, 6):
        house.claim(run_id, "a")
        house.expire(run_id, "a")
        outage(house, back=True)
        assert house.recover() == 1
        house.admit()
        assert (house.row(run_id, "a").epoch, house.row(run_id, "a").crashes) == (epoch, 0)
    assert house.row(run_id, "a").status == "queued", "five outages bring no person"
    assert house.drift(run_id) == []


def test_a_worker_that_does_not_come_back_after_an_outage_is_found_once_the_others_have(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    house.expire(run_id, "a")
    outage(house, back=False)
    assert house.recover() == 0
    long_ago = house.settings.lease_seconds
    house.execute("UPDATE pools SET since = clock_timestamp() - make_interval(secs => :ago)", {"ago": long_ago})
    assert house.recover() == 1
    assert house.row(run_id, "a").crashes == 1


def test_a_worker_that_lives_and_lets_its_lease_expire_without_an_outage_is_counted(house: "House") -> None:
    # Otherwise a step that believes in an outage every time would come back for ever.
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    house.expire(run_id, "a")
    house.execute(
        "INSERT INTO pools (holder, pool, slots, since) "
        "VALUES ('worker', 'research', 1, clock_timestamp() - interval '1 h')"
    )
    assert house.recover() == 1
    assert house.row(run_id, "a").crashes == 1


def lose(house: "House", run_id: "UUID", holder: str, *, solo_pool: bool = False) -> None:
    """The worker claims the step and falls silent for longer than its lease, alone."""
    house.admit()
    house.claim(run_id, "a", holder=holder, solo_pool=solo_pool)
    house.execute(
        "INSERT INTO pools (holder, pool, slots, since, seen_at) VALUES "
        "(:holder, 'research', 1, clock_timestamp() - interval '1 h', clock_timestamp() - interval '2 min')",
        {"holder": holder},
    )
    house.expire(run_id, "a")
    assert house.recover() == 1


def come_back(house: "House", holder: str) -> None:
    """What the worker's heartbeat writes when it reaches Postgres again."""
    heartbeat = Heartbeat(house.database_url, holder=holder, pool="research", slots=1, lease_seconds=60)
    with psycopg.connect(house.database_url, autocommit=True, options="-c search_path=chargehand") as connection:
        heartbeat._round(connection)


def test_workers_that_were_only_cut_off_from_postgres_are_nobodys_crash(house: "House") -> None:
    # The step cannot wait until it is known whether its worker is dead; the count can.
    run_id = house.start(script("a"))
    for holder in ("one", "two", "three", "four", "five"):
        lose(house, run_id, holder)
        row = house.row(run_id, "a")
        assert (row.status, row.crashes, row.solo) == ("ready", 1, False), "the one before is back"
        come_back(house, holder)
    assert house.drift(run_id) == []


def test_a_worker_that_was_cut_off_does_not_excuse_those_that_died(house: "House") -> None:
    run_id = house.start(script("a"))
    lose(house, run_id, "cut off")
    come_back(house, "cut off")
    for crashes, holder in enumerate(("dead", "dead too"), start=1):
        lose(house, run_id, holder)
        assert house.row(run_id, "a").crashes == crashes
    lose(house, run_id, "dead as well")
    assert house.row(run_id, "a").wait_reason == "human"


def test_a_step_that_was_to_run_alone_for_a_crash_that_was_none_goes_back_to_its_pool(house: "House") -> None:
    house.open_pool(SOLO, slots=1)
    run_id = house.start(script("a"))
    lose(house, run_id, "cut off")
    lose(house, run_id, "cut off too")
    assert house.row(run_id, "a").solo
    for holder in ("cut off", "cut off too"):
        come_back(house, holder)
    lose(house, run_id, "dead", solo_pool=True)
    row = house.row(run_id, "a")
    assert (row.crashes, row.solo) == (1, False)


def test_steps_of_which_nothing_can_be_said_yet_do_not_fill_the_batch(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BATCH", 1)
    silent, back = house.start(script("a")), house.start(script("a"))
    for run_id in (silent, back):
        house.claim(run_id, "a")
        house.expire(run_id, "a")
    house.execute("UPDATE steps SET holder = 'silent' WHERE run = :run", {"run": silent})
    outage(house, back=True)
    assert house.recover() == 1
    assert house.row(back, "a").status == "ready"


def test_an_effect_that_an_outage_may_have_cut_off_is_not_repeated(house: "House") -> None:
    # No crash was counted, and whether it happened is as unknown as after one.
    happened: list[str] = []
    effect = register(name="work", effect="effectful")(lambda: happened.append("again"))
    del SCRIPTS["work"]
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    house.expire(run_id, "a")
    outage(house, back=True)
    house.recover()
    house.admit()

    assert house.deliver(run_id, "a", effect) == "stop"

    row = house.row(run_id, "a")
    assert (row.status, row.wait_reason, row.crashes, happened) == ("waiting", "human", 0, [])


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


def test_an_answer_that_no_attempt_has_lived_to_hear_is_not_asked_for_again(house: "House") -> None:
    run_id = house.start(script("a"))
    for _ in range(3):
        crash(house, run_id, "a")
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
        runs.answer(session, house.tenant, run_id=run_id, step=asked.step_id, wait_id=asked.wait_id, choice="skip")
    watch.wake(house.supervisor)
    house.admit()

    # Its worker dies between the claim and the reading of the answer.
    crash(house, run_id, "a")

    with house.as_tenant() as session:
        assert views.escalations(session, run_id) == []
    house.admit()
    heard = house.claim(run_id, "a").fold_signal(asked.wait_id)
    assert heard is not None
    assert heard.choice == "skip"
    assert house.drift(run_id) == []


def marked_solo(house: "House") -> "UUID":
    """A step that crashed twice and was to run alone, when the solo pool went away."""
    house.open_pool(SOLO, slots=1)
    run_id = house.start(script("a"))
    for _ in range(2):
        crash(house, run_id, "a")
    house.execute("DELETE FROM pools WHERE pool = 'solo'")
    assert house.row(run_id, "a").solo
    return run_id


def test_a_step_does_not_wait_for_ever_for_a_solo_pool_that_went_away(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = marked_solo(house)
    house.watch()
    house.admit()
    assert (house.row(run_id, "a").status, house.row(run_id, "a").solo) == ("ready", True), "it may be restarted"

    monkeypatch.setattr(watch, "SOLO_PATIENCE_SECONDS", 0)
    house.watch()
    crash(house, run_id, "a")

    row = house.row(run_id, "a")
    assert (row.status, row.wait_reason, row.crashes) == ("waiting", "human", 3), (
        "among others it gets no fourth chance"
    )


def test_what_a_person_decided_is_carried_out_without_the_solo_pool(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = marked_solo(house)
    house.open_pool(SOLO, slots=1)
    for _ in range(2):
        crash(house, run_id, "a", solo_pool=True)
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
        runs.answer(session, house.tenant, run_id=run_id, step=asked.step_id, wait_id=asked.wait_id, choice="skip")
    house.execute("DELETE FROM pools WHERE pool = 'solo'")
    monkeypatch.setattr(watch, "SOLO_PATIENCE_SECONDS", 0)
    house.watch()
    house.watch()
    house.admit()
    assert house.deliver(run_id, "a") == "go_on"
    assert house.row(run_id, "a").status == "succeeded"


def test_a_step_keeps_its_mark_while_the_solo_pool_is_there(house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SOLO_PATIENCE_SECONDS", 0)
    run_id = marked_solo(house)
    house.open_pool(SOLO, slots=1)
    house.watch()
    assert house.row(run_id, "a").solo


def test_a_person_is_told_that_a_step_waits_for_a_solo_pool(house: "House") -> None:
    run_id = marked_solo(house)
    with house.as_tenant() as session:
        assert explaining.explain(session, run_id) == [("a", "pool 'solo' has no process; start one")]


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
    assert house.drift(run_id) == []


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
    # Until its next claim no fact says so, but the answer does.
    assert (house.statuses(run_id), house.drift(run_id)) == ({"a": "ready"}, [])
    house.admit()
    assert (house.statuses(run_id), house.drift(run_id)) == ({"a": "queued"}, [])


@pytest.mark.parametrize("reason", ["human", "children"])
def test_a_step_that_was_put_on_its_way_without_the_answer_it_waits_for_is_seen(house: "House", reason: Any) -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a").wait(StepWaiting(wait_id=new_wait_id(), reason=reason, question="?"))
    house.execute("UPDATE steps SET status = 'ready' WHERE run = :run", {"run": run_id})
    assert len(house.drift(run_id)) == 1


def test_a_woken_step_is_told_as_woken_while_its_run_is_paused(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a").wait(StepWaiting(wait_id=new_wait_id(), reason="retry", question="?"), after_seconds=0)
    watch.wake(house.supervisor)
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    assert (house.statuses(run_id), house.drift(run_id)) == ({"a": "pending"}, [])


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
    run_id = house.start(script("a", deadline_seconds=3600), script("b"), budget_microusd=1_280)
    drawing(house, run_id, "a")
    house.execute("UPDATE steps SET deadline_at = clock_timestamp() WHERE run = :run AND key = 'a'", {"run": run_id})
    watch.end_overdue(house.supervisor)
    assert house.row(run_id, "a").status == "failed"
    assert house.budget(run_id).drawn_microusd == 15, "what is spent and what is in flight"
    # Otherwise the neighbour would wait for ever for money that nobody holds.
    neighbour = StepRecorder(house.connections, house.claim(run_id, "b"), lease_seconds=60)
    neighbour.request([], wanted(1_200))


def test_a_step_that_crashed_too_often_holds_no_allotment_while_a_person_is_asked(house: "House") -> None:
    run_id = house.start(script("a"))
    drawing(house, run_id, "a")
    house.execute("UPDATE steps SET crashes = 2 WHERE run = :run", {"run": run_id})
    house.expire(run_id, "a")
    house.recover()
    assert house.row(run_id, "a").status == "waiting"
    assert house.budget(run_id).drawn_microusd == 15


def lost_with_money(house: "House", run_id: "UUID", key: str) -> None:
    """A step that was lost with an allotment and a call in flight, and is ready again."""
    drawing(house, run_id, key)
    house.expire(run_id, key)
    house.recover()
    assert (house.row(run_id, key).status, house.budget(run_id).drawn_microusd) == ("ready", 160)


def test_a_dropped_step_returns_what_it_had_drawn_before_it_was_lost(house: "House") -> None:
    run_id = house.start(script("a"), script("b"))
    lost_with_money(house, run_id, "a")
    with Session(house.supervisor) as session, session.begin():
        run = session.get_one(RunRow, run_id)
        runs.patch(session, run, PlanPatch(drop=("a",)))
    assert house.budget(run_id).drawn_microusd == 15
    assert house.drift(run_id) == []
    house.run(run_id, "b")
    house.advance(run_id)
    assert house.drift(run_id) == []


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_run_that_is_ended_returns_what_its_steps_had_drawn(house: "House", end: str) -> None:
    run_id = house.start(script("a"), script("b"), deadline_seconds=3600)
    lost_with_money(house, run_id, "a")
    house.claim(run_id, "b")
    if end == "cancel":
        with house.as_tenant() as session:
            runs.cancel(session, house.tenant, run_id)
    else:
        house.execute("UPDATE runs SET deadline_at = clock_timestamp() WHERE id = :run", {"run": run_id})
        house.watch()
    assert house.budget(run_id).drawn_microusd == 15
    assert house.drift(run_id) == []
    house.advance(run_id)
    assert house.row(run_id, "a").spent_microusd == 15
    assert house.drift(run_id) == []


def test_money_that_is_drawn_and_belongs_to_no_step_is_seen(house: "House") -> None:
    run_id = house.start(script("a"))
    house.execute("UPDATE budgets SET drawn_microusd = 7, cap_microusd = 9 WHERE run = :run", {"run": run_id})
    assert house.drift(run_id) == [
        "budget: 7 drawn, 0 allotted to steps",
        "budget: tables cap 9, journal 1000000",
    ]


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


def test_a_round_removes_memories_whose_time_is_over(house: "House") -> None:
    house.execute(
        "INSERT INTO memories (tenant, id, scope, source, line_start, line_end, kind, text, words, expires_at) "
        "SELECT :tenant, gen_random_uuid(), 's', 'x', 1, 1, 'note', kept, 1, clock_timestamp() + given::interval "
        "FROM (VALUES ('old', '-1 s'), ('new', '1 h')) AS v(kept, given)",
        {"tenant": house.tenant},
    )

    house.watch()

    left = house.execute("SELECT text FROM memories WHERE tenant = :tenant", {"tenant": house.tenant})
    assert [kept for (kept,) in left] == ["new"]

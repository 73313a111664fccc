"""The writers of a run: accepted once, grown, paused, resumed, cancelled, told, answered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import runs, views
from chargehand.orchestrator.errors import (
    BudgetExceeded,
    InvalidPlan,
    NotFound,
    NothingToClaim,
    StepPaused,
    Unavailable,
    UserError,
)
from chargehand.orchestrator.facts import ModelRequested, SignalReceived, StepFinished, StepReleased, StepWaiting
from chargehand.orchestrator.listing import RunFilter, page_of_runs
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.steps import HeldStep, new_wait_id
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

DONE = StepFinished(outcome="succeeded")


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def accept(house: "House", request: RunRequest) -> UUID:
    with house.as_tenant() as session:
        return runs.accept(session, house.tenant, request, [])


def pause(house: "House", run_id: UUID) -> bool:
    with house.as_tenant() as session:
        return runs.pause(session, house.tenant, run_id)


def resume(house: "House", run_id: UUID) -> bool:
    with house.as_tenant() as session:
        return runs.resume(session, house.tenant, run_id)


def cancel(house: "House", run_id: UUID) -> bool:
    with house.as_tenant() as session:
        return runs.cancel(session, house.tenant, run_id)


def answer(house: "House", run_id: UUID, key: str, wait_id: UUID, choice: str) -> bool:
    with house.as_tenant() as session:
        return runs.answer(
            session, house.tenant, run_id=run_id, step=step_id(run_id, key), wait_id=wait_id, choice=choice
        )


def test_a_client_frozen_in_the_middle_of_a_pause_is_cut_off(
    house: "House", monkeypatch: pytest.MonkeyPatch, wait_until: "WaitUntil"
) -> None:
    # It has the run and its steps locked; thirty seconds of it cost their workers the leases.
    monkeypatch.setattr(runs, "LONGEST_IDLE", "200ms")
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    free = f"SELECT 1 FROM steps WHERE run = '{run_id}' FOR NO KEY UPDATE SKIP LOCKED"

    def freeze_in_a_pause() -> None:
        with open_session(house.app, house.tenant) as session:
            runs.pause(session, house.tenant, run_id)
            # Sooner than any other session would be cut off.
            wait_until(lambda: house.execute(free), timeout_seconds=60)

    with pytest.raises(Unavailable, match="idle-in-transaction"):
        freeze_in_a_pause()
    assert house.run_row(run_id).status == "running"


def out_of_money(house: "House", run_id: UUID, key: str) -> StepWaiting:
    """A step that waits because the budget is used up."""
    wait = StepWaiting(
        wait_id=new_wait_id(), reason="budget", question="used up", options=("override", "skip", "abort")
    )
    held = house.claim(run_id, key)
    with pytest.raises(BudgetExceeded):
        StepRecorder(house.connections, held, lease_seconds=60).request([], requested(150))
    held.wait(wait)
    return wait


def requested(need: int) -> ModelRequested:
    return ModelRequested(
        call_id=uuid4(),
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=need,
    )


def test_a_step_that_waits_for_money_goes_on_when_there_is_more(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=100)
    out_of_money(house, run_id, "a")
    house.watch()
    assert house.row(run_id, "a").status == "waiting"
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
        assert asked.options == ("override", "skip", "abort")

        assert runs.raise_budget(session, house.tenant, run_id, to_microusd=200)

    house.watch()
    house.admit()
    StepRecorder(house.connections, house.claim(run_id, "a"), lease_seconds=60).request([], requested(150))
    assert house.kinds(run_id)[-1] == "budget.raised"
    assert house.drift(run_id) == []


def test_money_that_comes_while_a_step_finds_that_there_is_none_is_not_overlooked(house: "House") -> None:
    # It did not wait yet when the budget was raised; nobody would ever have woken it.
    run_id = house.start(script("a"), budget_microusd=100)
    held = house.claim(run_id, "a")
    with pytest.raises(BudgetExceeded):
        StepRecorder(house.connections, held, lease_seconds=60).request([], requested(150))
    with house.as_tenant() as session:
        runs.raise_budget(session, house.tenant, run_id, to_microusd=200)
    held.wait(StepWaiting(wait_id=new_wait_id(), reason="budget", question="used up"))
    house.watch()
    assert house.row(run_id, "a").status == "ready"


def test_a_step_that_finds_too_little_again_is_not_woken_for_ever(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "COMMIT_SECONDS", 0)
    run_id = house.start(script("a"), budget_microusd=100)
    out_of_money(house, run_id, "a")
    with house.as_tenant() as session:
        runs.raise_budget(session, house.tenant, run_id, to_microusd=120)
    house.watch()
    house.admit()
    out_of_money(house, run_id, "a")
    house.watch()
    assert house.row(run_id, "a").status == "waiting"


def test_a_budget_is_raised_once_and_never_lowered(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=100)

    def raised_to(amount: int) -> bool:
        with house.as_tenant() as session:
            return runs.raise_budget(session, house.tenant, run_id, to_microusd=amount)

    assert [raised_to(200), raised_to(200)] == [True, False]
    with pytest.raises(UserError, match="only raised"):
        raised_to(150)
    assert house.kinds(run_id).count("budget.raised") == 1
    assert house.drift(run_id) == []
    cancel(house, run_id)
    with pytest.raises(UserError, match="spends nothing any more"):
        raised_to(300)


def test_money_for_a_paused_run_waits_with_it(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=100)
    out_of_money(house, run_id, "a")
    pause(house, run_id)
    with house.as_tenant() as session:
        runs.raise_budget(session, house.tenant, run_id, to_microusd=200)
    house.watch()
    assert house.row(run_id, "a").status == "waiting"
    resume(house, run_id)
    house.watch()
    assert house.row(run_id, "a").status == "ready"


def test_who_is_out_of_money_can_be_answered_too(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=100)
    wait = out_of_money(house, run_id, "a")
    assert answer(house, run_id, "a", wait.wait_id, "skip")
    house.watch()
    house.admit()
    assert house.deliver(run_id, "a") == "go_on"
    assert house.row(run_id, "a").status == "succeeded"


def test_accepted_means_run_plan_fact_and_ring_in_one_commit(house: "House") -> None:
    run_id = house.submit(script("a"), script("b", "a"))

    assert house.statuses(run_id) == {"a": "pending", "b": "pending"}
    assert house.kinds(run_id) == ["run.submitted"]
    assert house.rings(run_id) == 1
    assert house.drift(run_id) == []


def test_a_request_that_is_rolled_back_leaves_nothing(house: "House") -> None:
    request = house.request(script("a"))
    with Session(house.app) as session:
        session.begin()
        session.connection().exec_driver_sql(f"SELECT set_config('chargehand.tenant', '{house.tenant}', true)")
        runs.accept(session, house.tenant, request, [])
        session.rollback()
    assert house.execute("SELECT FROM runs WHERE id = :run", {"run": request.run_id}) == []
    assert house.rings(request.run_id) == 0


def test_the_same_idempotency_key_gives_the_first_run(house: "House") -> None:
    first = accept(house, house.request(script("a"), idempotency_key="k"))
    second = accept(house, house.request(script("b"), idempotency_key="k"))
    assert first == second
    assert house.statuses(first) == {"a": "pending"}


def test_another_tenants_key_is_another_run(house: "House") -> None:
    first = accept(house, house.request(script("a"), idempotency_key="k"))
    assert house.submit(script("a"), tenant=uuid4(), idempotency_key="k") != first


def test_two_accepts_with_one_key_at_once_make_one_run(house: "House", threads: ThreadPoolExecutor) -> None:
    together = threading.Barrier(4)

    def race(_: int) -> UUID:
        together.wait(timeout=60)
        return accept(house, house.request(script("a"), idempotency_key="k"))

    assert len(set(threads.map(race, range(4)))) == 1
    assert len(house.execute("SELECT FROM runs WHERE tenant = :tenant", {"tenant": house.tenant})) == 1


def test_the_same_request_without_a_key_gives_its_own_run_again(house: "House") -> None:
    # Compared with NULL, the missing key would have matched every run without one.
    for _ in range(2):
        house.submit(script("other"))
    request = house.request(script("a"))
    assert accept(house, request) == accept(house, request) == request.run_id


def test_an_invalid_plan_is_refused_whole(house: "House") -> None:
    request = house.request(Step(key="a", kind="agent", role="nobody"))
    with pytest.raises(InvalidPlan, match="unknown role 'nobody'"):
        accept(house, request)
    assert house.execute("SELECT FROM runs WHERE id = :run", {"run": request.run_id}) == []


def test_ids_of_later_runs_sort_after_earlier_ones() -> None:
    made = [runs.new_run_id() for _ in range(50)]
    assert [one.version for one in made] == [7] * 50
    assert [one.int >> 80 for one in made] == sorted(one.int >> 80 for one in made)
    assert len(set(made)) == 50


def test_nobody_claims_a_step_of_a_paused_run(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    assert pause(house, run_id)

    # The message that was sent before the pause comes late.
    with pytest.raises(NothingToClaim, match="is pending"):
        house.claim(run_id, "a")
    house.advance(run_id)
    assert house.admit() == []

    assert resume(house, run_id)
    house.advance(run_id)
    house.admit()
    house.run(run_id, "a")
    house.run(run_id, "b")
    house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"
    assert house.drift(run_id) == []


def test_admission_that_chose_before_a_pause_queues_nothing_after_it(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    house.open_pool("research")
    run_id = house.submit(script("a"))
    house.advance(run_id)
    from chargehand.orchestrator.supervisor import admit

    emit = admit._emit

    def paused_meanwhile(*arguments: Any) -> object:
        assert pause(house, run_id)
        return emit(*arguments)

    monkeypatch.setattr(admit, "_emit", paused_meanwhile)
    house.admit()

    with pytest.raises(NothingToClaim):
        house.claim(run_id, "a")


def test_running_steps_of_a_paused_run_are_handed_back_and_run_again(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    pause(house, run_id)
    request = ModelRequested(
        call_id=uuid4(),
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=1,
    )
    with pytest.raises(StepPaused):
        StepRecorder(house.connections, held, lease_seconds=60).request([], request)
    held.release(StepReleased(reason="pause"))
    house.advance(run_id)
    assert house.admit() == []

    resume(house, run_id)
    house.admit()

    assert house.claim(run_id, "a").claim.epoch == 2


def test_a_run_is_paused_and_resumed_once(house: "House") -> None:
    run_id = house.start(script("a"))
    assert [pause(house, run_id), pause(house, run_id), resume(house, run_id), resume(house, run_id)] == [
        True,
        False,
        True,
        False,
    ]
    assert house.kinds(run_id) == ["run.submitted", "run.paused", "run.resumed"]


def test_a_retry_that_is_not_due_stays_so_over_a_pause(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a").release(StepReleased(reason="retry", run_after_seconds=600))
    pause(house, run_id)
    resume(house, run_id)
    house.advance(run_id)
    assert house.admit() == []


def test_cancel_ends_every_step_at_once_and_keeps_what_is_reserved_charged(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    held = house.claim(run_id, "a")
    request = ModelRequested(
        call_id=uuid4(),
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=7,
    )
    StepRecorder(house.connections, held, lease_seconds=60).request([], request)

    assert cancel(house, run_id)
    assert not cancel(house, run_id)
    house.advance(run_id)

    assert set(house.statuses(run_id).values()) == {"cancelled"}
    row = house.row(run_id, "a")
    assert (row.spent_microusd, row.reserved_microusd) == (7, 0)
    assert house.run_row(run_id).status == "cancelled"
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_cancel_of_a_run_that_is_not_there_says_so(house: "House") -> None:
    with pytest.raises(NotFound, match="There is no run"):
        cancel(house, uuid4())


def test_nobody_is_told_anything_after_the_end(house: "House") -> None:
    run_id = house.start(script("a"))
    with house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, "Skip vendored code")
    cancel(house, run_id)
    with pytest.raises(UserError, match="is cancelled"), house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, "too late")
    assert house.kinds(run_id).count("run.told") == 1


def wait_for_a_person(house: "House", run_id: UUID, key: str) -> UUID:
    wait_id = new_wait_id()
    house.claim(run_id, key).wait(StepWaiting(wait_id=wait_id, reason="human", question="Go on?"))
    return wait_id


def test_of_two_answers_the_first_wins(house: "House", threads: ThreadPoolExecutor) -> None:
    run_id = house.start(script("a"))
    wait_id = wait_for_a_person(house, run_id, "a")

    won = list(threads.map(lambda n: answer(house, run_id, "a", wait_id, f"choice {n}"), range(6)))

    assert sum(won) == 1
    signals = house.execute("SELECT choice FROM signals WHERE step = :step", {"step": step_id(run_id, "a")})
    assert [choice for (choice,) in signals] == [f"choice {won.index(True)}"]


def test_an_answer_never_writes_to_the_steps_stream(house: "House") -> None:
    run_id = house.start(script("a"))
    wait_id = wait_for_a_person(house, run_id, "a")
    before = house.kinds(run_id, "a"), house.row(run_id, "a").head_seq

    answer(house, run_id, "a", wait_id, "retry")
    assert (house.kinds(run_id, "a"), house.row(run_id, "a").head_seq) == before

    # The next claimant folds it in.
    house.watch()
    house.admit()
    held = house.claim(run_id, "a")
    folded = held.fold_signal(wait_id)
    assert folded is not None
    assert folded.sent_at is not None
    assert folded == SignalReceived(wait_id=wait_id, choice="retry", sent_at=folded.sent_at)
    assert house.kinds(run_id, "a")[-2:] == ["step.claimed", "signal.received"]
    held.finish(DONE)
    assert house.drift(run_id) == []


def test_an_answer_that_wrote_to_the_stream_would_take_the_row_of_the_worker(house: "House") -> None:
    # The old way, shown: an outsider takes the next row, and the worker's own write finds it taken.
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    house.execute(
        "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body) VALUES "
        "(:tenant, :run, :step, 2, 'signal.received', 1, 1, '{}')",
        {"tenant": house.tenant, "run": run_id, "step": held.claim.step_id},
    )
    with pytest.raises(Exception, match="at row 1, this worker at 1"):
        held.finish(DONE)


def test_an_unanswered_wait_folds_nothing(house: "House") -> None:
    run_id = house.start(script("a"))
    assert house.claim(run_id, "a").fold_signal(uuid4()) is None


def test_a_waiting_step_holds_no_worker(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    wait_for_a_person(house, run_id, "a")
    row = house.row(run_id, "a")
    assert (row.status, row.holder, row.lease_until) == ("waiting", None, None)
    assert house.statuses(run_id)["b"] == "pending"
    house.watch()
    assert house.admit() == []


def patch(house: "House", run_id: UUID, change: PlanPatch) -> None:
    with tenant_session(house.supervisor, house.tenant) as session:
        runs.patch(session, runs.lock(session, house.tenant, run_id), change)


def test_a_patch_grows_the_graph_and_drops_what_has_not_started(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("c", "a"))
    assert house.statuses(run_id) == {"a": "queued", "b": "pending", "c": "pending"}

    patch(house, run_id, PlanPatch(add=(script("e", "d"), script("d", "a")), drop=("b",)))

    assert house.statuses(run_id) == {"a": "queued", "b": "cancelled", "c": "pending", "d": "pending", "e": "pending"}
    assert house.run_row(run_id).plan_version == 2
    assert house.drift(run_id) == []


def test_a_started_step_is_not_dropped(house: "House") -> None:
    run_id = house.start(script("a"), script("b"))
    house.claim(run_id, "a")
    for key, status in (("a", "running"), ("b", "queued")):
        with pytest.raises(InvalidPlan, match=f"is {status} and cannot be dropped"):
            patch(house, run_id, PlanPatch(drop=(key,)))
    assert house.run_row(run_id).plan_version == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (PlanPatch(add=(script("a"),)), "used 2 times"),
        (PlanPatch(add=(script("x", "nowhere"),)), "unknown step 'nowhere'"),
        (PlanPatch(drop=("nowhere",)), "drops unknown step"),
        (PlanPatch(drop=("b",), add=(script("b"),)), "'b'"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(house: "House", change: PlanPatch, problem: str) -> None:
    run_id = house.start(script("a"), script("b", "a"), script("c", "a"))
    with pytest.raises(InvalidPlan, match=problem):
        patch(house, run_id, change)
    assert house.run_row(run_id).plan_version == 1


def test_a_handed_back_step_keeps_its_followers_for_later(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    HeldStep(house.connections, house.claim(run_id, "a").claim).release(StepReleased(reason="drain"))
    house.admit()
    assert house.statuses(run_id) == {"a": "queued", "b": "chained"}
    house.run(run_id, "a")
    house.run(run_id, "b")
    house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"


def test_a_run_of_a_client_whose_clock_is_a_day_ahead_goes_neither_first_nor_last(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    now, order = runs.time.time_ns, []
    house.open_pool("research", slots=1)
    for hours_ahead in (24, 0, -24):
        monkeypatch.setattr(runs.time, "time_ns", lambda ahead=hours_ahead: now() + ahead * 3_600 * 10**9)
        order.append(house.submit(script("a"), script("b", "a")))
    for run_id in reversed(order):
        house.advance(run_id)
    # Two places, for the two that were submitted first.
    assert [admitted.run_id for admitted in house.admit()] == order[:2]
    house.run(order[0], "a")
    house.run(order[0], "b")
    house.admit()
    assert [house.row(run_id, "a").status for run_id in order] == ["succeeded", "queued", "queued"]
    with house.as_tenant() as session:
        assert [view.run_id for view in page_of_runs(session, RunFilter(), limit=20).runs] == order[::-1]

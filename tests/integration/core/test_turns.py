"""A turn: two commits on the step's own row, money that cannot be overspent, replies that get lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from psycopg import errors as pg

from chargehand.orchestrator import allotments, runs, steps, turns
from chargehand.orchestrator.allotments import TURNS_PER_ALLOTMENT
from chargehand.orchestrator.connections import Connections, Parameters, Row
from chargehand.orchestrator.errors import (
    BudgetBusy,
    BudgetExceeded,
    Fenced,
    IllegalFact,
    LeaseLost,
    StepCancelled,
    StepPaused,
    Unavailable,
)
from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    StepFinished,
    StepReleased,
    StepWaiting,
    ToolFinished,
    ToolStarted,
    Usage,
)
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.steps import HeldStep, new_wait_id
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

DONE = StepFinished(outcome="succeeded")


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def requested(need: int, call_id: UUID | None = None) -> ModelRequested:
    return ModelRequested(
        call_id=call_id or uuid4(),
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=need,
    )


def responded(call_id: UUID, cost: int, text: str = "hello") -> ModelResponded:
    return ModelResponded(
        call_id=call_id,
        model="m",
        content=({"type": "text", "text": text},),
        stop_reason="end_turn",
        usage=Usage(),
        cost_microusd=cost,
    )


def tool_finished(content: str) -> ToolFinished:
    return ToolFinished(tool_use_id="1", tool="t", arguments={}, outcome="ok", content=content)


def recorder_of(house: "House", held: HeldStep, connections: Connections | None = None) -> StepRecorder:
    return StepRecorder(connections or house.connections, held, lease_seconds=60)


def take_turn(recorder: StepRecorder, need: int = 10, cost: int = 3) -> None:
    request = requested(need)
    recorder.request([], request)
    recorder.respond(responded(request.call_id, cost))


def test_a_turn_is_two_commits_that_reserve_and_settle(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    recorder = recorder_of(house, held)
    request = requested(10)

    recorder.request([tool_finished("x"), tool_finished("y")], request)
    reserved = house.row(run_id, "a")
    recorder.respond(responded(request.call_id, 3))

    settled = house.row(run_id, "a")
    assert (reserved.reserved_microusd, reserved.spent_microusd, reserved.turns) == (10, 0, 1)
    assert (settled.reserved_microusd, settled.spent_microusd) == (0, 3)
    assert house.kinds(run_id, "a")[1:] == ["tool.finished", "tool.finished", "model.requested", "model.responded"]
    assert house.drift(run_id) == []


def test_a_turn_draws_an_allotment_and_its_end_returns_the_rest(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=10_000)
    held = house.claim(run_id, "a")
    recorder = recorder_of(house, held)
    take_turn(recorder)
    assert house.budget(run_id).drawn_microusd == 10 * TURNS_PER_ALLOTMENT

    held.finish(DONE)

    assert house.budget(run_id).drawn_microusd == house.row(run_id, "a").allotment_microusd == 3


def test_a_turn_touches_neither_the_run_nor_usually_its_budget(house: "House") -> None:
    # With the run's row locked, and its budget's, a turn inside its allotment does not wait.
    run_id = house.start(script("a"))
    recorder = recorder_of(house, house.claim(run_id, "a"))
    take_turn(recorder)
    with house.owner.connect() as blocker:
        blocker.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = '{run_id}' FOR UPDATE")
        blocker.exec_driver_sql(f"SELECT FROM chargehand.budgets WHERE run = '{run_id}' FOR UPDATE")
        for _ in range(5):
            take_turn(recorder)
    assert house.row(run_id, "a").turns == 6


def test_a_call_that_can_never_fit_exceeds_the_budget(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=100)
    recorder = recorder_of(house, house.claim(run_id, "a"))
    take_turn(recorder, need=80, cost=80)

    with pytest.raises(BudgetExceeded, match="80 of 100 are spent"):
        recorder.request([], requested(21))

    assert house.row(run_id, "a").reserved_microusd == 0


def test_a_call_that_only_open_reservations_block_is_told_to_wait(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=100)
    first, second = (recorder_of(house, house.claim(run_id, key)) for key in ("a", "b"))
    first.request([], requested(80))

    with pytest.raises(BudgetBusy):
        second.request([], requested(50))

    assert house.row(run_id, "b").reserved_microusd == 0


def test_a_cost_above_its_reservation_is_taken_from_what_the_step_has_drawn(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=10_000)
    held = house.claim(run_id, "a")
    take_turn(recorder_of(house, held), need=10, cost=25)
    assert (house.row(run_id, "a").spent_microusd, house.budget(run_id).drawn_microusd) == (25, 160)
    assert house.drift(run_id) == []
    held.finish(DONE)
    assert (house.budget(run_id).drawn_microusd, house.budget(run_id).overrun_microusd) == (25, 0)
    assert house.drift(run_id) == []


def test_a_cost_above_all_that_was_drawn_is_drawn_from_the_run(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=10_000)
    held = house.claim(run_id, "a")
    take_turn(recorder_of(house, held), need=10, cost=500)
    take_turn(recorder_of(house, house.claim(run_id, "b")), need=10, cost=3)
    assert house.row(run_id, "a").allotment_microusd == 500
    assert (house.budget(run_id).drawn_microusd, house.drift(run_id)) == (500 + 160, [])
    held.finish(DONE)
    assert (house.budget(run_id).drawn_microusd, house.drift(run_id)) == (500 + 160, [])


@pytest.mark.parametrize("end", ["finish", "wait", "take over", "cancel"])
def test_a_run_above_its_cap_says_so_and_gets_no_more_money(house: "House", end: str) -> None:
    # The reservation is an upper bound. A server that charges more has been paid: the account says it, and no other
    # call is paid for.
    run_id = house.start(script("a"), script("b"), budget_microusd=1_000)
    held = house.claim(run_id, "a")
    recorder = recorder_of(house, held)
    take_turn(recorder, need=10, cost=1_200)

    budget = house.budget(run_id)
    assert (budget.drawn_microusd, budget.cap_microusd, budget.overrun_microusd) == (1_200, 1_000, 200)
    with pytest.raises(BudgetExceeded, match="1200 of 1000"):
        recorder.request([], requested(1))
    with pytest.raises(BudgetExceeded):
        recorder_of(house, house.claim(run_id, "b")).request([], requested(1))
    match end:
        case "finish":
            held.finish(DONE)
        case "wait":
            held.wait(StepWaiting(wait_id=new_wait_id(), reason="budget", question="?"))
        case "take over":
            house.take_over(run_id, "a")
        case _:
            with house.as_tenant() as session:
                runs.cancel(session, house.tenant, run_id)
    assert house.budget(run_id).drawn_microusd == 1_200
    assert house.drift(run_id) == []


def test_a_call_in_flight_of_a_superseded_step_blocks_nobody_for_ever(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=100)
    first, second = (recorder_of(house, house.claim(run_id, key)) for key in ("a", "b"))
    first.request([], requested(80))
    with house.as_tenant() as session:
        runs.retry(session, house.tenant, run_id, "a")

    # Its worker died: nobody will ever say what it cost, so the other must not wait for that.
    with pytest.raises(BudgetExceeded, match="80 of 100 are spent"):
        second.request([], requested(50))


def test_what_waiting_gives_back_is_enough_for_the_next_call(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=100)
    held, other = house.claim(run_id, "a"), house.claim(run_id, "b")
    take_turn(recorder_of(house, held), need=5, cost=5)
    with pytest.raises(BudgetBusy):
        recorder_of(house, other).request([], requested(90))

    held.wait(StepWaiting(wait_id=new_wait_id(), reason="budget", question="?"), after_seconds=0)

    recorder_of(house, other).request([], requested(90))
    assert house.row(run_id, "b").reserved_microusd == 90


def test_concurrent_reservations_never_overspend(house: "House", threads: ThreadPoolExecutor) -> None:
    # A guard with a sum or a join read an old snapshot after its lock wait, and spent 120 of 100.
    keys = [f"s{n}" for n in range(8)]
    run_id = house.start(*map(script, keys), budget_microusd=100)
    recorders = [recorder_of(house, house.claim(run_id, key)) for key in keys]
    together = threading.Barrier(len(keys))

    def spend(recorder: StepRecorder) -> int:
        together.wait(timeout=60)
        for done in range(6):
            request = requested(5)
            try:
                recorder.request([], request)
            except (BudgetBusy, BudgetExceeded):
                return done
            recorder.respond(responded(request.call_id, 5))
        return 6

    calls = sum(threads.map(spend, recorders))

    spent = house.execute(
        "SELECT sum(spent_microusd), sum(allotment_microusd) FROM steps WHERE run = :run", {"run": run_id}
    )[0]
    assert spent[0] == calls * 5 <= 100
    assert house.budget(run_id).drawn_microusd == spent[1] <= 100


def test_a_guard_with_a_sum_in_it_does_overspend(house: "House") -> None:
    # The old way, shown: Postgres re-checks only the locked row after the wait, not the sum over the others.
    run_id = house.start(script("a"), script("b"))
    greedy = (
        "UPDATE chargehand.steps SET reserved_microusd = reserved_microusd + 60 FROM chargehand.budgets b "
        "WHERE steps.id = %(step)s AND b.run = steps.run AND 100 - 60 >= "
        "(SELECT sum(reserved_microusd) FROM chargehand.steps o WHERE o.run = b.run)"
    )
    with house.owner.connect() as one, house.owner.connect() as other:
        for connection, key in ((one, "a"), (other, "b")):
            connection.exec_driver_sql(greedy, {"step": step_id(run_id, key)})
        one.commit()
        other.commit()
    assert house.row(run_id, "a").reserved_microusd + house.row(run_id, "b").reserved_microusd == 120
    house.execute("UPDATE steps SET reserved_microusd = 0 WHERE run = :run", {"run": run_id})


def test_drawing_while_the_heartbeat_renews_loses_no_money(house: "House", threads: ThreadPoolExecutor) -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=10_000)
    helds = [house.claim(run_id, key) for key in ("a", "b")]
    recorders = [recorder_of(house, held) for held in helds]
    stop = threading.Event()

    def renew() -> None:
        while not stop.is_set():
            house.connections.rows(
                house.tenant,
                "SELECT renew_leases(%(steps)s::uuid[], %(epochs)s::integer[], 60)",
                {"steps": [held.claim.step_id for held in helds], "epochs": [1, 1]},
            )

    def turn(recorder: StepRecorder) -> None:
        for _ in range(60):
            take_turn(recorder, need=7, cost=7)

    beating = threads.submit(renew)
    try:
        list(threads.map(turn, recorders))
    finally:
        stop.set()
        beating.result(timeout=60)

    for held in helds:
        held.finish(DONE)
    assert house.budget(run_id).drawn_microusd == 2 * 60 * 7
    assert house.drift(run_id) == []


def test_a_lost_lease_reserves_nothing(house: "House") -> None:
    # As siblings the two writes were made apart: with the lease lost the reservation still happened.
    run_id = house.start(script("a"))
    zombie = recorder_of(house, house.claim(run_id, "a"))
    house.take_over(run_id, "a")

    with pytest.raises(LeaseLost):
        zombie.request([], requested(10))

    assert house.row(run_id, "a").reserved_microusd == 0
    assert house.budget(run_id).drawn_microusd == 0
    assert house.kinds(run_id, "a") == ["step.claimed", "step.recovered", "step.claimed"]


def test_a_cancelled_step_is_told_so_at_its_next_commit(house: "House") -> None:
    run_id = house.start(script("a"))
    recorder = recorder_of(house, house.claim(run_id, "a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)

    with pytest.raises(StepCancelled):
        recorder.request([], requested(10))


def test_a_paused_step_settles_its_call_and_stops_before_the_next(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    recorder = recorder_of(house, held)
    request = requested(10)
    recorder.request([], request)
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)

    recorder.respond(responded(request.call_id, 4))
    with pytest.raises(StepPaused):
        recorder.request([], requested(10))
    held.release(StepReleased(reason="pause"))

    row = house.row(run_id, "a")
    assert (row.status, row.spent_microusd, row.halt) == ("ready", 4, None)
    assert house.drift(run_id) == []


class LosesReplies(Connections):
    """Connections whose server does what it is told and whose answer is lost when `lose` says so."""

    lose = False

    def run(self, tenant: UUID, statement: str, parameters: Parameters) -> Row | None:
        row = super().run(tenant, statement, parameters)
        if self.lose and "UPDATE" in statement:
            self.lose = False
            raise Unavailable("the reply was lost")
        return row


class SendsTwice(Connections):
    """Connections that send every write twice, as after a lost reply."""

    def run(self, tenant: UUID, statement: str, parameters: Parameters) -> Row | None:
        if "UPDATE steps" in statement and "epoch = %(epoch)s" in statement:
            super().run(tenant, statement, parameters)
        return super().run(tenant, statement, parameters)


def test_a_commit_whose_reply_was_lost_is_recognised(house: "House") -> None:
    connections = LosesReplies(house.database_url)
    run_id = house.start(script("a"))
    held = HeldStep(connections, house.claim(run_id, "a").claim)
    recorder = recorder_of(house, held, connections)
    take_turn(recorder)

    connections.lose = True
    recorder.tool_started(ToolStarted(tool_use_id="1", tool="t", effect="pure", key="k", timeout_seconds=1))
    connections.lose = True
    held.finish(DONE)

    connections.close()
    assert house.kinds(run_id, "a").count("tool.started") == 1
    assert house.kinds(run_id, "a").count("step.finished") == 1
    assert house.drift(run_id) == []


def test_a_commit_sent_twice_counts_once(house: "House") -> None:
    connections = SendsTwice(house.database_url)
    run_id = house.start(script("a"))
    held = HeldStep(connections, house.claim(run_id, "a").claim)
    recorder = recorder_of(house, held, connections)
    for _ in range(3):
        take_turn(recorder)
    held.finish(DONE)

    connections.close()
    row = house.row(run_id, "a")
    assert (row.spent_microusd, row.turns) == (9, 3)
    assert len(house.kinds(run_id, "a")) == 8
    assert house.drift(run_id) == []


def test_the_same_commit_again_is_known_as_own_and_another_epochs_as_foreign(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    recorder = recorder_of(house, held)
    started = ToolStarted(tool_use_id="1", tool="t", effect="pure", key="k", timeout_seconds=1)
    before = held.seq
    recorder.tool_started(started)

    held.seq = before
    recorder.tool_started(started)
    assert held.seq == before + 1

    # Same place, other content: not mine.
    held.seq = before
    with pytest.raises(LeaseLost, match="at row"):
        recorder.tool_finished(tool_finished("x"))

    # Same place and content, but the step has been claimed again since.
    successor = house.take_over(run_id, "a")
    held.seq = successor.claim.seq
    recorder_of(house, successor).tool_started(started)
    with pytest.raises(LeaseLost, match="epoch 1 is over"):
        recorder.tool_started(started)


def test_the_key_of_the_journal_is_the_second_line(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    with pytest.raises(pg.UniqueViolation):
        house.connections.run(
            house.tenant,
            "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body) "
            "VALUES (%(tenant)s, %(run)s, %(step)s, 1, 'x', 1, 1, '{}')",
            {"tenant": house.tenant, "run": run_id, "step": held.claim.step_id},
        )


def test_an_answer_is_progress_and_forgives_crashes(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    recorder = recorder_of(house, house.take_over(run_id, "a"))
    assert house.row(run_id, "a").crashes == 1

    take_turn(recorder)

    assert house.row(run_id, "a").crashes == 0


def test_giving_up_a_dead_attempts_call_is_no_progress(house: "House") -> None:
    # Every take-over abandons the call in flight: if that forgave crashes, a poison call would crash for ever.
    run_id = house.start(script("a"))
    request = requested(10)
    recorder_of(house, house.claim(run_id, "a")).request([], request)
    recorder = recorder_of(house, house.take_over(run_id, "a"))

    recorder.abandon(CallAbandoned(call_id=request.call_id, charged_microusd=10))

    row = house.row(run_id, "a")
    assert (row.crashes, row.spent_microusd, row.reserved_microusd) == (1, 10, 0)
    assert house.drift(run_id) == []


def test_a_failed_call_settles_what_it_cost(house: "House") -> None:
    run_id = house.start(script("a"))
    recorder = recorder_of(house, house.claim(run_id, "a"))
    request = requested(10)
    recorder.request([], request)

    recorder.respond(ModelFailed(call_id=request.call_id, error="overloaded", retryable=True, cost_microusd=0))

    row = house.row(run_id, "a")
    assert (row.spent_microusd, row.reserved_microusd) == (0, 0)


def test_the_next_attempt_reads_what_the_dead_one_recorded(house: "House") -> None:
    run_id = house.start(script("a"))
    request = requested(10)
    first = recorder_of(house, house.claim(run_id, "a"))
    first.request([], request)
    first.respond(responded(request.call_id, 3, text="zero \x00 and ü"))

    history = recorder_of(house, house.take_over(run_id, "a")).history

    before = ["step.claimed", "model.requested", "model.responded"]
    assert [fact.kind for fact in history] == [*before, "step.recovered", "step.claimed"]


def test_a_call_that_an_earlier_attempt_settled_is_not_settled_again(house: "House") -> None:
    run_id = house.start(script("a"))
    answered, failed = requested(10), requested(20)
    first = recorder_of(house, house.claim(run_id, "a"))
    first.request([], answered)
    first.respond(responded(answered.call_id, 3))
    first.request([], failed)
    first.respond(ModelFailed(call_id=failed.call_id, error="overloaded", retryable=True, cost_microusd=0))

    second = recorder_of(house, house.take_over(run_id, "a"))

    for call in (answered, failed):
        with pytest.raises(IllegalFact, match="not in flight"):
            second.abandon(CallAbandoned(call_id=call.call_id, charged_microusd=call.reserved_microusd))
    row = house.row(run_id, "a")
    assert (row.reserved_microusd, row.spent_microusd, house.drift(run_id)) == (0, 3, [])


def test_failures_of_the_other_steps_are_seen(house: "House") -> None:
    run_id = house.start(script("a"), script("b"))
    first, second = (recorder_of(house, house.claim(run_id, key)) for key in ("a", "b"))
    failed = ToolFinished(tool_use_id="1", tool="t", arguments={}, outcome="error", content="no", error_type="E")
    first.tool_finished(failed)
    first.tool_finished(tool_finished("fine"))

    assert [seen.fact.content for seen in second.recent_failures()] == ["no"]
    assert first.recent_failures() == []


def test_pauses_and_turns_of_one_run_never_deadlock(house: "House", threads: ThreadPoolExecutor) -> None:
    # With the budget on the run's row, turns locked step -> run and pauses run -> steps: 18 deadlocks in 6 s.
    keys = [f"s{n}" for n in range(6)]
    run_id = house.start(*map(script, keys), budget_microusd=10**9)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = house.execute(deadlocks)[0][0]
    helds = [house.claim(run_id, key) for key in keys]
    ids = [(held.claim.step_id, held.claim.epoch) for held in helds]
    stop = threading.Event()

    def work(held: HeldStep) -> int:
        recorder = recorder_of(house, held)
        turned = 0
        while turned < 25 and not stop.is_set():
            request = requested(7)
            try:
                recorder.request([], request)
            except StepPaused:
                continue
            recorder.respond(responded(request.call_id, 7))
            turned += 1
        return turned

    def pause_and_resume() -> int:
        count = 0
        while not stop.is_set():
            for act in (runs.pause, runs.resume):
                with house.as_tenant() as session:
                    act(session, house.tenant, run_id)
            count += 1
            # Paused all the time, nobody would get to turn.
            stop.wait(0.005)
        return count

    def renew() -> None:
        # The heartbeat locks many steps at once: it must keep the order too.
        while not stop.is_set():
            house.connections.rows(
                house.tenant,
                "SELECT renew_leases(%(steps)s::uuid[], %(epochs)s::integer[], 60)",
                {"steps": [step for step, _ in ids], "epochs": [epoch for _, epoch in ids]},
            )
            stop.wait(0.002)

    with ThreadPoolExecutor(3) as others:
        disturbing = [others.submit(pause_and_resume), others.submit(renew)]
        try:
            turned = list(threads.map(work, helds, timeout=120))
        finally:
            stop.set()
        pauses = disturbing[0].result(timeout=60)
        disturbing[1].result(timeout=60)

    assert turned == [25] * len(keys)
    assert pauses > 3
    # The statistics come late; a deadlock would also have raised in a pause or a renewal above.
    assert house.execute(deadlocks)[0][0] == before


def test_turns_that_never_touch_the_run_are_what_prevents_the_deadlock(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    # The old way, shown with two sessions in the fatal order.
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    step, run = f"'{held.claim.step_id}'", f"'{run_id}'"
    with house.owner.connect() as turn, house.owner.connect() as pause, ThreadPoolExecutor(1) as thread:
        for connection in (turn, pause):
            connection.exec_driver_sql("SET deadlock_timeout = '50ms'")
        turn.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = {step} FOR NO KEY UPDATE")
        pause.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = {run} FOR NO KEY UPDATE")
        waiting = thread.submit(
            pause.exec_driver_sql, f"SELECT FROM chargehand.steps WHERE id = {step} FOR NO KEY UPDATE"
        )
        raised = []
        for attempt in (
            lambda: turn.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = {run} FOR NO KEY UPDATE"),
            lambda: waiting.result(timeout=60),
        ):
            try:
                attempt()
            except Exception as error:  # noqa: BLE001 - whichever of the two Postgres chose
                raised.append(type(getattr(error, "orig", error)))
                turn.rollback()
    assert raised == [pg.DeadlockDetected]
    assert "runs" not in turns._TURN + allotments.DRAW
    assert "UPDATE runs" not in steps._CLAIM + steps._FINISH + steps._FINISH_ALONE + steps._LEAVE


def test_a_fenced_worker_is_told_by_one_kind_of_error() -> None:
    assert all(issubclass(error, Fenced) for error in (LeaseLost, StepCancelled, StepPaused))


# --- what people tell the run -----------------------------------------------------------------------------------------


def tell(house: "House", run_id: UUID, message: str) -> None:
    with house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, message)


def test_a_message_is_heard_once_and_by_a_later_attempt_not_again(house: "House") -> None:
    run_id = house.start(script("a"))
    recorder = recorder_of(house, house.claim(run_id, "a"))
    assert recorder.hear() is None
    tell(house, run_id, "first")
    tell(house, run_id, "second")
    # What the newest answer did not know of is heard after the next one.
    assert recorder.hear() is None
    take_turn(recorder)

    heard = recorder.hear()

    assert heard is not None
    assert heard.messages == ("first", "second")
    recorder.told(heard)
    assert recorder.hear() is None
    house.expire(run_id, "a")
    house.recover()
    house.admit()
    later = recorder_of(house, house.claim(run_id, "a"))
    assert later.hear() is None
    tell(house, run_id, "third")
    take_turn(later)
    assert (told := later.hear()) is not None
    assert told.messages == ("third",)


def test_a_message_from_before_the_step_began_is_heard_at_once(house: "House") -> None:
    run_id = house.start(script("a"))
    tell(house, run_id, "early")
    assert (heard := recorder_of(house, house.claim(run_id, "a")).hear()) is not None
    assert heard.messages == ("early",)

"""What people and clients do to a run, one transaction each: the mirror of `orchestrator/runs.py`."""

from collections.abc import Sequence
from uuid import UUID

from chargehand.orchestrator import accepting, replanning
from chargehand.orchestrator.backtracking import backtrack
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import (
    BudgetRaised,
    PlanPatched,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSubmitted,
    RunTold,
    StepFinished,
    StepsSkipped,
)
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, extend, step_id, validate
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import queueing
from simulation.tables import RunLine, Signal, StepLine, Tables


def accept(tables: Tables, tenant: UUID, request: RunRequest, role_versions: dict[str, str]) -> UUID:
    """Make the run, its plan, its budget and its first fact; the same request again gives the first one's id.

    Raises `ConcurrencyConflict` when another run has its key and it is not to wait, and `RunIsLocked` when it has to.
    """
    validate(request.plan, roles=role_versions.keys())
    for run in tables.runs.values():
        same_key = request.idempotency_key is not None and run.idempotency_key == request.idempotency_key
        if run.tenant == tenant and (run.id == request.run_id or same_key):
            return run.id
    key = request.concurrency_key
    ahead = queueing.others(tables, tenant, key, request.run_id) if key is not None else []
    waits = queueing.must_wait(request.on_conflict, ahead)
    to_end = [] if waits else queueing.lock_to_end(ahead)
    now = tables.clock.now
    run = RunLine(
        id=request.run_id,
        tenant=tenant,
        goal=request.goal,
        priority=request.priority,
        created_at=now,
        role_versions=role_versions,
        cap_microusd=request.budget_microusd,
        idempotency_key=request.idempotency_key,
        deadline_at=now + request.deadline_seconds if request.deadline_seconds else None,
        concurrency_key=key,
        replans=request.replans,
        status="queued" if waits else "running",
    )
    tables.runs[run.id] = run
    tables.of_run[run.id] = []
    add_steps(tables, run, request.plan.steps)
    tables.record(
        run,
        RunSubmitted(
            goal=request.goal,
            plan=request.plan,
            budget_microusd=request.budget_microusd,
            priority=request.priority,
            idempotency_key=request.idempotency_key,
            role_versions=role_versions,
            deadline_seconds=request.deadline_seconds,
            concurrency_key=key,
            replans=request.replans,
        ),
    )
    if waits:
        tables.record(run, RunQueued(behind=ahead[-1].id))
    for older in to_end:
        end_run(tables, older, outcome="cancelled", reason=f"run {run.id} has taken its concurrency key")
    tables.ring(run.id)
    return run.id


def add_steps(tables: Tables, run: RunLine, added: tuple[Step, ...] | list[Step]) -> None:
    """Insert steps and edges after those that are there, in production's topological order."""
    rows = tables.of_run[run.id]
    first = rows[-1].ordinal + 1 if rows else 0
    for ordinal, step in enumerate(accepting.in_order(added), start=first):
        identity = step_id(run.id, step.key)
        row = StepLine(
            id=identity, run=run.id, tenant=run.tenant, key=step.key, ordinal=ordinal, pool=step.pool, spec=step
        )
        tables.steps[identity] = row
        if step.parent is not None:
            tables.parents[identity] = tables.steps[step_id(run.id, step.parent)]
        rows.append(row)
        tables.before[identity] = tuple(step_id(run.id, key) for key in step.after)
        for before in tables.before[identity]:
            tables.after[before].append(identity)


def patch(
    tables: Tables,
    run: RunLine,
    change: PlanPatch,
    *,
    by_step: UUID | None = None,
    reason: str = "",
    as_they_stand: bool = False,
) -> None:
    """Grow the graph; raises `InvalidPlan` and then has written nothing."""
    rows = tables.of_run[run.id]
    if as_they_stand:
        whole = Plan(steps=tuple(row.spec for row in rows))
        change = replanning.effective(whole, {row.key: row.status for row in rows}, change)
    known = counting_plan(tables, run)
    validated = change.model_copy(update={"drop": ()}) if as_they_stand else change
    grown = extend(known, validated, roles=run.role_versions.keys())
    used = {row.key for row in rows} & {step.key for step in change.add}
    if used:
        raise InvalidPlan(f"Step key {min(used)!r} was used before in this run; give the new step a new key.")
    dropped = [row for row in rows if row.key in change.drop]
    to_end = [row for row in dropped if as_they_stand and row.status in {"running", "waiting", "queued"}]
    for row in dropped:
        if row not in to_end and row.status not in {"pending", "ready", "chained"}:
            raise InvalidPlan(f"Step {row.key!r} is {row.status} and cannot be dropped; cancel it instead.")
    for row in dropped:
        if row in to_end:
            cancel_started(tables, row)
        else:
            row.status, row.chain = "cancelled", None
    superseded = [row for row in rows if row.key in change.supersede and row.key not in change.drop]
    for row in superseded:
        supersede(tables, row)
    return_allotments(tables, [*dropped, *superseded])
    run.plan_version += 1
    added = {step.key for step in change.add}
    if added:
        add_steps(tables, run, [step for step in grown.steps if step.key in added])
    tables.record(run, PlanPatched(patch=change, plan_version=run.plan_version, by_step=by_step, reason=reason))
    tables.ring(run.id)


def cancel_started(tables: Tables, row: StepLine) -> None:
    """End a dropped step whatever it does; its worker learns so at its next commit."""
    if row.status != "queued":
        tables.append(row, StepFinished(outcome="cancelled", error="the plan goes on without it"))
    row.status, row.chain = "cancelled", None
    row.lease_until = row.holder = row.wait_id = row.halt = None
    row.finished_at = tables.clock.now


def supersede(tables: Tables, row: StepLine) -> None:
    """Let a step not count any more: whoever works on it learns at its next commit that nobody wants it."""
    row.status, row.chain = "superseded", None
    row.lease_until = row.holder = row.wait_id = row.halt = None
    row.finished_at = row.finished_at if row.finished_at is not None else tables.clock.now


def counting_plan(tables: Tables, run: RunLine) -> Plan:
    """The steps that are not superseded."""
    return Plan(steps=tuple(row.spec for row in tables.of_run[run.id] if row.status != "superseded"))


def retry(tables: Tables, run: RunLine, key: str) -> bool:
    """Do a step once more, with all that was built on it; False when the run has ended. Raises `InvalidPlan`."""
    with tables.locked(run):
        if run.status in RUN_ENDINGS:
            return False
        rows = tables.of_run[run.id]
        counting = counting_plan(tables, run)
        anew = replanning.asked_anew(counting.by_key[key], counting, {row.key: row.status for row in rows})
        patch(tables, run, backtrack(counting, {key: anew}, taken=[row.key for row in rows]))
        return True


def return_allotments(tables: Tables, rows: list[StepLine]) -> None:
    """Give back what these steps have drawn and will not spend now, and draw what they spent beyond it."""
    for row in rows:
        rest = row.free_microusd
        if rest != 0:
            row.returned_microusd = rest
            row.allotment_microusd -= rest
            tables.run_of(row).drawn_microusd -= rest


def live_steps(tables: Tables, run: RunLine) -> list[StepLine]:
    """Steps that have not ended, in plan order."""
    return [row for row in tables.of_run[run.id] if not row.has_ended]


def cancel(tables: Tables, run: RunLine, *, reason: str = "cancelled") -> bool:
    """End the run now; False when it had ended already."""
    with tables.locked(run):
        if run.status in RUN_ENDINGS:
            return False
        end_run(tables, run, outcome="cancelled", reason=reason)
        return True


def end_run(tables: Tables, run: RunLine, *, outcome: str, reason: str) -> None:
    """Close every step and the run itself."""
    cancel_steps(tables, run, live_steps(tables, run), reason=reason)
    tables.record(run, RunFinished.model_validate({"outcome": outcome, "reason": reason}))
    run.status, run.reason = outcome, reason
    run.finished_at = tables.clock.now
    tables.ring(run.id)


def cancel_steps(tables: Tables, run: RunLine, rows: Sequence[StepLine], *, reason: str) -> None:
    """End these live steps of the run."""
    unclaimed: list[UUID] = []
    for row in rows:
        if row.status in {"running", "waiting"}:
            tables.append(row, StepFinished(outcome="cancelled", error=reason))
        else:
            unclaimed.append(row.id)
        row.status = "cancelled"
        row.lease_until = row.holder = row.wait_id = row.halt = None
        row.finished_at = tables.clock.now
    return_allotments(tables, rows)
    if unclaimed:
        tables.record(run, StepsSkipped(steps=tuple(unclaimed), outcome="cancelled", reason=reason))


def pause(tables: Tables, run: RunLine, *, reason: str = "") -> bool:
    """Start nothing new and stop running steps at their next commit; False when there is nothing to pause."""
    with tables.locked(run):
        if run.status != "running":
            return False
        for row in live_steps(tables, run):
            if row.status == "running":
                row.halt = "pause"
            elif row.status in {"ready", "queued", "chained"}:
                row.status, row.chain = "pending", None
        run.status = "paused"
        tables.record(run, RunPaused(reason=reason))
        return True


def resume(tables: Tables, run: RunLine) -> bool:
    """Let a paused run go on; False when it is not paused."""
    with tables.locked(run):
        if run.status != "paused":
            return False
        for row in live_steps(tables, run):
            row.halt = None
        run.status = "running"
        tables.record(run, RunResumed())
        tables.ring(run.id)
        return True


def raise_budget(tables: Tables, run: RunLine, to_microusd: int) -> bool:
    """Let the run spend more; the watch loop wakes steps that wait for it. False when nothing changes."""
    with tables.locked(run):
        if run.status in RUN_ENDINGS or to_microusd <= run.cap_microusd:
            return False
        run.cap_microusd, run.warned_percent = to_microusd, 0
        tables.record(run, BudgetRaised(budget_microusd=to_microusd))
        tables.ring(run.id)
        return True


def tell(tables: Tables, run: RunLine, message: str) -> bool:
    """Leave a message for the run's agents; False when it has ended."""
    with tables.locked(run):
        if run.status in RUN_ENDINGS:
            return False
        tables.record(run, RunTold(message=message))
        return True


def answer(tables: Tables, step: UUID, wait_id: UUID, choice: str, body: object = None) -> bool:
    """Answer a waiting step; the first answer wins, a later one gives False. Takes no lock."""
    if (step, wait_id) in tables.signals:
        return False
    run = tables.steps[step].run
    tables.signals[step, wait_id] = Signal(choice, body, run, tables.clock.now)
    tables.ring(run)
    return True

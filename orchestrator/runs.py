"""The writers of a run: accept, grow, pause, resume, cancel, give money, tell, answer.

Locks are taken in one order everywhere: the run, then its steps by ordinal, then its budget. The caller commits.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from chargehand.memory import journal, procedural
from chargehand.memory.journal import NewEntry
from chargehand.memory.procedural import Role
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import accepting, concurrency, episodes
from chargehand.orchestrator.backtracking import backtrack
from chargehand.orchestrator.errors import InvalidPlan, NotFound, RunEnded, UserError
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    BudgetRaised,
    Fact,
    PlanPatched,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunTold,
    StepFinished,
    StepsSkipped,
)
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, extend, step_id, validate
from chargehand.orchestrator.replanning import asked_anew, effective
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.storable import as_answer
from chargehand.orchestrator.tables import (
    BudgetRow,
    EdgeRow,
    RingRow,
    RunRow,
    SignalRow,
    StepRow,
    SubmissionRow,
    TenantBudgetRow,
)
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS

# Well within a lease.
LONGEST_IDLE = "5s"

_RECORD = """
WITH own AS (
    UPDATE runs SET head_seq = head_seq + %(count)s, schema_version = greatest(schema_version, %(version)s)
    WHERE id = %(run)s RETURNING head_seq
), facts AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body)
    SELECT %(tenant)s, %(run)s, %(stream)s, own.head_seq - %(count)s + fact.position, fact.kind, %(version)s, 0,
        fact.body
    FROM own, unnest(%(kinds)s::text[], %(bodies)s::text[]) WITH ORDINALITY AS fact(kind, body, position)
    ORDER BY fact.position
)
SELECT head_seq FROM own
"""


def new_run_id() -> UUID:
    """A uuidv7: ids of later runs sort after those of earlier ones (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    randomness = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (randomness >> 68 & 0xFFF) << 64
    return UUID(int=value | 0b10 << 62 | randomness & (2**62 - 1))


def enqueue(session: Session, tenant: UUID, request: RunRequest) -> None:
    """Ask for the run in the caller's own transaction; a supervisor accepts it once that has committed."""
    session.execute(
        insert(SubmissionRow).values(
            run=request.run_id, tenant=tenant, request=request.model_dump_json(), schema_version=SCHEMA_VERSION
        )
    )


def accept(session: Session, tenant: UUID, request: RunRequest, installed: Iterable[Role]) -> UUID:
    """Make the run, its plan, its budget and its first fact; gives its id.

    A second request with the same idempotency key gives the first one's id and writes nothing. Raises `InvalidPlan`,
    and `ConcurrencyConflict` when another run has its concurrency key and it was not to wait.
    """
    roles = accepting.roles_of(request, installed)
    validate(request.plan, roles=roles.keys())
    if request.concurrency_key is not None:
        concurrency.stand_in_line(session, tenant, request.concurrency_key)
    procedural.pin_roles(session, tenant=tenant, roles=roles.values())
    continues = episodes.earlier(session, tenant, request.conversation_id)
    # Past the session, which must have written what it holds.
    session.flush()
    made = session.connection().exec_driver_sql(
        accepting.ACCEPT, accepting.parameters(tenant, request, roles, continues=continues)
    )
    if made.scalar_one() is None:
        return same_request(session, tenant, request.run_id, request.idempotency_key)
    if request.concurrency_key is not None:
        _take_key(session, request)
    return request.run_id


def open_budget(session: Session, tenant: UUID, run_id: UUID, **caps: Any) -> None:
    """Make the row of a new run; where its tenant has caps, it has borrowed nothing yet."""
    # No row: null.
    nothing_yet = select(literal(0)).where(TenantBudgetRow.tenant == tenant).scalar_subquery()
    session.execute(insert(BudgetRow).values(run=run_id, tenant=tenant, allotted_microusd=nothing_yet, **caps))


def _take_key(session: Session, request: RunRequest) -> None:
    """Let a run that stands in line for its key go, or wait, or end those before it."""
    run = session.get_one(RunRow, request.run_id, populate_existing=True)
    ahead = concurrency.others(session, run)
    if concurrency.must_wait(request.on_conflict, ahead):
        record(session, run.tenant, run.id, [RunQueued(behind=ahead[-1].id)])
        return
    for older in concurrency.lock_to_end(session, ahead) if ahead else ():
        end_run(session, older, outcome="cancelled", reason=f"run {run.id} has taken its concurrency key")
    session.flush()
    run.status = "running"
    session.flush()


def same_request(session: Session, tenant: UUID, run_id: UUID, idempotency_key: str | None) -> UUID:
    """The run that was made before under this id or key."""
    same = RunRow.id == run_id
    if idempotency_key is not None:
        # Compared with no key, every run without one would be the same.
        same = or_(same, RunRow.idempotency_key == idempotency_key)
    query = select(RunRow.id).where(RunRow.tenant == tenant, same).order_by(RunRow.created_at).limit(1)
    existing = session.execute(query).scalar_one_or_none()
    if existing is None:
        # The other transaction that holds the key has rolled back meanwhile, or another tenant has this id.
        raise UserError(f"Run {run_id} could not be made; submit it again.")
    return existing


def record(session: Session, tenant: UUID, run_id: UUID, facts: Sequence[Fact]) -> int:
    """Append facts to the run's own stream; gives its new last row. Takes the run's lock."""
    entries = [_entry(fact, epoch=0) for fact in facts]
    # Every round of a run comes here: one statement, past the session, which must have written what it holds.
    session.flush()
    head_seq: int = (
        session.connection()
        .exec_driver_sql(
            _RECORD,
            {
                "run": run_id,
                "tenant": tenant,
                "stream": RUN_STREAM,
                "count": len(facts),
                "version": SCHEMA_VERSION,
                "kinds": [entry.kind for entry in entries],
                "bodies": [entry.body for entry in entries],
            },
        )
        .scalar_one()
    )
    return head_seq


def record_in_step(session: Session, row: StepRow, facts: Sequence[Fact]) -> None:
    """Append facts to the stream of a step whose row the caller has locked and takes away from its worker."""
    row.schema_version = max(row.schema_version, SCHEMA_VERSION)
    row.head_seq = journal.append(
        session,
        tenant=row.tenant,
        run=row.run,
        step=row.id,
        after_seq=row.head_seq,
        entries=[_entry(fact, epoch=row.epoch) for fact in facts],
    )


def ring(session: Session, tenant: UUID, run_id: UUID) -> None:
    """Tell the supervisors, with this very commit, that something changed."""
    session.execute(insert(RingRow).values(tenant=tenant, run=run_id))


def add_steps(session: Session, tenant: UUID, run_id: UUID, steps: Sequence[Step], *, first_ordinal: int) -> None:
    """Insert steps and edges; ordinals follow the topological order of the steps among themselves."""
    ordered = accepting.in_order(steps)
    session.execute(
        insert(StepRow),
        [
            {
                "id": step_id(run_id, step.key),
                "run": run_id,
                "tenant": tenant,
                "key": step.key,
                "ordinal": first_ordinal + position,
                "pool": step.pool,
                "spec": step.model_dump(mode="json"),
                "schema_version": SCHEMA_VERSION,
            }
            for position, step in enumerate(ordered)
        ],
    )
    edges = [
        {
            "predecessor": step_id(run_id, before),
            "successor": step_id(run_id, step.key),
            "run": run_id,
            "tenant": tenant,
        }
        for step in ordered
        for before in step.after
    ]
    if edges:
        session.execute(insert(EdgeRow), edges)


def patch(
    session: Session,
    run: RunRow,
    change: PlanPatch,
    *,
    by_step: UUID | None = None,
    reason: str = "",
    as_they_stand: bool = False,
) -> None:
    """Grow the graph of a run whose row the caller has locked; raises `InvalidPlan`.

    Each dropped step is checked against its status now, not against the plan's version: one that has started is not
    dropped. `as_they_stand`: the change is an intent (see `replanning.effective`) of which is done what still makes
    sense; to drop a step that has started is then to cancel it.
    """
    rows = session.scalars(
        select(StepRow).where(StepRow.run == run.id).order_by(StepRow.ordinal).with_for_update(key_share=True)
    ).all()
    if as_they_stand:
        whole = Plan(steps=tuple(Step.model_validate(row.spec) for row in rows))
        change = effective(whole, {row.key: row.status for row in rows}, change)
    known = Plan(steps=tuple(Step.model_validate(row.spec) for row in rows if row.status != "superseded"))
    # What is cancelled stays in the graph: those who take what there is still wait for it.
    validated = change.model_copy(update={"drop": ()}) if as_they_stand else change
    grown = extend(known, validated, roles=run.role_versions.keys())
    used = {row.key for row in rows} & {step.key for step in change.add}
    if used:
        raise InvalidPlan(f"Step key {min(used)!r} was used before in this run; give the new step a new key.")
    for row in rows:
        if row.key in change.drop:
            # A chained step's message, if it comes all the same, finds nothing to claim.
            if as_they_stand and row.status in {"running", "waiting", "queued"}:
                _cancel_started(session, row)
                continue
            if row.status not in {"pending", "ready", "chained"}:
                raise InvalidPlan(f"Step {row.key!r} is {row.status} and cannot be dropped; cancel it instead.")
            row.status, row.chain = "cancelled", None
        elif row.key in change.supersede:
            # Whoever works on it learns at its next commit that nobody wants it.
            row.status, row.chain = "superseded", None
            row.lease_until = row.holder = row.wait_id = row.halt = None
            row.finished_at = func.coalesce(StepRow.finished_at, func.clock_timestamp())
    run.plan_version += 1
    # One that was recovered, or is at work, has drawn money.
    return_allotments(session, [row for row in rows if row.key in {*change.drop, *change.supersede}])
    if change.add:
        added = {step.key for step in change.add}
        fresh = [step for step in grown.steps if step.key in added]
        first = rows[-1].ordinal + 1 if rows else 0
        add_steps(session, run.tenant, run.id, fresh, first_ordinal=first)
    record(
        session,
        run.tenant,
        run.id,
        [PlanPatched(patch=change, plan_version=run.plan_version, by_step=by_step, reason=reason)],
    )
    ring(session, run.tenant, run.id)


def _cancel_started(session: Session, row: StepRow) -> None:
    """End a dropped step whatever it does; its worker learns so at its next commit."""
    if row.status != "queued":
        record_in_step(session, row, [StepFinished(outcome="cancelled", error="the plan goes on without it")])
    row.status, row.chain = "cancelled", None
    row.lease_until = row.holder = row.wait_id = row.halt = None
    row.finished_at = func.clock_timestamp()


def retry(session: Session, tenant: UUID, run_id: UUID, key: str, *, by: str = "") -> tuple[str, ...]:
    """Do a step of a run under way once more, with all that was built on it; gives the keys of the new steps.

    What it gave before is superseded; a planner is asked about the plan as it is now. `by`: who wants it, for the
    journal. Raises `NotFound`, `InvalidPlan`, and `UserError` for a run that has ended.
    """
    run = lock(session, tenant, run_id)
    if run.status in RUN_ENDINGS:
        raise RunEnded(f"Run {run_id} has ended ({run.status}); do it again with: chargehand fork {run_id} --at {key}")
    rows = session.scalars(select(StepRow).where(StepRow.run == run_id).order_by(StepRow.ordinal)).all()
    counting = Plan(steps=tuple(Step.model_validate(row.spec) for row in rows if row.status != "superseded"))
    step = counting.by_key.get(key)
    anew = asked_anew(step, counting, {row.key: row.status for row in rows}) if step is not None else None
    change = backtrack(counting, {key: anew}, taken=[row.key for row in rows])
    patch(session, run, change, reason=f"{key} again, asked for by {by}" if by else "")
    return tuple(step.key for step in change.add)


def return_allotments(session: Session, rows: Iterable[StepRow]) -> None:
    """Give back what these steps have drawn and will not spend now: it blocks the calls of the run's other steps.

    What a call in flight has reserved stays. What was spent beyond all that was drawn is drawn now, above the cap if it
    must be. Called when all steps of the transaction are locked: budgets are last.
    """
    returned: dict[UUID, int] = defaultdict(int)
    for row in rows:
        rest = row.allotment_microusd - row.spent_microusd - row.reserved_microusd
        if rest != 0:
            row.allotment_microusd -= rest
            row.returned_microusd = rest
            returned[row.run] += rest
    session.flush()
    for run, rest in sorted(returned.items()):
        session.execute(
            update(BudgetRow)
            .where(BudgetRow.run == run)
            .values(
                drawn_microusd=BudgetRow.drawn_microusd - rest,
                overrun_microusd=func.greatest(
                    BudgetRow.overrun_microusd, BudgetRow.drawn_microusd - rest - BudgetRow.cap_microusd
                ),
            )
            .execution_options(synchronize_session=False)
        )


def lock(session: Session, tenant: UUID, run_id: UUID) -> RunRow:
    """The run's row, locked; raises `NotFound`. Foreign keys of new steps (`KEY SHARE`) are not in its way.

    From here on the transaction may not stand idle for long: a client frozen with the run and its steps locked would
    cost their workers the leases.
    """
    session.execute(
        text("SELECT set_config('idle_in_transaction_session_timeout', :longest, true)"), {"longest": LONGEST_IDLE}
    )
    row = session.scalars(
        select(RunRow).where(RunRow.id == run_id, RunRow.tenant == tenant).with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no run {run_id}; `chargehand status` lists the runs.")
    return row


def live_steps(session: Session, run_id: UUID) -> Sequence[StepRow]:
    """Steps that have not ended, locked in plan order."""
    return session.scalars(
        select(StepRow)
        .where(StepRow.run == run_id, StepRow.status.not_in(STEP_ENDINGS))
        .order_by(StepRow.ordinal)
        .with_for_update(key_share=True)
    ).all()


def cancel(session: Session, tenant: UUID, run_id: UUID, *, reason: str = "cancelled") -> bool:
    """End the run now; workers learn it at their next commit. False when it had ended already.

    What a call in flight has reserved stays charged: nobody knows whether it will be paid for.
    """
    run = lock(session, tenant, run_id)
    if run.status in RUN_ENDINGS:
        return False
    end_run(session, run, outcome="cancelled", reason=reason)
    return True


def end_run(session: Session, run: RunRow, *, outcome: str, reason: str) -> None:
    """Close every step and the run itself."""
    facts = cancel_steps(session, live_steps(session, run.id), reason=reason)
    facts.append(RunFinished.model_validate({"outcome": outcome, "reason": reason}))
    record(session, run.tenant, run.id, facts)
    run.status, run.reason = outcome, reason
    run.finished_at = func.clock_timestamp()
    ring(session, run.tenant, run.id)


def cancel_steps(session: Session, rows: Sequence[StepRow], *, reason: str) -> list[Fact]:
    """End these live steps of one run, which the caller has locked; gives what the run's stream is to be told."""
    unclaimed: list[UUID] = []
    for row in rows:
        if row.status in {"running", "waiting"}:
            record_in_step(session, row, [StepFinished(outcome="cancelled", error=reason)])
        else:
            unclaimed.append(row.id)
        # A queued step's message, and its followers' in a chain, find nothing to claim.
        row.status = "cancelled"
        row.lease_until = row.holder = row.wait_id = row.halt = None
        row.finished_at = func.clock_timestamp()
    return_allotments(session, rows)
    return [StepsSkipped(steps=tuple(unclaimed), outcome="cancelled", reason=reason)] if unclaimed else []


def pause(session: Session, tenant: UUID, run_id: UUID, *, reason: str = "") -> bool:
    """Start nothing new and stop running steps at their next commit. False when there is nothing to pause."""
    run = lock(session, tenant, run_id)
    if run.status != "running":
        return False
    for row in live_steps(session, run_id):
        if row.status == "running":
            row.halt = "pause"
        elif row.status in {"ready", "queued", "chained"}:
            # A late message finds nothing to claim, and an admission that has chosen meanwhile nothing to queue.
            row.status, row.chain = "pending", None
    run.status = "paused"
    session.flush()
    record(session, tenant, run_id, [RunPaused(reason=reason)])
    return True


def resume(session: Session, tenant: UUID, run_id: UUID) -> bool:
    """Let a paused run go on. False when it is not paused."""
    run = lock(session, tenant, run_id)
    if run.status != "paused":
        return False
    for row in live_steps(session, run_id):
        row.halt = None
    run.status = "running"
    session.flush()
    record(session, tenant, run_id, [RunResumed()])
    ring(session, tenant, run_id)
    return True


def raise_budget(session: Session, tenant: UUID, run_id: UUID, *, to_microusd: int) -> bool:
    """Let the run spend more; the watch loop wakes steps that wait for it. False when it may spend that much already.

    Raises `UserError` when the run has ended, or for less than it was given: what was drawn cannot be taken back.
    """
    run = lock(session, tenant, run_id)
    if run.status in RUN_ENDINGS:
        raise RunEnded(f"Run {run_id} is {run.status}; it spends nothing any more.")
    budget = session.scalars(select(BudgetRow).where(BudgetRow.run == run_id).with_for_update()).one()
    if to_microusd < budget.cap_microusd:
        raise UserError(
            f"Run {run_id} may spend ${budget.cap_microusd / 1e6:g}, which cannot be made ${to_microusd / 1e6:g}; "
            "a budget is only raised."
        )
    if to_microusd == budget.cap_microusd:
        return False
    budget.cap_microusd, budget.warned_percent = to_microusd, 0
    record(session, tenant, run_id, [BudgetRaised(budget_microusd=to_microusd)])
    ring(session, tenant, run_id)
    return True


def tell(session: Session, tenant: UUID, run_id: UUID, message: str) -> None:
    """Leave a message for the run's agents; those that start later read it."""
    run = lock(session, tenant, run_id)
    if run.status in RUN_ENDINGS:
        raise RunEnded(f"Run {run_id} is {run.status}; nobody reads messages any more.")
    record(session, tenant, run_id, [RunTold(message=message)])


def answer(
    session: Session,
    tenant: UUID,
    *,
    run_id: UUID,
    step: UUID,
    wait_id: UUID,
    choice: str,
    body: object = None,
    by: str = "",
) -> bool:
    """Answer a waiting step; the first answer wins, a later one gives False. Never writes to the step's stream.

    `by`: who says they answer, for the journal.

    So does one to a step that has ended, for example with its run: nobody would read it. Raises `NotFound` when the
    tenant has no such step: ids follow from the run's, and the first answer would win; `UserError` for a body that
    is no JSON.
    """
    own = select(StepRow.status).where(StepRow.id == step, StepRow.run == run_id, StepRow.tenant == tenant)
    status = session.execute(own).scalar_one_or_none()
    if status is None:
        raise NotFound(f"Run {run_id} has no step {step} that could be answered; `chargehand status` lists the runs.")
    if status in STEP_ENDINGS:
        return False
    sent = session.execute(
        upsert(SignalRow)
        .values(
            step=step,
            wait_id=wait_id,
            run=run_id,
            tenant=tenant,
            choice=choice,
            body=as_answer(body),
            sent_by=by,
        )
        .on_conflict_do_nothing()
        .returning(SignalRow.step)
    ).scalar_one_or_none()
    if sent is None:
        return False
    ring(session, tenant, run_id)
    return True


def _entry(fact: Fact, *, epoch: int) -> NewEntry:
    kind = str(getattr(fact, "kind"))  # noqa: B009 - every fact has one; the base class cannot type it
    return NewEntry(
        kind=kind, schema_version=SCHEMA_VERSION, epoch=epoch, body=fact.model_dump_json().replace("\x00", "")
    )

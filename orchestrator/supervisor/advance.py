"""One round of a run: what its finished steps make possible, decided by the reducer, written under the run's lock."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Engine, delete, func, select, text, update
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import runs
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import (
    Fact,
    ReservationsCharged,
    RunFinished,
    StepAnchor,
    StepFinished,
    StepsAnchored,
    StepsSkipped,
    StepWaiting,
    parse_fact,
)
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.supervisor.outline import Outline, outline
from chargehand.orchestrator.tables import EdgeRow, RingRow, RunRow, StepRow
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS, StepState, settle

# How far a step is on its way to a worker is not the reducer's concern.
_OPEN = frozenset({"pending", "ready", "queued", "chained"})
# The reason of a failed run names this many steps.
ERRORS_SHOWN = 3


def advance(engine: Engine, run_id: UUID, *, audit_key: bytes) -> bool:
    """Move the run as far as it goes now; whether steps may be admitted.

    Two supervisors may call it at once: one works, the other returns at once and the ring stays for the watch loop.
    """
    with Session(engine) as session, session.begin():
        run = session.scalars(
            select(RunRow).where(RunRow.id == run_id).with_for_update(key_share=True, skip_locked=True)
        ).one_or_none()
        if run is None:
            return False
        # Before anything is read: a ring that comes while we read is not ours to delete.
        rings = session.execute(delete(RingRow).where(RingRow.run == run_id).returning(RingRow.id)).all()
        if not rings:
            # A thousand steps that end together ring a thousand times: the first round has seen them all.
            return False
        _apply_patches(session, run)
        rows = list(outline(session, run_id).values())
        if run.status in RUN_ENDINGS:
            _anchor_steps(session, run, rows)
            _close(session, run, rows, audit_key=audit_key)
            return False
        found = settle(_states(session, run_id, rows))
        facts: list[Fact] = []
        if found.skipped:
            ended = tuple(row.step_id for row in rows if row.step_id in found.skipped)
            session.execute(
                update(StepRow)
                .where(StepRow.id.in_(ended))
                .values(status="skipped", finished_at=func.clock_timestamp(), chain=None)
            )
            facts.append(StepsSkipped(steps=ended, reason="its predecessors did not succeed"))
        if facts:
            runs.record(session, run.tenant, run_id, facts)
        _anchor_steps(session, run, rows)
        if found.outcome is not None:
            _charge_open_reservations(session, run, rows)
            runs.record(session, run.tenant, run_id, [RunFinished(outcome=found.outcome, reason=found.reason)])
            run.status, run.reason = found.outcome, found.reason
            run.finished_at = func.clock_timestamp()
            session.flush()
            journal.anchor_run(session, tenant=run.tenant, run=run_id, key=audit_key)
            return False
        if run.status != "running":
            return False
        return _make_ready(session, rows, found.ready)


def has_rings(engine: Engine, run_id: UUID) -> bool:
    """Whether the run rang again; asked after a round has committed, so that who came too early is not forgotten."""
    with engine.connect() as connection:
        return bool(connection.execute(select(RingRow.id).where(RingRow.run == run_id).limit(1)).first())


def _states(session: Session, run_id: UUID, rows: Sequence[Outline]) -> Mapping[UUID, StepState]:
    before: dict[UUID, list[UUID]] = {}
    for predecessor, successor in session.execute(
        select(EdgeRow.predecessor, EdgeRow.successor).where(EdgeRow.run == run_id)
    ):
        before.setdefault(successor, []).append(predecessor)
    errors = _errors(session, run_id, [row.step_id for row in rows if row.status == "failed"][:ERRORS_SHOWN])
    return {
        row.step_id: StepState(
            step_id=row.step_id,
            key=row.key,
            after=tuple(before.get(row.step_id, ())),
            join=row.join,
            status="open" if row.status in _OPEN else row.status,  # type: ignore[arg-type]
            epoch=row.epoch,
            error=errors.get(row.step_id, ""),
        )
        for row in rows
    }


def _errors(session: Session, run_id: UUID, failed: Sequence[UUID]) -> dict[UUID, str]:
    facts = {step: _end_of(session, run_id, step) for step in failed}
    return {step: fact.error for step, fact in facts.items() if fact is not None}


def _end_of(session: Session, run_id: UUID, step: UUID) -> StepFinished | None:
    entries = journal.read(session, run_id, step=step, kinds=["step.finished"])
    if not entries or entries[-1].body is None:
        return None
    fact = parse_fact(entries[-1].body, schema_version=entries[-1].schema_version)
    return fact if isinstance(fact, StepFinished) else None


def _make_ready(session: Session, rows: Sequence[Outline], ready: frozenset[UUID]) -> bool:
    pending = [row for row in rows if row.step_id in ready and row.status in {"pending", "chained"}]
    workable = [row.step_id for row in pending if row.kind != "gate"]
    for row in pending:
        if row.kind == "gate":
            _open_gate(session, session.get_one(StepRow, row.step_id, with_for_update={"key_share": True}))
    if workable:
        # A chained step whose turn has come lost its chain: its message, if it still comes, finds it ready, not queued.
        session.execute(
            update(StepRow)
            .where(StepRow.id.in_(workable), StepRow.status.in_(["pending", "chained"]))
            # `run_after` stays: a retry that is not due is not hastened by a pause.
            .values(status="ready", chain=None, next_in_chain=None)
            .execution_options(synchronize_session=False)
        )
    return bool(workable) or any(row.status == "ready" for row in rows)


def _open_gate(session: Session, row: StepRow) -> None:
    step = Step.model_validate(row.spec)
    # A gate waits once, so its own id is enough.
    wait_id = row.id
    runs.record_in_step(
        session,
        row,
        [
            StepWaiting(
                wait_id=wait_id,
                reason="gate",
                question=step.instruction or step.title or step.key,
                options=step.options or ("approve", "reject"),
            )
        ],
    )
    row.status, row.wait_id, row.wait_reason = "waiting", wait_id, "gate"
    row.started_at = func.clock_timestamp()
    session.flush()


def _apply_patches(session: Session, run: RunRow) -> None:
    """Append what finished planners decided; a patch that does not fit fails the run."""
    planners = session.scalars(
        select(StepRow)
        .where(StepRow.run == run.id, StepRow.status == "succeeded", ~StepRow.patched)
        .where(StepRow.spec["kind"].astext == "agent")
        .order_by(StepRow.ordinal)
    ).all()
    for row in planners:
        fact = _end_of(session, run.id, row.id)
        row.patched = True
        if fact is None or fact.patch is None or run.status in RUN_ENDINGS:
            continue
        savepoint = session.begin_nested()
        try:
            runs.patch(session, run, fact.patch, by_step=row.id)
            savepoint.commit()
        except InvalidPlan as error:
            savepoint.rollback()
            runs.end_run(session, run, outcome="failed", reason=f"the plan of step {row.key!r} does not fit: {error}")
    session.flush()


def _anchor_steps(session: Session, run: RunRow, rows: Sequence[Outline]) -> None:
    ended = [row for row in rows if row.status in STEP_ENDINGS and not row.anchored and row.head_seq > 0]
    if not ended:
        return
    heads = session.execute(
        text(
            "SELECT j.step, j.seq, j.hash FROM journal j JOIN steps s ON s.id = j.step AND j.seq = s.head_seq "
            "WHERE j.run = :run AND s.id = ANY(:steps) ORDER BY s.ordinal"
        ),
        {"run": run.id, "steps": [row.step_id for row in ended]},
    ).all()
    anchors = tuple(StepAnchor(step=step, seq=seq, hash=digest.hex()) for step, seq, digest in heads)
    runs.record(session, run.tenant, run.id, [StepsAnchored(anchors=anchors)])
    session.execute(
        update(StepRow)
        .where(StepRow.id.in_([row.step_id for row in ended]))
        .values(anchored=True)
        .execution_options(synchronize_session=False)
    )


def _charge_open_reservations(session: Session, run: RunRow, rows: Sequence[Outline]) -> None:
    charged = {
        row.step_id: row.reserved_microusd for row in rows if row.status in STEP_ENDINGS and row.reserved_microusd > 0
    }
    if not charged:
        return
    session.execute(
        update(StepRow)
        .where(StepRow.id.in_(charged))
        .values(spent_microusd=StepRow.spent_microusd + StepRow.reserved_microusd, reserved_microusd=0)
        .execution_options(synchronize_session=False)
    )
    runs.record(session, run.tenant, run.id, [ReservationsCharged(charged_microusd=charged)])


def _close(session: Session, run: RunRow, rows: Sequence[Outline], *, audit_key: bytes) -> None:
    """What is left of a run that a person ended: money in flight, and its place in the tenant's chain."""
    _charge_open_reservations(session, run, rows)
    anchored = session.execute(
        text("SELECT EXISTS (SELECT FROM run_anchors WHERE run = :run)"), {"run": run.id}
    ).scalar_one()
    if not anchored:
        journal.anchor_run(session, tenant=run.tenant, run=run.id, key=audit_key)

"""One round of a run: what its finished steps make possible, decided by the reducer, written under the run's lock."""

from collections.abc import Mapping, Sequence
from typing import Any
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
from chargehand.orchestrator.tables import RUN_ENDINGS, STEP_ENDINGS, EdgeRow, RingRow, RunRow, StepRow
from chargehand.orchestrator.transitions import StepState, settle

# How far a step is on its way to a worker is not the reducer's concern.
_OPEN = frozenset({"pending", "ready", "queued", "chained"})


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
        session.execute(delete(RingRow).where(RingRow.run == run_id))
        _apply_patches(session, run)
        rows = _read_steps(session, run_id)
        if run.status in RUN_ENDINGS:
            _anchor_steps(session, run, rows)
            _close(session, run, rows, audit_key=audit_key)
            return False
        found = settle(_states(session, run_id, rows))
        facts: list[Fact] = []
        if found.skipped:
            ended = tuple(row.id for row in rows if row.id in found.skipped)
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
        return _make_ready(session, run, rows, found.ready)


def _read_steps(session: Session, run_id: UUID) -> Sequence[StepRow]:
    query = select(StepRow).where(StepRow.run == run_id).order_by(StepRow.ordinal)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def _states(session: Session, run_id: UUID, rows: Sequence[StepRow]) -> Mapping[UUID, StepState]:
    before: dict[UUID, list[UUID]] = {}
    for predecessor, successor in session.execute(
        select(EdgeRow.predecessor, EdgeRow.successor).where(EdgeRow.run == run_id)
    ):
        before.setdefault(successor, []).append(predecessor)
    return {
        row.id: StepState(
            step_id=row.id,
            key=row.key,
            after=tuple(before.get(row.id, ())),
            join=row.spec.get("join", "all"),
            status="open" if row.status in _OPEN else row.status,  # type: ignore[arg-type]
            epoch=row.epoch,
            error=_error(session, row) if row.status == "failed" else "",
        )
        for row in rows
    }


def _error(session: Session, row: StepRow) -> str:
    fact = _last_fact(session, row)
    return fact.error if isinstance(fact, StepFinished) else ""


def _last_fact(session: Session, row: StepRow) -> Any:
    entries = journal.read(session, row.run, step=row.id, kinds=["step.finished"])
    body = entries[-1].body if entries else None
    return parse_fact(body, schema_version=entries[-1].schema_version) if body is not None else None


def _make_ready(session: Session, run: RunRow, rows: Sequence[StepRow], ready: frozenset[UUID]) -> bool:
    pending = [row for row in rows if row.id in ready and row.status in {"pending", "chained"}]
    gates = [row for row in pending if row.spec["kind"] == "gate"]
    workable = [row.id for row in pending if row.spec["kind"] != "gate"]
    for gate in gates:
        _open_gate(session, gate)
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
    wait_id = journal_wait_id(row)
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


def journal_wait_id(row: StepRow) -> UUID:
    """The wait id of a gate: a gate waits once, so its own id is enough."""
    return row.id


def _apply_patches(session: Session, run: RunRow) -> None:
    """Append what finished planners decided; a patch that does not fit fails the run."""
    planners = session.scalars(
        select(StepRow)
        .where(StepRow.run == run.id, StepRow.status == "succeeded", ~StepRow.patched)
        .where(StepRow.spec["kind"].astext == "agent")
        .order_by(StepRow.ordinal)
    ).all()
    for row in planners:
        fact = _last_fact(session, row)
        row.patched = True
        if not isinstance(fact, StepFinished) or fact.patch is None or run.status in RUN_ENDINGS:
            continue
        savepoint = session.begin_nested()
        try:
            runs.patch(session, run, fact.patch, by_step=row.id)
            savepoint.commit()
        except InvalidPlan as error:
            savepoint.rollback()
            runs.end_run(session, run, outcome="failed", reason=f"the plan of step {row.key!r} does not fit: {error}")
    session.flush()


def _anchor_steps(session: Session, run: RunRow, rows: Sequence[StepRow]) -> None:
    ended = [row for row in rows if row.status in STEP_ENDINGS and not row.anchored and row.head_seq > 0]
    if not ended:
        return
    heads = session.execute(
        text(
            "SELECT j.step, j.seq, j.hash FROM journal j JOIN steps s ON s.id = j.step AND j.seq = s.head_seq "
            "WHERE j.run = :run AND s.id = ANY(:steps) ORDER BY s.ordinal"
        ),
        {"run": run.id, "steps": [row.id for row in ended]},
    ).all()
    anchors = tuple(StepAnchor(step=step, seq=seq, hash=digest.hex()) for step, seq, digest in heads)
    runs.record(session, run.tenant, run.id, [StepsAnchored(anchors=anchors)])
    for row in ended:
        row.anchored = True
    session.flush()


def _charge_open_reservations(session: Session, run: RunRow, rows: Sequence[StepRow]) -> None:
    charged = {
        row.id: row.reserved_microusd for row in rows if row.status in STEP_ENDINGS and row.reserved_microusd > 0
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


def _close(session: Session, run: RunRow, rows: Sequence[StepRow], *, audit_key: bytes) -> None:
    """What is left of a run that a person ended: money in flight, and its place in the tenant's chain."""
    _charge_open_reservations(session, run, rows)
    anchored = session.execute(
        text("SELECT EXISTS (SELECT FROM run_anchors WHERE run = :run)"), {"run": run.id}
    ).scalar_one()
    if not anchored:
        journal.anchor_run(session, tenant=run.tenant, run=run.id, key=audit_key)

"""Whether a run is what its journal says: every hash and every end checked, and the tables held against the fold."""

from collections.abc import Container
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.journal import Objection
from chargehand.memory.tables import RUN_STREAM, RunAnchor
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import StepsAnchored, parse_fact
from chargehand.orchestrator.rounds import ON_THE_WAY
from chargehand.orchestrator.tables import BudgetRow, EdgeRow, RingRow, RunRow, SignalRow, StepRow
from chargehand.orchestrator.transitions import RUN_ENDINGS, Recorded, RunState, StepState, fold

# Waits that end by themselves: at their time, or with more money. Every other one ends with an answer.
ENDS_BY_ITSELF = frozenset({"rate", "retry", "budget", "batch"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `audit verify` found of one run."""

    run_id: UUID
    rows: int
    streams: int
    head_hash: str
    objections: tuple[Objection, ...]


def state_from_journal(session: Session, run_id: UUID) -> RunState:
    """The run as its journal tells it, by the reducer that production uses."""
    return fold(
        run_id,
        [
            Recorded(
                step=None if entry.step == RUN_STREAM else entry.step,
                seq=entry.seq,
                epoch=entry.epoch,
                fact=parse_fact(entry.body or "", schema_version=entry.schema_version),
            )
            for entry in journal.read(session, run_id)
        ],
    )


def drift(session: Session, run_id: UUID) -> list[str]:
    """Where the tables say otherwise than the journal; empty when they agree."""
    run = session.get(RunRow, run_id, populate_existing=True)
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    rows = session.scalars(select(StepRow).where(StepRow.run == run_id).execution_options(populate_existing=True)).all()
    edges = {
        (before, after)
        for before, after in session.execute(
            select(EdgeRow.predecessor, EdgeRow.successor).where(EdgeRow.run == run_id)
        )
    }
    answered = {
        (step, wait_id)
        for step, wait_id in session.execute(
            select(SignalRow.step, SignalRow.wait_id).where(SignalRow.run == run_id, SignalRow.tenant == run.tenant)
        )
    }
    budget = session.get(BudgetRow, run_id, populate_existing=True)
    # Last: a long journal takes seconds to fold, and a session may not stand idle for so long before its next question.
    told = state_from_journal(session, run_id)
    differences = []
    if (run.status, run.head_seq, run.plan_version) != (told.status, told.seq, told.plan_version):
        differences.append(
            f"run: tables {run.status}/{run.head_seq}/{run.plan_version}, "
            f"journal {told.status}/{told.seq}/{told.plan_version}"
        )
    if {row.id for row in rows} != set(told.steps):
        differences.append(f"steps: tables have {len(rows)}, the journal {len(told.steps)}")
    for row in rows:
        step = told.steps.get(row.id)
        if step is None:
            continue
        status = "open" if row.status in ON_THE_WAY else row.status
        tables = (status, row.epoch, row.head_seq, row.label, row.spent_microusd + row.reserved_microusd)
        told_money = step.spent_microusd + sum(step.reserved.values()) - told.returned.get(row.id, 0)
        told_of_step = (
            "open" if _is_woken(row, step, answered) else step.status,
            step.epoch,
            step.seq,
            step.label,
            told_money,
        )
        if tables != told_of_step:
            differences.append(f"step {row.key!r}: tables {tables}, journal {told_of_step}")
    if budget is not None:
        allotted = sum(row.allotment_microusd for row in rows)
        if budget.drawn_microusd != allotted:
            differences.append(f"budget: {budget.drawn_microusd} drawn, {allotted} allotted to steps")
        if budget.cap_microusd != told.budget_microusd:
            differences.append(f"budget: tables cap {budget.cap_microusd}, journal {told.budget_microusd}")
    if edges != {(before, step.step_id) for step in told.steps.values() for before in step.after}:
        differences.append("edges: tables and journal differ")
    return differences


def _is_woken(row: StepRow, told: StepState, answered: Container[tuple[UUID, UUID]]) -> bool:
    """Whether the step's wait was over when it was put on its way; its next claim is the first fact after it."""
    if told.status != "waiting" or told.wait_id is None or row.wait_id != told.wait_id or row.status not in ON_THE_WAY:
        return False
    return told.wait_reason in ENDS_BY_ITSELF or (row.id, told.wait_id) in answered


def verify_run(session: Session, run_id: UUID) -> Verification:
    """Check every hash and every end of a run's streams against rows, tables and anchors."""
    run = session.get(RunRow, run_id, populate_existing=True)
    if run is None:
        raise NotFound(f"There is no run {run_id}; `chargehand status` lists the runs.")
    heads = {RUN_STREAM: run.head_seq}
    heads.update(
        (identity, seq)
        for identity, seq in session.execute(select(StepRow.id, StepRow.head_seq).where(StepRow.run == run_id))
    )
    anchors: dict[UUID, tuple[int, str]] = {}
    entries = journal.read(session, run_id)
    for entry in entries:
        if entry.step == RUN_STREAM and entry.kind == "steps.anchored" and entry.body is not None:
            fact = parse_fact(entry.body, schema_version=entry.schema_version)
            if isinstance(fact, StepsAnchored):
                anchors.update((anchor.step, (anchor.seq, anchor.hash)) for anchor in fact.anchors)
    objections = journal.verify_run(session, run_id, heads=heads, anchors=anchors)
    if run.status in RUN_ENDINGS and not _is_anchored_or_about_to_be(session, run_id):
        objections.append(
            Objection(run=run_id, step=None, seq=run.head_seq, what="the run has ended and its anchor is gone")
        )
    _, head = journal.head(session, run_id, RUN_STREAM)
    return Verification(
        run_id=run_id,
        rows=len(entries),
        streams=len({entry.step for entry in entries}),
        head_hash=head.hex(),
        objections=tuple(objections),
    )


def _is_anchored_or_about_to_be(session: Session, run_id: UUID) -> bool:
    # An advance that has not come yet leaves its ring.
    return bool(
        session.scalar(
            select(
                select(RunAnchor.run).where(RunAnchor.run == run_id).exists()
                | select(RingRow.id).where(RingRow.run == run_id).exists()
            )
        )
    )

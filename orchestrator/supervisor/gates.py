"""Gates under their locks: opened with the exact arguments of what they guard, ended by a person's answer.

Branches and maps behind a gate have no worker that could compare what was approved with what they are given: they do
not begin before a person has approved it.
"""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import runs, views
from chargehand.orchestrator.approval import (
    APPROVE_OR_REJECT,
    REFUSALS,
    Guarded,
    guarded,
    is_approved,
    not_approved,
    readable,
    stand_together,
)
from chargehand.orchestrator.facts import (
    SignalReceived,
    StepFinished,
    StepReleased,
    StepWaiting,
    parse_fact,
)
from chargehand.orchestrator.plan import Step, references, step_id
from chargehand.orchestrator.questions import deadline_after, expiring, why_ended
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import unrolling
from chargehand.orchestrator.tables import EdgeRow, SignalRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS


def open_gate(session: Session, row: StepRow) -> None:
    """Put the gate before a person: what waits behind it, with the arguments that it is going to be given."""
    step = Step.model_validate(row.spec)
    behind = session.scalars(
        select(StepRow)
        .join(EdgeRow, EdgeRow.successor == StepRow.id)
        .where(EdgeRow.predecessor == row.id, StepRow.status.not_in(STEP_ENDINGS))
        .order_by(StepRow.ordinal)
    ).all()
    # A gate waits once, so its own id is enough.
    _ask(
        session,
        row,
        wait_id=row.id,
        question=step.instruction or step.title or step.key,
        options=step.options or APPROVE_OR_REJECT,
        shown=_shown(
            session, row.run, [one for one in map(_step, behind) if one.kind != "gate" and stand_together(row.key, one)]
        ),
        step=step,
    )
    row.started_at = func.clock_timestamp()
    row.deadline_at = deadline_after(step.deadline_seconds)
    session.flush()


def end_gate(session: Session, row: StepRow) -> None:
    """Let the gate end as it was answered; what was approved stands in its last fact."""
    heard, asked = _heard(session, row)
    refused = heard.choice in REFUSALS
    fact = StepFinished(
        outcome="failed" if refused else "succeeded",
        result={"choice": heard.choice, "body": heard.body},
        error=why_ended(heard) if refused else "",
        commit=unrolling.inherited_commit(session, row),
        approved=None if refused else {one.step: one.hash for one in asked.guards},
    )
    runs.record_in_step(session, row, [heard, fact])
    row.status = fact.outcome
    _answered(row)
    row.finished_at = func.clock_timestamp()


def may_begin(session: Session, row: StepRow) -> bool:
    """Whether every gate before a control step has approved what it is given; otherwise a person is asked."""
    step = _step(row)
    approvals = _approvals(session, row.run, step)
    if not approvals:
        return True
    (shown,) = _shown(session, row.run, [step])
    if is_approved(shown, approvals) or _approved_by_itself(session, row, shown):
        return True
    _ask(
        session,
        row,
        wait_id=new_wait_id(),
        question=not_approved(shown, approvals),
        options=APPROVE_OR_REJECT,
        shown=(shown,),
        step=step,
    )
    session.flush()
    return False


def let_begin(session: Session, row: StepRow) -> None:
    """Take the answer to `may_begin`: the step begins with the next round, or fails."""
    heard, _ = _heard(session, row)
    if heard.choice in REFUSALS:
        runs.record_in_step(session, row, [heard, StepFinished(outcome="failed", error=why_ended(heard))])
        row.status = "failed"
        row.finished_at = func.clock_timestamp()
    else:
        runs.record_in_step(session, row, [heard, StepReleased(reason="approved")])
        row.status = "pending"
    _answered(row)


def _ask(
    session: Session,
    row: StepRow,
    *,
    wait_id: UUID,
    question: str,
    options: tuple[str, ...],
    shown: tuple[Guarded, ...],
    step: Step,
) -> None:
    asked = StepWaiting(wait_id=wait_id, reason="gate", question=question, options=options, guards=shown)
    asked = expiring(asked, step.expires)
    runs.record_in_step(session, row, [asked])
    row.status, row.wait_id, row.wait_reason = "waiting", wait_id, "gate"
    row.expires_at = deadline_after(asked.expires_after_seconds)


def _answered(row: StepRow) -> None:
    row.wait_id = row.wait_reason = row.expires_at = None


def _heard(session: Session, row: StepRow) -> tuple[SignalReceived, StepWaiting]:
    """The answer, and what was asked."""
    signal = session.get_one(SignalRow, (row.tenant, row.id, row.wait_id))
    asked = next(fact for fact in reversed(_facts(session, row)) if isinstance(fact, StepWaiting))
    heard = SignalReceived(
        wait_id=signal.wait_id, choice=signal.choice, body=signal.body, by=signal.sent_by, sent_at=signal.sent_at
    )
    return heard, asked


def _facts(session: Session, row: StepRow) -> list[object]:
    entries = journal.read(session, row.run, step=row.id, kinds=["step.waiting", "signal.received"])
    return [parse_fact(one.body, schema_version=one.schema_version) for one in entries if one.body is not None]


def _approved_by_itself(session: Session, row: StepRow, shown: Guarded) -> bool:
    """Whether a person was asked about exactly this, and let it go on."""
    asked: UUID | None = None
    for fact in _facts(session, row):
        if isinstance(fact, StepWaiting):
            asked = fact.wait_id if [one.hash for one in fact.guards] == [shown.hash] else None
        elif isinstance(fact, SignalReceived) and fact.wait_id == asked and fact.choice not in REFUSALS:
            return True
    return False


def _approvals(session: Session, run_id: UUID, step: Step) -> dict[str, Mapping[str, str]]:
    """What the gates before the step have approved: gate → step → hash."""
    gates = session.scalars(
        select(StepRow).where(
            StepRow.id.in_([step_id(run_id, key) for key in step.after]), StepRow.spec["kind"].astext == "gate"
        )
    ).all()
    names = [row.key for row in gates if stand_together(row.key, step)]
    ends = views.results(session, run_id, names) if names else {}
    return {key: end.approved for key, end in ends.items() if end.approved is not None}


def _shown(session: Session, run_id: UUID, steps: list[Step]) -> tuple[Guarded, ...]:
    """What these steps would do, with the results that are there by now."""
    values = [value for step in steps for value in (*step.arguments.values(), step.map.items if step.map else None)]
    taken = {*references(values), *(key for step in steps for key in readable(step))}
    rows = session.execute(
        select(StepRow.key, StepRow.spec["kind"].astext).where(
            StepRow.id.in_([step_id(run_id, key) for key in taken]), StepRow.status.in_(STEP_ENDINGS)
        )
    ).all()
    known = {key for key, _ in rows}
    gates = {key for key, kind in rows if kind == "gate"}
    ends = views.results(session, run_id, sorted(known)) if known else {}
    given = {key: end.result for key, end in ends.items() if end.outcome == "succeeded"}
    shown = []
    for step in steps:
        before = [key for key in readable(step) if key in ends and key not in gates]
        inputs = {key: given[key] for key in before if key in given}
        commits = {key: commit for key in before if (commit := ends[key].commit) is not None}
        shown.append(guarded(step, results=given.get, known=known, inputs=inputs, commits=commits))
    return tuple(shown)


def _step(row: StepRow) -> Step:
    return Step.model_validate(row.spec)

"""Branches, maps, repeats and merges under the run's lock: opened, grown by their children, and ended by them."""

from collections.abc import Iterable
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import control, races, runs, views
from chargehand.orchestrator.colleagues import objection
from chargehand.orchestrator.control import Child, End, Grow
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import StepFinished, StepWaiting, parse_fact
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.questions import COLLEAGUE, deadline_after
from chargehand.orchestrator.replanning import REPLANNER, rounds_of
from chargehand.orchestrator.tables import RunRow, SignalRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS, is_race

# So many streams are read one by one sooner than all of a run.
FEW_STREAMS = 10


def open_step(session: Session, run: RunRow, row: StepRow) -> None:
    """Let a control step begin: from now on it waits for children, the first of which are appended at once."""
    step = Step.model_validate(row.spec)
    # It waits once, for all its children, so its own id is enough.
    runs.record_in_step(session, row, [StepWaiting(wait_id=row.id, reason="children", question="")])
    row.status, row.wait_id, row.wait_reason = "waiting", row.id, "children"
    row.started_at = func.clock_timestamp()
    row.deadline_at = deadline_after(step.deadline_seconds)
    session.flush()
    look_at(session, run, row)


def look_at(session: Session, run: RunRow, row: StepRow) -> None:
    """Let a step that waits for children go on as far as they allow; its row and the run's are locked.

    One that its deadline has ended since the round read where it stands is left alone.
    """
    if row.status != "waiting" or row.wait_reason != "children":
        return
    step = Step.model_validate(row.spec)
    if step.kind == "agent":
        _answer_for_colleague(session, run, row)
        return
    of_this = (StepRow.run == run.id, StepRow.spec["parent"].astext == row.key)
    # A map with failures that it tolerates is looked at in every round: a thousand rows are not read for nothing.
    statuses = session.scalars(select(StepRow.status).where(*of_this)).all()
    if statuses and not control.is_worth_a_look(step, statuses):
        return
    children = session.scalars(
        select(StepRow).where(*of_this).order_by(StepRow.ordinal).execution_options(populate_existing=True)
    ).all()
    ended = ends_of(session, run.id, [child.id for child in children if child.status in {"succeeded", "failed"}])
    step = _going_on(session, row)
    before = {step_id(run.id, key): key for key in step.after}
    given = ends_of(session, run.id, before)
    found = control.proceed(
        step,
        [_child(child, ended.get(child.id)) for child in children],
        given={before[identity]: end.result for identity, end in given.items() if end.outcome == "succeeded"},
        seed=row.id,
    )
    if isinstance(found, Grow):
        found = _grow(session, run, row, found)
    if isinstance(found, End):
        _end(session, row, found)


def _answer_for_colleague(session: Session, run: RunRow, row: StepRow) -> None:
    """Append the colleague that an agent asked, or tell the agent what it gave, by the signal that it waits for."""
    asked = _question(session, row)
    if asked is None or asked.child is None:
        return
    colleague = session.get(StepRow, step_id(run.id, asked.child.key), populate_existing=True)
    if colleague is None:
        reason = asked.question if asked.child.role == REPLANNER else ""
        # It waits for what the agent went on with, and not for those that lost.
        child = asked.child.model_copy(update={"after": _going_on(session, row).after})
        refused = _overdone(session, row, child) or _grow(session, run, row, Grow(add=(child,)), reason=reason)
        if refused is not None:
            _signal(session, row, asked.wait_id, "answer", {"error": refused.error})
        return
    if colleague.status not in STEP_ENDINGS:
        return
    end = ends_of(session, run.id, [colleague.id]).get(colleague.id)
    if end is not None and end.outcome == "succeeded":
        _signal(session, row, asked.wait_id, asked.options[0], end.result)
    else:
        why = end.error if end is not None else colleague.status
        _signal(session, row, asked.wait_id, "answer", {"error": f"{asked.child.role} gave no result: {why}"})


def _overdone(session: Session, row: StepRow, child: Step) -> End | None:
    """Why the agent is not given this colleague; the tool saw the plan as it was when the step was claimed."""
    if child.role == REPLANNER:
        # Bounded by the run: see `_too_many`.
        return None
    line = [Step.model_validate(row.spec)]
    while (above := line[-1].parent) is not None and (found := session.get(StepRow, step_id(row.run, above))):
        line.append(Step.model_validate(found.spec))
    of_this = (StepRow.run == row.run, StepRow.spec["parent"].astext == row.key)
    asked = session.scalar(select(func.count()).select_from(StepRow).where(*of_this)) or 0
    refused = objection(child.role or "", line, asked)
    return End(outcome="failed", error=refused) if refused else None


def _question(session: Session, row: StepRow) -> StepWaiting | None:
    for entry in reversed(journal.read(session, row.run, step=row.id, kinds=["step.waiting"])):
        fact = parse_fact(entry.body or "", schema_version=entry.schema_version)
        if isinstance(fact, StepWaiting) and fact.wait_id == row.wait_id:
            return fact
    return None


def _signal(session: Session, row: StepRow, wait_id: UUID, choice: str, body: JsonValue) -> None:
    """Answer the step as an outsider does, and let it go on at once."""
    session.execute(
        upsert(SignalRow)
        .values(
            tenant=row.tenant, step=row.id, wait_id=wait_id, run=row.run, choice=choice, body=body, sent_by=COLLEAGUE
        )
        .on_conflict_do_nothing()
    )
    row.status, row.run_after = "ready", None
    session.flush()
    runs.ring(session, row.tenant, row.run)


def ends_of(session: Session, run_id: UUID, steps: Iterable[UUID]) -> dict[UUID, StepFinished]:
    """How these steps ended, of those that have."""
    ends: dict[UUID, StepFinished] = {}
    wanted = set(steps)
    # Of a few, their own streams are read: a run may have a thousand others.
    kinds = ["step.finished"]
    entries = (
        (entry for step in wanted for entry in journal.read(session, run_id, step=step, kinds=kinds))
        if len(wanted) <= FEW_STREAMS
        else iter(journal.read(session, run_id, kinds=kinds))
    )
    for entry in entries:
        if entry.step in wanted and entry.body is not None:
            fact = parse_fact(entry.body, schema_version=entry.schema_version)
            if isinstance(fact, StepFinished):
                ends[entry.step] = fact
    return ends


def inherited_commit(session: Session, row: StepRow) -> str | None:
    """Where the steps before left the workspace, for a step that has no worker to pass it on: the last one named."""
    before = [step_id(row.run, key) for key in _going_on(session, row).after]
    ends = ends_of(session, row.run, before)
    commits = [ends[step].commit for step in before if step in ends]
    return next((commit for commit in reversed(commits) if commit is not None), None)


def _going_on(session: Session, row: StepRow) -> Step:
    """The step, after whoever has won if it is an `any` join: its children are not kept waiting for those that lost."""
    step = Step.model_validate(row.spec)
    return races.with_winner(step, races.winners(session, row.run)) if is_race(step) else step


def _child(row: StepRow, end: StepFinished | None) -> Child:
    step = Step.model_validate(row.spec)
    if end is None:
        return Child(step=step, status=row.status)
    return Child(step=step, status=row.status, result=end.result, error=end.error, commit=end.commit)


def _grow(session: Session, run: RunRow, row: StepRow, found: Grow, *, reason: str = "") -> End | None:
    if any(step.role == REPLANNER for step in found.add) and (why := _too_many(session, run)):
        return End(outcome="failed", error=why)
    savepoint = session.begin_nested()
    try:
        runs.patch(session, run, PlanPatch(add=found.add), by_step=row.id, reason=reason)
        savepoint.commit()
    except InvalidPlan as error:
        savepoint.rollback()
        return End(outcome="failed", error=f"its children do not fit the plan: {error}")
    return None


def _too_many(session: Session, run: RunRow) -> str:
    """Why the planner is not asked once more; two agents may have asked at the same time."""
    limit = views.replans(session, run.id)
    specs = session.scalars(
        select(StepRow.spec).where(StepRow.run == run.id, StepRow.spec["role"].astext == REPLANNER)
    ).all()
    done = rounds_of(Step.model_validate(spec) for spec in specs)
    return f"the plan may be changed {limit} times, and has been {done} times" if done >= limit else ""


def _end(session: Session, row: StepRow, found: End) -> None:
    fact = StepFinished(
        outcome=found.outcome,
        result=found.result,
        label=found.label,
        commit=found.commit or inherited_commit(session, row),
        error=found.error,
    )
    runs.record_in_step(session, row, [fact])
    row.status, row.label = found.outcome, found.label
    row.wait_id = row.wait_reason = None
    row.finished_at = func.clock_timestamp()
    session.flush()
    runs.ring(session, row.tenant, row.run)

"""Branches, maps, repeats, merges and colleagues, opened, grown and ended: the mirror of `supervisor/unrolling.py`."""

from collections.abc import Iterable
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator import control, races
from chargehand.orchestrator.colleagues import objection
from chargehand.orchestrator.control import Child, End, Grow
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import StepFinished, StepWaiting
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.questions import COLLEAGUE
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.transitions import STEP_ENDINGS
from simulation import replanning, writers
from simulation.statements import result_of, winners
from simulation.tables import RunLine, Signal, StepLine, Tables


def open_step(tables: Tables, run: RunLine, row: StepLine) -> None:
    """Let a control step begin: from now on it waits for children, the first of which are appended at once."""
    tables.append(row, StepWaiting(wait_id=row.id, reason="children", question=""))
    row.status, row.wait_id, row.wait_reason = "waiting", row.id, "children"
    now, seconds = tables.clock.now, row.spec.deadline_seconds
    row.started_at = now
    row.deadline_at = None if seconds is None else now + seconds
    look_at(tables, run, row)


def look_at(tables: Tables, run: RunLine, row: StepLine) -> None:
    """Let a step that waits for children go on as far as they allow."""
    if row.status != "waiting" or row.wait_reason != "children":
        return
    step = row.spec
    if step.kind == "agent":
        _answer_for_colleague(tables, run, row)
        return
    children = [one for one in tables.of_run[run.id] if one.spec.parent == row.key]
    if children and not control.is_worth_a_look(step, [child.status for child in children]):
        return
    ended = ends_of(tables, run.id, [child.id for child in children if child.status in {"succeeded", "failed"}])
    step = _going_on(tables, row)
    before = {step_id(run.id, key): key for key in step.after}
    given = ends_of(tables, run.id, before)
    found = control.proceed(
        step,
        [_child(child, ended.get(child.id)) for child in children],
        given={before[identity]: end.result for identity, end in given.items() if end.outcome == "succeeded"},
        seed=row.id,
    )
    if isinstance(found, Grow):
        found = _grow(tables, run, row, found)
    if isinstance(found, End):
        end(tables, row, found)


def _answer_for_colleague(tables: Tables, run: RunLine, row: StepLine) -> None:
    asked = _question(tables, row)
    if asked is None or asked.child is None:
        return
    colleague = tables.steps.get(step_id(run.id, asked.child.key))
    if colleague is None:
        reason = asked.question if asked.child.role == REPLANNER else ""
        child = asked.child.model_copy(update={"after": _going_on(tables, row).after})
        refused = _overdone(tables, row, child) or _grow(tables, run, row, Grow(add=(child,)), reason=reason)
        if refused is not None:
            _signal(tables, row, asked.wait_id, "answer", {"error": refused.error})
        return
    if colleague.status not in STEP_ENDINGS:
        return
    ended = result_of(tables, run.id, colleague.id)
    if ended is not None and ended.outcome == "succeeded":
        _signal(tables, row, asked.wait_id, asked.options[0], ended.result)
    else:
        why = ended.error if ended is not None else colleague.status
        _signal(tables, row, asked.wait_id, "answer", {"error": f"{asked.child.role} gave no result: {why}"})


def _overdone(tables: Tables, row: StepLine, child: Step) -> End | None:
    if child.role == REPLANNER:
        return None
    line = [row.spec]
    while (above := line[-1].parent) is not None and (found := tables.steps.get(step_id(row.run, above))):
        line.append(found.spec)
    asked = sum(one.spec.parent == row.key for one in tables.of_run[row.run])
    refused = objection(child.role or "", line, asked)
    return End(outcome="failed", error=refused) if refused else None


def _question(tables: Tables, row: StepLine) -> StepWaiting | None:
    for fact in reversed(tables.facts(row.run, row.id)):
        if isinstance(fact, StepWaiting) and fact.wait_id == row.wait_id:
            return fact
    return None


def _signal(tables: Tables, row: StepLine, wait_id: UUID, choice: str, body: JsonValue) -> None:
    tables.signals.setdefault((row.id, wait_id), Signal(choice, body, row.run, tables.clock.now, COLLEAGUE))
    row.status, row.run_after = "ready", None
    tables.ring(row.run)


def ends_of(tables: Tables, run: UUID, steps: Iterable[UUID]) -> dict[UUID, StepFinished]:
    """How these steps ended, of those that have."""
    ends = {step: result_of(tables, run, step) for step in steps}
    return {step: fact for step, fact in ends.items() if fact is not None}


def _going_on(tables: Tables, row: StepLine) -> Step:
    return races.with_winner(row.spec, winners(tables, row.run))


def _child(row: StepLine, ended: StepFinished | None) -> Child:
    if ended is None:
        return Child(step=row.spec, status=row.status)
    return Child(step=row.spec, status=row.status, result=ended.result, error=ended.error, commit=ended.commit)


def _grow(tables: Tables, run: RunLine, row: StepLine, found: Grow, *, reason: str = "") -> End | None:
    if any(step.role == REPLANNER for step in found.add) and (why := replanning.too_many(tables, run)):
        return End(outcome="failed", error=why)
    try:
        writers.patch(tables, run, PlanPatch(add=found.add), by_step=row.id, reason=reason)
    except InvalidPlan as error:
        return End(outcome="failed", error=f"its children do not fit the plan: {error}")
    return None


def end(tables: Tables, row: StepLine, found: End) -> None:
    """The control step is over."""
    tables.append(row, StepFinished(outcome=found.outcome, result=found.result, label=found.label, error=found.error))
    row.status, row.label = found.outcome, found.label
    row.wait_id = row.wait_reason = None
    row.finished_at = tables.clock.now
    tables.ring(row.run)

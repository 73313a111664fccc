"""The planner asked for a change of the plan, and its answer applied: the mirror of `supervisor/replans.py`."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import OVER_BUDGET, StepFinished
from chargehand.orchestrator.plan import Plan, PlanPatch
from chargehand.orchestrator.replanning import REPLANNER, Reason, question, rounds_of
from chargehand.orchestrator.supervisor.replans import MAX_REASON_CHARACTERS
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import writers
from simulation.statements import result_of
from simulation.tables import RunLine, StepLine, Tables


def ask(tables: Tables, run: RunLine, steps: Sequence[UUID], refused: Mapping[str, str]) -> bool:
    """Ask the planner about these failed steps, unless it was asked often enough; whether it is asked."""
    for step in steps:
        tables.steps[step].patched = True
    limit = limit_of(run)
    if not limit or run.status in RUN_ENDINGS or REPLANNER not in run.role_versions:
        return False
    rows = tables.of_run[run.id]
    plan = Plan(steps=tuple(row.spec for row in rows))
    number = rounds_of(plan.steps) + 1
    if number > limit:
        return False
    reasons = []
    for row in rows:
        end = result_of(tables, run.id, row.id)
        if row.id in steps and not (end is not None and was_refused(end)):
            reasons.append(Reason(step=row.key, error=end.error if end is not None else row.status))
    reasons += [
        Reason(step=key, error=f"the change that it wanted does not fit: {why}") for key, why in refused.items()
    ]
    if not reasons:
        return False
    asked = question(reasons, plan, {row.key: row.status for row in rows}, number=number, of=limit)
    told = "; ".join(f"{one.step}: {one.error}" for one in reasons)
    try:
        writers.patch(tables, run, PlanPatch(add=(asked,)), reason=told[:MAX_REASON_CHARACTERS])
    except InvalidPlan:
        return False
    return True


def limit_of(run: RunLine) -> int:
    """How often the planner may be asked in this run."""
    return run.replans


def was_refused(end: StepFinished) -> bool:
    """Whether a person ended the step, or the budget."""
    return end.error.lower().startswith("a person ") or end.error.startswith(OVER_BUDGET)


def apply(tables: Tables, run: RunLine, row: StepLine, end: StepFinished) -> str:
    """Change the plan as the planner wants it and as the steps stand now; gives why it does not fit, or nothing."""
    if end.patch is None:
        return ""
    rationale = end.result.get("rationale") if isinstance(end.result, dict) else None
    reason = str(rationale or "")[:MAX_REASON_CHARACTERS]
    try:
        writers.patch(tables, run, end.patch, by_step=row.id, reason=reason, as_they_stand=True)
    except InvalidPlan as error:
        return str(error)
    return ""


def too_many(tables: Tables, run: RunLine) -> str:
    """Why an agent's wish for another plan is not heard."""
    limit = limit_of(run)
    done = rounds_of(row.spec for row in tables.of_run[run.id])
    return f"the plan may be changed {limit} times, and has been {done} times" if done >= limit else ""

"""Replanning under the run's lock: the planner is asked when a step has failed, so many times in a run and no more."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs, views
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import OVER_BUDGET, StepFinished
from chargehand.orchestrator.plan import Plan, PlanPatch, Step
from chargehand.orchestrator.replanning import REPLANNER, Reason, question, rounds_of
from chargehand.orchestrator.rounds import Place, Standing
from chargehand.orchestrator.supervisor.unrolling import ends_of
from chargehand.orchestrator.tables import RunRow, StepRow
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS

# The journal keeps why; a page of it is enough.
MAX_REASON_CHARACTERS = 500


def failed(places: Mapping[UUID, Place], standing: Mapping[UUID, Standing]) -> list[UUID]:
    """Steps that have failed for good and that nobody has looked at; none while the planner is being asked.

    A child's failure is its parent's to judge, and what a person has refused is decided.
    """
    found: list[UUID] = []
    for step, place in places.items():
        status = standing[step].status
        if place.name == REPLANNER and place.kind == "agent":
            if status not in STEP_ENDINGS:
                return []
        elif status == "failed" and not standing[step].patched and place.parent is None and place.kind != "gate":
            found.append(step)
    return found


def ask(session: Session, run: RunRow, steps: Sequence[UUID], refused: Mapping[str, str]) -> bool:
    """Ask the planner what to do about these failed steps, unless it was asked often enough; whether it is asked.

    `refused`: changes of its own that did not fit, by the step that wanted them. Whoever finds the failure next does
    not ask again.
    """
    session.execute(
        update(StepRow).where(StepRow.id.in_(steps)).values(patched=True).execution_options(synchronize_session=False)
    )
    limit = views.replans(session, run.id)
    if not limit or run.status in RUN_ENDINGS or REPLANNER not in run.role_versions:
        return False
    rows = session.scalars(
        select(StepRow).where(StepRow.run == run.id).order_by(StepRow.ordinal).execution_options(populate_existing=True)
    ).all()
    plan = Plan(steps=tuple(Step.model_validate(row.spec) for row in rows))
    number = rounds_of(plan.steps) + 1
    if number > limit:
        return False
    ends = ends_of(session, run.id, steps)
    reasons = [
        Reason(step=row.key, error=ends[row.id].error if row.id in ends else row.status)
        for row in rows
        if row.id in set(steps) and not (row.id in ends and _was_refused(ends[row.id]))
    ]
    reasons += [
        Reason(step=key, error=f"the change that it wanted does not fit: {why}") for key, why in refused.items()
    ]
    if not reasons:
        return False
    asked = question(reasons, plan, {row.key: row.status for row in rows}, number=number, of=limit)
    told = "; ".join(f"{one.step}: {one.error}" for one in reasons)
    try:
        with session.begin_nested():
            runs.patch(session, run, PlanPatch(add=(asked,)), reason=told[:MAX_REASON_CHARACTERS])
    except InvalidPlan:
        # The plan has as many steps as it may have: the run ends as it would have without a planner.
        return False
    return True


def _was_refused(end: StepFinished) -> bool:
    """Whether a person ended the step, which is decided, or the budget: planning anew would cost more of it."""
    return end.error.lower().startswith("a person ") or end.error.startswith(OVER_BUDGET)


def apply(session: Session, run: RunRow, step: StepRow, end: StepFinished) -> str:
    """Change the plan as the planner wants it and as the steps stand now; gives why it does not fit, or nothing."""
    if end.patch is None:
        return ""
    rationale = end.result.get("rationale") if isinstance(end.result, dict) else None
    try:
        with session.begin_nested():
            reason = str(rationale or "")[:MAX_REASON_CHARACTERS]
            runs.patch(session, run, end.patch, by_step=step.id, reason=reason, as_they_stand=True)
    except InvalidPlan as error:
        return str(error)
    return ""

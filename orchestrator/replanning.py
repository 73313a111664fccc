"""How a run changes its plan: who is asked when a step has failed, and what the answer comes to as things stand; pure.

An answer is an intent: do this again, in another way, or go on without it. What follows from it is found when it is
applied, by how each step stands then: whatever has finished and does not rest on what failed is kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from chargehand.orchestrator.backtracking import backtrack, built_on, came_again
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, references
from chargehand.orchestrator.transitions import STEP_ENDINGS

# The role that is asked; a run that did not pin it fails as if nobody had been there.
REPLANNER = "replanner"
# An error is to be understood, not to be read as a log.
MAX_ERROR_CHARACTERS = 1_000
# More would drown the question; what is left out is counted.
MAX_STEPS_SHOWN = 200
NOT_BEGUN = frozenset({"pending", "chained", "skipped"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why the plan should change."""

    step: str
    """The step that failed, or that asks for it."""
    error: str


def question(
    reasons: Sequence[Reason],
    plan: Plan,
    statuses: Mapping[str, str],
    *,
    number: int,
    of: int,
    asked_by: Step | None = None,
) -> Step:
    """The step that asks for a change of the plan, the `number`th `of` so many; its key follows from its number.

    `asked_by`: the step that waits for the answer.
    """
    told: list[JsonValue] = [{"step": one.step, "error": one.error[:MAX_ERROR_CHARACTERS]} for one in reasons]
    arguments: dict[str, JsonValue] = {"round": number, "of": of, "reasons": told, **_as_it_is(plan, statuses)}
    if asked_by is not None:
        arguments["asked_by"] = asked_by.key
    return Step(
        key=f"replan:{number}" if asked_by is None else f"{asked_by.key}/replan:{number}",
        kind="agent",
        role=REPLANNER,
        pool="research",
        title="Change the plan" if asked_by is None else f"Change the plan, as {asked_by.key} asks",
        instruction=(
            "A step of this run has failed. Change the plan so that the goal is still reached, as far as it can be."
            if asked_by is None
            else "A step of this run asks for another plan. Change it, if the reason holds."
        ),
        arguments=arguments,
        parent=None if asked_by is None else asked_by.key,
    )


def asked_anew(step: Step, plan: Plan, statuses: Mapping[str, str]) -> Step | None:
    """The question that a person wants put once more, with the plan as it is now; None: the step is no planner's."""
    if step.role != REPLANNER:
        return None
    kept = {name: value for name, value in step.arguments.items() if name not in {"steps", "steps_left_out"}}
    return step.model_copy(update={"arguments": {**kept, **_as_it_is(plan, statuses)}})


def _as_it_is(plan: Plan, statuses: Mapping[str, str]) -> dict[str, JsonValue]:
    known = [step for step in plan.steps if step.parent is None and statuses.get(step.key) != "superseded"]
    shown: list[JsonValue] = [_shown(step, statuses) for step in known[:MAX_STEPS_SHOWN]]
    left_out: dict[str, JsonValue] = {"steps_left_out": len(known) - len(shown)} if len(known) > len(shown) else {}
    return {"steps": shown, **left_out}


def _shown(step: Step, statuses: Mapping[str, str]) -> JsonValue:
    shown: dict[str, JsonValue] = {
        "key": step.key,
        "kind": step.kind,
        "title": step.title,
        "status": statuses.get(step.key, "pending"),
        "after": list(step.after),
        "join": step.join,
    }
    name = step.role or step.script
    return {**shown, "does": name} if name else shown


def rounds_of(steps: Iterable[Step]) -> int:
    """How often the run has had the plan's author asked; when a person lets it think again, that is the same round."""
    return sum(step.role == REPLANNER and not came_again(step.key) for step in steps)


def effective(plan: Plan, statuses: Mapping[str, str], change: PlanPatch) -> PlanPatch:
    """What a change comes to as its steps stand now: steps to add, to supersede and to cancel; raises `InvalidPlan`.

    `plan`: every step of the run. `again` comes again with all that was built on it. What is dropped and nobody waits
    for does not count any more; who waits for it and needs it comes again without it; whoever takes what there is
    (`settled`, `any`) goes on as it is. A step that has succeeded meanwhile is not dropped.
    """
    counting = Plan(steps=tuple(step for step in plan.steps if statuses.get(step.key) != "superseded"))
    gone = set(built_on(counting, _known(counting, change.supersede)))
    rest = Plan(steps=tuple(step for step in counting.steps if step.key not in gone))
    dropped = {key for key in _known(rest, change.drop) if statuses.get(key) != "succeeded"}
    if child := next((step for step in rest.steps if step.key in dropped and step.parent is not None), None):
        raise InvalidPlan(f"Step {child.key!r} was appended by {child.parent!r}; drop that.")
    roots: dict[str, Step | None] = {
        step.key: _without(step, rest, dropped)
        for step in rest.steps
        if step.join == "all"
        # One that has begun did not wait for it: a branch took another way.
        and statuses.get(step.key) in NOT_BEGUN
        and step.key not in dropped
        and not dropped.isdisjoint(step.after)
    }
    roots |= change.again
    if both := sorted(dropped & change.again.keys()):
        raise InvalidPlan(f"Step {both[0]!r} is to be dropped and to be done again; choose one.")
    # Whatever comes again does not wait for what was dropped, however it is joined.
    redone = built_on(rest, _known(rest, roots))
    roots |= {
        key: _without(rest.by_key[key], rest, dropped)
        for key in redone
        if roots.get(key) is None and rest.by_key[key].parent is None and not dropped.isdisjoint(rest.by_key[key].after)
    }
    again = backtrack(rest, roots, taken=[step.key for step in plan.steps], beside=change.add)
    _leaves_planners_out(plan, statuses, change, again.add)
    superseded = {*gone, *again.supersede}
    # Those that are still waited for stay, as cancelled or failed; what nobody waits for must not fail the run.
    waited_for: set[str] = set()
    for step in reversed(rest.steps):
        if step.key not in superseded and (step.key not in dropped or step.key in waited_for):
            waited_for.update(step.after)
    unwanted = dropped - waited_for
    superseded |= unwanted | {step.key for step in rest.steps if _is_within(rest, step.key, unwanted)}
    cancelled = {key for key in (dropped & waited_for) - superseded if statuses.get(key) not in STEP_ENDINGS}
    order = [step.key for step in plan.steps]
    return PlanPatch(
        add=again.add,
        drop=tuple(key for key in order if key in cancelled),
        supersede=tuple(key for key in order if key in superseded),
    )


def _leaves_planners_out(plan: Plan, statuses: Mapping[str, str], change: PlanPatch, added: Iterable[Step]) -> None:
    """Raise `InvalidPlan` when a planner would be asked by a planner, without end, or kept from answering."""
    if asks := next((step for step in added if step.role == REPLANNER), None):
        raise InvalidPlan(f"Step {asks.key!r} would ask for a change of the plan; the run asks when it is needed.")
    unwanted = {key for key in change.drop if statuses.get(key) not in STEP_ENDINGS}
    if asked := next((step for step in plan.steps if step.key in unwanted and step.role == REPLANNER), None):
        raise InvalidPlan(f"Step {asked.key!r} is changing the plan, too; leave it out.")


def _is_within(plan: Plan, key: str, owners: set[str]) -> bool:
    """Whether one of these appended the step, directly or through others."""
    steps = plan.by_key
    parent = steps[key].parent
    while parent is not None and parent not in owners:
        parent = steps[parent].parent if parent in steps else None
    return parent is not None


def _known(plan: Plan, keys: Iterable[str]) -> list[str]:
    steps = plan.by_key
    named = list(keys)
    if unknown := next((key for key in named if key not in steps), None):
        raise InvalidPlan(f"There is no step {unknown!r} that counts any more; name one of the plan as it is now.")
    return named


def _without(step: Step, plan: Plan, dropped: set[str]) -> Step:
    """The step that waits for none of these and takes nothing of them; it begins no earlier than they would have."""
    if lost := next((key for key in step.when if key in dropped), None):
        raise InvalidPlan(f"Step {step.key!r} stands on a way of {lost!r}; drop it too, or do {lost!r} again.")
    steps = plan.by_key
    after: dict[str, None] = {}
    when = dict(step.when)
    todo = list(step.after)
    seen: set[str] = set()
    while todo:
        key = todo.pop(0)
        if key in dropped and key not in seen:
            # What it waited for, and on which way it stood, is this one's to heed now.
            todo = [*steps[key].after, *todo]
            when = {**steps[key].when, **when}
        elif key not in dropped:
            after[key] = None
        seen.add(key)
    arguments = {name: value for name, value in step.arguments.items() if dropped.isdisjoint(references(value))}
    return step.model_copy(update={"after": tuple(after), "when": when, "arguments": arguments})

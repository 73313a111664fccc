"""How a graph goes back: the steps that are not wanted any more, and new ones that take their place; pure.

Nothing is rewritten. What was done stays in the journal as superseded, whatever was built on it with it, and the same
steps come again under new keys. Finished work that does not rest on it is kept.
"""

import re
from collections.abc import Iterable, Mapping

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import Plan, PlanPatch, Step
from chargehand.orchestrator.templates import referring

_AGAIN = re.compile(r"~(\d+)\Z")


def built_on(plan: Plan, roots: Iterable[str]) -> list[str]:
    """The steps of these keys and everything that waits for them or was appended by them, in plan order."""
    reached = set(roots)
    # Parents and predecessors stand before what follows from them.
    for step in plan.steps:
        if not reached.isdisjoint(step.after) or step.parent in reached:
            reached.add(step.key)
    return [step.key for step in plan.steps if step.key in reached]


def backtrack(plan: Plan, roots: Mapping[str, Step | None], *, taken: Iterable[str] = ()) -> PlanPatch:
    """The patch that does these steps again, and all that was built on them; raises `InvalidPlan`.

    `plan`: the steps that count now. `roots`: for each key a step to take its place, or None for the same once more.
    `taken`: keys of the run that are used up. Children come again when their parent does.
    """
    steps = plan.by_key
    unknown = next((key for key in roots if key not in steps), None)
    if unknown is not None:
        raise InvalidPlan(f"There is no step {unknown!r} that counts any more; name one of the plan as it is now.")
    child = next((key for key in roots if steps[key].parent is not None), None)
    if child is not None:
        raise InvalidPlan(f"Step {child!r} was appended by {steps[child].parent!r}; go back to that.")
    gone = built_on(plan, roots)
    used = {*steps, *taken}
    renamed: dict[str, str] = {}
    for key in gone:
        if steps[key].parent is None:
            replacement = roots.get(key)
            renamed[key] = replacement.key if replacement is not None else _next_key(key, used)
            used.add(renamed[key])
    again = [roots.get(key) or _moved(steps[key], renamed) for key in renamed]
    return PlanPatch(supersede=tuple(gone), add=tuple(again))


def _next_key(key: str, used: set[str]) -> str:
    """`fix` is followed by `fix~2`, that by `fix~3`."""
    found = _AGAIN.search(key)
    base, number = (key[: found.start()], int(found.group(1))) if found else (key, 1)
    while True:
        number += 1
        if f"{base}~{number}" not in used:
            return f"{base}~{number}"


def _moved(step: Step, renamed: Mapping[str, str]) -> Step:
    return referring(step, lambda key: renamed.get(key, key)).model_copy(
        update={
            "key": renamed[step.key],
            "after": tuple(renamed.get(key, key) for key in step.after),
            "when": {renamed.get(key, key): label for key, label in step.when.items()},
        }
    )

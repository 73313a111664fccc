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


def backtrack(
    plan: Plan, roots: Mapping[str, Step | None], *, taken: Iterable[str] = (), beside: Iterable[Step] = ()
) -> PlanPatch:
    """The patch that does these steps again, and all that was built on them; raises `InvalidPlan`.

    `plan`: the steps that count now. `roots`: for each key a step to take its place, or None for the same once more.
    `taken`: keys of the run that are used up. `beside`: steps to add that may wait for any of them. Children come again
    when their parent does.
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
            is_named = replacement is not None and replacement.key != key
            renamed[key] = replacement.key if replacement is not None and is_named else _next_key(key, used)
            used.add(renamed[key])
    again = [_moved(roots.get(key) or steps[key], renamed, key=renamed[key]) for key in renamed]
    again += [_moved(step, renamed, key=step.key) for step in beside]
    return PlanPatch(supersede=tuple(gone), add=tuple(again))


def came_again(key: str) -> bool:
    """Whether a step of this key took the place of an older one."""
    return _AGAIN.search(key) is not None


def _next_key(key: str, used: set[str]) -> str:
    """`fix` is followed by `fix~2`, that by `fix~3`."""
    found = _AGAIN.search(key)
    base, number = (key[: found.start()], int(found.group(1))) if found else (key, 1)
    while True:
        number += 1
        if f"{base}~{number}" not in used:
            return f"{base}~{number}"


def _moved(step: Step, renamed: Mapping[str, str], *, key: str) -> Step:
    return referring(step, lambda source: renamed.get(source, source)).model_copy(
        update={
            "key": key,
            "after": tuple(renamed.get(before, before) for before in step.after),
            "when": {renamed.get(before, before): label for before, label in step.when.items()},
        }
    )


def newest_of(key: str, statuses: Mapping[str, str]) -> str:
    """The step that counts for this key: itself, or the newest one that came again for it.

    `statuses`: of all steps of the run, by key.
    """
    newest, at = key, key
    used = {key}
    while statuses.get(newest) == "superseded":
        at = _next_key(at, used)
        if at not in statuses:
            break
        used.add(at)
        newest = at
    return newest

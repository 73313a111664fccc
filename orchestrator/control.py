"""How a branch, a map, a repeat or a merge goes on: which children it appends, and what they amount to; pure.

A graph grows, it is never rewritten: another round is new steps, so that nothing waits for itself and round 3 never
overwrites the evidence of round 2. The keys of children follow from their parent's and from their number, so that
whoever decides twice appends once.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.plan import RESULT_OF, Branch, Map, Merge, Repeat, Step, Tier
from chargehand.orchestrator.templates import referring
from chargehand.orchestrator.transitions import STEP_ENDINGS

# A branch asks these one after the other, until one is sure.
TIERS_OF_BRANCH: tuple[Tier, ...] = ("small", "large")
ASK_PERSON = "person"
# Characters of what each chooser had said.
MOST_TOLD = 400
MERGE_SCRIPT = "merge_commits"
# So many characters of the last verdict stand in the error of a repeat that did not pass.
MOST_OF_VERDICT = 300
# The child that resolves what git could not merge.
RESOLVE = "resolve"


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A child as it stands."""

    step: Step
    status: str
    result: JsonValue = None
    """Of one that succeeded."""
    error: str = ""
    commit: str | None = None
    """Where it left the workspace."""

    @property
    def name(self) -> str:
        """Its place under its parent: `3/code`, `small`."""
        return self.step.key.removeprefix(f"{self.step.parent}/")

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.status in STEP_ENDINGS

    @property
    def has_failed(self) -> bool:
        """Whether it is over without a result."""
        return self.has_ended and self.status != "succeeded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grow:
    """Append these children."""

    add: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The step is over; children that are still open are cancelled."""

    outcome: Literal["succeeded", "failed"]
    result: JsonValue = None
    label: str | None = None
    """branch: the way that is taken."""
    commit: str | None = None
    error: str = ""


def proceed(step: Step, children: Sequence[Child], *, given: Mapping[str, JsonValue], seed: UUID) -> Grow | End | None:
    """What a control step does next; None: it waits for its children.

    `children`: all it has appended, in plan order. `given`: results of the steps before it, by key. `seed`: makes the
    same choice whoever makes it; the step's id.
    """
    if step.branch is not None:
        return _branch(step, step.branch, children, seed=seed)
    if step.map is not None:
        return _map(step, step.map, children, given)
    if step.repeat is not None:
        return _repeat(step, step.repeat, children)
    if step.merge is not None:
        return _merge(step, step.merge, children)
    raise ValueError(f"Step {step.key!r} of kind {step.kind!r} has no children.")


def is_worth_a_look(step: Step, statuses: Sequence[str]) -> bool:
    """Whether children that stand so may let `proceed` say something: results need not be read before."""
    ended = [status in STEP_ENDINGS for status in statuses]
    failed = sum(end and status != "succeeded" for end, status in zip(ended, statuses, strict=True))
    return all(ended) or (step.map is not None and failed > step.map.tolerated_failures)


def rounds_before(step: Step, plan: Sequence[Step]) -> int:
    """How many rounds of a `repeat` have come before this step's because their verdict did not pass.

    0 for the step that gives the verdict: it is as good as it was.
    """
    by_key = {one.key: one for one in plan}
    while step.parent is not None and (parent := by_key.get(step.parent)) is not None:
        number, _, template = step.key.removeprefix(f"{parent.key}/").partition("/")
        if parent.repeat is not None and number.isdigit():
            return 0 if template == parent.repeat.until else int(number) - 1
        step = parent
    return 0


def escalated_from(step: Step, plan: Sequence[Step]) -> Tier | None:
    """The tier of the chooser before this one, which gave its branch no sure answer; None for any other step."""
    branch = next((one.branch for one in plan if one.key == step.parent), None)
    if branch is None or branch.role is None or step.tier not in TIERS_OF_BRANCH[1:]:
        return None
    return TIERS_OF_BRANCH[TIERS_OF_BRANCH.index(step.tier) - 1]


# --- branch -----------------------------------------------------------------------------------------------------------


def _branch(step: Step, branch: Branch, children: Sequence[Child], *, seed: UUID) -> Grow | End | None:
    if not children:
        return Grow(add=(_chooser(step, branch, None if branch.role is None else TIERS_OF_BRANCH[0]),))
    newest = children[-1]
    if not newest.has_ended:
        return None
    if branch.script is not None:
        return _by_script(step, branch, newest)
    if newest.name == ASK_PERSON:
        choice = newest.result.get("choice") if isinstance(newest.result, dict) else None
        if newest.has_failed or choice not in branch.labels:
            return End(outcome="failed", error=newest.error or "nobody chose a way")
        return _chosen(str(choice), by="person")
    odds = _odds(branch, newest.result)
    if odds is not None and branch.choose == "sample":
        return _chosen(_sample(odds, seed), by=newest.name, odds=odds, seed=seed)
    if odds is not None and max(odds.values()) >= branch.threshold:
        return _chosen(max(odds, key=lambda label: odds[label]), by=newest.name, odds=odds)
    return Grow(add=(_next_chooser(step, branch, children),))


def _thought(chooser: Child, odds: Mapping[str, float] | None) -> str:
    """What a chooser said, for the person who is asked after it."""
    if odds is None:
        return f"- {chooser.name}: {chooser.error or 'no odds of the labels'}"[:MOST_TOLD]
    ways = ", ".join(f"{label} {odds[label]:.0%}" for label in sorted(odds, key=lambda label: -odds[label]))
    reason = chooser.result.get("reason") if isinstance(chooser.result, dict) else None
    return f"- {chooser.name}: {ways}{f' ({reason})' if reason else ''}"[:MOST_TOLD]


def _by_script(step: Step, branch: Branch, chooser: Child) -> End:
    if chooser.has_failed:
        return End(outcome="failed", error=chooser.error)
    label = "yes" if chooser.result is True else "no" if chooser.result is False else chooser.result
    if label not in branch.labels:
        labels = ", ".join(branch.labels)
        return End(outcome="failed", error=f"script {branch.script!r} gave {chooser.result!r}; labels are: {labels}")
    return _chosen(str(label), by="script")


def _odds(branch: Branch, result: JsonValue) -> dict[str, float] | None:
    """The probabilities of all labels, adding up to one; None when the answer is no distribution over them."""
    told = result.get("odds") if isinstance(result, dict) else None
    if not isinstance(told, dict) or not told.keys() <= set(branch.labels):
        return None
    odds = {label: told.get(label, 0.0) for label in branch.labels}
    numbers = {label: float(value) for label, value in odds.items() if isinstance(value, int | float) and value >= 0}
    total = sum(numbers.values())
    return (
        {label: value / total for label, value in numbers.items()} if len(numbers) == len(odds) and total > 0 else None
    )


def _sample(odds: Mapping[str, float], seed: UUID) -> str:
    number = random.Random(int.from_bytes(hashlib.sha256(seed.bytes).digest()[:8], "big"))
    return number.choices(list(odds), weights=list(odds.values()))[0]


def _chosen(label: str, *, by: str, odds: Mapping[str, float] | None = None, seed: UUID | None = None) -> End:
    result: dict[str, JsonValue] = {"label": label, "chosen_by": by}
    if odds is not None:
        result["odds"] = dict(odds)
    if seed is not None:
        result["seed"] = str(seed)
    return End(outcome="succeeded", result=result, label=label)


def _chooser(step: Step, branch: Branch, tier: Tier | None) -> Step:
    # The branch itself is never claimed: its children have its patience.
    limits = {"deadline_seconds": step.deadline_seconds}
    if branch.script is not None:
        return _child(
            step,
            "choose",
            kind="script",
            script=branch.script,
            arguments=step.arguments,
            after=step.after,
            retries=step.retries,
            **limits,
        )
    arguments: dict[str, JsonValue] = {**step.arguments, "labels": list(branch.labels)}
    return _child(
        step,
        str(tier),
        kind="agent",
        role=branch.role,
        tier=tier,
        instruction=step.instruction,
        arguments=arguments,
        after=step.after,
        max_turns=step.max_turns,
        **limits,
    )


def _next_chooser(step: Step, branch: Branch, asked: Sequence[Child]) -> Step:
    for tier in TIERS_OF_BRANCH:
        if tier not in [child.name for child in asked]:
            return _chooser(step, branch, tier)
    question = step.instruction or step.title or f"Which way does {step.key} go on?"
    told = [_thought(child, _odds(branch, child.result)) for child in asked]
    question = "\n".join((question, f"No way was as likely as {branch.threshold:g}:", *told))
    return _child(step, ASK_PERSON, kind="gate", instruction=question, options=branch.labels, expires=step.expires)


# --- map --------------------------------------------------------------------------------------------------------------


def _map(step: Step, mapping: Map, children: Sequence[Child], given: Mapping[str, JsonValue]) -> Grow | End | None:
    source = _referred_to(mapping.items)
    items = mapping.items if source is None else given.get(source)
    if not isinstance(items, list):
        return End(outcome="failed", error=f"the items of {step.key!r} are no list but {type(items).__name__}")
    if not items:
        return End(outcome="succeeded", result=[])
    if not children:
        return Grow(add=tuple(_of_items(step, mapping, items)))
    bodies = [of_item for _, of_item in sorted(_by_number(children).items())]
    failed = [body for body in bodies if any(child.status in {"failed", "cancelled"} for child in body.values())]
    if len(failed) > mapping.tolerated_failures:
        first = next(child for body in failed for child in body.values() if child.has_failed)
        return End(outcome="failed", error=f"{len(failed)} of {len(items)} items failed: {first.name}: {first.error}")
    if not all(child.has_ended for child in children):
        return None
    lasts = [body[mapping.body[-1].key] for body in bodies]
    return End(outcome="succeeded", result=[last.result if last.status == "succeeded" else None for last in lasts])


def _by_number(children: Sequence[Child]) -> dict[int, dict[str, Child]]:
    """The children of each item or round, by the keys of their templates."""
    numbered: dict[int, dict[str, Child]] = defaultdict(dict)
    for child in children:
        number, _, key = child.name.partition("/")
        numbered[int(number)][key] = child
    return numbered


def _referred_to(value: JsonValue) -> str | None:
    """The step whose result the value stands for."""
    return str(value[RESULT_OF]) if isinstance(value, dict) and value.keys() == {RESULT_OF} else None


def _of_items(step: Step, mapping: Map, items: Sequence[JsonValue]) -> list[Step]:
    """Children of all items; with `max_parallel`, that many lanes in which one item waits for the one before."""
    width = mapping.max_parallel or len(items)
    return [
        _templated(
            step,
            template,
            prefix=str(index),
            # All of the item before in its lane, however it ended: its last step may be skipped while another runs.
            entry_after=()
            if index < width
            else tuple(f"{step.key}/{index - width}/{before.key}" for before in mapping.body),
            item=item,
        )
        for index, item in enumerate(items)
        for template in mapping.body
    ]


# --- repeat -----------------------------------------------------------------------------------------------------------


def _repeat(step: Step, repeat: Repeat, children: Sequence[Child]) -> Grow | End | None:
    if not children:
        return Grow(add=_round(step, repeat, 1))
    if not all(child.has_ended for child in children):
        return None
    number, newest = max(_by_number(children).items())
    broken = next((child for child in newest.values() if child.status in {"failed", "cancelled"}), None)
    if broken is not None:
        return End(outcome="failed", error=f"round {number}: {broken.name} failed: {broken.error}")
    verdict = newest[repeat.until].result
    commits = [newest[template.key].commit for template in repeat.body]
    if _passed(verdict):
        return End(
            outcome="succeeded",
            result={"rounds": number, "passed": True, "verdict": verdict},
            commit=next((commit for commit in reversed(commits) if commit is not None), None),
        )
    if number >= repeat.max_rounds:
        return End(outcome="failed", error=f"{repeat.until} did not pass in {number} rounds: {_told(verdict)}")
    return Grow(add=_round(step, repeat, number + 1))


def _told(verdict: JsonValue) -> str:
    """The newest evidence against it, for whoever reads why the run failed."""
    told = json.dumps(verdict, ensure_ascii=False)
    return told if len(told) <= MOST_OF_VERDICT else f"{told[:MOST_OF_VERDICT]}…"


def _passed(verdict: JsonValue) -> bool:
    return verdict.get("passed") is True if isinstance(verdict, dict) else verdict is True


def _round(step: Step, repeat: Repeat, number: int) -> tuple[Step, ...]:
    """One round; what begins it is given what the round before ended with."""
    depended_on = {key for template in repeat.body for key in template.after}
    ends = [template.key for template in repeat.body if template.key not in depended_on]
    before = () if number == 1 else tuple(f"{step.key}/{number - 1}/{key}" for key in ends)
    return tuple(_templated(step, template, prefix=str(number), entry_after=before) for template in repeat.body)


# --- merge ------------------------------------------------------------------------------------------------------------


def _merge(step: Step, merge: Merge, children: Sequence[Child]) -> Grow | End | None:
    if not children:
        attempt = _child(
            step,
            "try",
            kind="script",
            script=MERGE_SCRIPT,
            pool="coding",
            after=step.after,
            retries=step.retries,
            deadline_seconds=step.deadline_seconds,
        )
        return Grow(add=(attempt,))
    newest = children[-1]
    if not newest.has_ended:
        return None
    if newest.has_failed:
        return End(outcome="failed", error=newest.error)
    conflicts = newest.result.get("conflicts") if isinstance(newest.result, dict) else None
    if not conflicts:
        return End(outcome="succeeded", result=newest.result, commit=newest.commit)
    names = ", ".join(str(name) for name in conflicts) if isinstance(conflicts, list) else str(conflicts)
    if newest.name == RESOLVE:
        return End(outcome="failed", error=f"the parallel changes conflict in {names}: {_reasons(newest.result)}")
    if merge.role is None:
        return End(outcome="failed", error=f"the parallel changes conflict in {names}, and no role resolves that")
    resolve = _child(
        step,
        RESOLVE,
        kind="agent",
        role=merge.role,
        pool="coding",
        instruction=step.instruction or "Resolve the conflict markers so that both changes keep their meaning.",
        # Nothing else is its to change.
        arguments={"conflicts": conflicts, "may_edit": conflicts},
        after=(newest.step.key,),
        max_turns=step.max_turns,
        deadline_seconds=step.deadline_seconds,
    )
    return Grow(add=(resolve,))


def _reasons(result: JsonValue) -> str:
    told = result.get("reasons") if isinstance(result, dict) else None
    return "; ".join(str(reason) for reason in told.values()) if isinstance(told, dict) else "they were not resolved"


# --- children ---------------------------------------------------------------------------------------------------------


def _child(step: Step, name: str, **fields: object) -> Step:
    # What its parent waited for has come, or will not: it reads what there is.
    values = {"pool": step.pool, "join": "settled", **fields, "key": f"{step.key}/{name}", "parent": step.key}
    return Step.model_validate(values)


def _templated(
    step: Step, template: Step, *, prefix: str, entry_after: tuple[str, ...] = (), **filled_in: JsonValue
) -> Step:
    """A template of a body as a step of the plan; `item`: what `$item` stands for, if it is the body of a map."""
    names = {inner.key for inner in step.body}

    def placed(key: str) -> str:
        return f"{step.key}/{prefix}/{key}" if key in names else key

    return referring(template, placed, **filled_in).model_copy(
        update={
            "key": placed(template.key),
            "parent": step.key,
            "after": tuple(placed(key) for key in template.after) or (*step.after, *entry_after),
            "when": {placed(key): label for key, label in template.when.items()},
            # What its parent waited for has come, or will not; the item before it in its lane may have failed.
            "join": template.join if template.after else "settled",
        }
    )

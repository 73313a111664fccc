"""What a fork takes over from a run, does anew, or leaves out because it will grow by itself; pure.

A fork is a new run. Its plan is the old one as it stood; what was built on the step it leaves at is done anew, and all
else that has ended is taken over as it ended.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import JsonValue, ValidationError

from chargehand.orchestrator.backtracking import built_on
from chargehand.orchestrator.errors import InvalidPlan, UserError
from chargehand.orchestrator.facts import (
    BreakerTripped,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    PlanPatched,
    Said,
    SignalReceived,
    StateRefreshed,
    StepFact,
    StepForked,
    StepTold,
    StepWaiting,
    ToolFinished,
    ToolStarted,
)
from chargehand.orchestrator.plan import CONTROL_KINDS, Plan, Step
from chargehand.orchestrator.storable import unstorable

# Ends that a fork takes over. What was cancelled or skipped is decided anew by what stands around it.
TAKEN_OVER = frozenset({"succeeded", "failed"})
_SAID = (
    ModelResponded,
    ToolStarted,
    ToolFinished,
    StepTold,
    StateRefreshed,
    OutputsEvicted,
    StepWaiting,
    SignalReceived,
    BreakerTripped,
)
_AGAIN = re.compile(r"~\d+\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grown:
    """A step of the run that is left, with how it stands and how it came there."""

    step: Step
    status: str
    added_by: str | None = None
    """The step that appended it: a control step, an agent that asked a colleague, or a planner."""
    plan_version: int = 1
    """Of the plan that it came with; what one step appends at once has the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What is different at the step that a fork leaves at; None and empty: as it was."""

    instruction: str | None = None
    tier: str | None = None
    model: str | None = None
    arguments: Mapping[str, JsonValue] | None = None
    """Set or replaced, by name."""

    def of(self, step: Step) -> Step:
        """The step as the fork does it; raises `UserError` for what a step of its kind does not have."""
        agentic = {"instruction": self.instruction, "tier": self.tier, "model": self.model}
        given: dict[str, object] = {name: value for name, value in agentic.items() if value is not None}
        refused = next((name for name in given if not _has(step, name)), None)
        if refused is not None:
            raise UserError(f"Step {step.key!r} is a {step.kind} and has no {refused}; leave --{refused} out.")
        wrong = unstorable([self.instruction, self.tier, self.model, dict(self.arguments or {})])
        if wrong is not None:
            raise UserError(f"Step {step.key!r} cannot be changed so: it has {wrong}.")
        if self.arguments:
            given["arguments"] = {**step.arguments, **self.arguments}
        try:
            return Step.model_validate({**step.model_dump(), **given})
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise UserError(f"Step {step.key!r} cannot be changed so: {place}: {problem['msg']}.") from error


def _has(step: Step, name: str) -> bool:
    return step.kind == "agent" or (name == "instruction" and step.kind in {"gate", "branch", "merge"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What becomes of each step; keys in plan order."""

    steps: tuple[Step, ...]
    """The fork's plan."""
    again: frozenset[str]
    """The step and all that was built on it, whether it comes back with the plan or grows again."""
    taken: tuple[str, ...]
    """Ended, outside of that: taken over as they ended."""
    reopened: tuple[str, ...]
    """Control steps that go on with the children that were taken over."""
    left: frozenset[str]
    """Not in the plan: those who appended them will append again what is needed."""


def history(
    planned: Sequence[Step], patches: Sequence[PlanPatched], statuses: Mapping[str, str], by_id: Mapping[UUID, str]
) -> list[Grown]:
    """The steps of a run that still count, in plan order.

    `planned`: those it was submitted with; `statuses`: by key, in plan order, of all; `by_id`: step id → key.
    """
    steps = {step.key: step for step in planned}
    added_by: dict[str, str | None] = {}
    versions: dict[str, int] = {}
    gone: set[str] = set()
    for patched in patches:
        by = by_id.get(patched.by_step) if patched.by_step is not None else None
        for step in patched.patch.add:
            steps[step.key] = step
            versions[step.key] = patched.plan_version
            # Done again by a person: it is still the planner's who had it done first.
            added_by[step.key] = by if by is not None else added_by.get(_first_key(step.key, steps))
        gone |= {*patched.patch.drop, *patched.patch.supersede}
    return [
        Grown(
            step=steps[key],
            status=status,
            added_by=steps[key].parent or added_by.get(key),
            plan_version=versions.get(key, 1),
        )
        for key, status in statuses.items()
        if key not in gone and status != "superseded"
    ]


def _first_key(key: str, steps: Mapping[str, Step]) -> str:
    base = _AGAIN.sub("", key)
    return base if base in steps else key


def cut(grown: Sequence[Grown], at: str, *, kept: Collection[str] = ()) -> Cut:
    """What a fork at this step is made of; raises `InvalidPlan` when it cannot be left there.

    `kept`: colleagues whose answers the step has heard before the turn at which it is left. Exactly what waits for the
    step, directly or not, or was appended by it or by such a step, is done anew. A control step around it is reopened:
    it keeps its other children.
    """
    known = {one.step.key: one for one in grown}
    if at not in known:
        raise InvalidPlan(f"There is no step {at!r} that counts; name one of: {', '.join(known)}.", steps=(at,))
    reopened, later = _around(grown, known, at)
    heard = _with_descendants(grown, kept)
    # A step goes with whoever appended it, but for children of those that only go on.
    shadow = Plan(
        steps=tuple(
            one.step.model_copy(
                update={"parent": None if one.added_by in reopened or one.step.key in heard else one.added_by}
            )
            for one in grown
        )
    )
    again = set(built_on(shadow, {at, *reopened, *later})) - reopened
    reopened |= {one.step.key for one in grown if one.step.key not in again and _is_under_way(one, grown)}
    unfinished = {
        one.step.key for one in grown if one.step.key not in again | reopened and one.status not in TAKEN_OVER
    }
    left = set(later)
    for one in grown:
        key, by = one.step.key, one.added_by
        grows_again = by is not None and by in again | unfinished | left and key not in heard
        if key != at and (grows_again or not left.isdisjoint(one.step.after)):
            left.add(key)
    return Cut(
        steps=tuple(one.step for one in grown if one.step.key not in left),
        again=frozenset(again),
        taken=tuple(
            one.step.key for one in grown if one.status in TAKEN_OVER and one.step.key not in again | reopened | left
        ),
        reopened=tuple(one.step.key for one in grown if one.step.key in reopened - left),
        left=frozenset(left),
    )


def _around(grown: Sequence[Grown], known: Mapping[str, Grown], at: str) -> tuple[set[str], set[str]]:
    """The control steps around it, and what they appended after it, which they will decide about again."""
    reopened: set[str] = set()
    later: set[str] = set()
    inner = known[at]
    while inner.step.parent is not None:
        parent = known[inner.step.parent]
        if parent.step.kind not in CONTROL_KINDS:
            raise InvalidPlan(
                f"Step {at!r} was asked by agent {parent.step.key!r}; leave the run there, at the turn that asked.",
                steps=(at,),
            )
        reopened.add(parent.step.key)
        later |= {
            one.step.key
            for one in grown
            if one.step.parent == parent.step.key and one.plan_version > inner.plan_version
        }
        inner = parent
    return reopened, later


def _with_descendants(grown: Sequence[Grown], keys: Collection[str]) -> set[str]:
    reached = set(keys)
    for one in grown:
        if one.added_by in reached:
            reached.add(one.step.key)
    return reached


def _is_under_way(one: Grown, grown: Sequence[Grown]) -> bool:
    """A control step that has appended children and had not ended by itself."""
    return (
        one.step.kind in CONTROL_KINDS
        and one.status not in TAKEN_OVER | {"skipped"}
        and any(child.step.parent == one.step.key for child in grown)
    )


# --- the beginning of an agent's conversation -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What an agent had said and heard before a turn."""

    facts: tuple[Said, ...]
    last_row: int
    """Index of the last row that was looked at."""

    @property
    def colleagues(self) -> frozenset[str]:
        """Keys of those who had answered."""
        answered = {fact.wait_id for fact in self.facts if isinstance(fact, SignalReceived)}
        return frozenset(
            fact.child.key
            for fact in self.facts
            if isinstance(fact, StepWaiting) and fact.child is not None and fact.wait_id in answered
        )


def before_turn(stream: Sequence[StepFact], turn: int) -> Beginning:
    """What was said before the model was asked for this turn; raises `UserError` when it never was.

    What people told the run by then stays said; a fork's own messages are counted anew.
    """
    asked = next(
        (row for row, fact in enumerate(stream) if isinstance(fact, ModelRequested) and fact.turn == turn), None
    )
    if asked is None:
        turns = sorted({fact.turn for fact in stream if isinstance(fact, ModelRequested)})
        remedy = f"it has turns {turns[0]} to {turns[-1]}" if turns else "it has asked no model"
        raise UserError(f"The step has no turn {turn} of its own; {remedy}.")
    answered = {fact.wait_id for fact in stream[:asked] if isinstance(fact, SignalReceived)}
    facts: list[Said] = []
    for fact in stream[:asked]:
        said = fact.facts if isinstance(fact, StepForked) else (fact,) if isinstance(fact, _SAID) else ()
        for one in said:
            # A wait for a rate or a retry is nothing that was said.
            if isinstance(fact, StepWaiting) and fact.wait_id not in answered:
                continue
            facts.append(one.model_copy(update={"run_seq": 0}) if isinstance(one, StepTold) else one)
    return Beginning(facts=tuple(facts), last_row=asked - 1)

"""The graph of a run: steps, what they wait for, and how it may grow."""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Annotated, Literal, NamedTuple, Self
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan_numbers import NUMBER
from chargehand.orchestrator.settings import MAX_STEPS, MAX_TURNS_CEILING
from chargehand.orchestrator.storable import unstorable

StepKind = Literal["agent", "script", "gate", "celery_task", "branch", "map", "repeat", "merge"]
# No worker runs these: `advance` appends their children and ends them with what those gave.
CONTROL_KINDS = frozenset({"branch", "map", "repeat", "merge"})
# Of these a field of the same name says more.
_DETAILED_KINDS = (*sorted(CONTROL_KINDS), "celery_task")
# all: every predecessor that was reached succeeded. settled: every predecessor ended, however. any: one succeeded.
Join = Literal["all", "settled", "any"]
Tier = Literal["small", "medium", "large"]
POOLS = ("research", "coding", "audit")
Pool = Literal["research", "coding", "audit"]

# More rounds without a verdict are not diligence.
MAX_ROUNDS = 10
# How the arguments of a `map`'s body refer to the item: `{"$item": null}`.
ITEM = "$item"
# How arguments refer to what an earlier step gave: `{"$result_of": "load"}`.
RESULT_OF = "$result_of"
# Among the arguments of a Celery task: those that are given by position, as a list.
ARGS = "$args"
# What an agent's or a script's question may come to when nobody answers: these need no words of a person.
UNATTENDED_ANSWERS = ("skip", "retry")

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/~-]{0,119}\Z")
StepKey = Annotated[str, Field(min_length=1, max_length=120)]


class Branch(BaseModel):
    """Which way a run goes on: chosen by a script, or by a model that gives each label a probability."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = Field(min_length=2)
    """The ways, as `when` of the steps names them."""
    script: str | None = None
    """A predicate: it gives one of the labels."""
    role: str | None = None
    """A role that ends with `submit_choice`: asked small, then large, then a person is."""
    choose: Literal["argmax", "sample"] = "argmax"
    """role: take the likeliest way, or draw one by the odds."""
    threshold: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.6
    """argmax: below this probability the next larger one is asked."""


class Map(BaseModel):
    """The same body for each item of a list that is known when the run gets there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: JsonValue
    """A list, or `{"$result_of": key}` of a step that gives one, or `{"$item": null}` of the map around it."""
    body: tuple["Step", ...] = Field(min_length=1)
    """The last one's result is the item's."""
    max_parallel: Annotated[int | None, Field(ge=1), NUMBER] = None
    """How many items may be under way at once."""
    tolerated_failures: Annotated[int, Field(ge=0), NUMBER] = 0
    """How many items may fail; their result is null."""


class Repeat(BaseModel):
    """A body that is run again, on what the round before gave, until its verdict passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: tuple["Step", ...] = Field(min_length=1)
    """One round; its first steps wait for the last ones of the round before."""
    until: StepKey
    """The step of the body whose result says `passed`."""
    max_rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS), NUMBER] = 3
    """Without a verdict by then the step fails."""


class Expiry(BaseModel):
    """What becomes of a question to a person that nobody answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_seconds: Annotated[float, Field(gt=0), NUMBER]
    """How long it waits, by the database's clock."""
    then: str = "fail"
    """`fail`, or the answer that is taken then: one of a gate's options, `skip` or `retry` of an agent or a script."""


class Merge(BaseModel):
    """What parallel steps made of the workspace becomes one, in plan order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str | None = None
    """Resolves a conflict; without one a conflict fails the step."""


class CeleryTask(BaseModel):
    """A task of the user's own Celery app, on its own queue and its own workers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1, max_length=255)
    """The name under which that app has registered it."""
    queue: str = Field(min_length=1, max_length=255)
    """The queue that its workers consume."""
    broker: str = "default"
    """Where that app's messages go: a name that the supervisors' settings give an address."""
    effect: Literal["idempotent", "effectful"] = "effectful"
    """idempotent: it may run again under the same key; effectful: what cannot be told is asked of a person."""
    resend_seconds: Annotated[float | None, Field(gt=0), NUMBER] = None
    """idempotent: it is sent again, under the same key, when nothing has come back for so long."""
    when_lost: Literal["ask", "fail"] = "ask"
    """When nothing has come back by its deadline: a person is asked, or the step fails."""


class Step(BaseModel):
    """One node of the graph; a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: StepKey
    """Unique in the run, and stable: the step's id follows from it."""
    kind: StepKind
    """Who does it: a model, a function, a person, or the graph itself."""
    pool: Pool = "research"
    """Which workers run it."""
    after: tuple[StepKey, ...] = ()
    """Keys of the steps it waits for."""
    join: Join = "all"
    """Whether all of them must have succeeded, any, or whether they need only have ended."""
    title: str = ""
    """One line for people."""
    role: str | None = None
    """agent: whose instructions and tools."""
    instruction: str = ""
    """agent: the task; gate: the question."""
    script: str | None = None
    """script: the registered function."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """script: its arguments; agent: facts handed over with the instruction; celery_task: by name, and in `$args`."""
    max_turns: Annotated[int | None, Field(ge=1, le=MAX_TURNS_CEILING), NUMBER] = None
    """agent: how often the model may be asked, where it is not the role's own."""
    retries: Annotated[int, Field(ge=0, le=10), NUMBER] = 0
    """script: how often an exception is tried again."""
    deadline_seconds: Annotated[float | None, Field(gt=0), NUMBER] = None
    """It fails when this time is over, counted from its start; celery_task: nothing has come back by then (an hour)."""
    expires: Expiry | None = None
    """gate, agent, script, branch: how long its question to a person waits; None: as the role or the settings say."""
    options: tuple[str, ...] = ()
    """gate: the answers a person may give."""
    tier: Tier | None = None
    """agent: the model to begin with, where it is not the role's own."""
    model: str | None = None
    """agent: a model by its name, whatever its tier's is."""
    urgent: bool = True
    """agent: false: its calls may take hours, and go through the model's batch API at half price where it has one."""
    budget_microusd: Annotated[int | None, Field(gt=0), NUMBER] = None
    """agent: the part of the run's budget that it may spend, with the colleagues it asks."""
    when: dict[StepKey, str] = Field(default_factory=dict)
    """Of branches that it waits for: the label under which this way is taken."""
    parent: StepKey | None = None
    """The step that appended it and stands for it: nothing else waits for a child."""
    branch: Branch | None = None
    map: Map | None = None
    repeat: Repeat | None = None
    merge: Merge | None = None
    celery_task: CeleryTask | None = None
    """Whose task it is, and what is to be done when nothing comes back."""

    @property
    def body(self) -> tuple["Step", ...]:
        """The templates of its children."""
        return self.map.body if self.map is not None else self.repeat.body if self.repeat is not None else ()


class Plan(BaseModel):
    """A validated acyclic graph of steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...]
    """In any order."""

    @classmethod
    def of(cls, steps: Iterable[Step], *, roles: Set[str] | None = None, max_steps: int = MAX_STEPS) -> Self:
        """The plan of these steps; raises `InvalidPlan` with the first thing that is wrong.

        `roles`: the names an agent step may have; None skips that check.
        """
        plan = cls(steps=tuple(steps))
        validate(plan, roles=roles, max_steps=max_steps)
        return plan

    @property
    def by_key(self) -> dict[str, Step]:
        """Steps by key, in plan order."""
        return {step.key: step for step in self.steps}


class PlanPatch(BaseModel):
    """How a graph grows: steps to append, and steps that do not count any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    add: tuple[Step, ...] = ()
    drop: tuple[StepKey, ...] = ()
    """Steps that have not started and are not wanted any more."""
    supersede: tuple[StepKey, ...] = ()
    """Steps whose result is not wanted any more, finished or not, with everything that was built on them."""
    again: dict[StepKey, Step | None] = Field(default_factory=dict)
    """A planner's wish: steps to do once more, or as the step that is given does it, with all that was built on them.

    What it comes to is found when it is applied; no patch in the journal of a run has any.
    """


def step_id(run_id: UUID, key: str) -> UUID:
    """The id of the step `key` of a run: the same wherever and however often it is computed."""
    return uuid5(run_id, key)


def validate(
    plan: Plan, *, roles: Set[str] | None = None, max_steps: int = MAX_STEPS, within_body: bool = False
) -> None:
    """Raise `InvalidPlan`, naming the value and the remedy, unless the plan can run.

    `within_body`: its arguments may stand for results of steps that are not in it.
    """
    if not plan.steps:
        raise InvalidPlan("The plan has no steps; add at least one.")
    if len(plan.steps) > max_steps:
        raise InvalidPlan(f"The plan has {len(plan.steps)} steps; at most {max_steps} are allowed: split the goal.")
    for key, count in Counter(step.key for step in plan.steps).items():
        if count > 1:
            raise InvalidPlan(f"Step key {key!r} is used {count} times; give each step a key of its own.", steps=(key,))
    known = plan.by_key
    for step in plan.steps:
        try:
            _validate_step(step, known, roles)
        except InvalidPlan as error:
            error.steps = (step.key, *error.steps)
            raise
    cycle = find_cycle({step.key: step.after for step in plan.steps})
    if cycle:
        path = " -> ".join(cycle)
        raise InvalidPlan(f"Steps wait for each other: {path}; unroll the cycle into rounds.", steps=(cycle[0],))
    if not within_body:
        _validate_references(plan.steps)


def _validate_step(step: Step, known: Mapping[str, Step], roles: Set[str] | None) -> None:
    if not _KEY.match(step.key):
        raise InvalidPlan(f"Step key {step.key!r} is not usable; use letters, digits and _ . : / ~ - (at most 120).")
    for predecessor in step.after:
        if predecessor not in known:
            raise InvalidPlan(f"Step {step.key!r} depends on unknown step {predecessor!r}; add it to the plan.")
    if len(set(step.after)) != len(step.after):
        raise InvalidPlan(f"Step {step.key!r} names a predecessor twice; name each once.")
    _validate_kind(step, roles)
    wrong = unstorable([step.instruction, step.title, step.arguments])
    if wrong is not None:
        raise InvalidPlan(f"Step {step.key!r} has {wrong}.")
    for predecessor, label in step.when.items():
        if predecessor not in step.after:
            raise InvalidPlan(f"Step {step.key!r} has a label for {predecessor!r}, which it does not wait for.")
        branch = known[predecessor].branch
        if branch is None:
            raise InvalidPlan(f"Step {step.key!r} has a label for {predecessor!r}, which is no branch.")
        if label not in branch.labels:
            labels = ", ".join(branch.labels)
            raise InvalidPlan(f"Step {step.key!r} waits for label {label!r} of {predecessor!r}; it has: {labels}.")
    if step.parent is not None and step.parent not in known:
        raise InvalidPlan(f"Step {step.key!r} is a child of unknown step {step.parent!r}; add that to the plan.")


def _validate_kind(step: Step, roles: Set[str] | None) -> None:
    if step.kind == "agent" and not step.role:
        raise InvalidPlan(f"Agent step {step.key!r} has no role; name one.")
    if step.kind == "script" and not step.script:
        raise InvalidPlan(f"Script step {step.key!r} names no script; name a registered one.")
    for kind in _DETAILED_KINDS:
        if (step.kind == kind) != (getattr(step, kind) is not None):
            raise InvalidPlan(f"Step {step.key!r} is of kind {step.kind!r} and {_has(step, kind)} field {kind!r}.")
    if step.branch is not None and (step.branch.script is None) == (step.branch.role is None):
        raise InvalidPlan(f"Branch {step.key!r} needs a script or a role to choose, one of the two.")
    for role in _roles_of(step):
        if roles is not None and role not in roles:
            raise InvalidPlan(f"Step {step.key!r} has unknown role {role!r}; known: {', '.join(sorted(roles))}.")
    if step.budget_microusd is not None and step.kind != "agent":
        raise InvalidPlan(f"Step {step.key!r} is of kind {step.kind!r} and has a budget; give it to its agents.")
    if not step.urgent and step.kind != "agent":
        raise InvalidPlan(f"Step {step.key!r} is of kind {step.kind!r} and has urgent: false; only agents can wait so.")
    if step.celery_task is not None:
        _validate_task(step, step.celery_task)
    if step.expires is not None:
        _validate_expiry(step, step.expires)
    if step.body:
        _validate_body(step, roles)


def _validate_task(step: Step, task: CeleryTask) -> None:
    if task.resend_seconds is not None and task.effect != "idempotent":
        raise InvalidPlan(
            f"Step {step.key!r} has resend_seconds and its task is effectful; only an idempotent one is sent again."
        )
    if step.retries:
        raise InvalidPlan(f"Step {step.key!r} has retries; let the task retry itself (autoretry_for), under one key.")
    if not isinstance(step.arguments.get(ARGS, []), list):
        raise InvalidPlan(f"Step {step.key!r}: {ARGS} is no list; give the arguments by position as one.")


def _has(step: Step, kind: str) -> str:
    return "has no" if getattr(step, kind) is None else "has"


def _roles_of(step: Step) -> Iterator[str]:
    named = (step.role, step.branch and step.branch.role, step.merge and step.merge.role)
    return (role for role in named if role)


def _validate_body(step: Step, roles: Set[str] | None) -> None:
    """A body is a plan of its own: its steps wait for each other only, and are no wider than its own graph."""
    try:
        validate(Plan(steps=step.body), roles=roles, within_body=True)
    except InvalidPlan as error:
        raise InvalidPlan(f"In the body of {step.key!r}: {error}", steps=error.steps) from error
    if step.repeat is not None and step.repeat.until not in {inner.key for inner in step.body}:
        raise InvalidPlan(f"Repeat {step.key!r} waits for unknown step {step.repeat.until!r} of its body to pass.")


def _validate_expiry(step: Step, expires: Expiry) -> None:
    if step.kind in ("map", "repeat", "merge"):
        raise InvalidPlan(f"Step {step.key!r} of kind {step.kind!r} asks nobody; give `expires` to the step that does.")
    offered = step.options or ("approve", "reject") if step.kind == "gate" else UNATTENDED_ANSWERS
    if step.branch is not None:
        offered = step.branch.labels
    if expires.then not in ("fail", *offered):
        known = ", ".join(("fail", *offered))
        raise InvalidPlan(f"Step {step.key!r} expires into {expires.then!r}; choose one of: {known}.")


def references(value: JsonValue) -> Iterator[str]:
    """Keys of the steps for whose results an argument stands; `$item` for the item of a map."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(source := value.get(RESULT_OF), str):
            yield source
        elif value.keys() == {ITEM}:
            yield ITEM
        else:
            for inner in value.values():
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolved(value: JsonValue, results: Callable[[str], JsonValue | None]) -> JsonValue:
    """The value with what earlier steps gave in the place of each reference to them."""
    if isinstance(value, dict):
        if isinstance(key := value.get(RESULT_OF), str) and len(value) == 1:
            return results(key)
        return {name: resolved(item, results) for name, item in value.items()}
    return [resolved(item, results) for item in value] if isinstance(value, list) else value


def _validate_references(steps: Iterable[Step], around: tuple["_Level", ...] = ()) -> None:
    """Results are taken of steps that have ended by then, and items of the map in whose body a step stands."""
    known = {step.key: step for step in steps}
    for step in known.values():
        levels = (_Level(known=known, step=step), *around)
        try:
            _validate_sources(step, levels)
            _validate_references(step.body, levels)
        except InvalidPlan as error:
            error.steps = (step.key, *error.steps)
            raise


class _Level(NamedTuple):
    """A step, and the steps of the body (or of the plan) that it stands in."""

    known: Mapping[str, Step]
    step: Step

    def waits_for(self, key: str) -> bool:
        """Whether the step comes after that one, directly or through others; a child began after its parent."""
        seen, todo = {self.step.key}, [self.step]
        while todo:
            step = todo.pop()
            parent = self.known.get(step.parent or "")
            for before in (*step.after, *(parent.after if parent is not None else ())):
                if before == key:
                    return True
                if before not in seen:
                    seen.add(before)
                    todo.append(self.known[before])
        return False


def _validate_sources(step: Step, levels: tuple[_Level, ...]) -> None:
    for source in references(list(step.arguments.values())):
        if source == ITEM:
            if not _has_item(levels):
                raise InvalidPlan(f"Step {step.key!r} takes an item and stands in no map; give the value itself.")
            continue
        level = next((level for level in levels if source in level.known), None)
        if level is None:
            raise InvalidPlan(f"Step {step.key!r} takes the result of unknown step {source!r}; add it to the plan.")
        if not level.waits_for(source):
            raise InvalidPlan(
                f"Step {step.key!r} takes the result of {source!r} and does not wait for it; add it to after."
            )
    if step.map is None or isinstance(step.map.items, list):
        return
    if isinstance(step.map.items, dict) and step.map.items.keys() == {ITEM} and _has_item(levels):
        return
    if not isinstance(step.map.items, dict) or step.map.items.keys() != {RESULT_OF}:
        raise InvalidPlan(
            f"Map {step.key!r} has no items; give a list, or a step that gives one: {{{RESULT_OF}: KEY}}."
        )
    # The first steps of a body wait for what its owner waits for.
    after = next((level.step.after for level in levels if level.step.after), ())
    giver = str(step.map.items[RESULT_OF])
    if giver not in after:
        raise InvalidPlan(
            f"Map {step.key!r} takes its items of {giver!r}, for which it does not wait; add it to after."
        )


def _has_item(levels: tuple[_Level, ...]) -> bool:
    """Whether the step stands in a map, directly or within a repeat in it: that map's item is the one it takes."""
    return any(level.step.map is not None for level in levels[1:])


def find_cycle(after: Mapping[str, Iterable[str]]) -> list[str]:
    """One cycle as a closed path of keys, or an empty list."""
    remaining = {key: set(predecessors) for key, predecessors in after.items()}
    successors: dict[str, list[str]] = {key: [] for key in remaining}
    for key, predecessors in remaining.items():
        for predecessor in predecessors:
            successors[predecessor].append(key)
    free = deque(key for key, predecessors in remaining.items() if not predecessors)
    while free:
        done = free.popleft()
        for successor in successors[done]:
            remaining[successor].discard(done)
            if not remaining[successor]:
                free.append(successor)
        remaining.pop(done)
    if not remaining:
        return []
    # Whatever is left has a predecessor that is left: walking backwards must meet itself.
    path = [next(iter(remaining))]
    while True:
        before = min(remaining[path[-1]] & remaining.keys())
        if before in path:
            cycle = path[path.index(before) :]
            return [*reversed([*cycle, cycle[0]])] if len(cycle) > 1 else [before, before]
        path.append(before)


def topological(steps: Sequence[Step]) -> list[Step]:
    """Each step of a valid plan behind those it waits for, otherwise as they are written."""
    known = {step.key: step for step in steps}
    ordered: dict[str, Step] = {}
    for step in steps:
        trail = [step]
        while trail:
            before = next((key for key in trail[-1].after if key not in ordered), None)
            if before is not None:
                trail.append(known[before])
            else:
                ordered.setdefault(trail[-1].key, trail[-1])
                trail.pop()
    return list(ordered.values())


def extend(plan: Plan, patch: PlanPatch, *, roles: Set[str] | None = None, max_steps: int = MAX_STEPS) -> Plan:
    """The plan after the patch, validated whole; raises `InvalidPlan`.

    Started steps are guarded by the caller, who knows their status under the run's lock.
    """
    dropped, known = set(patch.drop), plan.by_key
    for key in dropped:
        if key not in known:
            raise InvalidPlan(f"The patch drops unknown step {key!r}; name a step of the plan.")
    for step in patch.add:
        if step.key in dropped:
            raise InvalidPlan(f"The patch drops step {step.key!r} and adds it again; give the new step a new key.")
    for key in patch.supersede:
        if key not in known:
            raise InvalidPlan(f"The patch supersedes unknown step {key!r}; name a step of the plan.")
    dropped |= set(patch.supersede)
    for step in patch.add:
        if step.key in patch.supersede:
            raise InvalidPlan(f"The patch supersedes step {step.key!r} and adds it again; give the new one a new key.")
    kept = tuple(step for step in plan.steps if step.key not in dropped)
    return Plan.of((*kept, *patch.add), roles=roles, max_steps=max_steps)

"""How a program writes a plan: steps joined by `>>`, and results handed to later steps as arguments.

order = load.step(order_id=7)
verdict = triage.step("Is this refund safe?", inputs=[order])
plan = Plan(verdict >> gate("Refund?") >> pay.step(order))
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, PrivateAttr, TypeAdapter, ValidationError

from chargehand.orchestrator import plan as graph
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import RESULT_OF, Join, Pool, Step

if TYPE_CHECKING:
    from chargehand.memory.procedural import Role

_ANYTHING: TypeAdapter[object] = TypeAdapter(object)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One argument that a script takes."""

    name: str
    annotation: object
    required: bool


class Draft:
    """A step that is being written; it gets its key when a `Plan` is made of it.

    `a >> b` lets b wait for a; lists fan out and in: `a >> [b, c] >> d`.
    """

    def __init__(
        self,
        *,
        name: str,
        fields: Mapping[str, object],
        arguments: Mapping[str, object] | None = None,
        parameters: Sequence[Parameter] = (),
        gives: object = None,
        inputs: "Chainable" = (),
        role: "Role | None" = None,
    ) -> None:
        """Made by `script(…).step`, `role(…).step` and `gate`.

        `name`: what the key is made of. `fields`: those of the `Step`, without key, after and arguments. `gives`: the
        type of its result. Drafts among `arguments` stand for their results.
        """
        self.name, self.gives, self.role = name, gives, role
        self.parameters = tuple(parameters)
        self.fields: dict[str, object] = dict(fields)
        self.arguments: dict[str, object] = dict(arguments or {})
        self.key: str | None = None
        # A dict keeps the order and holds each once.
        self._after: dict[Draft, None] = {}
        self.wait_for([draft for value in self.arguments.values() for draft in _drafts_in(value)])
        self.wait_for(inputs)

    def __repr__(self) -> str:
        """For error messages."""
        return f"<step {self.key or self.name}>"

    @property
    def after(self) -> tuple["Draft", ...]:
        """The steps it waits for, in the order they were named."""
        return tuple(self._after)

    def wait_for(self, predecessors: "Chainable") -> None:
        """Let it wait for these too."""
        self._after |= dict.fromkeys(ends_of(predecessors))

    def set(
        self,
        *,
        key: str | None = None,
        pool: Pool | None = None,
        title: str | None = None,
        join: Join | None = None,
        retries: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Self:
        """Change what is given, and give the step itself: `load.step(order_id=7).set(key="order", retries=2)`."""
        self.key = key or self.key
        named = {"pool": pool, "title": title, "join": join, "retries": retries, "deadline_seconds": deadline_seconds}
        self.fields |= {name: value for name, value in named.items() if value is not None}
        return self

    def __rshift__(self, after: "Chainable") -> "Line":
        """This, then that."""
        return _join(self, after)

    def __rrshift__(self, before: "Chainable") -> "Line":
        """That (a list), then this."""
        return _join(before, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Steps joined by `>>`: what comes before it waits at its starts, what comes after waits for its ends."""

    starts: tuple[Draft, ...]
    ends: tuple[Draft, ...]

    def __rshift__(self, after: "Chainable") -> "Line":
        """This, then that."""
        return _join(self, after)

    def __rrshift__(self, before: "Chainable") -> "Line":
        """That (a list), then this."""
        return _join(before, self)


Chainable = Draft | Line | Sequence[Draft | Line]


def gate(question: str, *, options: Sequence[str] = ("approve", "reject"), title: str = "") -> Draft:
    """A step that waits for a person's answer; `reject`, `no` and `abort` fail it, any other lets the run go on.

    Its result is `{"choice": …, "body": …}`.
    """
    if not question.strip():
        raise InvalidPlan("A gate has no question; say what a person decides.")
    return Draft(
        name="gate",
        fields={"kind": "gate", "instruction": question, "options": tuple(options), "title": title or question},
        gives=dict,
    )


class Plan(graph.Plan):
    """The graph that ends in the given steps: they and everything that they wait for.

    A step without a key of its own is called after its script or role, the second `load` is `load-2`. A parameter of a
    script that got no argument is filled with the result of the step whose key is the parameter's name, or else of the
    only step that gives the parameter's model; steps it waits for directly go before those further back.

    Raises `InvalidPlan`: for a cycle, a key given twice, a parameter that nothing or more than one step could fill.
    """

    _roles: tuple["Role", ...] = PrivateAttr(default=())

    def __init__(self, *ends: Chainable, steps: Iterable[Step] = ()) -> None:
        """`steps`: finished ones, beside those that are written with `>>`."""
        drafts = _with_predecessors(end for chain in ends for end in ends_of(chain))
        keys = _keys(drafts)
        super().__init__(steps=(*steps, *(_step(draft, keys) for draft in drafts)))
        graph.validate(self)
        self._roles = _roles_of(drafts)

    @property
    def roles(self) -> "tuple[Role, ...]":
        """The program's own roles among its steps; their text goes with the submission."""
        return self._roles


def ends_of(chain: Chainable) -> tuple[Draft, ...]:
    """The steps that whatever comes after the chain waits for."""
    return tuple(draft for part in _parts(chain) for draft in (part.ends if isinstance(part, Line) else (part,)))


def _starts_of(chain: Chainable) -> tuple[Draft, ...]:
    return tuple(draft for part in _parts(chain) for draft in (part.starts if isinstance(part, Line) else (part,)))


def _parts(chain: Chainable) -> Sequence[Draft | Line]:
    parts = [chain] if isinstance(chain, Draft | Line) else chain if isinstance(chain, Sequence) else [chain]
    for part in parts:
        if not isinstance(part, Draft | Line):
            raise TypeError(f"{part!r} is no step of a plan; write it as `….step(…)` or `gate(…)`.")
    return parts


def _join(before: Chainable, after: Chainable) -> Line:
    ends, starts = ends_of(before), _starts_of(after)
    for draft in starts:
        draft.wait_for(ends)
    return Line(starts=_starts_of(before), ends=ends_of(after))


def _with_predecessors(ends: Iterable[Draft]) -> list[Draft]:
    """Each step once, after those it waits for; the order follows from how the program was written."""
    ordered: list[Draft] = []
    entered: set[Draft] = set()
    for end in ends:
        if end in entered:
            continue
        entered.add(end)
        # No recursion: a line of two thousand steps is a valid plan.
        trail = [(end, iter(end.after))]
        while trail:
            draft, predecessors = trail[-1]
            before = next((one for one in predecessors if one not in entered), None)
            if before is None:
                ordered.append(draft)
                trail.pop()
            else:
                entered.add(before)
                trail.append((before, iter(before.after)))
    return ordered


def _keys(drafts: Sequence[Draft]) -> dict[Draft, str]:
    taken = {draft.key for draft in drafts if draft.key is not None}
    counted: Counter[str] = Counter()
    keys: dict[Draft, str] = {}
    for draft in drafts:
        key = draft.key
        while key is None:
            counted[draft.name] += 1
            count = counted[draft.name]
            proposed = draft.name if count == 1 else f"{draft.name}-{count}"
            key = None if proposed in taken else proposed
        keys[draft] = key
        taken.add(key)
    return keys


def _step(draft: Draft, keys: Mapping[Draft, str]) -> Step:
    arguments = {name: _encoded(value, keys, of=keys[draft]) for name, value in draft.arguments.items()}
    for parameter in draft.parameters:
        if parameter.name not in arguments and (source := _source(draft, parameter, keys)) is not None:
            arguments[parameter.name] = {RESULT_OF: keys[source]}
    fields: dict[str, Any] = {**draft.fields, "arguments": arguments}
    try:
        return Step.model_validate({**fields, "key": keys[draft], "after": tuple(keys[one] for one in draft.after)})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InvalidPlan(f"Step {keys[draft]!r}: {place}: {problem['msg']}.") from error


def _source(draft: Draft, parameter: Parameter, keys: Mapping[Draft, str]) -> Draft | None:
    """The step whose result fills a parameter that got no argument; None: its default does."""
    earlier = [one for one in _with_predecessors([draft]) if one is not draft and one not in draft.after]
    for circle in (draft.after, earlier):
        named = [one for one in circle if keys[one] == parameter.name]
        fitting = named or [one for one in circle if _gives(one, parameter.annotation)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = " or ".join(repr(keys[one]) for one in fitting)
            raise InvalidPlan(
                f"Parameter {parameter.name!r} of step {keys[draft]!r} could be the result of {names}; pass the one "
                f"you mean: `.step({parameter.name}=…)`."
            )
    if parameter.required:
        raise InvalidPlan(
            f"Parameter {parameter.name!r} of step {keys[draft]!r} has no value; pass one, or the step that gives it: "
            f"`.step({parameter.name}=…)`."
        )
    return None


def _gives(draft: Draft, annotation: object) -> bool:
    """Whether the step's result is what the parameter is annotated with; only models tell themselves apart."""
    wanted, given = _model_of(annotation), _model_of(draft.gives)
    return wanted is not None and given is not None and issubclass(given, wanted)


def _model_of(annotation: object) -> type | None:
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return _model_of(members[0]) if len(members) == 1 else None
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    return None


def _roles_of(drafts: Sequence[Draft]) -> tuple["Role", ...]:
    roles: dict[str, Role] = {}
    for role in (draft.role for draft in drafts if draft.role is not None):
        if roles.setdefault(role.name, role).blob_hash != role.blob_hash:
            raise InvalidPlan(f"Two different roles of the plan are named {role.name!r}; rename one of them.")
    return tuple(roles.values())


def _drafts_in(value: object) -> Iterator[Draft]:
    if isinstance(value, Draft | Line):
        yield from ends_of(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _drafts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _drafts_in(item)


def holds_drafts(value: object) -> bool:
    """Whether the argument stands, wholly or in part, for the result of a step."""
    return next(_drafts_in(value), None) is not None


def _encoded(value: object, keys: Mapping[Draft, str], *, of: str) -> JsonValue:
    if isinstance(value, Draft):
        return {RESULT_OF: keys[value]}
    if isinstance(value, Line):
        if len(value.ends) != 1:
            raise InvalidPlan(f"Step {of!r} is given a line with {len(value.ends)} ends; pass a list of its ends.")
        return {RESULT_OF: keys[value.ends[0]]}
    if isinstance(value, Mapping):
        if RESULT_OF in value:
            raise InvalidPlan(f"An argument of step {of!r} has the key {RESULT_OF!r}; pass the step itself instead.")
        return {str(name): _encoded(item, keys, of=of) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item, keys, of=of) for item in value]
    encoded: JsonValue = _ANYTHING.dump_python(value, mode="json")
    return encoded

"""How a program writes a plan: steps joined by `>>`, and results handed to later steps as arguments.

order = load.step(order_id=7)
verdict = triage.step("Is this refund safe?", inputs=[order])
plan = Plan(verdict >> gate("Refund?") >> pay.step(order))
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, PrivateAttr, TypeAdapter, ValidationError

from chargehand.orchestrator import plan as graph
from chargehand.orchestrator.drafts import (
    Chainable,
    Draft,
    Item,
    Line,
    Parameter,
    exits_of,
    is_race,
    with_predecessors,
)
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Step
from chargehand.orchestrator.shapes import MapShape, Shape

if TYPE_CHECKING:
    from chargehand.memory.procedural import Role

_ANYTHING: TypeAdapter[object] = TypeAdapter(object)


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
        if any(is_race(chain) for chain in ends):
            raise InvalidPlan("The plan ends in `first_of(…)`; put the step behind it that goes on with the first.")
        drafts = with_predecessors([exit_.draft for chain in ends for exit_ in exits_of(chain)], None)
        names = Names.of(drafts)
        super().__init__(steps=(*steps, *(_step(draft, names) for draft in drafts)))
        graph.validate(self)
        self._roles = _roles_of(drafts)

    @property
    def roles(self) -> "tuple[Role, ...]":
        """The program's own roles among its steps; their text goes with the submission."""
        return self._roles


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The keys of the steps that a step can name."""

    own: Mapping[Draft, str]
    """Of the plan, or of the body, that the step is in."""
    around: "Names | None" = None
    """Of what stands around that body."""

    @classmethod
    def of(cls, drafts: Sequence[Draft], around: "Names | None" = None) -> "Names":
        """Their own keys, or such as are made of their names; none of them is one of `around` unless it was given."""
        taken = {draft.key for draft in drafts if draft.key is not None}
        if around is not None:
            taken |= around.all()
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
        return cls(own=keys, around=around)

    def all(self) -> set[str]:
        """Every key that is known here."""
        return {*self.own.values(), *(self.around.all() if self.around is not None else ())}

    def key_of(self, draft: Draft) -> str:
        """The key by which the step is named here."""
        if draft in self.own:
            return self.own[draft]
        if self.around is None:
            raise InvalidPlan(f"{draft!r} is no step of this plan; put it before what takes its result.")
        key = self.around.key_of(draft)
        if key in self.own.values():
            raise InvalidPlan(f"Key {key!r} names a step of a body and one around it; give one of them another key.")
        return key


def _step(draft: Draft, names: Names) -> Step:
    key = names.own[draft]
    after = [one for one in draft.after if one in names.own]
    if draft.race is not None and draft.race != set(after):
        others = ", ".join(repr(names.key_of(one)) for one in draft.after if one not in draft.race)
        raise InvalidPlan(
            f"Step {key!r} goes on with the first of several, and also waits for {others}; put a step between."
        )
    arguments = {name: _encoded(value, names, of=draft) for name, value in draft.arguments.items()}
    for parameter in draft.parameters:
        if parameter.name not in arguments and (source := _source(draft, parameter, names)) is not None:
            arguments[parameter.name] = {RESULT_OF: names.key_of(source)}
    fields: dict[str, Any] = {
        **draft.fields,
        "key": key,
        "after": tuple(names.own[one] for one in after),
        "when": {names.own[one]: label for one, label in draft.when.items()},
        "arguments": arguments,
    }
    if draft.shape is not None:
        fields[str(draft.fields["kind"])] = _shaped(draft, draft.shape, names)
    try:
        return Step.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InvalidPlan(f"Step {key!r}: {place}: {problem['msg']}.") from error


def _shaped(draft: Draft, shape: Shape, names: Names) -> dict[str, object]:
    drafts = with_predecessors(shape.body.ends, shape.body)
    inner = Names.of(drafts, around=names)
    # The last step's result is the item's, so what nothing waits for stands before it.
    drafts.sort(key=lambda one: one in shape.body.ends)
    body = tuple(_step(one, inner) for one in drafts)
    if isinstance(shape, MapShape):
        items = _encoded(shape.items, names, of=draft)
        return {
            "items": items,
            "body": body,
            "max_parallel": shape.max_parallel,
            "tolerated_failures": shape.tolerated_failures,
        }
    until = inner.own[shape.until] if isinstance(shape.until, Draft) else shape.until
    return {"body": body, "until": until, "max_rounds": shape.max_rounds}


def _source(draft: Draft, parameter: Parameter, names: Names) -> Draft | None:
    """The step whose result fills a parameter that got no argument; None: its default does."""
    for circle in _circles(draft):
        named = [one for one in circle if names.key_of(one) == parameter.name]
        fitting = named or [one for one in circle if _gives(one, parameter.annotation)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            could_be = " or ".join(repr(names.key_of(one)) for one in fitting)
            raise InvalidPlan(
                f"Parameter {parameter.name!r} of step {names.own[draft]!r} could be the result of {could_be}; pass "
                f"the one you mean: `.step({parameter.name}=…)`."
            )
    if parameter.required:
        raise InvalidPlan(
            f"Parameter {parameter.name!r} of step {names.own[draft]!r} has no value; pass one, or the step that gives "
            f"it: `.step({parameter.name}=…)`."
        )
    return None


def _circles(draft: Draft) -> Iterator[Sequence[Draft]]:
    """The steps before it, the nearest first; behind those of its body come those before the body."""
    at: Draft | None = draft
    while at is not None:
        yield at.after
        earlier = with_predecessors([at], at.body)
        yield [one for one in earlier if one is not at and one not in at.after]
        at = at.body.owner if at.body is not None else None


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
    for role in _all_roles(drafts):
        if roles.setdefault(role.name, role).blob_hash != role.blob_hash:
            raise InvalidPlan(f"Two different roles of the plan are named {role.name!r}; rename one of them.")
    return tuple(roles.values())


def _all_roles(drafts: Sequence[Draft]) -> "Iterator[Role]":
    for draft in drafts:
        if draft.role is not None:
            yield draft.role
        if draft.shape is not None:
            yield from _all_roles(with_predecessors(draft.shape.body.ends, draft.shape.body))


def _is_its_item(item: Item, of: Draft) -> bool:
    """Whether the item is that of the innermost map around the step."""
    body = of.body
    while body is not None and body is not item.body:
        owner = body.owner
        body = owner.body if owner is not None and not isinstance(owner.shape, MapShape) else None
    return body is not None


def _encoded(value: object, names: Names, *, of: Draft) -> JsonValue:
    if isinstance(value, Draft):
        return {RESULT_OF: names.key_of(value)}
    if isinstance(value, Line):
        if len(value.ends) != 1:
            raise InvalidPlan(f"{of!r} is given a line with {len(value.ends)} ends; pass a list of its ends.")
        return {RESULT_OF: names.key_of(value.ends[0])}
    if isinstance(value, Item):
        if not _is_its_item(value, of):
            raise InvalidPlan(f"{of!r} is given the item of a map in whose body it does not stand.")
        return {ITEM: None}
    if isinstance(value, Mapping):
        for reserved, remedy in ((RESULT_OF, "pass the step itself"), (ITEM, "pass the item itself")):
            if reserved in value:
                raise InvalidPlan(f"An argument of {of!r} has the key {reserved!r}; {remedy} instead.")
        return {str(name): _encoded(item, names, of=of) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item, names, of=of) for item in value]
    encoded: JsonValue = _ANYTHING.dump_python(value, mode="json")
    return encoded

"""Steps that are being written: joined by `>>`, and standing in arguments for the results that they will have."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import Expiry, Join, Pool

if TYPE_CHECKING:
    from chargehand.memory.procedural import Role
    from chargehand.orchestrator.shapes import Shape


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
        shape: "Shape | None" = None,
    ) -> None:
        """Made by `script(…).step`, `role(…).step`, `gate`, `branch`, `map_over`, `repeat` and `merge`.

        `name`: what the key is made of. `fields`: those of the `Step`, without key, after and arguments. `gives`: the
        type of its result. `shape`: what becomes of it is more than its fields. Drafts among `arguments` stand for
        their results.
        """
        self.name, self.gives, self.role, self.shape = name, gives, role, shape
        self.parameters = tuple(parameters)
        self.fields: dict[str, object] = dict(fields)
        self.arguments: dict[str, object] = dict(arguments or {})
        self.key: str | None = None
        self.body = _written_now.get()
        """The body that it is written in; None: it is a step of the plan itself."""
        self.exits: tuple[Exit, ...] = (Exit(draft=self),)
        """What comes after it with `>>` waits for these."""
        self.race: frozenset[Draft] | None = None
        """Those of which the first lets it go on."""
        self.became: Draft | None = None
        """The branch for which it chooses."""
        # A dict keeps the order and holds each once: predecessor → the label of its way.
        self._after: dict[Draft, str | None] = {}
        self.wait_for(Exit(draft=draft) for value in self.arguments.values() for draft in drafts_in(value))
        # A branch among the inputs is itself what is shown, not where its ways end.
        shown = [part.exits if isinstance(part, Line) else (Exit(draft=part),) for part in _parts(inputs)]
        self.follow([exit_ for exits in shown for exit_ in exits], racing=is_race(inputs))

    def __repr__(self) -> str:
        """For error messages."""
        return f"<step {self.key or self.name}>"

    @property
    def after(self) -> tuple["Draft", ...]:
        """The steps it waits for, in the order they were named."""
        return tuple(self._after)

    @property
    def when(self) -> dict["Draft", str]:
        """Of branches that it waits for: the label under which this way is taken."""
        return {draft: label for draft, label in self._after.items() if label is not None}

    def wait_for(self, exits: Iterable["Exit"]) -> None:
        """Let it wait for these too."""
        for exit_ in exits:
            known = self._after.get(exit_.draft)
            if known is not None and exit_.label not in (None, known):
                raise InvalidPlan(
                    f"{self!r} stands on two ways of {exit_.draft!r}, {known!r} and {exit_.label!r}; write a step for "
                    "each way, or let it follow the branch."
                )
            self._after[exit_.draft] = exit_.label if known is None else known

    def follow(self, exits: Sequence["Exit"], *, racing: bool) -> None:
        """Let it wait for these too, or for the first of them."""
        self.wait_for(exits)
        if racing:
            self.race = frozenset(exit_.draft for exit_ in exits)
            self.fields["join"] = "any"

    def set(
        self,
        *,
        key: str | None = None,
        pool: Pool | None = None,
        title: str | None = None,
        join: Join | None = None,
        retries: int | None = None,
        deadline_seconds: float | None = None,
        expires: Expiry | None = None,
    ) -> Self:
        """Change what is given, and give the step itself: `load.step(order_id=7).set(key="order", retries=2)`."""
        self.key = key or self.key
        named = {
            "pool": pool,
            "title": title,
            "join": join,
            "retries": retries,
            "deadline_seconds": deadline_seconds,
            "expires": expires,
        }
        self.fields |= {name: value for name, value in named.items() if value is not None}
        return self

    def __rshift__(self, after: "Chainable") -> "Line":
        """This, then that."""
        return join(self, after)

    def __rrshift__(self, before: "Chainable") -> "Line":
        """That (a list), then this."""
        return join(before, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """A step that what comes next waits for, and under which label if it is a branch."""

    draft: Draft
    label: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Steps joined by `>>`: what comes before it waits at its starts, what comes after waits for its exits."""

    starts: tuple[Draft, ...]
    exits: tuple[Exit, ...]
    is_race: bool = False
    """The first of the exits lets go on what comes after."""

    @property
    def ends(self) -> tuple[Draft, ...]:
        """The last steps."""
        return tuple(exit_.draft for exit_ in self.exits)

    def __rshift__(self, after: "Chainable") -> "Line":
        """This, then that."""
        return join(self, after)

    def __rrshift__(self, before: "Chainable") -> "Line":
        """That (a list), then this."""
        return join(before, self)


Chainable = Draft | Line | Sequence[Draft | Line]


def exits_of(chain: Chainable) -> tuple[Exit, ...]:
    """What comes after the chain waits for these; a branch is left by its ways."""
    return tuple(exit_ for part in _parts(chain) for exit_ in part.exits)


def starts_of(chain: Chainable) -> tuple[Draft, ...]:
    """The steps of the chain that wait for what comes before it."""
    return tuple(draft for part in _parts(chain) for draft in (part.starts if isinstance(part, Line) else (part,)))


def is_race(chain: Chainable) -> bool:
    """Whether what comes after goes on with the first; raises `InvalidPlan` for a race beside other steps."""
    parts = _parts(chain)
    racing = [part for part in parts if isinstance(part, Line) and part.is_race]
    if racing and len(parts) > 1:
        raise InvalidPlan(
            "`first_of(…)` stands in a list with other steps, which would race too; put a step behind it, and that "
            "step into the list."
        )
    return bool(racing)


def join(before: Chainable, after: Chainable) -> Line:
    """Let the second wait for the first."""
    exits, racing = exits_of(before), is_race(before)
    for draft in starts_of(after):
        draft.follow(exits, racing=racing)
    return Line(starts=starts_of(before), exits=exits_of(after), is_race=is_race(after))


def _parts(chain: Chainable) -> Sequence[Draft | Line]:
    parts = [chain] if isinstance(chain, Draft | Line) else chain if isinstance(chain, Sequence) else [chain]
    for part in parts:
        if not isinstance(part, Draft | Line):
            raise TypeError(f"{part!r} is no step of a plan; write it as `….step(…)` or `gate(…)`.")
    return parts


# --- bodies -----------------------------------------------------------------------------------------------------------


class Body:
    """Steps that are run again and again: those that are written while its function runs."""

    def __init__(self) -> None:
        """Empty; `write_body` fills it."""
        self.within = _written_now.get()
        """The body around this one."""
        self.ends: tuple[Draft, ...] = ()
        self.owner: Draft | None = None
        """The step that runs it."""

    def around(self) -> Iterator["Body"]:
        """The bodies that it stands in, the nearest first."""
        body = self.within
        while body is not None:
            yield body
            body = body.within


_written_now: ContextVar[Body | None] = ContextVar("chargehand_body", default=None)


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """Stands, in the arguments of a map's body, for the item of the list."""

    body: Body


def write_body(write: Callable[[Body], Chainable]) -> Body:
    """The body that the function writes."""
    body = Body()
    token = _written_now.set(body)
    try:
        chain = write(body)
    finally:
        _written_now.reset(token)
    if is_race(chain):
        raise InvalidPlan("A body ends in `first_of(…)`; put the step behind it that goes on with the first.")
    body.ends = tuple(dict.fromkeys(exit_.draft for exit_ in exits_of(chain)))
    if not body.ends or not all(draft.body is body for draft in body.ends):
        raise InvalidPlan("The function of a body gives no step that it writes itself; make its steps inside of it.")
    return body


def with_predecessors(ends: Iterable[Draft], body: Body | None) -> list[Draft]:
    """Each step of the body (None: of the plan) once, after those it waits for; the order follows from the writing.

    A branch brings its ways along, whether anything waits for them or not.
    """
    ordered: list[Draft] = []
    entered: set[Draft] = set()
    todo = list(ends)
    for end in todo:
        if end in entered:
            continue
        _check_place(end, body)
        entered.add(end)
        # No recursion: a line of two thousand steps is a valid plan.
        trail = [(end, iter(end.after))]
        while trail:
            draft, predecessors = trail[-1]
            before = next((one for one in predecessors if one not in entered and _check_place(one, body)), None)
            if before is None:
                ordered.append(draft)
                todo += [exit_.draft for exit_ in draft.exits]
                trail.pop()
            else:
                entered.add(before)
                trail.append((before, iter(before.after)))
    return ordered


def _check_place(draft: Draft, body: Body | None) -> bool:
    """Whether the step is one of this body; False: of one around it. Raises `InvalidPlan` for one of another body."""
    if draft.became is not None:
        raise InvalidPlan(f"{draft!r} chooses for a branch and is no step of its own; wait for what `branch(…)` gave.")
    if draft.body is body:
        return True
    if draft.body is None or (body is not None and draft.body in body.around()):
        return False
    raise InvalidPlan(
        f"{draft!r} is written in the body of {draft.body.owner!r} and is not there outside of it; wait for "
        f"{draft.body.owner!r}, whose result it is part of."
    )


def drafts_in(value: object) -> Iterator[Draft]:
    """The steps whose results the argument stands for."""
    if isinstance(value, Draft):
        yield value
    elif isinstance(value, Line):
        yield from value.ends
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from drafts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from drafts_in(item)


def holds_drafts(value: object) -> bool:
    """Whether the argument stands, wholly or in part, for the result of a step."""
    return next(drafts_in(value), None) is not None


def is_known_later(value: object) -> bool:
    """Whether the argument is, wholly or in part, the result of a step or the item of a map."""
    if isinstance(value, Mapping):
        return any(is_known_later(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(is_known_later(item) for item in value)
    return isinstance(value, Draft | Line | Item)

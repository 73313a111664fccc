"""The shapes of a plan beside scripts and agents: a person's decision, ways, items, rounds, merges, and races."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from chargehand.orchestrator.drafts import (
    Body,
    Chainable,
    Draft,
    Exit,
    Item,
    Line,
    exits_of,
    is_known_later,
    is_race,
    starts_of,
    with_predecessors,
    write_body,
)
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import MAX_ROUNDS

if TYPE_CHECKING:
    from chargehand.memory.procedural import Role

# How a role ends that gives each label its odds.
CHOICE_OUTPUT = "submit_choice"


@dataclass(frozen=True, kw_only=True, slots=True)
class MapShape:
    """A body for each item."""

    items: object
    """A list, or the draft that gives one."""
    body: Body
    max_parallel: int | None
    tolerated_failures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatShape:
    """A body until it passes."""

    body: Body
    until: Draft | str
    """The step of the body that decides, or its key."""
    max_rounds: int


Shape = MapShape | RepeatShape


def gate(
    question: str,
    *,
    options: Sequence[str] = ("approve", "reject"),
    title: str = "",
    expires_after_seconds: float | None = None,
    then: str = "fail",
) -> Draft:
    """A step that waits for a person's answer; `reject`, `no` and `abort` fail it, any other lets the run go on.

    The person is shown what waits behind it, with the exact arguments; whatever would be given others later is put
    before a person again. When nobody has answered after `expires_after_seconds`, it fails, or `then` is taken for the
    answer. Its result is `{"choice": …, "body": …}`.
    """
    if not question.strip():
        raise InvalidPlan("A gate has no question; say what a person decides.")
    fields = {"kind": "gate", "instruction": question, "options": tuple(options), "title": title or question}
    expires = (
        {} if expires_after_seconds is None else {"expires": {"after_seconds": expires_after_seconds, "then": then}}
    )
    return Draft(name="gate", fields={**fields, **expires}, gives=dict)


def branch(
    choice: Draft,
    ways: Mapping[str, Chainable | None],
    *,
    choose: Literal["argmax", "sample"] = "argmax",
    threshold: float | None = None,
    title: str = "",
) -> Draft:
    """The run goes on in one of several ways; the steps of the others are skipped.

        branch(is_safe.step(order), {"yes": pay.step(), "no": refuse.step()}) >> report.step()
        branch(chooser.step("Is it safe?", inputs=[order]), {"yes": pay.step(), "no": None}, threshold=0.8)

    `choice`: the step that chooses. A script gives one of the labels (true and false are `yes` and `no`). A role that
    ends with `submit_choice` gives each label its odds: with `argmax` the likeliest way is taken if it is at least as
    likely as `threshold`, otherwise a larger model is asked, then a person; `sample` draws one by the odds.
    `ways`: label → the steps of that way; None goes straight on. What follows with `>>` waits for the way that is
    taken. As an argument the branch stands for its own result, `{"label": …, "chosen_by": …}`.
    """
    if choice.fields["kind"] not in ("script", "agent"):
        raise InvalidPlan(f"{choice!r} cannot choose for a branch; give a step of a script or of a role.")
    if len(ways) < 2:
        raise InvalidPlan(f"The branch of {choice!r} has {len(ways)} way(s); give at least two labels.")
    _check_labels(choice, ways)
    chooser = "script" if choice.fields["kind"] == "script" else "role"
    fields = {name: value for name, value in choice.fields.items() if name != chooser}
    settings = {"choose": choose} | ({} if threshold is None else {"threshold": threshold})
    made = Draft(
        name=choice.name,
        fields={
            **fields,
            "kind": "branch",
            "title": title or fields.get("title") or fields.get("instruction") or "",
            "branch": {"labels": tuple(ways), chooser: choice.fields[chooser], **settings},
        },
        arguments=choice.arguments,
        parameters=choice.parameters,
        gives=dict,
        role=choice.role,
    )
    made.key, made.race = choice.key, choice.race
    made.wait_for(Exit(draft=draft, label=choice.when.get(draft)) for draft in choice.after)
    choice.became = made
    exits: list[Exit] = []
    straight_on = [label for label, way in ways.items() if way is None]
    for label, way in ways.items():
        if way is None:
            # Several ways that lead straight on are one edge, which no single label describes.
            exits.append(Exit(draft=made, label=label if len(straight_on) == 1 else None))
            continue
        if is_race(way):
            raise InvalidPlan(f"Way {label!r} of {made!r} ends in `first_of(…)`; put the step behind it into the way.")
        for start in starts_of(way):
            start.wait_for([Exit(draft=made, label=label)])
        exits += exits_of(way)
    made.exits = tuple(dict.fromkeys(exits))
    return made


def _check_labels(choice: Draft, ways: Mapping[str, object]) -> None:
    """Refuse a chooser that can give what is no label."""
    if choice.role is not None and choice.role.output != CHOICE_OUTPUT:
        raise InvalidPlan(
            f"Role {choice.role.name!r} ends with {choice.role.output!r}; give one that ends with {CHOICE_OUTPUT!r}."
        )
    given = ("yes", "no") if choice.gives is bool else get_args(choice.gives) if _is_literal(choice.gives) else ()
    for label in given:
        if label not in ways:
            known = ", ".join(ways)
            raise InvalidPlan(f"{choice!r} may give {label!r}, which is no way of its branch; add it to: {known}.")


def _is_literal(annotation: object) -> bool:
    return get_origin(annotation) is Literal


def map_over(
    items: Draft | Line | Item | Sequence[object],
    write: Callable[[Item], Chainable],
    *,
    max_parallel: int | None = None,
    tolerated_failures: int = 0,
    title: str = "",
) -> Draft:
    """The same steps for each item of a list; its result is the list of theirs, in the order of the items.

        findings = scan.step()
        verdicts = map_over(findings, lambda finding: triage.step("Is it real?", finding=finding), max_parallel=8)

    `items`: a list, or the step that gives one when the run gets there. `write` is called once, with a placeholder for
    the item; the steps that it writes are the body, and the body's last step gives the item's result. At most
    `max_parallel` items are under way at once. Up to `tolerated_failures` items may fail, their result is None.
    """
    if isinstance(items, Sequence) and any(is_known_later(one) for one in items):
        raise InvalidPlan("A map is given a list of steps; write a step that gives the list, and map over that step.")
    body = write_body(lambda body: write(Item(body)))
    if len(body.ends) > 1:
        names = ", ".join(map(repr, body.ends))
        raise InvalidPlan(f"The body of a map ends in {names}; one step gives the item's result, so end in one.")
    shape = MapShape(items=items, body=body, max_parallel=max_parallel, tolerated_failures=tolerated_failures)
    return _owner("map", shape, title=title, inputs=items if isinstance(items, Draft | Line) else ())


def repeat(write: Callable[[], Chainable], *, until: str | None = None, max_rounds: int = 3, title: str = "") -> Draft:
    """The same steps again, on what the round before gave, until they pass.

        repeat(lambda: code.step("Make the tests pass") >> test.step(), max_rounds=5)

    `write` is called once; the steps that it writes are the body of a round. The round has passed when its last step
    gives true, or something whose `passed` is true; `until` is the key of another step of the body that decides. The
    first steps of a round wait for the last ones of the round before, and see what they gave. After `max_rounds`
    without success the step fails. Its result is `{"rounds": …, "passed": true, "verdict": …}`.
    """
    if not 1 <= max_rounds <= MAX_ROUNDS:
        raise InvalidPlan(f"max_rounds is {max_rounds}; give 1 to {MAX_ROUNDS}.")
    body = write_body(lambda _: write())
    if until is None and len(body.ends) > 1:
        names = ", ".join(map(repr, body.ends))
        raise InvalidPlan(f"The body of a repeat ends in {names}; say which of them decides: `until=…`.")
    shape = RepeatShape(body=body, until=until or body.ends[0], max_rounds=max_rounds)
    return _owner("repeat", shape, title=title)


def merge(changes: Chainable, *, role: "Role | str | None" = None, instruction: str = "", title: str = "") -> Draft:
    """What parallel steps made of the workspace becomes one commit, in the order in which they are given.

        merge([fix_login.step(), fix_billing.step()], role=coder) >> test.step()

    `role` resolves a conflict, as `instruction` says; without one a conflict fails the step.
    """
    exits = exits_of(changes)
    if len(exits) < 2 or is_race(changes):
        raise InvalidPlan("A merge joins the changes of steps that run side by side; give at least two of them.")
    made = Draft(
        name="merge",
        fields={
            "kind": "merge",
            "pool": "coding",
            "instruction": instruction,
            "title": title,
            "merge": {"role": role if role is None or isinstance(role, str) else role.name},
        },
        gives=dict,
        role=None if isinstance(role, str) else role,
    )
    made.wait_for(exits)
    return made


def first_of(racers: Chainable) -> Line:
    """What follows goes on with the first that succeeds; the others are cancelled.

        first_of([ask_cache.step(), ask_archive.step()]) >> answer.step()

    A script that follows finds the winner's result in `ScriptContext.inputs`, an agent in its inputs.
    """
    exits = exits_of(racers)
    if len(exits) < 2:
        raise InvalidPlan("`first_of(…)` is given fewer than two steps; a race takes at least two.")
    return Line(starts=starts_of(racers), exits=exits, is_race=True)


def _owner(name: str, shape: Shape, *, title: str, inputs: Chainable = ()) -> Draft:
    """The step that runs the body; what the body needs of the steps around it, the owner waits for."""
    gives = list if isinstance(shape, MapShape) else dict
    made = Draft(name=name, fields={"kind": name, "title": title}, gives=gives, inputs=inputs, shape=shape)
    shape.body.owner = made
    for draft in with_predecessors(shape.body.ends, shape.body):
        for outer in draft.after:
            if outer.body is not shape.body:
                if outer in draft.when:
                    raise InvalidPlan(
                        f"{draft!r} stands on a way of {outer!r}, outside of its body; put the body on the way."
                    )
                made.wait_for([Exit(draft=outer)])
    return made

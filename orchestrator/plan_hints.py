"""Hints about a plan that can run: what could be simpler, costs more than it must, or cannot mean what it says. Pure.

A hint says what is so; whether it should be is for people to decide. What only workers and roles know (which tools are
pure, what a script takes) is given; a rule that needs what is not known says nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from chargehand.memory.procedural import Role
from chargehand.orchestrator.approval import readable
from chargehand.orchestrator.celery_tasks import DEADLINE_SECONDS
from chargehand.orchestrator.offers import Offer, Offers
from chargehand.orchestrator.plan import CONTROL_KINDS, ITEM, Plan, Step, references, topological

# Two steps that are alike may be a coincidence.
ALIKE_FROM = 3
DELEGATING = frozenset({"delegate", "hand_off"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """One remark."""

    rule: str
    steps: tuple[str, ...]
    """Whom it is about; `each/do` is step `do` of the body of `each`."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known beside the plan."""

    roles: Mapping[str, Role] = field(default_factory=dict)
    offers: Offers | None = None

    def script(self, step: Step) -> Offer | None:
        """Of a script step: what its script takes, as far as it is known."""
        name = step.script if step.branch is None else step.branch.script
        return self.offers.scripts.get(name) if self.offers is not None and name is not None else None

    def tools(self, step: Step) -> dict[str, Offer] | None:
        """Of an agent step: the tools of its role; None: not all of them are known."""
        role = self.roles.get(step.role or "")
        if role is None or self.offers is None or not self.offers.tools.keys() >= set(role.tools):
            return None
        if not DELEGATING.isdisjoint(role.tools):
            # What it leads to is a colleague's to do.
            return None
        return {name: self.offers.tools[name] for name in role.tools}


def hints_of(plan: Plan, *, roles: Mapping[str, Role] | None = None, offers: Offers | None = None) -> list[Hint]:
    """All hints, in the order of the steps."""
    known = Known(roles=roles or {}, offers=offers)
    return list(_hints(Level(plan.steps), known))


def _hints(level: "Level", known: Known) -> Iterator[Hint]:
    for step in level.steps:
        for rule in ABOUT_ONE:
            yield from rule(level, known, step)
        if step.body:
            yield from _hints(Level(step.body, owner=step, around=level), known)
    for rule_of_all in ABOUT_ALL:
        yield from rule_of_all(level, known)


class Level:
    """The steps of a plan, or of a body in it, and who comes before whom."""

    def __init__(self, steps: Sequence[Step], owner: Step | None = None, around: "Level | None" = None) -> None:
        self.steps = topological(steps)
        self.owner = owner
        self.prefix: str = f"{around.prefix}{owner.key}/" if owner is not None and around is not None else ""
        self.by_key = {step.key: step for step in steps}
        # One bit a step: sets of two thousand names for two thousand steps would fill the memory.
        self._bits = {step.key: 1 << number for number, step in enumerate(steps)}
        self._before: dict[str, int] = {}
        self.next: dict[str, list[Step]] = {step.key: [] for step in steps}
        self.guards: dict[str, frozenset[tuple[str, str]]] = {}
        """By key: branches and the labels without which the step is not reached."""
        for step in self.steps:
            self._before[step.key] = 0
            for key in step.after:
                self._before[step.key] |= self._bits[key] | self._before[key]
                self.next[key].append(step)
            ways = [
                self.guards[key] | ({(key, step.when[key])} if key in step.when else frozenset()) for key in step.after
            ]
            # One that waits for the end of all runs whether they were reached or not.
            self.guards[step.key] = frozenset.intersection(*ways) if ways and step.join != "settled" else frozenset()

    def hint(self, rule: str, steps: Sequence[Step], text: str) -> Hint:
        """A hint about these steps."""
        return Hint(rule=rule, steps=tuple(f"{self.prefix}{step.key}" for step in steps), text=text)

    def exclude_each_other(self, one: str, other: str) -> bool:
        """Whether a branch takes at most one of the two."""
        labels = dict(self.guards[one])
        return any(labels.get(branch, label) != label for branch, label in self.guards[other])

    def waits_for(self, later: str, earlier: str) -> bool:
        """Whether one comes after the other, directly or through others."""
        return bool(self._before[later] & self._bits[earlier])

    def are_parallel(self, one: str, other: str) -> bool:
        """Whether neither waits for the other."""
        return not self.waits_for(one, other) and not self.waits_for(other, one)


# --- scripts and agents -----------------------------------------------------------------------------------------------


def unknown_script(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A name that no worker knows fails the step."""
    name = step.script if step.branch is None else step.branch.script
    if known.offers is not None and name is not None and name not in known.offers.scripts:
        text = f"no worker here knows script {name!r}; is its module missing in CHARGEHAND_MODULES?"
        if known.offers.broken:
            text = f"no worker here knows script {name!r}; {'; '.join(known.offers.broken)}"
        yield level.hint("unknown-script", [step], text)


def arguments_do_not_fit(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """Arguments that the script does not take, or lacks, fail the step."""
    script = known.script(step)
    if script is None:
        return
    unknown = [name for name in step.arguments if name not in script.parameters]
    missing = [name for name in script.required if name not in step.arguments]
    for problem, names in (("takes no", unknown), ("needs", missing)):
        if names:
            takes = ", ".join(script.parameters) or "nothing"
            text = f"its script {problem} {', '.join(map(repr, names))}; it takes: {takes}"
            yield level.hint("arguments-do-not-fit", [step], text)


def script_would_do(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """An agent whose one call is written down already."""
    tools = known.tools(step) if step.kind == "agent" else None
    if tools is None or len(tools) != 1:
        return
    ((name, tool),) = tools.items()
    if (
        tool.effect == "pure"
        and tool.parameters
        and set(tool.required) <= step.arguments.keys() <= set(tool.parameters)
    ):
        text = (
            f"this agent has one tool, {name!r}, which is pure, and its arguments say how to call it: unless the "
            "answer takes judgement, make it a script"
        )
        yield level.hint("script-would-do", [step], text)


def result_is_not_used(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """Work that leaves a result and nothing else, which nobody takes."""
    if not level.next[step.key] or not _leaves_only_a_result(step, known):
        return
    if level.owner is not None and level.owner.repeat is not None and level.owner.repeat.until == step.key:
        return
    after = _following(level, step)
    if any(step.key in _references(one) for one in after) or any(_may_see(one, known) for one in after):
        return
    text = "nobody takes its result: pass it on or leave the step out, unless it is there to stop the run by failing"
    yield level.hint("result-is-not-used", [step], text)


def _leaves_only_a_result(step: Step, known: Known) -> bool:
    if step.kind == "script":
        script = known.script(step)
        return script is not None and script.effect == "pure" and not script.takes_context
    tools = known.tools(step) if step.kind == "agent" else None
    return tools is not None and all(tool.effect == "pure" for tool in tools.values())


def _following(level: Level, step: Step) -> list[Step]:
    """Every step that comes after it, and the steps of their bodies."""
    direct = [one for one in level.steps if level.waits_for(one.key, step.key)]
    return [inner for one in direct for inner in _with_body(one)]


def _with_body(step: Step) -> Iterator[Step]:
    yield step
    for inner in step.body:
        yield from _with_body(inner)


def _references(step: Step) -> set[str]:
    items = [step.map.items] if step.map is not None else []
    return set(references([*step.arguments.values(), *items]))


def _may_see(step: Step, known: Known) -> bool:
    """Whether it may take results that its arguments do not name."""
    if step.kind in ("gate", "merge", "map", "repeat", "celery_task"):
        return False
    if step.kind == "agent" or (step.branch is not None and step.branch.role is not None):
        return True
    script = known.script(step)
    return script is None or script.takes_context


# --- maps, repeats, merges --------------------------------------------------------------------------------------------


def item_is_not_used(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A body that does the same for every item."""
    del known
    if step.map is not None and not any(ITEM in _references(inner) for inner in _sharing_its_item(step)):
        text = f"no step of its body takes the item, `{{{ITEM}: null}}`: each does the same"
        yield level.hint("item-is-not-used", [step], text)


def _sharing_its_item(step: Step) -> Iterator[Step]:
    """The steps for which an item is that of this map: a map in its body has items of its own."""
    for inner in step.body:
        yield inner
        if inner.map is None:
            yield from _sharing_its_item(inner)


def rounds_are_alike(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A round that sees nothing of the one before and changes no file comes to the same."""
    if step.repeat is None:
        return
    if step.repeat.max_rounds == 1:
        yield level.hint("one-round", [step], "max_rounds is 1: its body runs once and is not repeated")
    elif all(inner.kind == "script" and _leaves_only_a_result(inner, known) for inner in step.body):
        text = (
            "its body is pure scripts, which see nothing of the round before and commit nothing: every round comes to "
            "the same, unless the world changes meanwhile"
        )
        yield level.hint("rounds-are-alike", [step], text)


def no_deadline(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """Nobody sees that a task of somebody else's app was lost before its deadline."""
    del known
    if step.celery_task is not None and step.deadline_seconds is None:
        text = f"it has no deadline_seconds: should nothing come back, it is noticed after {DEADLINE_SECONDS:,.0f} s"
        yield level.hint("no-deadline", [step], text)


def merge_of_one(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A merge of nothing."""
    del known
    if step.merge is not None and len(step.after) < 2:
        count = "one step" if step.after else "no step"
        yield level.hint("merge-of-one", [step], f"it waits for {count}: there is nothing to merge")


# --- names ------------------------------------------------------------------------------------------------------------


def name_of_a_child(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A key that a step which is appended at run time may have, too: then whoever appends it fails."""
    del known
    parts = step.key.split("/")
    for count in range(1, len(parts)):
        owner = level.by_key.get("/".join(parts[:count]))
        if owner is not None and owner.kind in CONTROL_KINDS | {"agent"}:
            text = f"steps that {owner.key!r} appends are named {owner.key}/…, and one may have its key: rename it"
            yield level.hint("name-of-a-child", [step], text)


# --- joins ------------------------------------------------------------------------------------------------------------


def any_of_one_way(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """An `any` that is no race."""
    del known
    if step.join != "any":
        return
    pairs = list(combinations(step.after, 2))
    if not pairs:
        yield level.hint("any-of-one", [step], "it goes on with any of one step: `join: all` says the same")
    elif all(level.exclude_each_other(one, other) for one, other in pairs):
        text = f"{_named(step.after)} stand on different ways of a branch, which takes one: `join: all` says the same"
        yield level.hint("any-of-one-way", [step], text)
    for one, other in pairs:
        if not level.are_parallel(one, other):
            first, second = (one, other) if level.waits_for(other, one) else (other, one)
            text = f"{first!r} always ends before {second!r}, which is then cancelled: there is no race between them"
            yield level.hint("any-in-a-line", [step], text)


def changes_without_merge(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """Two that edit files side by side, and a third that starts from the files of one."""
    if step.kind in ("merge", "gate") or step.join == "any":
        return
    editing = [key for key in step.after if _edits(level.by_key[key], known)]
    merged = [set(one.after) for one in level.steps if one.merge is not None]
    side_by_side = [
        pair
        for pair in combinations(editing, 2)
        if level.are_parallel(*pair)
        and not level.exclude_each_other(*pair)
        and not any(before.issuperset(pair) for before in merged)
    ]
    if side_by_side:
        both = _named(dict.fromkeys(key for pair in side_by_side for key in pair))
        text = (
            f"{both} change files side by side, and this starts from the files of {editing[-1]!r} alone: put a merge "
            "between"
        )
        yield level.hint("changes-without-merge", [step], text)


def _edits(step: Step, known: Known) -> bool:
    tools = known.tools(step) if step.kind == "agent" and step.pool == "coding" else None
    return tools is not None and any(tool.effect != "pure" for tool in tools.values())


def asks_too_early(level: Level, known: Known, step: Step) -> Iterator[Hint]:
    """A gate that opens before what it guards has all that it is given: a person is asked a second time."""
    del known
    if step.kind != "gate":
        return
    for guarded in level.next[step.key]:
        late = [
            key
            for key in (*sorted(_references(guarded)), *readable(guarded))
            if key in level.by_key
            and level.by_key[key].kind != "gate"
            and key != step.key
            and not level.waits_for(step.key, key)
        ]
        if late and guarded.kind != "gate":
            verb = "takes" if late[0] in _references(guarded) else "may read"
            text = (
                f"{guarded.key!r} {verb} the result of {late[0]!r}, for which the gate does not wait: it is asked twice"
            )
            yield level.hint("gate-asks-too-early", [step], text)


# --- steps that are alike ---------------------------------------------------------------------------------------------


def map_would_do(level: Level, known: Known) -> Iterator[Hint]:
    """Agents that differ in one argument only."""
    del known
    taken = {key for step in level.steps for inner in _with_body(step) for key in _references(inner)}
    groups: dict[str, list[Step]] = {}
    for step in level.steps:
        if step.kind == "agent" and step.key not in taken:
            bare = step.model_copy(update={"key": "", "title": "", "arguments": dict.fromkeys(sorted(step.arguments))})
            waiting = sorted((one.key, one.when.get(step.key, "")) for one in level.next[step.key])
            groups.setdefault(f"{bare.model_dump_json()} {waiting}", []).append(step)
    for alike in groups.values():
        differing = [name for name in alike[0].arguments if len({repr(step.arguments[name]) for step in alike}) > 1]
        if len(alike) >= ALIKE_FROM and len(differing) == 1:
            text = f"{len(alike)} agents differ in argument {differing[0]!r} only: a map over a list says it once"
            yield level.hint("map-would-do", alike, text)


def _named(keys: Collection[str]) -> str:
    return ", ".join(map(repr, keys))


Rule = Callable[[Level, Known, Step], Iterator[Hint]]
ABOUT_ONE: tuple[Rule, ...] = (
    unknown_script,
    arguments_do_not_fit,
    script_would_do,
    result_is_not_used,
    item_is_not_used,
    rounds_are_alike,
    no_deadline,
    merge_of_one,
    any_of_one_way,
    changes_without_merge,
    asks_too_early,
    name_of_a_child,
)
ABOUT_ALL: tuple[Callable[[Level, Known], Iterator[Hint]], ...] = (map_would_do,)

"""Random plans of all that can be said: lines, fans, joins, gates, branches, maps, repeats, merges, tasks, planners."""

from collections.abc import Callable

from pydantic import JsonValue

from chargehand.orchestrator.plan import (
    ITEM,
    POOLS,
    RESULT_OF,
    Branch,
    CeleryTask,
    Expiry,
    Join,
    Map,
    Merge,
    Pool,
    Repeat,
    Step,
)
from simulation.choices import Choices
from simulation.work import ALWAYS, EFFECTS

TAPE = "plan"
SECONDS = (0.05, 0.5, 2.0, 6.0, 20.0)
MOST_SIDE_BY_SIDE = 24
LABELS = ("left", "right", "ahead")
MOST_ITEMS = 5
# How often a script fails before it works.
FAILS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3)
# Bodies stand in bodies, but not deeper: each more multiplies the steps.
MOST_DEPTH = 2


class Planner:
    """Draws one plan, stage by stage."""

    def __init__(self, choices: Choices, *, name: str, most: int, agents: bool, replans: bool) -> None:
        """Steps are called `name`1, `name`2, …"""
        self._choices = choices
        self._name = name
        self._most = most
        self._agents = agents
        self._replans = replans
        self._steps: list[Step] = []

    def draw(self) -> list[Step]:
        """At least one step, and about as many as there may be."""
        count = 1 + self._choices.number(TAPE, self._most)
        stages: tuple[Callable[[], None], ...] = (
            self._single, self._single, self._single, self._side_by_side, self._anywhere,
            self._way, self._each, self._rounds, self._merged, self._race,
        )  # fmt: skip
        if self._choices.happens(TAPE, 0.12):
            self._many(8 + self._choices.number(TAPE, MOST_SIDE_BY_SIDE))
        while len(self._steps) < count:
            self._choices.one_of(TAPE, stages)()
        return self._steps

    # --- stages

    def _single(self) -> None:
        """One more link of the line."""
        self._add(self._last())

    def _side_by_side(self) -> None:
        """Some lines, and a join of them."""
        start, tails = self._last(), []
        for _ in range(2 + self._choices.number(TAPE, 3)):
            tail = self._add(start)
            if self._choices.happens(TAPE, 0.4):
                tail = self._add((tail,))
            tails.append(tail)
        self._add(tuple(tails))

    def _anywhere(self) -> None:
        """After any of the newest steps, or after none."""
        near = [step.key for step in self._steps[-6:]]
        picked = [key for key in near if self._choices.happens(TAPE, 0.3)]
        self._add(tuple(picked[:3]))

    def _many(self, width: int) -> None:
        """More scripts than a small pool has places, and a join of all; some of them begin a line."""
        pool = self._pool()
        tails = []
        for number in range(1, width + 1):
            key = self._key(number)
            self._steps.append(Step(key=key, kind="script", script="pure", pool=pool, arguments={"seconds": 0.05}))
            tails.append(key)
        if tails and self._choices.happens(TAPE, 0.5):
            tails[-1] = self._add((tails[-1],), join="all")
        self._add(tuple(tails), join="all")

    def _way(self) -> None:
        """A branch, its ways, and a join of those that are taken."""
        start, key = self._last(), self._key(len(self._steps) + 1)
        labels = LABELS[: 2 + self._choices.number(TAPE, 2)]
        self._steps.append(self._branch(key, labels, after=start))
        tails = []
        for label in labels:
            tail = self._add((key,), when={key: label})
            if self._choices.happens(TAPE, 0.3):
                tail = self._add((tail,))
            tails.append(tail)
        self._add(tuple(tails), join="any" if self._choices.happens(TAPE, 0.3) else "all")

    def _each(self) -> None:
        """A map over a list that is written in the plan, or that a step gives."""
        after = self._last()
        key = self._key(len(self._steps) + 1)
        items = self._items()
        source: JsonValue = items
        if self._choices.happens(TAPE, 0.5):
            arguments: dict[str, JsonValue] = {"items": items, "seconds": 0.5}
            self._steps.append(
                Step(key=key, kind="script", script="list", pool=self._pool(), after=after, arguments=arguments)
            )
            source, after, key = {RESULT_OF: key}, (key,), self._key(len(self._steps) + 1)
        self._steps.append(self._map(key, source, after=after, depth=0))

    def _rounds(self) -> None:
        """A body that is done again until its check passes."""
        after = self._last()
        self._steps.append(self._repeat(self._key(len(self._steps) + 1), after=after, depth=0))

    def _merged(self) -> None:
        """Steps side by side, and a merge of what they made."""
        start = self._last()
        tails = tuple(self._add(start) for _ in range(2 + self._choices.number(TAPE, 2)))
        conflicts: list[JsonValue] = ["a.py"] if self._choices.happens(TAPE, 0.4) else []
        merge = Merge(role="agent" if self._choices.happens(TAPE, 0.6) else None)
        key = self._key(len(self._steps) + 1)
        self._steps.append(
            Step(key=key, kind="merge", merge=merge, pool="coding", after=tails, arguments={"conflicts": conflicts})
        )

    def _race(self) -> None:
        """Several who try the same; the first one is enough."""
        start, tails = self._last(), []
        for _ in range(2 + self._choices.number(TAPE, 2)):
            tail = self._add(start)
            if self._choices.happens(TAPE, 0.4):
                tail = self._add((tail,))
            tails.append(tail)
        if self._choices.happens(TAPE, 0.3):
            # The children of who goes on with the first are not kept waiting for the others.
            key, after = self._key(len(self._steps) + 1), tuple(tails)
            joins = (
                lambda: self._branch(key, LABELS[:2], after=after),
                lambda: self._map(key, self._items(), after=after, depth=0),
                lambda: self._repeat(key, after=after, depth=0),
            )
            self._steps.append(self._choices.one_of(TAPE, joins)().model_copy(update={"join": "any"}))
        else:
            self._add(tuple(tails), join="any")

    # --- steps with children

    def _branch(self, key: str, labels: tuple[str, ...], *, after: tuple[str, ...]) -> Step:
        if not self._agents or self._choices.happens(TAPE, 0.4):
            # Now and then it says what no way is called.
            way = self._choices.one_of(TAPE, (*labels, *labels, *labels, "nowhere"))
            branch = Branch(labels=labels, script="choose")
            return Step(key=key, kind="branch", branch=branch, pool=self._pool(), after=after, arguments={"way": way})
        odds: dict[str, JsonValue] = {
            # Unsure, so that the larger one is asked, and then perhaps a person.
            tier: {label: 1.0 + self._choices.number(TAPE, 9) for label in labels}
            for tier in ("small", "large")
        }
        if self._choices.happens(TAPE, 0.2):
            odds["small"] = "cannot say"
        branch = Branch(
            labels=labels,
            role="chooser",
            choose="sample" if self._choices.happens(TAPE, 0.3) else "argmax",
            threshold=self._choices.one_of(TAPE, (0.4, 0.6, 0.8)),
        )
        return Step(key=key, kind="branch", branch=branch, pool=self._pool(), after=after, arguments={"odds": odds})

    def _map(self, key: str, items: JsonValue, *, after: tuple[str, ...], depth: int) -> Step:
        mapping = Map(
            items=items,
            body=self._body(depth, last=None),
            max_parallel=self._choices.one_of(TAPE, (None, None, 1, 2)),
            tolerated_failures=self._choices.number(TAPE, 3),
        )
        return Step(key=key, kind="map", map=mapping, pool=self._pool(), after=after)

    def _repeat(self, key: str, *, after: tuple[str, ...], depth: int) -> Step:
        check = Step(
            key="check",
            kind="script",
            script="check",
            pool=self._pool(),
            arguments={"passes_in": 1 + self._choices.number(TAPE, 4), "seconds": 0.5},
        )
        repeat = Repeat(body=self._body(depth, last=check), until="check", max_rounds=1 + self._choices.number(TAPE, 3))
        return Step(key=key, kind="repeat", repeat=repeat, pool=self._pool(), after=after)

    def _items(self) -> list[JsonValue]:
        # Some take longer than those after them, and some fail.
        return [
            {
                "n": number,
                "seconds": self._choices.one_of(TAPE, (0.05, 0.5, 3.0, 8.0)),
                "fails": ALWAYS if self._choices.happens(TAPE, 0.15) else 0,
            }
            for number in range(self._choices.number(TAPE, MOST_ITEMS + 1))
        ]

    def _body(self, depth: int, *, last: Step | None) -> tuple[Step, ...]:
        """Templates in a line, or two side by side and what joins them; in a map the last one takes the item."""
        body: list[Step] = []
        is_wide = self._choices.happens(TAPE, 0.35)
        for number in range(1 + self._choices.number(TAPE, 2) + is_wide):
            after = () if not body or is_wide else (body[-1].key,)
            body.append(self._template(f"s{number + 1}", after, depth))
        after = tuple(step.key for step in body) if is_wide else (body[-1].key,)
        if last is not None:
            return (*body, last.model_copy(update={"after": after}))
        final = Step(
            key="last",
            kind="script",
            script=self._choices.one_of(TAPE, EFFECTS),
            pool=self._pool(),
            after=after,
            arguments={"item": {ITEM: None}},
        )
        return (*body, final) if self._choices.happens(TAPE, 0.6) else (final.model_copy(update={"after": ()}),)

    def _template(self, key: str, after: tuple[str, ...], depth: int) -> Step:
        if depth + 1 < MOST_DEPTH and self._choices.happens(TAPE, 0.2):
            if self._choices.happens(TAPE, 0.5):
                return self._map(key, self._items()[:2], after=after, depth=depth + 1)
            return self._repeat(key, after=after, depth=depth + 1)
        if self._choices.happens(TAPE, 0.06):
            return self._gate(key, after, "all")
        if self._choices.happens(TAPE, 0.1):
            # Whatever it chooses, the body goes on.
            return self._branch(key, LABELS[:2], after=after)
        if self._choices.happens(TAPE, 0.08):
            return self._task(key, after, "all")
        if self._agents and self._choices.happens(TAPE, 0.25):
            return self._agent(key, after, "all", may_patch=False)
        return self._script(key, after, "all")

    # --- steps

    def _add(self, after: tuple[str, ...], *, when: dict[str, str] | None = None, join: Join | None = None) -> str:
        key = self._key(len(self._steps) + 1)
        kinds = (self._script, self._script, self._agent if self._agents else self._script, self._gate)
        make = self._choices.one_of(TAPE, kinds) if not self._choices.happens(TAPE, 0.3) else self._script
        make = self._task if self._choices.happens(TAPE, 0.1) else make
        joins: tuple[Join, ...] = ("all", "all", "all", "settled", "any")
        if join is None:
            join = self._choices.one_of(TAPE, joins) if after and not when else "all"
        step = make(key, after, join)
        self._steps.append(step.model_copy(update={"when": when}) if when else step)
        return key

    def _script(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        script = self._choices.one_of(TAPE, (EFFECTS[0], *EFFECTS))
        seconds = self._choices.one_of(TAPE, SECONDS)
        fails = self._choices.one_of(TAPE, (*FAILS, ALWAYS) if self._replans else FAILS)
        return Step(
            key=key,
            kind="script",
            script=script,
            pool=self._pool(),
            after=after,
            join=join,
            # To try again what cannot be taken back is nobody's plan.
            retries=0 if script == "effectful" else 2,
            deadline_seconds=self._deadline(),
            arguments={"seconds": seconds, "fails": 0 if script == "effectful" else fails},
        )

    def _agent(self, key: str, after: tuple[str, ...], join: Join, *, may_patch: bool = True) -> Step:
        arguments: dict[str, JsonValue] = {"turns": self._turns()}
        if self._choices.happens(TAPE, 0.35):
            # What it tells the colleague that it asks, who may ask another.
            colleague: dict[str, JsonValue] = {"turns": self._turns(), "colleague": {"turns": self._turns()}}
            arguments = {"turns": [*self._turns(), [self._choices.one_of(TAPE, ("delegate", "hand_off"))]],
                         "colleague": colleague}  # fmt: skip
        if self._replans and self._choices.happens(TAPE, 0.12):
            arguments["turns"] = [*self._turns(), ["request_replan"], *self._turns()]
        if may_patch and self._choices.happens(TAPE, 0.25):
            arguments["patch"] = self._patch(key)
        elif may_patch and self._steps and self._choices.happens(TAPE, 0.08):
            arguments["back_to"] = self._choices.one_of(TAPE, self._steps[-4:]).key
        return Step(
            key=key,
            kind="agent",
            role="agent",
            pool=self._pool(),
            after=after,
            join=join,
            max_turns=self._choices.one_of(TAPE, (None, None, None, None, 1, 2)),
            deadline_seconds=self._deadline(),
            arguments=arguments,
        )

    def _turns(self) -> list[JsonValue]:
        tools = ("look", "look", "put", "put", "send", "send", "delegate")
        return [
            [self._choices.one_of(TAPE, tools) for _ in range(1 + self._choices.number(TAPE, 2))]
            for _ in range(self._choices.number(TAPE, 4))
        ]

    def _gate(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        # Now and then nobody answers in time.
        then = self._choices.one_of(TAPE, (None, None, None, "fail", "approve"))
        return Step(
            key=key,
            kind="gate",
            after=after,
            join=join,
            instruction="Go on?",
            deadline_seconds=self._deadline(),
            expires=None if then is None else Expiry(after_seconds=12.0, then=then),
        )

    def _task(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        """Somebody else's work: some of it may be sent again, and some of it takes longer than anybody waits."""
        resend = self._choices.one_of(TAPE, (None, None, 4.0))
        task = CeleryTask(
            task="theirs",
            queue="theirs",
            effect="effectful" if resend is None else "idempotent",
            resend_seconds=resend,
            when_lost=self._choices.one_of(TAPE, ("ask", "fail")),
        )
        seconds = self._choices.one_of(TAPE, (0.05, 1.0, 4.0, 30.0))
        return Step(
            key=key,
            kind="celery_task",
            celery_task=task,
            after=after,
            join=join,
            deadline_seconds=self._choices.one_of(TAPE, (8.0, 20.0, 60.0)),
            arguments={"seconds": seconds, "fails": self._choices.one_of(TAPE, (0, 0, 0, 1))},
        )

    def _patch(self, key: str) -> JsonValue:
        """How an agent grows the plan; dropping what others wait for, or what has started, then fails the run."""
        added = [
            Step(
                key=f"{key}.{number}",
                kind="script",
                script="pure",
                pool=self._pool(),
                after=(key,) if number == 1 else (f"{key}.{number - 1}",),
                arguments={"seconds": 0.5},
            ).model_dump(mode="json")
            for number in range(1, 2 + self._choices.number(TAPE, 3))
        ]
        later = len(self._steps) + 2 + self._choices.number(TAPE, 3)
        dropped: list[JsonValue] = [self._key(later)] if self._choices.happens(TAPE, 0.2) else []
        return {"add": [*added], "drop": dropped}

    # --- their parts

    def _key(self, number: int) -> str:
        return f"{self._name}{number}"

    def _last(self) -> tuple[str, ...]:
        return (self._steps[-1].key,) if self._steps else ()

    def _pool(self) -> Pool:
        return self._choices.one_of(TAPE, POOLS)  # type: ignore[arg-type]

    def _deadline(self) -> float | None:
        return self._choices.one_of(TAPE, (30.0, 90.0)) if self._choices.happens(TAPE, 0.06) else None


def random_plan(
    choices: Choices, *, name: str, most: int, poison: bool, agents: bool, replans: bool = False
) -> list[Step]:
    """About so many steps, not counting what planners add; one of them may take down every worker that runs it."""
    steps = Planner(choices, name=name, most=most, agents=agents, replans=replans).draw()
    plain = [place for place, step in enumerate(steps) if step.kind in {"script", "agent", "gate"}]
    if poison and plain:
        victim = plain[choices.number(TAPE, len(plain))]
        arguments: dict[str, JsonValue] = {"seconds": 0.2, "poison": True}
        changes = {
            "kind": "script",
            "script": "pure",
            "role": None,
            "max_turns": None,
            "arguments": arguments,
            "expires": None,
        }
        steps[victim] = steps[victim].model_copy(update=changes)
    return steps

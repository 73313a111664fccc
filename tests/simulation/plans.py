"""Random plans of what simulated steps can do: lines, fans, joins, gates, planners, poison."""

from collections.abc import Callable

from pydantic import JsonValue

from chargehand.orchestrator.plan import POOLS, Join, Pool, Step
from simulation.choices import Choices
from simulation.work import EFFECTS

TAPE = "plan"
SECONDS = (0.05, 0.5, 2.0, 6.0, 20.0)
MOST_SIDE_BY_SIDE = 24


class Planner:
    """Draws one plan, stage by stage."""

    def __init__(self, choices: Choices, *, name: str, most: int, agents: bool) -> None:
        """Steps are called `name`1, `name`2, …"""
        self._choices = choices
        self._name = name
        self._most = most
        self._agents = agents
        self._steps: list[Step] = []

    def draw(self) -> list[Step]:
        """At least one step, and about as many as there may be."""
        count = 1 + self._choices.number(TAPE, self._most)
        stages: tuple[Callable[[], None], ...] = (self._single, self._single, self._side_by_side, self._anywhere)
        if self._choices.happens(TAPE, 0.12):
            self._many(self._choices.number(TAPE, MOST_SIDE_BY_SIDE))
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
        """More scripts than a small pool has places, and a join of all."""
        pool = self._pool()
        keys = [self._key(number) for number in range(1, width + 1)]
        for key in keys:
            self._steps.append(Step(key=key, kind="script", script="pure", pool=pool, arguments={"seconds": 0.05}))
        self._add(tuple(keys))

    # --- steps

    def _add(self, after: tuple[str, ...]) -> str:
        key = self._key(len(self._steps) + 1)
        kinds = (self._script, self._script, self._agent if self._agents else self._script, self._gate)
        make = self._choices.one_of(TAPE, kinds) if not self._choices.happens(TAPE, 0.3) else self._script
        joins: tuple[Join, ...] = ("all", "all", "all", "settled", "any")
        join = self._choices.one_of(TAPE, joins) if after else "all"
        self._steps.append(make(key, after, join))
        return key

    def _script(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        script = self._choices.one_of(TAPE, (EFFECTS[0], *EFFECTS))
        seconds = self._choices.one_of(TAPE, SECONDS)
        fails = self._choices.one_of(TAPE, (0, 0, 0, 0, 0, 0, 1, 1, 2, 3))
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

    def _agent(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        turns: list[JsonValue] = [
            [self._choices.one_of(TAPE, ("look", "put", "send")) for _ in range(1 + self._choices.number(TAPE, 2))]
            for _ in range(self._choices.number(TAPE, 4))
        ]
        arguments: dict[str, JsonValue] = {"turns": turns}
        if self._choices.happens(TAPE, 0.25):
            arguments["patch"] = self._patch(key)
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

    def _gate(self, key: str, after: tuple[str, ...], join: Join) -> Step:
        return Step(key=key, kind="gate", after=after, join=join, instruction="Go on?")

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


def random_plan(choices: Choices, *, name: str, most: int, poison: bool, agents: bool) -> list[Step]:
    """About so many steps, not counting what planners add; one of them may take down every worker that runs it."""
    steps = Planner(choices, name=name, most=most, agents=agents).draw()
    if poison:
        victim = choices.number(TAPE, len(steps))
        arguments: dict[str, JsonValue] = {"seconds": 0.2, "poison": True}
        changes = {"kind": "script", "script": "pure", "role": None, "max_turns": None, "arguments": arguments}
        steps[victim] = steps[victim].model_copy(update=changes)
    return steps

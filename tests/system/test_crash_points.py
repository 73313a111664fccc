"""A process dies, or loses a reply, next to each commit there is: the run ends as if nothing had happened.

By default each commit is struck at one moment of three, chosen by `CHAOS_SEED`; `CHAOS_POINTS=all`, as `make chaos`
sets it, strikes all.
"""

import os
import random
from dataclasses import dataclass, replace

import pytest
from chaos.checker import objections
from chaos.errands import RUNNER
from chaos.evidence import Strike
from chaos.machine import Fleet, Machine, until
from chaos.plans import counted
from chaos.points import MOMENTS, PLACES, POINTS, TRAP_VARIABLE, Point, Trap

from chargehand.orchestrator.plan import Plan, Step

pytestmark = [pytest.mark.system, pytest.mark.long]

WAIT_SECONDS = 90.0
# Scripts are packed when more than four times as many are ready as there are places: eight, and those of processes that
# were killed in the last seconds and count as alive.
FAN_OUT = 140


def chosen() -> list[Point]:
    """All points, or one moment for each commit."""
    if os.environ.get("CHAOS_POINTS") == "all":
        return list(POINTS)
    chance = random.Random(os.environ.get("CHAOS_SEED", "1"))
    return [Point(place, chance.choice(MOMENTS)) for place in PLACES]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrappedFleet(Fleet):
    """A fleet whose supervisors and workers have the points in them."""

    def specs(self, settings, endpoints, **rest):
        folder = {TRAP_VARIABLE: str(settings.home / "trap")}
        return tuple(
            replace(
                spec,
                argv=(spec.argv[0], "-m", "chaos.points", *spec.argv[2:]),
                environment={**spec.environment, **folder},
            )
            if spec.argv[1:3] == ("-m", "celery")
            else spec
            for spec in Fleet.specs(self, settings, endpoints, **rest)
        )


@pytest.fixture(scope="module")
def fleet():
    return TrappedFleet(pools=("audit",), twins=("supervisor", "audit"), threads={"audit": 2}, call_seconds=0.02)


@pytest.fixture
def trap(laptop: Machine):
    """The trap of a laptop that is whole."""
    until(laptop.is_whole, WAIT_SECONDS, "everything is up")
    trap = Trap(laptop.settings.home / "trap")
    yield trap
    trap.disarm()


def errand(key: str, *after: str, max_turns: int | None = None) -> Step:
    """An agent that posts a letter."""
    arguments = {"errands": ["post"], "seconds": 0.02}
    return Step(
        key=key, kind="agent", role="runner", pool="audit", after=after, arguments=arguments, max_turns=max_turns
    )


def small_plan(point: Point) -> Plan:
    """A line, a fan-in and an agent.

    And an agent that has to ask a person where the answer is what is struck; a wide fan-out where a pack is.
    """
    if "pack" in point.place:
        wide = [counted(f"wide{number}") for number in range(FAN_OUT)]
        return Plan.of([*wide, counted("join", *(step.key for step in wide))])
    asks = [errand("ask", "start", max_turns=1)] if point.place == "signal" else []
    return Plan.of(
        [
            counted("start"),
            counted("line", "start"),
            counted("longer_line", "line"),
            counted("beside", "start"),
            counted("join", "longer_line", "beside"),
            errand("post", "join"),
            *asks,
        ]
    )


@pytest.mark.parametrize("point", chosen(), ids=str)
def test_a_run_ends_well_whatever_happens_next_to_its_commits(laptop: Machine, trap: Trap, point: Point) -> None:
    trap.arm(point)
    plan = small_plan(point)
    run = laptop.client.submit(str(point), plan=plan, roles=[RUNNER])
    if point.place == "signal":
        until(lambda: laptop.client.escalations(run.run_id), WAIT_SECONDS, "a person is asked")
        assert laptop.client.answer(laptop.client.escalations(run.run_id)[0], "skip")
    laptop.wait(run, WAIT_SECONDS)
    sprung = trap.sprung()
    assert sprung is not None, f"nobody passed {point}"
    killed = None if point.moment == "reply lost" else sprung.pid
    strike = Strike(what=str(point), at=sprung.at, until=sprung.at, pid=killed)
    assert objections(run, plan, laptop.ledger, strikes=[strike]) == []

"""A process dies, or loses a reply, next to each commit there is: the run ends as if nothing had happened.

By default each commit is struck at one moment of three, chosen by `CHAOS_SEED`; `CHAOS_POINTS=all`, as `make chaos`
sets it, strikes all.
"""

import os
import random
from collections.abc import Sequence

import pytest
from chaos.checker import objections
from chaos.errands import RUNNER
from chaos.evidence import Strike
from chaos.machine import Machine, until
from chaos.plans import counted, delivered
from chaos.points import MOMENTS, PLACES, POINTS, TASK_PLACES, TASK_POINTS, Point, Trap
from chaos.trapped import TrappedFleet

from chargehand.orchestrator.facts import StepFinished, TaskReturned
from chargehand.orchestrator.plan import Plan, Step

pytestmark = [pytest.mark.system, pytest.mark.long]

WAIT_SECONDS = 90.0
# Scripts are packed when more than four times as many are ready as there are places: eight, and those of processes that
# were killed in the last seconds and count as alive.
FAN_OUT = 140


def chosen(places: Sequence[str], points: Sequence[Point]) -> list[Point]:
    """All points, or one moment for each commit."""
    if os.environ.get("CHAOS_POINTS") == "all":
        return list(points)
    chance = random.Random(os.environ.get("CHAOS_SEED", "1"))
    return [Point(place, chance.choice(MOMENTS)) for place in places]


@pytest.fixture(scope="module")
def fleet():
    return TrappedFleet(
        pools=("audit",), twins=("supervisor", "audit"), threads={"audit": 2}, call_seconds=0.02, theirs=True
    )


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


@pytest.mark.parametrize("point", chosen(PLACES, POINTS), ids=str)
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


@pytest.mark.parametrize("point", chosen(TASK_PLACES, TASK_POINTS), ids=str)
def test_a_task_of_the_users_own_app_keeps_its_key_and_its_answer_is_taken_once(
    laptop: Machine, trap: Trap, point: Point
) -> None:
    trap.arm(point)
    plan = Plan.of([counted("before"), delivered("task", "before"), counted("after", "task")])
    run = laptop.client.submit(str(point), plan=plan)
    laptop.wait(run, WAIT_SECONDS)
    sprung = trap.sprung()
    assert sprung is not None, f"nobody passed {point}"
    killed = None if point.moment == "reply lost" else sprung.pid
    strike = Strike(what=str(point), at=sprung.at, until=sprung.at, pid=killed)
    assert objections(run, plan, laptop.ledger, strikes=[strike]) == []
    # The key is the step's, however often it was sent, and what it gave is what the first answer said.
    key = str(next(step.step_id for step in run.steps() if step.key == "task"))
    assert {effect.key for effect in laptop.ledger.effects(run.run_id) if effect.step == "task"} == {key}
    events = list(run.events(follow=False))
    assert [event.fact.outcome for event in events if isinstance(event.fact, TaskReturned)] == ["succeeded"]
    assert key in [event.fact.result for event in events if isinstance(event.fact, StepFinished)]

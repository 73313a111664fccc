"""What a system test reads of a run: the facts of a step's stream with their times, and who held the step."""

from typing import Any, TypeVar

from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import ModelRequested, StepClaimed
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.views import Event

F = TypeVar("F")


def events_of(run: RunHandle, key: str, *kinds: type[Any]) -> list[Event]:
    """Events of a step in the order of its stream: of all kinds, or of these."""
    step = next(step.step_id for step in run.steps() if step.key == key)
    events = [event for event in run.events(follow=False) if event.step_id == step]
    return [
        event for event in sorted(events, key=lambda event: event.seq) if not kinds or isinstance(event.fact, kinds)
    ]


def facts_of(run: RunHandle, key: str, kind: type[F]) -> list[F]:
    """Facts of one kind of a step, in order."""
    return [event.fact for event in events_of(run, key, kind)]  # type: ignore[misc]


def holders_of(run: RunHandle, key: str) -> list[str]:
    """Who has claimed the step, in order."""
    return [fact.holder for fact in facts_of(run, key, StepClaimed)]


def turns_of(run: RunHandle, key: str) -> list[int]:
    """Numbers of the turns for which a model was asked, in order."""
    return [fact.turn for fact in facts_of(run, key, ModelRequested)]


def errands(key: str, *after: str, errands: list[str], seconds: float, max_turns: int | None = None) -> Step:
    """An agent that runs one errand a turn (`post` or `pay`), each of `seconds`; submit it with `roles=[RUNNER]`."""
    arguments = {"errands": errands, "seconds": seconds}
    return Step(
        key=key, kind="agent", role="runner", pool="audit", after=after, arguments=arguments, max_turns=max_turns
    )

"""How the work of one message ended, for whoever shows messages: noted where facts are committed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from chargehand.orchestrator.facts import StepFact, StepFinished, StepReleased, StepWaiting


@dataclass(kw_only=True, slots=True)
class Ending:
    """What was noted last."""

    how: str = "nothing_to_do"


_ending: ContextVar[Ending | None] = ContextVar("ending", default=None)


@contextmanager
def noting_how_it_ends() -> Iterator[Ending]:
    """Note how the steps that are worked on in this block end."""
    ending, around = Ending(), _ending.get()
    token = _ending.set(ending)
    try:
        yield ending
    finally:
        _ending.reset(token)
        if around is not None:
            around.how = ending.how


def note_claim() -> None:
    """A worker has taken the step: until it commits something, it was cut off."""
    ending = _ending.get()
    if ending is not None:
        ending.how = "cut_off"


def note(facts: Sequence[StepFact]) -> None:
    """Look at what was just committed."""
    ending = _ending.get()
    if ending is None or not facts:
        return
    match facts[-1]:
        case StepWaiting():
            ending.how = "waiting"
        case StepReleased():
            ending.how = "handed_back"
        case StepFinished(outcome="succeeded"):
            ending.how = "step_succeeded"
        case StepFinished():
            ending.how = "step_failed"
        case _:
            # Cut off in the middle of the work: whoever takes it up goes on here.
            ending.how = "cut_off"

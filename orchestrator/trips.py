"""What the detectors find, at which repetition, and the row that a person is shown; pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from chargehand.orchestrator.observed import Observed

# Calls of one turn were made before any of their answers was seen; less than this many turns show nothing.
LEAST_TURNS = 3
# So far back are variations of a call looked for.
LOOK_BACK = 30
# Tries more for each object of a list, if they are told apart by their numbers, or each try is taken back before the
# next: every one is a matter of its own.
IN_A_SERIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """At which repetition a rule trips; `benchmarks/breaker.py` shows what they find and what they mistake."""

    same_error: int = 3
    """The third same answer to the same question is no accident; the second may be a retry after a hint."""
    patience: int = 1
    """More, for each: an error that asks to come again, something else tried in between, a failure that the tool
    itself calls a success."""
    near_identical: int = 5
    """Variations of a word are a fair search, and a poll may hear the same a few times."""
    looked_up: int = 4
    """Word for word the same search, which found the same."""
    beyond_the_end: int = 6
    """Empty answers while a number counts on: pages behind the last one, or objects that happen to have nothing."""
    rounds: int = 2
    """Of calls in a ring, each with the answer it had before."""
    hand_off_rounds: int = 2
    no_change: int = 6
    """Calls in a row that brought nothing the step had not seen."""
    same_end: int = 5
    """Different calls in a row that came to the same end."""
    unmoved: int = 5
    """The same look at things, whatever was done in between."""
    swings: int = 4
    """Looks at things that were each seen before, with deeds in between."""


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trip:
    """A loop that was found; a person decides how it goes on."""

    rule: str
    """`same_error`, `alternation`, `near_identical`, `no_change` or `ping_pong`; `above_plan` is of `spending`."""
    detail: str
    """One sentence for the person."""
    evidence: tuple[str, ...]
    """`step:seq` of the rows that show it."""


def count_turns(calls: Iterable[Observed]) -> int:
    """In how many turns of their steps calls were made."""
    return len(
        {(call.step, "seq", call.seq) if call.turn is None else (call.step, "turn", call.turn) for call in calls}
    )


def tripped(rule: str, detail: str, calls: Iterable[Observed]) -> Trip:
    """The trip of a rule, with its evidence in order."""
    places = sorted({(call.step, call.seq, call.place) for call in calls})
    return Trip(rule=rule, detail=detail, evidence=tuple(place for _, _, place in places))

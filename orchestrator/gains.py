"""What each call of a step brought it: nothing new, a try, a deed, or something that it had not seen; pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from chargehand.orchestrator.likeness import NAME
from chargehand.orchestrator.observed import Observed

# An answer this long, word for word the same to different questions, is how things stand; a shorter one acknowledges,
# or says the same of objects that are alike.
STATE_CHARACTERS = 80
# Two spans of time are a pair; with three it shows whether they grow.
LEAST_SERIES = 3

# What a call brought its step: nothing it had not seen; a new try that came to what was known; a deed; something new.
NOTHING, TRIED, DID, FOUND = range(4)


class Entry(NamedTuple):
    """A call in the history of its step, and what it brought."""

    call: Observed
    gave: str
    """Its result, in words that are the same as those before to the same question, if only names in it are new."""
    brought: int
    waited: float
    """How long time was let pass before it, in the unit of the call that waited; 0: not at all."""


def history(own: Sequence[Observed]) -> list[Entry]:
    """The step's calls and what each brought; mere waits are left out, unless nothing else is done."""
    if own[-1].is_wait:
        start = next((index for index in range(len(own), 0, -1) if not own[index - 1].is_wait), 0)
        return [Entry(call, call.gave, NOTHING, waited=0) for call in own[start:]]
    answers = _answers(own)
    entries: list[Entry] = []
    gave: set[str] = set()
    commits: set[str | None] = {None}
    both: dict[tuple[str, str], tuple[float, ...]] = {}
    waited = 0.0
    for index, call in enumerate(own):
        if call.is_wait:
            waited += call.waits_for
            continue
        answer = answers.get(index) or call.gave
        pair, commit = (call.asked, answer), call.fact.commit
        if pair in both:
            brought = FOUND if falls((both[pair], call.figures)) else NOTHING
        elif commit not in commits:
            # An edit that shows what it did is a deed all the same: whether it helped, a test must tell.
            brought = DID
        elif answer not in gave:
            brought = DID if call.tone == "success" else FOUND
        elif call.tone == "success":
            brought = DID if commit is None else TRIED
        else:
            brought = NOTHING if not call.failed and len(answer) >= STATE_CHARACTERS else TRIED
        entries.append(Entry(call, answer, brought, waited))
        gave.add(answer)
        commits.add(commit)
        both[pair] = call.figures
        waited = 0
    return entries


def _answers(own: Sequence[Observed]) -> dict[int, str]:
    """By the place of a call, an answer that says what one before it to the same question said, but for names.

    A name that no later call asks for is of the answer alone; one that is asked for later is what was sought. Spans of
    time that only grow or only shrink are of the work.
    """
    if len({call.asked for call in own}) == len(own):
        return {}
    askers: dict[str, list[int]] = {}
    for index, call in enumerate(own):
        askers.setdefault(call.asked, []).append(index)
    answers: dict[int, str] = {}
    used: frozenset[str] | None = None
    for places in askers.values():
        if len(places) < 2:
            continue
        said: dict[str, list[int]] = {}
        for place in places:
            essence = own[place].essence
            if essence:
                form = next((form for form in said if _is_of(form, essence)), essence)
                said.setdefault(form, []).append(place)
        for essence, alike in said.items():
            if len({own[place].gave for place in alike}) == 1:
                continue
            if used is None:
                used = frozenset().union(*(call.asked_for for call in own))
            spans = [own[place].spans for place in alike]
            if any(own[place].names & used for place in alike) or (any(spans) and _moves(spans)):
                continue
            answers.update(dict.fromkeys(alike, essence))
    return answers


def _is_of(form: str, essence: str) -> bool:
    """Whether two results are the same but for one more name, which looks like a word by chance."""
    if form == essence:
        return True
    mine, theirs = form.split(), essence.split()
    if len(mine) != len(theirs):
        return False
    different = [(one, other) for one, other in zip(mine, theirs, strict=True) if one != other]
    return len(different) == 1 and NAME in different[0][0] + different[0][1]


def _moves(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether numbers only grow or only shrink, or are too few to tell."""
    if len(series) < LEAST_SERIES:
        return len(set(series)) > 1
    return falls(series) or falls(tuple(reversed(series)))


def falls(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether a number gets smaller all the time: it is being worked on."""
    if len(series) < 2 or len({len(figures) for figures in series}) > 1:
        return False
    return any(all(later < earlier for earlier, later in pairwise(column)) for column in zip(*series, strict=True))

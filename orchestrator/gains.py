"""What each call of a step brought it: nothing new, a try, a deed, or something that it had not seen; pure."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from chargehand.orchestrator.columns import LEAST_WILD, WILD_SHARE, Columns, Key, noise
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.volatile import NAME

# An answer this long, word for word the same to different questions, is how things stand; a shorter one acknowledges,
# or says the same of objects that are alike.
STATE_CHARACTERS = 80
# At so many looks a job that tells how far it is has stood still, though its clock runs.
CLOCK_LOOKS = 5
# So many lines are written above a place between two looks at it; farther off is another place.
MOST_DRIFT = 6
# So many answers to a question, the newest, tell which of their numbers jump about.
NOISE_LOOKS = 12
# What stands beside a number that is the answer: what it counts, or what it is called.
LITTLE_BESIDE = 2
# Two spans of time are a pair; with three it shows whether they grow.
LEAST_SERIES = 3

# Of all its way, so much is one way if a number gets on.
TREND_SHARE = 0.85
# Of a span of time; less is no movement.
LEAST_SHARE_MOVED = 0.01

_NAMED = re.compile(r"\w+")
# Between the parts of a name, and what a part has that can be spoken.
_PART = re.compile(r"[-_]")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_KEY = re.compile(r"\"\w+\"\s*:")
# A word, with the signs that hold a name together.
_PIECE = re.compile(r"[\w~-]+|[^\w\s~-]")

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
    hits: set[str] = set()
    asked: set[str] = set()
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
        elif call.hits and call.hits in hits and call.asked not in asked:
            # The same hits, rated anew for another question.
            brought = NOTHING if len(call.hits) >= STATE_CHARACTERS else TRIED
        elif answer not in gave:
            brought = DID if call.tone == "success" else FOUND
        elif call.tone == "success":
            brought = DID if commit is None else TRIED
        else:
            brought = NOTHING if not call.failed and len(answer) >= STATE_CHARACTERS else TRIED
        entries.append(Entry(call, answer, brought, waited))
        gave.add(answer)
        hits.add(call.hits)
        asked.add(call.asked)
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
    noisy = _noise_of_tools(own, askers.values())
    used: frozenset[str] | None = None
    for places in askers.values():
        if len(places) < 2 or _is_a_chain([own[place].names for place in places]):
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
            # A name that every answer has tells no two of them apart.
            common = frozenset.intersection(*(own[place].names for place in alike))
            if any((own[place].names - common) & used for place in alike) or (any(spans) and _moves(spans)):
                continue
            answers.update(dict.fromkeys(alike, essence))
        # What was made is called something; at the third time nobody has asked for, it was not what was sought.
        if len(places) >= LEAST_SERIES and all(own[p].names and own[p].bare for p in places):
            bare = {own[p].bare for p in places}
            used = used or frozenset().union(*(call.asked_for for call in own))
            # A state that is called by a name has no more than that.
            if len(bare) == 1 and not any(own[place].names & used for place in places):
                answers.update(dict.fromkeys(places, bare.pop()))
        answers.update(_but_for_noise(own, places, noisy[own[places[0]].tool]))
        answers.update(_by_the_clock(own, places))
        answers.update(_longer_ago(own, places))
    return answers


def _noise_of_tools(own: Sequence[Observed], askers: Iterable[Sequence[int]]) -> dict[str, frozenset[Key]]:
    """By a tool, which numbers in its answers only jump about."""
    by_tool: dict[str, list[list[Columns]]] = {}
    for places in askers:
        if len(places) > 1:
            by_tool.setdefault(own[places[0]].tool, []).append([own[place].columns for place in places[-NOISE_LOOKS:]])
    return {tool: noise(answers) for tool, answers in by_tool.items()}


def _but_for_noise(own: Sequence[Observed], places: Sequence[int], noisy: frozenset[Key]) -> dict[int, str]:
    """The answers to one question without the numbers that jump about."""
    if not noisy:
        return {}
    return {
        place: own[place].columns.without(noisy)
        for place in places
        if own[place].essence and not _is_a_number(own[place])
    }


def _is_a_number(call: Observed) -> bool:
    """Whether there is little beside one number, and nothing was done: then the number is the answer."""
    answer = call.columns
    # What a value is called in a structure says nothing beside.
    beside = _NAMED.findall(_KEY.sub(" ", " ".join(answer.texts)))
    return len(answer.numbers) == 1 and call.tone == "plain" and len(beside) <= LITTLE_BESIDE


def is_wild(column: Sequence[float]) -> bool:
    """Whether large whole numbers jump about: a name that is a number, and no gauge, which moves by steps."""
    if len(column) < LEAST_SERIES or max(column) < LEAST_WILD or any(not number.is_integer() for number in column):
        return False
    steps = [later - earlier for earlier, later in pairwise(column)]
    jumps = sum(abs(step) for step in steps) / len(steps)
    return min(steps) < 0 < max(steps) and jumps >= WILD_SHARE * max(column)


def _by_the_clock(own: Sequence[Observed], places: Sequence[int]) -> dict[int, str]:
    """The newest answers to one question, if what they say of how far it is has stood still, whatever a clock says."""
    newest = places[-CLOCK_LOOKS:]
    if len(newest) < CLOCK_LOOKS or not own[newest[-1]].shares:
        return {}
    if len({(own[place].shares, own[place].form) for place in newest}) > 1:
        return {}
    if _counts_up([own[place].columns for place in newest]):
        return {}
    return dict.fromkeys(newest, own[newest[-1]].form)


def _counts_up(answers: Sequence[Columns]) -> bool:
    """Whether a number only grows, and not at every look, as a clock does: what is counted by it is being done."""
    if len({answer.keys for answer in answers}) > 1:
        return False
    for column in zip(*(answer.numbers for answer in answers), strict=True):
        steps = [later - earlier for earlier, later in pairwise(column)]
        if min(steps) == 0 < max(steps):
            return True
    return False


def _longer_ago(own: Sequence[Observed], places: Sequence[int]) -> dict[int, str]:
    """The newest answers to one question, if what was "ago" lies farther back in each, and all else is as it was."""
    last = own[places[-1]]
    if not last.ago:
        return {}
    newest = [places[-1]]
    for place in reversed(places[:-1]):
        call, later = own[place], own[newest[-1]]
        if call.but_for_ago != last.but_for_ago or not all(
            before < after for before, after in zip(call.ago, later.ago, strict=True)
        ):
            break
        newest.append(place)
    return dict.fromkeys(newest, last.but_for_ago) if len(newest) >= LEAST_SERIES else {}


def _is_a_chain(names: Sequence[frozenset[str]]) -> bool:
    """Whether each answer takes up a name that the one before it was the first to have, as steps of a way do."""
    common = frozenset.intersection(*names)
    seen: frozenset[str] = frozenset()
    for earlier, later in pairwise(names):
        if not (earlier - common - seen) & later or later <= earlier:
            return False
        seen |= earlier - later
    return len(names) >= LEAST_SERIES


def _is_of(form: str, essence: str) -> bool:
    """Whether two results are the same but for one more name, which looks like a word by chance."""
    if form == essence:
        return True
    if NAME not in form and NAME not in essence:
        return False
    mine, theirs = _pieces(form), _pieces(essence)
    if len(mine) != len(theirs):
        return False
    different = [(one, other) for one, other in zip(mine, theirs, strict=True) if one != other]
    if len(different) != 1 or NAME not in different[0][0] + different[0][1]:
        return False
    parts = [_PART.split(piece) for piece in different[0]]
    if len(parts[0]) != len(parts[1]):
        return True
    return all(one == other or _may_be_made(one) or _may_be_made(other) for one, other in zip(*parts, strict=True))


def _may_be_made(part: str) -> bool:
    """Whether a part of a name is none that people speak."""
    return part == NAME or any(letter.isdecimal() for letter in part) or not _VOWEL.search(part)


@lru_cache(maxsize=256)
def _pieces(text: str) -> tuple[str, ...]:
    return tuple(_PIECE.findall(text))


def _moves(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether numbers only grow or only shrink, or are too few to tell."""
    # A limit that is reached each time is reached a little later or earlier.
    if all(max(column) - min(column) < LEAST_SHARE_MOVED * max(column) for column in zip(*series, strict=False)):
        return False
    if len(series) < LEAST_SERIES:
        return len(set(series)) > 1
    return falls(series) or falls(tuple(reversed(series))) or (len(series) > LEAST_SERIES and _trends(series))


def _trends(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether a number goes one way on the whole, as a measurement of what gets better does, which wobbles a little."""
    if len({len(numbers) for numbers in series}) > 1:
        return False
    for column in zip(*series, strict=True):
        way = sum(abs(later - earlier) for earlier, later in pairwise(column))
        if way and abs(column[-1] - column[0]) >= TREND_SHARE * way:
            return True
    return False


def falls(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether a number gets smaller all the time: it is being worked on."""
    if len(series) < 2 or len({len(figures) for figures in series}) > 1:
        return False
    return any(all(later < earlier for earlier, later in pairwise(column)) for column in zip(*series, strict=True))

"""Finds agents that repeat themselves: a pure function of what tools were asked and what they gave, across a run.

A call is compared by its tool and its *normalised* arguments, and always together with what it gave: polling whose
answer changes is no loop. What changes by itself in a result (times, ids, addresses, see `likeness`) is no change.
Not covered: spend above plan, which `spending` watches; loops that find something new in every round; and what a tool
does to the world without saying so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from chargehand.orchestrator.handoffs import find_ring
from chargehand.orchestrator.likeness import change, is_sibling, normalise, without_echo
from chargehand.orchestrator.observed import Observed

__all__ = ["Limits", "Observed", "Trip", "normalise", "watch"]

# Calls of one turn were made before any of their answers was seen; less than this many turns show nothing.
LEAST_TURNS = 3
# A ring of more calls than this is found by what it fails to bring (`no_change`).
LONGEST_PERIOD = 5
# More agents before one closed door are a crowd: the first of them have asked a person, and once is enough.
CROWD = 8
# So far back are variations of a call looked for.
LOOK_BACK = 30
# An answer this long, word for word the same to different questions, is how things stand and not an acknowledgement.
TELLING_CHARACTERS = 40
# Several kinds of things may well be empty; how things stand takes a few words more.
STATE_WORDS = 3
# So many arguments may come or go between two calls that are nearly the same.
MOST_OPTIONS = 2
# Of the calls in a window, so many that were made before.
COMES_BACK = 2


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


# What a call brought its step: nothing it had not seen; a new try that came to what was known; a deed; something new.
NOTHING, TRIED, DID, FOUND = range(4)


class _Entry(NamedTuple):
    """A call in the history of its step, and what it brought."""

    call: Observed
    brought: int
    waited: float
    """How long time was let pass before it, in the unit of the call that waited; 0: not at all."""


def watch(observed: Sequence[Observed], limits: Limits = LIMITS) -> Trip | None:
    """The first rule that the run's tool results, in order, break; None while it gets on.

    The last observation is the newest, and its step is the one that is judged: results of other steps count for what
    concerns the whole run (the same error, hand-offs), and never by themselves.
    """
    if not observed:
        return None
    own = _history([call for call in observed if call.step == observed[-1].step])
    return (
        _same_error(observed, own, limits)
        or _ping_pong(observed, limits)
        or _alternation(own, limits)
        or _near_identical(own, limits)
        or _no_change(own, limits)
    )


def _history(own: Sequence[Observed]) -> list[_Entry]:
    """The step's calls and what each brought; mere waits are left out, unless nothing else is done."""
    if own[-1].is_wait:
        start = next((index for index in range(len(own), 0, -1) if not own[index - 1].is_wait), 0)
        return [_Entry(call, NOTHING, waited=0) for call in own[start:]]
    entries: list[_Entry] = []
    gave: set[str] = set()
    commits: set[str | None] = {None}
    both: dict[tuple[str, str], tuple[float, ...]] = {}
    waited = 0.0
    for call in own:
        if call.is_wait:
            waited += call.waits_for
            continue
        pair, commit = (call.asked, call.gave), call.fact.commit
        if pair in both:
            brought = FOUND if _falls((both[pair], call.figures)) else NOTHING
        elif commit not in commits:
            # An edit that shows what it did is a deed all the same: whether it helped, a test must tell.
            brought = DID
        elif call.gave not in gave:
            brought = DID if call.tone == "success" else FOUND
        elif call.tone == "success":
            brought = DID if commit is None else TRIED
        else:
            brought = NOTHING if not call.failed and len(call.gave) >= TELLING_CHARACTERS else TRIED
        entries.append(_Entry(call, brought, waited))
        gave.add(call.gave)
        commits.add(commit)
        both[pair] = call.figures
        waited = 0
    return entries


def _same_error(observed: Sequence[Observed], own: Sequence[_Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    if newest.tone != "failure":
        return None
    same = _own_repetitions(own)
    total = _turns(same)
    others: list[Observed] = []
    # Many agents that hit one busy service at once are no loop of any of them.
    if newest.refused and not newest.is_transient:
        others = list(_repetitions_of_others(observed))
        others = others if len(others) < CROWD else []
    if total + len(others) < limits.same_error:
        return None
    positions = [index for index, entry in enumerate(own) if any(entry.call is call for call in same)]
    between = [own[earlier + 1 : later] for earlier, later in pairwise(positions)]
    gaps = [
        own[later].waited or any(entry.brought > NOTHING for entry in those)
        for those, (_, later) in zip(between, pairwise(positions), strict=True)
    ]
    patience = newest.is_transient + (not newest.refused) + (bool(gaps) and all(gaps))
    # Who learns something from every run, or waits longer and longer, is not at a standstill yet.
    learns = not newest.refused and all(any(entry.brought == FOUND for entry in those) for those in between)
    patience += bool(gaps) and (learns or _backs_off([own[position].waited for position in positions[1:]]))
    if total + len(others) < limits.same_error + limits.patience * patience:
        return None
    kind = newest.fact.error_type or "error"
    detail = f"{newest.tool} failed {len(same) + len(others)} times with the same arguments and {kind}."
    if not newest.failed:
        detail = f"{newest.tool} told of the same failure {len(same)} times."
    return _trip("same_error", detail, [*others, *same])


def _own_repetitions(own: Sequence[_Entry]) -> list[Observed]:
    """The newest call and its like before it, as long as the world did not answer differently in between."""
    newest = own[-1].call
    same: list[Observed] = []
    tried = False
    for entry in reversed(own):
        call = entry.call
        if call.asked != newest.asked:
            tried = tried or entry.brought > TRIED
            continue
        if call.gave != newest.gave or call.failed != newest.failed:
            break
        # A number that is another one after something was done is a result; by itself it is noise.
        if same and tried and call.figures != same[-1].figures:
            break
        same.append(call)
        tried = False
    return [] if _falls([call.figures for call in reversed(same)]) else same


def _backs_off(waits: Sequence[float]) -> bool:
    """Whether every wait was longer than the one before."""
    return len(waits) > 1 and all(later > earlier > 0 for earlier, later in pairwise(waits))


def _repetitions_of_others(observed: Sequence[Observed]) -> Iterator[Observed]:
    newest = observed[-1]
    for call in reversed(observed):
        if call.asked != newest.asked:
            continue
        if call.gave != newest.gave or not call.refused:
            return
        if call.step != newest.step:
            yield call


def _falls(series: Sequence[tuple[float, ...]]) -> bool:
    """Whether a number gets smaller all the time: it is being worked on."""
    if len(series) < 2 or len({len(figures) for figures in series}) > 1:
        return False
    return any(all(later < earlier for earlier, later in pairwise(column)) for column in zip(*series, strict=True))


def _ping_pong(observed: Sequence[Observed], limits: Limits) -> Trip | None:
    ring = find_ring(observed, limits.hand_off_rounds)
    if not ring:
        return None
    names = " and ".join(dict.fromkeys(hand_off.giver for hand_off in ring))
    return _trip("ping_pong", f"{names} hand the same work to each other.", [observed[one.index] for one in ring])


def _alternation(own: Sequence[_Entry], limits: Limits) -> Trip | None:
    for period in range(2, LONGEST_PERIOD + 1):
        length = period * limits.rounds
        if len(own) < length:
            return None
        calls = [entry.call for entry in own[-length:]]
        if not _is_ring(calls, period):
            continue
        # Each round is a commit of its own: something may come of it yet.
        commits = {call.fact.commit for call in calls if call.fact.commit is not None}
        if len(commits) > period:
            calls = [entry.call for entry in own[-length - period :]]
            if len(calls) < length + period or not _is_ring(calls, period):
                continue
        if _turns(calls) < LEAST_TURNS or all(call.is_transient for call in calls):
            continue
        tools = " and ".join(dict.fromkeys(call.tool for call in calls))
        return _trip("alternation", f"{tools} take turns, {len(calls) // period} rounds with the same answers.", calls)
    return None


def _is_ring(calls: Sequence[Observed], period: int) -> bool:
    if len({call.asked for call in calls[:period]}) < 2:
        return False
    pairs = ((calls[index - period], calls[index]) for index in range(period, len(calls)))
    return all(
        before.asked == after.asked and before.gave == after.gave and not _falls((before.figures, after.figures))
        for before, after in pairs
    )


def _near_identical(own: Sequence[_Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    near: list[Observed] = []
    limit = limits.near_identical
    waits: list[float] = []
    for entry in reversed(own[-LOOK_BACK:]):
        how = _nearness(entry.call, newest)
        if how is not None:
            near.append(entry.call)
            waits.append(entry.waited)
            limit = max(limit, limits.beyond_the_end) if how == "figures" and not newest.failed else limit
        elif entry.brought > TRIED:
            break
    if _backs_off(waits[-2::-1]):
        limit = max(limit, limits.near_identical + limits.patience)
    if len(near) < limit or _turns(near) < LEAST_TURNS or _falls([call.figures for call in reversed(near)]):
        return None
    detail = f"{newest.tool} was called {len(near)} times in a row with nearly the same arguments and the same outcome."
    return _trip("near_identical", detail, near)


def _nearness(call: Observed, newest: Observed) -> str | None:
    """What lies between two calls with the same outcome; None: they are different calls, or came to different ends."""
    if call.tool != newest.tool or call.failed != newest.failed:
        return None
    if call.asked == newest.asked:
        return "same" if call.gave == newest.gave else None
    # An answer that names what was asked for is about that; a failure, or nothing at all, is no answer.
    is_answer = newest.tone not in ("failure", "nothing")
    if newest.tone == "success" or (call.gave != newest.gave if is_answer else not _says_the_same(call, newest)):
        return None
    nearness = "wording"
    mine, theirs = call.named_values, newest.named_values
    # An option more or less is a variation, as long as something else was asked for in both.
    if len(mine.keys() ^ theirs.keys()) > MOST_OPTIONS or not mine.keys() & theirs.keys():
        return None
    for name in mine.keys() & theirs.keys():
        how = change(mine[name], theirs[name])
        # The same name with another number in it is another object, which may well be like the first.
        if how is None or (how == "numbered" and not newest.failed):
            return None
        if how == "figures":
            if is_answer and len(newest.gave) < TELLING_CHARACTERS:
                return None
            nearness = how
    return nearness


def _says_the_same(call: Observed, newest: Observed) -> bool:
    """Whether two results are the same but for what they echo of their questions."""
    if call.gave == newest.gave:
        return True
    echo = call.asked_words | newest.asked_words
    return without_echo(call.gave_words, echo) == without_echo(newest.gave_words, echo)


def _no_change(own: Sequence[_Entry], limits: Limits) -> Trip | None:
    # What is seen again was seen in an earlier turn.
    window = _window(own, limits.no_change, LEAST_TURNS - 1)
    if window and all(entry.brought == NOTHING for entry in window):
        calls = [entry.call for entry in window]
        return _trip("no_change", f"The last {len(calls)} calls gave nothing that the step had not seen.", calls)
    window = _window(own, limits.same_end, LEAST_TURNS)
    if window and _comes_back_in_vain(window):
        calls = [entry.call for entry in window]
        return _trip("no_change", f"The last {len(calls)} calls failed, or gave what the step had seen before.", calls)
    # A busy service may come back, and the next object may be one that answers.
    if all(entry.call.is_transient for entry in window) or _is_a_sweep(own, window):
        window = _window(own, limits.same_end + 2 * limits.patience, LEAST_TURNS)
    if window and _is_stuck(window):
        calls = [entry.call for entry in window]
        return _trip("no_change", f"The last {len(calls)} calls, whatever they were, came to the same end.", calls)
    return _unmoved(own, limits)


def _window(own: Sequence[_Entry], least: int, least_turns: int) -> list[_Entry]:
    """The newest calls: so many, and more where one turn made several; none while there are too few."""
    turns: set[int | None] = set()
    for count, entry in enumerate(reversed(own), start=1):
        turns.add(-entry.call.seq if entry.call.turn is None else entry.call.turn)
        if count >= least and len(turns) >= least_turns:
            return list(own[-count:])
    return []


def _comes_back_in_vain(window: Sequence[_Entry]) -> bool:
    """Whether things are only looked at again between tries that fail as they failed before."""
    tries = [entry.call for entry in window if entry.brought == TRIED]
    return (
        bool(tries)
        and all(entry.brought <= TRIED for entry in window)
        and all(call.tone == "failure" and not call.is_transient for call in tries)
        and len(window) - len(tries) >= COMES_BACK
        and any(entry.brought == NOTHING and entry.call.tone == "plain" for entry in window)
    )


def _is_stuck(window: Sequence[_Entry]) -> bool:
    calls = [entry.call for entry in window]
    newest = calls[-1]
    # One call again and again has rules of its own.
    if any(call.failed != newest.failed for call in calls) or len({call.asked for call in calls}) == 1:
        return False
    # A new commit is a change, whatever is said of it.
    if any(entry.brought == DID for entry in window):
        return False
    if newest.tone == "failure":
        return all(_says_the_same(call, newest) for call in calls) and not _falls([call.figures for call in calls])
    if newest.tone == "success":
        # Edits are well only while there is a commit to show for them.
        commit = newest.fact.commit
        return commit is not None and all(e.brought < DID and e.call.fact.commit == commit for e in window)
    if len({call.tool for call in calls}) > 1:
        least = 1 if newest.tone == "plain" else STATE_WORDS
        says = without_echo(newest.gave_words, newest.asked_words)
        return len(says) >= least and all(_says_the_same(call, newest) for call in calls)
    if any(call.gave != newest.gave for call in calls):
        return False
    # Objects looked at one after the other may well be alike; who comes back to them sees no change.
    return len(newest.gave) >= TELLING_CHARACTERS or sum(entry.brought == NOTHING for entry in window) >= COMES_BACK


def _is_a_sweep(own: Sequence[_Entry], window: Sequence[_Entry]) -> bool:
    """Whether object after object is asked after with one call, and some before these gave an answer."""
    newest = window[-1].call
    if newest.tone != "failure" or any(entry.call.tool != newest.tool for entry in window):
        return False
    before = own[-LOOK_BACK : -len(window)]
    return any(
        entry.call.tone != "failure" and entry.call.tool == newest.tool and is_sibling(entry.call.values, newest.values)
        for entry in before
    )


def _unmoved(own: Sequence[_Entry], limits: Limits) -> Trip | None:
    """The same look at things again and again, while things are done that should have changed it."""
    newest = own[-1].call
    # Success after each deed is as it should be, nothing to complain of is too, and failures have a rule of their own.
    if newest.tone != "plain":
        return None
    looks: list[Observed] = []
    deeds = 0
    for entry in reversed(own):
        if entry.call.asked == newest.asked and entry.call.gave == newest.gave:
            looks.append(entry.call)
        elif entry.brought == FOUND or entry.call.asked == newest.asked:
            break
        else:
            deeds += entry.brought > NOTHING
    if len(looks) < limits.unmoved or not deeds or _turns(looks) < LEAST_TURNS:
        return None
    return _trip("no_change", f"{newest.tool} shows the same {len(looks)} times, whatever is done in between.", looks)


def _turns(calls: Iterable[Observed]) -> int:
    return len(
        {(call.step, "seq", call.seq) if call.turn is None else (call.step, "turn", call.turn) for call in calls}
    )


def _trip(rule: str, detail: str, calls: Iterable[Observed]) -> Trip:
    places = sorted({(call.step, call.seq, call.place) for call in calls})
    return Trip(rule=rule, detail=detail, evidence=tuple(place for _, _, place in places))

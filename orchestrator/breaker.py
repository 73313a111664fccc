"""Finds agents that repeat themselves: a pure function of what tools were asked and what they gave, across a run.

A call is compared by its tool and its *normalised* arguments, and always together with what it gave: polling whose
answer changes is no loop. What changes by itself in a result (times, ids, addresses, see `likeness`) is no change.
Not covered: spend above plan, which `spending` watches; loops that find something new in every round; and what a tool
does to the world without saying so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chargehand.orchestrator.gains import (
    DID,
    FOUND,
    MOST_DRIFT,
    NOTHING,
    STATE_CHARACTERS,
    TRIED,
    Entry,
    falls,
    history,
    is_wild,
)
from chargehand.orchestrator.handoffs import find_ring
from chargehand.orchestrator.likeness import is_sibling, normalise, without_echo
from chargehand.orchestrator.nearness import is_a_form, is_a_sweep, nearness_of, says_the_same
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.rings import (
    COUNTED_ROUNDS,
    asks_again,
    is_ring,
    is_ring_of_talk,
    is_ring_that_counts,
    may_wait,
)

__all__ = ["Limits", "Observed", "Trip", "normalise", "watch"]
from chargehand.orchestrator.tones import is_no_entry

# Calls of one turn were made before any of their answers was seen; less than this many turns show nothing.
LEAST_TURNS = 3
# A ring of more calls than this is found by what it fails to bring (`no_change`).
LONGEST_PERIOD = 5
# More agents before one closed door are a crowd: the first of them have asked a person, and once is enough.
CROWD = 8
# So far back are variations of a call looked for.
LOOK_BACK = 30
# Several kinds of things may well be empty; how things stand takes a few words more.
STATE_WORDS = 3
# An answer of so few words says that something was done, in whatever words.
ACKNOWLEDGES = 2
# A shorter word may stand in any call.
TELLING_LETTERS = 3
# Tries more for the next object of a list, some of whose objects answered.
ANSWERED_BEFORE = 4
# So many failures of one call, each of which was seen before, in whatever order.
KNOWN_FAILURES = 3
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


def watch(observed: Sequence[Observed], limits: Limits = LIMITS) -> Trip | None:
    """The first rule that the run's tool results, in order, break; None while it gets on.

    The last observation is the newest, and its step is the one that is judged: results of other steps count for what
    concerns the whole run (the same error, hand-offs), and never by themselves.
    """
    if not observed:
        return None
    own = history([call for call in observed if call.step == observed[-1].step])
    return (
        _same_error(observed, own, limits)
        or _ping_pong(observed, limits)
        or _alternation(own, limits)
        or _near_identical(own, limits)
        or _no_change(own, limits)
    )


def _same_error(observed: Sequence[Observed], own: Sequence[Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    if newest.tone != "failure":
        return None
    same = _own_repetitions(own)
    total = _turns(same)
    others: list[Observed] = []
    # Many agents that hit one busy service at once are no loop of any of them.
    if newest.refused:
        others = list(_repetitions_of_others(observed))
        others = [] if len(others) >= CROWD or (others and newest.is_transient) else others
    if total + len(others) < limits.same_error:
        return None
    positions = [index for index, entry in enumerate(own) if any(entry.call is call for call in same)]
    between = [own[earlier + 1 : later] for earlier, later in pairwise(positions)]
    tried = [[entry for entry in those if entry.brought > NOTHING] for those in between]
    # Who asks the same in other words has tried nothing else.
    tried = [tried[0], *([] if asks_again(one, other) else other for one, other in pairwise(tried))] if tried else []
    gaps = [own[later].waited or bool(those) for those, (_, later) in zip(tried, pairwise(positions), strict=True)]
    patience = newest.is_transient + (not newest.refused) + (bool(gaps) and all(gaps))
    # Who learns something from every run, or waits longer and longer, is not at a standstill yet.
    learns = not newest.refused and all(any(entry.brought == FOUND for entry in those) for those in between)
    patience += bool(gaps) and (learns or _backs_off([own[position].waited for position in positions[1:]]))
    if (learns or newest.refused) and _is_worked_off(between):
        return None
    if total + len(others) < limits.same_error + limits.patience * patience:
        return None
    kind = newest.fact.error_type or "error"
    detail = f"{newest.tool} failed {len(same) + len(others)} times with the same arguments and {kind}."
    if not newest.failed:
        detail = f"{newest.tool} told of the same failure {len(same)} times."
    return _trip("same_error", detail, [*others, *same])


def _own_repetitions(own: Sequence[Entry]) -> list[Observed]:
    """The newest call and its like before it, as long as the world did not answer differently in between."""
    newest = own[-1].call
    same: list[Observed] = []
    tried = False
    noise = _noise(own)
    for entry in reversed(own):
        call = entry.call
        if call.asked != newest.asked:
            tried = tried or entry.brought > TRIED
            continue
        if entry.gave != own[-1].gave or call.failed != newest.failed:
            break
        # A number that is another one after something was done is a result; by itself it is noise.
        if same and tried and not _is_as_before(call, same[-1], noise):
            break
        same.append(call)
        tried = False
    return [] if falls([call.figures for call in reversed(same)]) else same


def _noise(own: Sequence[Entry]) -> frozenset[int]:
    """Which of the numbers in the newest failure jump about, whenever it comes."""
    newest = own[-1]
    alike = [entry.call for entry in own if entry.call.asked == newest.call.asked and entry.gave == newest.gave]
    columns = zip(*((*call.figures, *call.positions) for call in alike), strict=False)
    return frozenset(index for index, column in enumerate(columns) if is_wild(column))


def _is_as_before(call: Observed, later: Observed, noise: frozenset[int]) -> bool:
    """Whether two failures have the same numbers, set aside which jump about, and lines that drift a little."""
    if len(call.figures) != len(later.figures):
        return False
    mine, theirs = (*call.figures, *call.positions), (*later.figures, *later.positions)
    if len(mine) != len(theirs):
        return False
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        allowed = 0 if index < len(call.figures) else MOST_DRIFT
        if index not in noise and abs(one - other) > allowed:
            return False
    return True


def _is_worked_off(between: Sequence[Sequence[Entry]]) -> bool:
    """Whether a number in what was learnt between the tries gets smaller every time, as what is left to search does."""
    learnt = [entry.call for those in between for entry in those[:1] if entry.brought == FOUND]
    if len(learnt) < sum(bool(those) for those in between):
        return False
    return len(learnt) > 1 and falls([call.numbers[:1] for call in learnt])


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


def _ping_pong(observed: Sequence[Observed], limits: Limits) -> Trip | None:
    ring = find_ring(observed, limits.hand_off_rounds)
    if not ring:
        return None
    names = " and ".join(dict.fromkeys(hand_off.giver for hand_off in ring))
    return _trip("ping_pong", f"{names} hand the same work to each other.", [observed[one.index] for one in ring])


def _alternation(own: Sequence[Entry], limits: Limits) -> Trip | None:
    talk = own[-2 * limits.rounds - 1 :]
    if is_ring_of_talk(talk) and not talk[-1].call.is_transient:
        calls = [entry.call for entry in talk]
        return _trip("alternation", f"{calls[0].tool} gives the same, whatever {calls[1].tool} says in between.", calls)
    for period in range(2, LONGEST_PERIOD + 1):
        length = period * limits.rounds
        if len(own) < length:
            return None
        rounds = own[-length:]
        if not is_ring(rounds, period):
            rounds = own[-COUNTED_ROUNDS * period :]
            if is_ring_that_counts(rounds, period):
                calls = [entry.call for entry in rounds]
                return _trip(
                    "alternation", f"{calls[-1].tool} gives the same after each round of {period} calls.", calls
                )
            continue
        # Each round is a commit of its own, or one of the calls may be a wait by a name that nobody knows.
        commits = {entry.call.fact.commit for entry in rounds if entry.call.fact.commit is not None}
        if len(commits) > period or (period == 2 and may_wait(rounds)):
            rounds = own[-length - period :]
            if len(rounds) < length + period or not is_ring(rounds, period):
                continue
        calls = [entry.call for entry in rounds]
        if _turns(calls) < LEAST_TURNS or all(call.is_transient for call in calls):
            continue
        tools = " and ".join(dict.fromkeys(call.tool for call in calls))
        return _trip("alternation", f"{tools} take turns, {len(calls) // period} rounds with the same answers.", calls)
    return None


def _near_identical(own: Sequence[Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    near: list[Observed] = []
    limit = limits.near_identical
    waits: list[float] = []
    hows: set[str] = set()
    nearest, is_parted = own[-1], False
    for entry in reversed(own[-LOOK_BACK:]):
        # A question that is put in other words each time goes far from the first ones, step by step.
        how = nearness_of(entry, own[-1]) or (nearness_of(entry, nearest) if nearest is not own[-1] else None)
        # Deeds in other words, with news in between, are other deeds.
        if how not in (None, "same") and is_parted and newest.tone == "success":
            break
        if how is not None:
            nearest = entry
            near.append(entry.call)
            hows.add(how)
            waits.append(entry.waited)
            limit = max(limit, limits.beyond_the_end) if how == "figures" and not newest.failed else limit
        elif entry.brought > TRIED:
            if not _may_stand_between(entry, own[-1]) or (newest.tone == "success" and (is_parted or hows != {"same"})):
                break
            is_parted = True
    if "deed" in hows and is_a_form(near):
        return None
    # One object after the other, each with an answer that others have as well, is bulk work.
    if not newest.refused and "wording" in hows and is_a_sweep(near):
        return None
    if _backs_off(waits[-2::-1]):
        limit = max(limit, limits.near_identical + limits.patience)
    if len(near) < limit or _turns(near) < LEAST_TURNS or falls([call.figures for call in reversed(near)]):
        return None
    detail = f"{newest.tool} was called {len(near)} times in a row with nearly the same arguments and the same outcome."
    return _trip("near_identical", detail, near)


def _may_stand_between(entry: Entry, newest: Entry) -> bool:
    """Whether what a call brought may be of another matter than the newest call, which came to what is known.

    A short answer may be a poll's, which is asked for again while other things are done.
    """
    if newest.call.is_transient:
        return False
    if entry.brought == DID and (newest.call.tone != "failure" or _is_about(entry.call, newest.call)):
        return False
    if newest.call.tone == "plain":
        return len(newest.gave) >= STATE_CHARACTERS
    return entry.call.tool != newest.call.tool


def _is_about(deed: Observed, newest: Observed) -> bool:
    """Whether a deed names something that the newest call asks for or speaks of; it may have been meant to help it."""
    # Numbers in a failure tell how much of it is left.
    if newest.figures or newest.positions:
        return True
    of_newest = newest.message_words.union(newest.gave_words)
    return any(len(word) >= TELLING_LETTERS and word in of_newest for word in deed.message_words)


def _no_change(own: Sequence[Entry], limits: Limits) -> Trip | None:
    # What is seen again was seen in an earlier turn.
    window = _window(own, limits.no_change, LEAST_TURNS - 1)
    calls = [entry.call for entry in window]
    if window and all(entry.brought == NOTHING for entry in window) and not is_a_sweep(calls):
        return _trip("no_change", f"The last {len(calls)} calls gave nothing that the step had not seen.", calls)
    window = _window(own, limits.same_end, LEAST_TURNS)
    if window and _fails_in_known_ways(window):
        detail = f"{window[-1].call.tool} was called {len(window)} times in a row and failed, as it had failed before."
        return _trip("no_change", detail, [entry.call for entry in window])
    if window and _comes_back_in_vain(window):
        calls = [entry.call for entry in window]
        return _trip("no_change", f"The last {len(calls)} calls failed, or gave what the step had seen before.", calls)
    if len(own) >= limits.no_change and _moves_nothing(own[-limits.no_change :]):
        calls = [entry.call for entry in own[-limits.no_change :]]
        return _trip("no_change", f"{calls[-1].tool} shows the same after each of {len(calls) // 2} tries.", calls)
    if window and _is_stuck(window):
        # A busy service may come back, and the next object may be one that answers.
        more = 2 if all(entry.call.is_transient for entry in window) else _sweep(own, window)
        window = _window(own, limits.same_end + more * limits.patience, LEAST_TURNS) if more else window
        if window and _is_stuck(window):
            calls = [entry.call for entry in window]
            return _trip("no_change", f"The last {len(calls)} calls, whatever they were, came to the same end.", calls)
    return _unmoved(own, limits) or _swings(own, limits)


def _window(own: Sequence[Entry], least: int, least_turns: int) -> list[Entry]:
    """The newest calls: so many, and more where one turn made several; none while there are too few."""
    turns: set[int | None] = set()
    for count, entry in enumerate(reversed(own), start=1):
        turns.add(-entry.call.seq if entry.call.turn is None else entry.call.turn)
        if count >= least and len(turns) >= least_turns:
            return list(own[-count:])
    return []


def _fails_in_known_ways(window: Sequence[Entry]) -> bool:
    """Whether one call fails in one way and another, and its last failures were all known."""
    return (
        len({entry.call.asked for entry in window}) == 1
        and all(entry.call.tone == "failure" and not entry.call.is_transient for entry in window)
        and all(entry.brought == NOTHING for entry in window[-KNOWN_FAILURES:])
    )


def _comes_back_in_vain(window: Sequence[Entry]) -> bool:
    """Whether things are only looked at again between tries that fail as they failed before."""
    tries = [entry.call for entry in window if entry.brought == TRIED]
    return (
        bool(tries)
        and all(entry.brought <= TRIED for entry in window)
        and all(call.tone == "failure" and not call.is_transient for call in tries)
        and len(window) - len(tries) >= COMES_BACK
        and any(entry.brought == NOTHING and entry.call.tone == "plain" for entry in window)
    )


def _moves_nothing(window: Sequence[Entry]) -> bool:
    """Whether one look shows the same after every try of one kind, and each of these is answered in the same way."""
    tries = {(entry.call.tool, entry.gave) for entry in window[::2]}
    looks = {(entry.call.asked, entry.gave) for entry in window[1::2]}
    return (
        len(tries) == len(looks) == 1
        and all(entry.brought <= TRIED and entry.call.tone == "plain" for entry in window[::2])
        and all(entry.brought == NOTHING and entry.call.tone == "plain" for entry in window[1::2])
    )


def _is_stuck(window: Sequence[Entry]) -> bool:
    calls = [entry.call for entry in window]
    newest = calls[-1]
    # One call again and again has rules of its own.
    if any(call.failed != newest.failed for call in calls) or len({call.asked for call in calls}) == 1:
        return False
    # A new commit is a change, whatever is said of it.
    if any(entry.brought == DID for entry in window):
        return False
    if newest.tone == "failure":
        return all(says_the_same(call, newest) for call in calls) and not falls([call.figures for call in calls])
    if newest.tone == "success":
        # Edits are well only while there is a commit to show for them.
        commit = newest.fact.commit
        return commit is not None and all(e.brought < DID and e.call.fact.commit == commit for e in window)
    if len({call.tool for call in calls}) > 1:
        least = 1 if newest.tone == "plain" else STATE_WORDS
        says = without_echo(newest.gave_words, newest.asked_words)
        return len(says) >= least and all(says_the_same(call, newest) for call in calls)
    if any(call.gave != newest.gave for call in calls):
        return False
    if is_a_sweep(calls):
        return False
    # Objects looked at one after the other may well be alike; who comes back to them sees no change.
    return len(newest.gave) >= STATE_CHARACTERS or sum(entry.brought == NOTHING for entry in window) >= COMES_BACK


def _sweep(own: Sequence[Entry], window: Sequence[Entry]) -> int:
    """How many tries more a list deserves whose objects are asked after with one call: more if some answered."""
    newest = window[-1].call
    if newest.tone != "failure" or any(entry.call.tool != newest.tool for entry in window):
        return 0
    before = own[-LOOK_BACK : -len(window)]
    if any(
        entry.call.tone != "failure" and entry.call.tool == newest.tool and is_sibling(entry.call.values, newest.values)
        for entry in before
    ):
        return ANSWERED_BEFORE
    by_form = is_no_entry(newest.said)
    return int(all(is_sibling(entry.call.values, newest.values, by_form=by_form) for entry in window))


def _unmoved(own: Sequence[Entry], limits: Limits) -> Trip | None:
    """The same look at things again and again, while things are done that should have changed it."""
    newest = own[-1].call
    # Success after each deed is as it should be, nothing to complain of is too, and failures have a rule of their own.
    if newest.tone != "plain":
        return None
    looks: list[Observed] = []
    deeds = 0
    for entry in reversed(own):
        if entry.call.asked == newest.asked and entry.gave == own[-1].gave:
            looks.append(entry.call)
        elif (entry.brought == FOUND and len(entry.call.gave_words) > ACKNOWLEDGES) or entry.call.asked == newest.asked:
            break
        else:
            deeds += entry.brought > NOTHING
    if len(looks) < limits.unmoved or not deeds or _turns(looks) < LEAST_TURNS:
        return None
    return _trip("no_change", f"{newest.tool} shows the same {len(looks)} times, whatever is done in between.", looks)


def _swings(own: Sequence[Entry], limits: Limits) -> Trip | None:
    """One look that shows by turns what it had shown before, while things are done that should move it on."""
    newest = own[-1].call
    looks: list[Entry] = []
    deeds = 0
    for entry in reversed(own):
        if entry.call.asked == newest.asked:
            if entry.brought != NOTHING or entry.call.fact.commit != newest.fact.commit:
                break
            looks.append(entry)
        elif entry.brought == FOUND:
            break
        else:
            deeds += 1
    calls = [entry.call for entry in looks]
    if len(looks) < limits.swings or deeds < len(looks) - 1 or _turns(calls) < LEAST_TURNS:
        return None
    # One state alone has rules of its own.
    if len({entry.gave for entry in looks}) < 2 or all(call.tone == "success" for call in calls):
        return None
    return _trip("no_change", f"{newest.tool} shows only what it has shown before, {len(looks)} times.", calls)


def _turns(calls: Iterable[Observed]) -> int:
    return len(
        {(call.step, "seq", call.seq) if call.turn is None else (call.step, "turn", call.turn) for call in calls}
    )


def _trip(rule: str, detail: str, calls: Iterable[Observed]) -> Trip:
    places = sorted({(call.step, call.seq, call.place) for call in calls})
    return Trip(rule=rule, detail=detail, evidence=tuple(place for _, _, place in places))

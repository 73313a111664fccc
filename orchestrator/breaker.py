"""Finds agents that repeat themselves: a pure function of what tools were asked and what they gave, across a run.

A call is compared by its tool and its *normalised* arguments, and always together with what it gave: polling whose
answer changes is no loop. What changes by itself in a result (times, ids, addresses, see `likeness`) is no change.
Not covered: spend above plan, which `spending` watches; loops that find something new in every round; and what a tool
does to the world without saying so.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from chargehand.orchestrator.facts import SKIPPED
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
from chargehand.orchestrator.handoffs import answers_news, find_ring
from chargehand.orchestrator.items import is_a_calendar, is_a_form, is_a_list, is_a_series, is_a_sweep
from chargehand.orchestrator.likeness import normalise
from chargehand.orchestrator.nearness import goes_on_behind, nearness_of
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.rings import (
    COUNTED_ROUNDS,
    FLIPS,
    LEAST_BY_TURNS,
    asks_again,
    is_one_call_that_flips,
    is_ring,
    is_ring_of_talk,
    is_ring_that_counts,
    is_undone_by_turns,
    may_be_polls,
    may_wait,
)
from chargehand.orchestrator.standstills import find_standstill
from chargehand.orchestrator.tones import is_at_work, undoes
from chargehand.orchestrator.trips import (
    IN_A_SERIES,
    LEAST_TURNS,
    LIMITS,
    LOOK_BACK,
    Limits,
    Trip,
    count_turns,
    tripped,
)

__all__ = ["LIMITS", "Limits", "Observed", "Trip", "normalise", "watch"]

# A ring of more calls than this is found by what it fails to bring (`no_change`).
LONGEST_PERIOD = 5
# Of so many jobs that are looked at in turn, a round more wastes no more than three calls.
LONGEST_POLLS = 3
# More agents before one closed door are a crowd: the first of them have asked a person, and once is enough.
CROWD = 8
# A shorter word may stand in any call.
TELLING_LETTERS = 3
# How many there are in all, as an answer says it.
_TOTAL = re.compile(r"\b(?:total|count)\w*[\"'\s:=]{1,4}(\d+)", re.IGNORECASE)
# So often is a try taken back before it is seen that all are.
LEAST_UNDONE = 2


def watch(observed: Sequence[Observed], limits: Limits = LIMITS) -> Trip | None:
    """The first rule that the run's tool results, in order, break; None while it gets on.

    The last observation is the newest, and its step is the one that is judged: results of other steps count for what
    concerns the whole run (the same error, hand-offs), and never by themselves.
    """
    if not observed:
        return None
    own = history([call for call in observed if call.step == observed[-1].step])
    trip = _same_error(observed, own, limits) or _ping_pong(observed, limits)
    if trip is not None or answers_news(observed):
        return trip
    return _alternation(own, limits) or _near_identical(own, limits) or find_standstill(own, limits)


def _same_error(observed: Sequence[Observed], own: Sequence[Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    if newest.tone != "failure":
        return None
    same = _own_repetitions(own)
    total = count_turns(same)
    others: list[Observed] = []
    # Many agents that hit one busy service at once are no loop of any of them, and a question that people leave open
    # for several of them is none either.
    if newest.refused and newest.fact.error_type != SKIPPED:
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
    # Another revision, another machine: the deeds between the tries go through a list.
    if newest.refused and len(between) > 1 and all(len(those) == 1 for those in between):
        patience += is_a_sweep([those[0].call for those in between])
    if _are_undone(between):
        patience += IN_A_SERIES
    if total + len(others) < limits.same_error + limits.patience * patience:
        return None
    kind = newest.fact.error_type or "error"
    detail = f"{newest.tool} failed {len(same) + len(others)} times with the same arguments and {kind}."
    if not newest.failed:
        detail = f"{newest.tool} told of the same failure {len(same)} times."
    return tripped("same_error", detail, [*others, *same])


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


def _are_undone(between: Sequence[Sequence[Entry]]) -> bool:
    """Whether each try is another, and is taken back before the next: that it fails may be its purpose."""
    if len(between) < LEAST_UNDONE or not all(len(those) > 1 for those in between):
        return False
    tries = [entry.call.asked for those in between for entry in those[1:]]
    return all(those[0].call.tone == "success" and undoes(those[0].call.asked) for those in between) and len(
        set(tries)
    ) == len(tries)


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
    return tripped("ping_pong", f"{names} hand the same work to each other.", [observed[one.index] for one in ring])


def _alternation(own: Sequence[Entry], limits: Limits) -> Trip | None:
    talk = own[-2 * limits.rounds - 1 :]
    if is_ring_of_talk(talk) and not talk[-1].call.is_transient:
        calls = [entry.call for entry in talk]
        return tripped(
            "alternation", f"{calls[0].tool} gives the same, whatever {calls[1].tool} says in between.", calls
        )
    if is_undone_by_turns(last := own[-LEAST_BY_TURNS:]):
        calls = [entry.call for entry in last]
        return tripped("alternation", f"{calls[-2].tool} and {calls[-1].tool} undo each other.", calls)
    if is_one_call_that_flips(last := own[-FLIPS:]):
        calls = [entry.call for entry in last]
        return tripped("alternation", f"{calls[-1].tool} shows two states by turns.", calls)
    for period in range(2, LONGEST_PERIOD + 1):
        length = period * limits.rounds
        if len(own) < length:
            return None
        rounds = own[-length:]
        if not is_ring(rounds, period):
            rounds = own[-COUNTED_ROUNDS * period :]
            if is_ring_that_counts(rounds, period):
                calls = [entry.call for entry in rounds]
                return tripped(
                    "alternation", f"{calls[-1].tool} gives the same after each round of {period} calls.", calls
                )
            continue
        # Each round is a commit of its own, or one of the calls may be a wait by a name that nobody knows.
        commits = {entry.call.fact.commit for entry in rounds if entry.call.fact.commit is not None}
        if (
            len(commits) > period
            or (period == 2 and may_wait(rounds))
            or (period <= LONGEST_POLLS and may_be_polls(rounds))
        ):
            rounds = own[-length - period :]
            if len(rounds) < length + period or not is_ring(rounds, period):
                continue
        calls = [entry.call for entry in rounds]
        if count_turns(calls) < LEAST_TURNS or all(call.is_transient for call in calls):
            continue
        tools = " and ".join(dict.fromkeys(call.tool for call in calls))
        return tripped(
            "alternation", f"{tools} take turns, {len(calls) // period} rounds with the same answers.", calls
        )
    return None


def _near_identical(own: Sequence[Entry], limits: Limits) -> Trip | None:
    newest = own[-1].call
    if len(own) > 1 and goes_on_behind(own[-2].call, newest):
        return None
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
            if not (_is_looked_up_again(own[-1], hows) or _may_stand_between(entry, own[-1])) or (
                newest.tone == "success" and (is_parted or hows != {"same"})
            ):
                break
            is_parted = True
    if "deed" in hows and is_a_form(near):
        return None
    # One object after the other, each with an answer that others have as well, is bulk work.
    if not newest.refused and hows & {"wording", "deed"} and is_a_sweep(near):
        return None
    if hows == {"same"} and _is_looked_up_again(own[-1], hows):
        limit = limits.looked_up
    if _backs_off(waits[-2::-1]):
        limit = max(limit, limits.near_identical + limits.patience)
    # The answer says how many there are in all, and the number asked for has not come there yet.
    if "figures" in hows and _are_before_the_end(near):
        return None
    # Each of them may be another object, of many that are out of order.
    if hows != {"same"} and len(near) >= limit and _are_a_list(near):
        limit = limits.near_identical + limits.patience * IN_A_SERIES
    if len(near) < limit or count_turns(near) < LEAST_TURNS or falls([call.figures for call in reversed(near)]):
        return None
    detail = f"{newest.tool} was called {len(near)} times in a row with nearly the same arguments and the same outcome."
    return tripped("near_identical", detail, near)


def _are_a_list(near: Sequence[Observed]) -> bool:
    if is_a_calendar(near):
        return True
    return is_a_list(near) if near[0].tone == "failure" else _are_drawn(near)


def _are_before_the_end(near: Sequence[Observed]) -> bool:
    """Whether a place grows by the same from call to call, and every answer says that there are more in all."""
    asked = list(
        zip(*([float(number) for number in re.findall(r"\d+", call.asked)] for call in near[::-1]), strict=False)
    )
    going = [column for column in asked if len({later - earlier for earlier, later in pairwise(column)}) == 1]
    # A page's number counts pages, and the answer what stands on them.
    going = [column for column in going if column[1] - column[0] > 1]
    totals = {frozenset(_TOTAL.findall(call.said)) for call in near}
    return len(going) == len(totals) == 1 and any(float(total) > going[0][-1] for total in totals.pop())


def _are_drawn(near: Sequence[Observed]) -> bool:
    """Whether objects are asked after by their numbers, and not page after page."""
    numbers = [tuple(float(number) for number in re.findall(r"\d+", call.asked)) for call in near]
    return is_a_series(near) and numbers not in (sorted(numbers), sorted(numbers, reverse=True))


def _is_looked_up_again(newest: Entry, hows: set[str]) -> bool:
    """Whether the same was found once more by one search, or once more by searches in other words, if it says much.

    What was searched for does not come of what else is done or learnt in between.
    """
    call = newest.call
    if not call.looks_up or call.tone not in ("nothing", "plain"):
        return False
    return hows == {"same"} or (call.tone == "plain" and len(newest.gave) >= STATE_CHARACTERS)


def _may_stand_between(entry: Entry, newest: Entry) -> bool:
    """Whether what a call brought may be of another matter than the newest call, which came to what is known.

    A short answer may be a poll's, which is asked for again while other things are done.
    """
    if newest.call.is_transient:
        return False
    if entry.brought == DID and (newest.call.tone != "failure" or _is_about(entry.call, newest.call)):
        return False
    if newest.call.tone == "plain":
        # Where things are only searched for, and nothing is being done, there is nothing to poll for.
        return len(newest.gave) >= STATE_CHARACTERS or (
            entry.brought == FOUND and entry.call.looks_up and not is_at_work(newest.call.said)
        )
    return entry.call.tool != newest.call.tool


def _is_about(deed: Observed, newest: Observed) -> bool:
    """Whether a deed names something that the newest call asks for or speaks of; it may have been meant to help it."""
    # Numbers in a failure tell how much of it is left.
    if newest.figures or newest.positions:
        return True
    of_newest = newest.message_words.union(newest.gave_words)
    return any(len(word) >= TELLING_LETTERS and word in of_newest for word in deed.message_words)

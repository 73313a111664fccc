"""Rounds of calls that bring what the round before brought; pure."""

import re
from collections.abc import Sequence
from itertools import pairwise

from chargehand.orchestrator.gains import STATE_CHARACTERS, Entry, falls
from chargehand.orchestrator.likeness import without_echo
from chargehand.orchestrator.nearness import is_rephrased
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.tones import is_at_work, sets_something
from chargehand.orchestrator.volatile import without_names, without_numbers

# Twice may be chance.
COUNTED_ROUNDS = 3
# What counts the calls of a ring grows by no more from round to round.
MOST_COUNTED = 5
# So often is something set and set back before it is seen.
LEAST_BY_TURNS = 5
# A number of a document, made anew each time.
_SERIAL = re.compile(r"\d{6,}")
# So often does one call show two states by turns.
FLIPS = 6
# The same thrice, and what was said between.
LEAST_TALK = 5
SENTENCE_WORDS = 8
# A person who is asked says little.
REPLY_WORDS = 12


def is_ring(rounds: Sequence[Entry], period: int) -> bool:
    """Whether the calls of each round are those of the round before, and gave the same."""
    if len({entry.call.asked_form for entry in rounds[:period]}) < 2:
        return False
    pairs = [(rounds[index - period], rounds[index]) for index in range(period, len(rounds))]
    is_same = all(before.call.asked == after.call.asked and before.gave == after.gave for before, after in pairs)
    # A token that one call gives and the next one uses is another in each round, and the round fails all the same.
    if not is_same and not (
        any(after.call.refused for _, after in pairs[-period:])
        and all(
            before.call.asked_form == after.call.asked_form and _gave_the_same_but_for_names(before, after)
            for before, after in pairs
        )
    ):
        return False
    return not any(falls((before.call.figures, after.call.figures)) for before, after in pairs)


def is_ring_that_counts(rounds: Sequence[Entry], period: int) -> bool:
    """Whether three rounds are the same but for numbers that go on, and a look at how things stand is wholly the same.

    What is started again and again is another process each time, and is counted.
    """
    if len(rounds) < COUNTED_ROUNDS * period or len({entry.call.asked for entry in rounds[:period]}) < 2:
        return False
    is_state_set = period == 2 and _is_to_and_fro(rounds)
    stands = False
    for place in range(period):
        those = rounds[place::period]
        if len({entry.call.asked for entry in those}) > 1:
            return False
        if is_state_set or len({entry.gave for entry in those}) == 1:
            stands = stands or those[-1].call.tone == "plain" or is_state_set
        elif not _only_counts([entry.call for entry in those]):
            return False
    return stands


def _is_to_and_fro(rounds: Sequence[Entry]) -> bool:
    """Whether one of two states is set and the other by turns, whatever clock it tells: by one tool, or by a pair of
    them that are given the same."""
    calls = [entry.call for entry in rounds]
    return (
        (len({call.tool for call in calls}) == 1 or len({call.values for call in calls}) == 1)
        and len({call.without_clocks for call in calls[::2]}) == len({call.without_clocks for call in calls[1::2]}) == 1
        and calls[0].without_clocks != calls[1].without_clocks
        # What it is set to is said once more.
        and not any(is_at_work(" ".join(without_echo(call.gave_words, call.asked_words))) for call in calls[:2])
    )


def is_undone_by_turns(entries: Sequence[Entry]) -> bool:
    """Whether the calls, in a row, are two deeds by turns, each of which says what it said before but for what counts
    them: what is set is set back."""
    calls = [entry.call for entry in entries]
    sides = (calls[::2], calls[1::2])
    return (
        len(calls) >= LEAST_BY_TURNS
        and all(sets_something(f"{call.tool}\n{call.values[0] if call.values else ''}") for call in calls[-2:])
        and (all(_is_one_deed(side) for side in sides) or _is_unmade(calls))
        and calls[0].asked != calls[1].asked
        and not any(call.tone == "failure" for call in calls)
        and not any(is_at_work(call.said) for call in calls[-2:])
    )


def _is_unmade(calls: Sequence[Observed]) -> bool:
    """Whether the same is made again and again, under a new name each time, and unmade by that name."""
    made, unmade = (calls[::2], calls[1::2]) if calls[0].names & calls[1].asked_for else (calls[1::2], calls[2::2])
    return (
        len({call.asked for call in made}) == 1
        and len({without_names(call.asked) for call in unmade}) == 1
        and all(call.names & later.asked_for for call, later in zip(made, unmade, strict=False))
        and all(len({call.essence for call in side}) == 1 for side in (made, unmade))
    )


def _is_one_deed(calls: Sequence[Observed]) -> bool:
    """Whether calls do the same, or the same to what was made anew, and nothing but numbers of their own is told."""
    if len({call.asked for call in calls}) > 1 and len({_SERIAL.sub("#", call.asked) for call in calls}) > 1:
        return False
    if len({without_numbers(call.essence or call.gave) for call in calls}) > 1:
        return False
    columns = [call.columns for call in calls]
    if len({each.keys for each in columns}) > 1:
        return False
    return all(
        is_span or all(abs(later - earlier) <= MOST_COUNTED for earlier, later in pairwise(column))
        for column, is_span in zip(
            zip(*(each.numbers for each in columns), strict=True), columns[-1].is_span, strict=True
        )
    )


def _only_counts(calls: Sequence[Observed]) -> bool:
    if len({(call.form, call.shares) for call in calls}) > 1 or not calls[-1].form:
        return False
    columns = list(zip(*(call.numbers for call in calls), strict=False))
    moved = [[later - earlier for earlier, later in pairwise(column)] for column in columns if len(set(column)) > 1]
    # What grows by the same each time, and by more than a count does, is being done; so is what is the only number.
    alone = len(moved) == 1 and len(calls[-1].columns.numbers) == 1 and not any(calls[-1].columns.is_span)
    done = [min(steps) > MOST_COUNTED and (alone or min(steps) == max(steps)) for steps in moved]
    return bool(moved) and all(min(steps) > 0 for steps in moved) and not all(done)


def is_ring_of_talk(rounds: Sequence[Entry]) -> bool:
    """Whether one call gives the same each time, and in between the same is asked for in other words."""
    if len(rounds) < LEAST_TALK:
        return False
    firm, talk = rounds[::2], rounds[1::2]
    return (
        len({(entry.call.asked, entry.gave) for entry in firm}) == 1
        and len({entry.call.tool for entry in rounds}) == 2
        and not falls([entry.call.figures for entry in firm])
        and firm[-1].call.tone != "success"
        and len({entry.call.asked for entry in talk}) == len(talk)
        and all(len(entry.call.asked_words) >= SENTENCE_WORDS for entry in talk)
        and all(asks_again([one], [other]) for one, other in pairwise(talk))
        and all(len(entry.call.gave_words) <= REPLY_WORDS for entry in talk)
    )


def is_one_call_that_flips(entries: Sequence[Entry]) -> bool:
    """Whether one call, made again and again, shows one of two states and the other by turns."""
    return (
        len(entries) >= FLIPS
        and len({entry.call.asked for entry in entries}) == 1
        and len({entry.gave for entry in entries[::2]}) == len({entry.gave for entry in entries[1::2]}) == 1
        and entries[0].gave != entries[1].gave
        and all(len(entry.gave) >= STATE_CHARACTERS for entry in entries[:2])
    )


def may_wait(rounds: Sequence[Entry]) -> bool:
    """Whether a call that says nothing goes between looks that say something."""
    silent = [entry for entry in rounds if not entry.call.said.strip()]
    return len(silent) == len(rounds) // 2 and len({entry.call.asked for entry in silent}) == 1


def may_be_polls(rounds: Sequence[Entry]) -> bool:
    """Whether nothing is done in a ring, and one of its answers says that something is being done."""
    return all(entry.call.tone == "plain" for entry in rounds) and any(is_at_work(entry.call.said) for entry in rounds)


def asks_again(before: Sequence[Entry], after: Sequence[Entry]) -> bool:
    """Whether all that was done between two tries is what was done between the two before, in other words."""
    return (
        len(before) == len(after) > 0
        and all(one.call.tool == other.call.tool for one, other in zip(before, after, strict=True))
        and all(_is_asked_again(one.call, other.call) for one, other in zip(before, after, strict=True))
    )


def _is_asked_again(call: Observed, newest: Observed) -> bool:
    mine, theirs = call.named_values, newest.named_values
    return mine.keys() == theirs.keys() and all(
        mine[name] == theirs[name] or (" " in str(mine[name]) and is_rephrased(mine[name], theirs[name]))
        for name in mine
    )


def _gave_the_same_but_for_names(before: Entry, after: Entry) -> bool:
    return before.gave == after.gave or (bool(after.call.bare) and before.call.bare == after.call.bare)

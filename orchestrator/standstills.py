"""Standstills of a step: calls that show nothing new, come to one end, or leave what is looked at as it was; pure."""

from collections.abc import Sequence
from itertools import pairwise

from chargehand.orchestrator.gains import DID, FOUND, NOTHING, STATE_CHARACTERS, TRIED, Entry, falls
from chargehand.orchestrator.items import are_built_alike, are_listed, is_a_list, is_a_sweep
from chargehand.orchestrator.likeness import is_sibling, without_echo
from chargehand.orchestrator.nearness import says_the_same
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.tones import is_no_entry, says_there_is_none
from chargehand.orchestrator.trips import IN_A_SERIES, LEAST_TURNS, LOOK_BACK, Limits, Trip, count_turns, tripped
from chargehand.orchestrator.volatile import is_part

# Several kinds of things may well be empty; how things stand takes a few words more.
STATE_WORDS = 3
# So many words say it in short ones.
STATE_SENTENCE_WORDS = 12
# An answer of so few words says that something was done, in whatever words.
ACKNOWLEDGES = 2
# Tries more for the next object of a list whose names are built alike, and if some of them answered.
OF_A_LIST = 2
ANSWERED_BEFORE = 4
# And where the same is said in a word or two, which may be how things are everywhere.
IN_A_WORD = 2
# So many calls more where how things stand is said in few words, and in how many it may be.
IN_FEW_WORDS = 2
STATE_FEW_WORDS = 7
# So many calls more for who reads once more what was read before.
READ_AGAIN = 2
# So many tries of one kind, after each of which a look shows the same.
FRUITLESS_ROUNDS = 3
# So many failures of one call, each of which was seen before, in whatever order.
KNOWN_FAILURES = 3
# So many names of a snapshot, or of a trial, stand in what it shows.
MOST_BESIDE = 2
# Of the calls in a window, so many that were made before.
COMES_BACK = 2


def find_standstill(own: Sequence[Entry], limits: Limits) -> Trip | None:
    """The rule `no_change`, if the newest call breaks it."""
    # What is seen again was seen in an earlier turn.
    window = _window(own, limits.no_change, LEAST_TURNS - 1)
    if window and _are_read_again(own, window):
        window = _window(own, limits.no_change + READ_AGAIN, LEAST_TURNS - 1)
    calls = [entry.call for entry in window]
    if window and all(entry.brought == NOTHING for entry in window) and not is_a_sweep(calls):
        return tripped("no_change", f"The last {len(calls)} calls gave nothing that the step had not seen.", calls)
    window = _window(own, limits.same_end, LEAST_TURNS)
    if window and _fails_in_known_ways(window):
        detail = f"{window[-1].call.tool} was called {len(window)} times in a row and failed, as it had failed before."
        return tripped("no_change", detail, [entry.call for entry in window])
    if window and _comes_back_in_vain(window):
        calls = [entry.call for entry in window]
        return tripped(
            "no_change", f"The last {len(calls)} calls failed, or gave what the step had seen before.", calls
        )
    rounds = own[-2 * FRUITLESS_ROUNDS :]
    if len(rounds) == 2 * FRUITLESS_ROUNDS and _moves_nothing(rounds):
        calls = [entry.call for entry in rounds]
        return tripped("no_change", f"{calls[-1].tool} shows the same after each of {len(calls) // 2} tries.", calls)
    if window and _is_stuck(window):
        # A busy service may come back, and the next object may be one that answers.
        more = max(2 * all(entry.call.is_transient for entry in window), _sweep(own, window), _says_little(window))
        window = _window(own, limits.same_end + more * limits.patience, LEAST_TURNS) if more else window
        if window and _is_stuck(window):
            calls = [entry.call for entry in window]
            return tripped(
                "no_change", f"The last {len(calls)} calls, whatever they were, came to the same end.", calls
            )
    window = _window(own, limits.same_end + IN_FEW_WORDS, LEAST_TURNS)
    if window and _comes_to_little(window):
        calls = [entry.call for entry in window]
        return tripped("no_change", f"{calls[-1].tool} gave the same {len(calls)} times, whatever it was told.", calls)
    return _unmoved(own, limits) or _swings(own, limits)


def _are_read_again(own: Sequence[Entry], window: Sequence[Entry]) -> bool:
    """Whether each of the calls was made once before them, as who begins anew reads what has been read."""
    asked = {entry.call.asked for entry in window}
    return len(asked) == len(window) and asked <= {entry.call.asked for entry in own[: -len(window)]}


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
    if _stands_still(calls):
        return True
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
    if not _show_the_same(calls):
        return False
    if is_a_sweep(calls):
        return False
    # Objects looked at one after the other may well be alike; who comes back to them sees no change.
    says_much = len(newest.gave) >= STATE_CHARACTERS or len(newest.gave_words) >= STATE_SENTENCE_WORDS
    return says_much or sum(entry.brought == NOTHING for entry in window) >= COMES_BACK


def _comes_to_little(window: Sequence[Entry]) -> bool:
    """Whether one tool, told ever other things that are no objects of a list, gives the same few words."""
    calls = [entry.call for entry in window]
    return (
        len({call.tool for call in calls}) == 1
        and len({call.asked for call in calls}) > 1
        and all(entry.brought != DID for entry in window)
        and calls[-1].tone in ("plain", "nothing")
        # An acknowledgement has fewer.
        and len(calls[-1].gave_words) >= STATE_FEW_WORDS
        and not calls[-1].looks_up
        and _show_the_same(calls)
        and not is_a_sweep(calls)
        and not is_a_list(calls)
        and not are_built_alike(calls)
    )


def _show_the_same(calls: Sequence[Observed]) -> bool:
    """Whether results are one, or long ones that differ by a name or two that a machine made, and nobody asks for."""
    if len({call.gave for call in calls}) == 1 or (calls[-1].hits and len({call.hits for call in calls}) == 1):
        return True
    if _count_the_calls(calls):
        return True
    # What differs in most results is more than that, and soon seen.
    if len({len(call.gave_words) for call in calls}) > MOST_BESIDE or len({call.essence for call in calls}) > 1:
        return False
    asked = frozenset().union(*(call.asked_for for call in calls))
    return len(calls[-1].essence) >= STATE_CHARACTERS and all(
        len(call.names) <= MOST_BESIDE and not call.names & asked for call in calls
    )


def _stands_still(calls: Sequence[Observed]) -> bool:
    """Whether acknowledgements of different deeds all say of the whole how far it is, and that is as far as it was."""
    shares = calls[-1].shares
    return (
        calls[-1].tone == "success"
        and (len({call.tool for call in calls}) > 1 or all(_writes_the_whole(call) for call in calls))
        and any(is_part(share) for share in shares)
        and len({call.without_clocks for call in calls}) == 1
        and len({call.fact.commit for call in calls}) == 1
    )


def _writes_the_whole(call: Observed) -> bool:
    """Whether a call is told a whole list, as who writes a plan is."""
    return any(isinstance(value, list) and len(value) > 1 for value in call.arguments.values())


def _count_the_calls(calls: Sequence[Observed]) -> bool:
    """Whether results are one but for a number that grows by one with every call, whatever was asked."""
    columns = [call.columns for call in calls]
    if len({(each.texts, each.keys) for each in columns}) > 1 or len(calls) < 2:
        return False
    moved = [column for column in zip(*(each.numbers for each in columns), strict=True) if len(set(column)) > 1]
    return len(moved) == 1 and all(later - earlier == 1 for earlier, later in pairwise(moved[0]))


def _sweep(own: Sequence[Entry], window: Sequence[Entry]) -> int:
    """How many tries more a list deserves whose objects are asked after with one call: more if some answered."""
    newest = window[-1].call
    if newest.tone != "failure" or any(entry.call.tool != newest.tool for entry in window):
        return 0
    calls = [entry.call for entry in window]
    before = own[-LOOK_BACK : -len(window)]
    if is_a_list(calls) or are_listed(calls, [entry.call for entry in before]):
        return IN_A_SERIES
    if any(
        entry.call.tone != "failure" and entry.call.tool == newest.tool and is_sibling(entry.call.values, newest.values)
        for entry in before
    ):
        return ANSWERED_BEFORE
    by_form = is_no_entry(newest.said)
    if are_built_alike(calls) and not says_there_is_none(newest.said):
        return OF_A_LIST
    return int(all(is_sibling(call.values, newest.values, by_form=by_form) for call in calls))


def _says_little(window: Sequence[Entry]) -> int:
    """How many calls more a word or two deserve, if they answer different tools: there may be a list of these."""
    calls = [entry.call for entry in window]
    newest = calls[-1]
    tools = len({call.tool for call in calls})
    if newest.tone != "plain" or tools == 1:
        return 0
    if len(without_echo(newest.gave_words, newest.asked_words)) >= STATE_WORDS:
        return 0
    return IN_A_SERIES if tools == len(calls) else IN_A_WORD


def _unmoved(own: Sequence[Entry], limits: Limits) -> Trip | None:
    """The same look at things again and again, while things are done that should have changed it."""
    newest = own[-1].call
    # Success after each deed is as it should be, nothing to complain of is too, and failures have a rule of their own.
    # A count of what was accepted sounds like success as well: it is none after tries that all came to nothing.
    if newest.tone not in ("plain", "success"):
        return None
    looks: list[Observed] = []
    deeds = 0
    for entry in reversed(own):
        if entry.call.asked == newest.asked and entry.gave == own[-1].gave:
            looks.append(entry.call)
        elif entry.call.asked == newest.asked or _tells(entry) or (newest.tone == "success" and not _is_in_vain(entry)):
            break
        else:
            deeds += entry.brought > NOTHING
    if len(looks) < limits.unmoved or not deeds or count_turns(looks) < LEAST_TURNS:
        return None
    # What each of several commits leaves as it was is as it should be, perhaps.
    commits = {call.fact.commit for call in looks if call.fact.commit is not None}
    if len(commits) == len(looks):
        return None
    return tripped("no_change", f"{newest.tool} shows the same {len(looks)} times, whatever is done in between.", looks)


def _is_in_vain(entry: Entry) -> bool:
    return entry.brought <= TRIED and entry.call.tone != "success"


def _are_of_a_list(own: Sequence[Entry], looks: Sequence[Entry]) -> bool:
    """Whether one deed stands before each of the looks, each with another name in its place, as revisions are tried."""
    calls = [entry.call for entry in own]
    places = [index for index, entry in enumerate(own) if any(entry is look for look in looks)][1:]
    if any(later - earlier != 2 for earlier, later in pairwise(places)):
        return False
    return is_a_sweep([calls[place - 1] for place in places])


def _tells(entry: Entry) -> bool:
    """Whether a call has brought something to go on with, and is no deed that was acknowledged or refused."""
    call = entry.call
    if entry.brought != FOUND or call.tone != "plain":
        return False
    # What was asked for, said once more, acknowledges.
    return len(without_echo(call.gave_words, call.asked_words)) > ACKNOWLEDGES


def _swings(own: Sequence[Entry], limits: Limits) -> Trip | None:
    """One look that shows by turns what it had shown before, while things are done that should move it on."""
    newest = own[-1].call
    looks: list[Entry] = []
    deeds = 0
    later: Entry | None = None
    for entry in reversed(own):
        is_retried = later is not None and entry.call.asked == later.call.asked and entry.call.tone == "failure"
        later = entry
        # What failed, and went well when it was tried once more, showed nothing by its failure.
        if is_retried and looks[-1].call.tone != "failure":
            continue
        if entry.call.asked == newest.asked:
            if entry.brought != NOTHING or entry.call.fact.commit != newest.fact.commit:
                break
            looks.append(entry)
        elif entry.brought == FOUND:
            break
        else:
            deeds += 1
    calls = [entry.call for entry in looks]
    if len(looks) < limits.swings or deeds < len(looks) - 1 or count_turns(calls) < LEAST_TURNS:
        return None
    if _are_of_a_list(own, looks):
        return None
    # One state alone has rules of its own; a failure may be followed by a try that goes well, as those before it were.
    if newest.tone == "failure" and all(call.tone != "failure" for call in calls[1:]):
        return None
    if len({entry.gave for entry in looks}) < 2 or all(call.tone == "success" for call in calls):
        return None
    return tripped("no_change", f"{newest.tool} shows only what it has shown before, {len(looks)} times.", calls)

"""How little lies between two calls of a step that came to the same; pure."""

from collections import Counter
from collections.abc import Sequence

from chargehand.orchestrator.gains import Entry
from chargehand.orchestrator.likeness import change, without_echo, without_options, words
from chargehand.orchestrator.observed import Observed

# So many arguments may come or go between two calls that are nearly the same.
MOST_OPTIONS = 2
# An answer this long, word for word the same whatever the number asked for, does not hang on the number.
TELLING_CHARACTERS = 40
# Of a text that is no mere name or number, and may be said in other words.
LETTER_WORDS = 8
# Of a letter's words, so many are kept by who says the same in other words.
LETTER_SHARE = 0.6
# Of texts in one form, so many have a name that no other has.
OWN_NAMES_SHARE = 0.8


def nearness_of(entry: Entry, last: Entry) -> str | None:
    """What lies between two calls with the same outcome; None: they are different calls, or came to different ends."""
    call, newest = entry.call, last.call
    if call.tool != newest.tool or call.failed != newest.failed:
        return None
    if call.asked == newest.asked:
        return "same" if entry.gave == last.gave else None
    # An answer that names what was asked for is about that; a failure, or nothing at all, is no answer.
    is_answer = newest.tone not in ("failure", "nothing")
    if newest.tone == "success" and not newest.said.strip():
        # Who makes things is told nothing, and neither is who finds nothing; with other options it is the same.
        return "wording" if _differs_by_options(call, newest) else None
    if newest.tone == "success":
        return "deed" if _acknowledge_alike(call, newest) and _is_reworded(call, newest) else None
    if call.gave != newest.gave if is_answer else not says_the_same(call, newest):
        return None
    nearness = "wording"
    mine, theirs = call.named_values, newest.named_values
    # An option more or less is a variation, as long as something else was asked for in both.
    if len(mine.keys() ^ theirs.keys()) > MOST_OPTIONS or not mine.keys() & theirs.keys():
        return None
    for name in mine.keys() & theirs.keys():
        how = change(mine[name], theirs[name])
        if how is None and without_options(str(mine[name])) == without_options(str(theirs[name])):
            how = "wording"
        # The same name with another number in it is another object, which may well be like the first.
        if how is None or (how == "numbered" and not newest.failed):
            return None
        if how == "figures":
            if is_answer and len(newest.gave) < TELLING_CHARACTERS:
                return None
            nearness = how
    return nearness


def _is_reworded(call: Observed, newest: Observed) -> bool:
    """Whether two deeds differ by some words of one long text."""
    mine, theirs = call.named_values, newest.named_values
    if mine.keys() != theirs.keys() or newest.fact.commit is not None:
        return False
    different = [name for name in mine if mine[name] != theirs[name]]
    if len(different) != 1:
        return False
    one, other = words(str(mine[different[0]])), words(str(theirs[different[0]]))
    shared = Counter(one) & Counter(other)
    return len(other) >= LETTER_WORDS and shared.total() >= LETTER_SHARE * max(len(one), len(other))


def _acknowledge_alike(call: Observed, newest: Observed) -> bool:
    """Whether two acknowledgements are the same but for a word or two, which may be a name."""
    mine, theirs = Counter(call.gave_words), Counter(newest.gave_words)
    return max((mine - theirs).total(), (theirs - mine).total()) <= MOST_OPTIONS and bool(mine & theirs)


def _differs_by_options(call: Observed, newest: Observed) -> bool:
    """Whether two commands are about the same, and one has more signs, options or a word or two."""
    mine, theirs = call.named_values, newest.named_values
    if mine.keys() != theirs.keys():
        return False
    about = False
    for name in mine:
        one, other = set(without_options(str(mine[name]))), set(without_options(str(theirs[name])))
        if len(one ^ other) > MOST_OPTIONS or not (one <= other or other <= one):
            return False
        about = about or bool(one & other)
    return about


def is_a_form(deeds: Sequence[Observed]) -> bool:
    """Whether texts differ first of all by a name of their own, as forms that are filled in do.

    Who says the same in other words changes a word here and a word there.
    """
    texts = [words(" ".join(str(value) for value in call.values)) for call in deeds]
    varied = next((column for column in zip(*texts, strict=False) if len(set(column)) > 1), ())
    return len(set(varied)) >= OWN_NAMES_SHARE * len(texts)


def says_the_same(call: Observed, newest: Observed) -> bool:
    """Whether two results are the same but for what they echo of their questions."""
    if call.gave == newest.gave:
        return True
    echo = call.asked_words | newest.asked_words
    return without_echo(call.gave_words, echo) == without_echo(newest.gave_words, echo)

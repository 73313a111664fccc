"""How little lies between two calls of a step that came to the same; pure."""

import re
from collections import Counter
from functools import lru_cache

from pydantic import JsonValue

from chargehand.orchestrator.gains import Entry
from chargehand.orchestrator.likeness import change, same_stem, without_echo, without_options
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.volatile import is_made, words

# So many arguments may come or go between two calls that are nearly the same.
MOST_OPTIONS = 2
# An answer this long, word for word the same whatever the number asked for, does not hang on the number.
TELLING_CHARACTERS = 40
# Of a text that is no mere name or number, and may be said in other words.
LETTER_WORDS = 8
# Of a letter's words, so many are kept by who says the same in other words.
LETTER_SHARE = 0.6
SAME_LETTER_SHARE = 0.45
# Of two sentences in other words.
SHARED = 0.7
LEAST_SHARED = 4
# Of two questions with one word exchanged.
LEAST_IN_COMMON = 3
# With these one asks, whatever one asks for.
ASKING = frozenset({
    "what", "whats", "which", "please", "tell", "could", "would", "give", "need", "want", "share", "know", "again",
    "have", "hello", "kindly", "send", "provide", "find", "there", "that", "this", "with", "from", "just", "once",
    "more", "still",
})  # fmt: skip
# A question names so many things, and a reply to it has no more words.
LEAST_TOLD = 2
REPLY_WORDS = 20
_NO_PROSE = re.compile(r"[{}<>|=\\]|(?:^|\s)[/-]\S|\w/\w|\w_\w")
# Behind a command, through what its output is seen.
_SEEN_THROUGH = re.compile(r"\s*2>&1|\s*\|&?\s*(?:tail|head|cat|less|more|tee|column|nl)\b[^|;&\n]*")
# Words this short hold a sentence together, and say little.
SMALL_LETTERS = 3
# Of the words of two lists that are one.
SAME_BAG_SHARE = 0.95
# Of the first long words of two answers that are the same but for names, so many may be names.
MOST_NAMES = 2
# A number that counts calls has not grown by more since the first of those that are looked at.
MOST_COUNTED = 30


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
        if not _acknowledge_alike(call, newest):
            return None
        return "request" if _is_one_request(call, newest) else "deed" if _is_reworded(call, newest) else None
    is_same = call.gave == newest.gave if is_answer else says_the_same(call, newest)
    # That there is nothing may be said in many words.
    is_same = is_same or call.tone == newest.tone == "nothing"
    if not is_same and _is_answered_in_other_words(call, newest):
        return "wording"
    # Most answers have nothing in common, and that is soon seen; what a machine made up has digits, or is short.
    if is_answer and not is_same and sum(word not in call.different_words for word in newest.long_words) > MOST_NAMES:
        return None
    nearness = "wording"
    mine, theirs = call.named_values, newest.named_values
    # An option more or less is a variation, as long as something else was asked for in both.
    if len(mine.keys() ^ theirs.keys()) > MOST_OPTIONS or not mine.keys() & theirs.keys():
        return None
    for name in mine.keys() & theirs.keys():
        how = change(mine[name], theirs[name])
        if how is None and (is_rephrased(mine[name], theirs[name]) or _are_tokens(call, newest, name)):
            how = "wording"
        if how is None and _are_in_vain(call, newest) and _is_asked_with_another_word(mine[name], theirs[name]):
            how = "wording"
        if how is None and newest.failed and _is_part_of(mine[name], theirs[name]):
            how = "wording"
        if how is None and _bare(str(mine[name])) == _bare(str(theirs[name])):
            how = "wording"
        # The same name with another number in it is another object, which may well be like the first.
        if how is None or (how == "numbered" and not newest.failed):
            return None
        if how == "figures":
            is_same = is_same or (len(newest.essence) >= TELLING_CHARACTERS and _is_but_for_names(call, newest))
            if not is_same or _is_told_apart(call, newest):
                return None
            if is_answer and len(newest.gave) < TELLING_CHARACTERS:
                return None
            nearness = how
    # The dear comparison comes last.
    if not is_same and nearness == "wording" and _counts_on(call, newest):
        return nearness
    return nearness if is_same or _is_about_the_same(call, newest) else None


def _is_answered_in_other_words(call: Observed, newest: Observed) -> bool:
    """Whether one question was put in other words, and one short answer was given to both, in others as well."""
    if not call.tone == newest.tone == "plain" or (texts := _only_difference(call, newest)) is None:
        return False
    if max(len(call.gave_words), len(newest.gave_words)) > REPLY_WORDS:
        return False
    one, other = texts
    if not _asks_for_the_same(one, other) or not all(map(_is_prose, (call.said, newest.said))):
        return False
    said = _telling(call.said) & _telling(newest.said)
    return bool(said - _telling(one) - _telling(other))


def _asks_for_the_same(one: str, other: str) -> bool:
    """Whether two sentences name the same things, and else are words with which one asks."""
    fewer, more = sorted((_telling(one), _telling(other)), key=len)
    if len(fewer) < LEAST_TOLD or not fewer <= more or len(more) - len(fewer) > 1:
        return False
    return _is_prose(one) and _is_prose(other)


def _is_prose(text: str) -> bool:
    """Whether a text is what people say: no structure, no path, no options."""
    return _NO_PROSE.search(text) is None


def _is_one_request(call: Observed, newest: Observed) -> bool:
    """Whether two messages to the same ask for the same in other words."""
    texts = _only_difference(call, newest)
    return texts is not None and _asks_for_the_same(*texts) and not _words_of(texts[1]).isdisjoint(ASKING)


def _only_difference(call: Observed, newest: Observed) -> tuple[str, str] | None:
    """The one argument in which two calls differ, as each has it; None: there are more, or none."""
    mine, theirs = call.named_values, newest.named_values
    different = [name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]]
    if mine.keys() != theirs.keys() or len(different) != 1:
        return None
    return str(mine[different[0]]), str(theirs[different[0]])


def _telling(value: JsonValue) -> frozenset[str]:
    return frozenset(word for word in _words_of(str(value)) if len(word) > SMALL_LETTERS and word not in ASKING)


def goes_on_behind(call: Observed, newest: Observed) -> bool:
    """Whether a call takes up the mark that the one before it was given for what follows, and other things follow."""
    return (
        newest.tone == "plain"
        and not call.names.isdisjoint(newest.asked_for)
        and newest.names.isdisjoint(call.names)
        and bool(newest.names)
        and (call.essence, call.spans) != (newest.essence, newest.spans)
    )


def _is_about_the_same(call: Observed, newest: Observed) -> bool:
    """Whether two results differ only by names that a machine made, most of which they share or which say nothing."""
    return _is_but_for_names(call, newest) if call.essence == newest.essence else _are_rated_anew(call, newest)


def _is_but_for_names(call: Observed, newest: Observed) -> bool:
    if not call.essence or call.essence != newest.essence:
        return False
    shared = call.names & newest.names
    own = max(len(call.names), len(newest.names)) - len(shared)
    return own <= max(1, len(shared))


def _counts_on(call: Observed, newest: Observed) -> bool:
    """Whether two results are the same but for a number that counts the calls."""
    if not newest.form or call.form != newest.form or len(call.numbers) != len(newest.numbers):
        return False
    steps = {later - earlier for earlier, later in zip(call.numbers, newest.numbers, strict=True)} - {0.0}
    return len(steps) == 1 and all(step.is_integer() and 0 < step <= MOST_COUNTED for step in steps)


def _are_rated_anew(call: Observed, newest: Observed) -> bool:
    """Whether two results are the same hits, each with another rating of how well it fits the question."""
    return bool(newest.hits) and call.hits == newest.hits


def is_rephrased(one: JsonValue, other: JsonValue) -> bool:
    """Whether two sentences have most of their words in common, or all that is not small, whatever stands around."""
    mine, theirs = _words_of(str(one)), _words_of(str(other))
    shared = len(mine & theirs)
    if shared >= LEAST_SHARED and shared >= SHARED * min(len(mine), len(theirs)):
        return True
    if " " not in str(one) or " " not in str(other):
        return False
    fewer, more = sorted(
        ({word for word in each if len(word) > SMALL_LETTERS and word not in ASKING} for each in (mine, theirs)),
        key=len,
    )
    return (
        len(fewer) > 1
        and len(more) - len(fewer) <= MOST_OPTIONS
        and all(word in more or any(same_stem(word, each) for each in more) for word in fewer)
    )


def _are_in_vain(call: Observed, newest: Observed) -> bool:
    """Whether two searches found nothing, or the same many things."""
    if not newest.looks_up:
        return False
    return call.tone == newest.tone == "nothing" or (
        call.gave == newest.gave and len(newest.gave) >= TELLING_CHARACTERS
    )


def _is_asked_with_another_word(one: JsonValue, other: JsonValue) -> bool:
    """Whether two questions have all words but one of each in common, in whatever order, and no other number."""
    mine, theirs = _words_of(str(one)), _words_of(str(other))
    gone = {word for word in mine - theirs if not _is_small(word)}
    come = {word for word in theirs - mine if not _is_small(word)}
    alike = {word for word in gone if any(same_stem(word, each) for each in come)}
    come = {word for word in come if not any(same_stem(word, each) for each in gone)}
    gone -= alike
    return (
        max(len(gone), len(come)) <= 1
        and len(mine & theirs) + len(alike) >= LEAST_IN_COMMON
        and all(word.isalpha() for word in gone | come)
    )


def _is_part_of(one: JsonValue, other: JsonValue) -> bool:
    """Whether one text names no more than the other, set aside a word or two, as two ways to point at one thing do."""
    mine, theirs = _words_of(str(one)), _words_of(str(other))
    fewer, more = sorted((mine, theirs), key=len)
    return fewer <= more and len(more) - len(fewer) <= MOST_OPTIONS and any(len(word) > SMALL_LETTERS for word in fewer)


def _are_tokens(call: Observed, newest: Observed, name: str) -> bool:
    """Whether an argument is a machine's name in both, and what was given for it does not hang on it."""
    return (
        is_made(call.named_values[name])
        and is_made(newest.named_values[name])
        and bool(newest.names & call.names or len(newest.gave_words) >= LETTER_WORDS)
    )


def _is_told_apart(call: Observed, newest: Observed) -> bool:
    """Whether each result names what it, and not the other, was asked for: it is about that."""
    if newest.failed or call.said == newest.said:
        return False
    asked, asked_last = (Counter(words(" ".join(map(str, each.values)))) for each in (call, newest))
    said, said_last = Counter(words(call.said)), Counter(words(newest.said))
    return bool((asked - asked_last) & (said - said_last)) and bool((asked_last - asked) & (said_last - said))


def _is_reworded(call: Observed, newest: Observed) -> bool:
    """Whether two deeds differ by some words of one long text."""
    mine, theirs = call.named_values, newest.named_values
    if mine.keys() != theirs.keys() or newest.fact.commit is not None:
        return False
    bags = [Counter(words(" ".join(map(str, each.values())))) for each in (mine, theirs)]
    if (bags[0] & bags[1]).total() >= max(LETTER_WORDS, SAME_BAG_SHARE * max(bag.total() for bag in bags)):
        return True
    if (texts := _only_difference(call, newest)) is None:
        return False
    one, other = map(words, texts)
    shared = Counter(one) & Counter(other)
    # Of a letter to the same person about the same.
    share = LETTER_SHARE if len(mine) <= MOST_OPTIONS else SAME_LETTER_SHARE
    return len(other) >= LETTER_WORDS and shared.total() >= share * max(len(one), len(other))


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


def says_the_same(call: Observed, newest: Observed) -> bool:
    """Whether two results are the same but for what they echo of their questions; a longer one in any order."""
    if call.gave == newest.gave:
        return True
    echo = call.asked_words | newest.asked_words
    # Most results are simply others, and that is soon seen.
    if not all(map(_is_small, (call.different_words ^ newest.different_words) - echo)):
        return False
    mine, theirs = without_echo(call.gave_words, echo), without_echo(newest.gave_words, echo)
    if mine == theirs:
        return True
    if Counter(mine) == Counter(theirs) and len(mine) >= LEAST_SHARED:
        return True
    if min(len(mine), len(theirs)) < LETTER_WORDS:
        return False
    return (
        abs(len(mine) - len(theirs))
        <= 1
        >= max((Counter(mine) - Counter(theirs)).total(), (Counter(theirs) - Counter(mine)).total())
    )


def _is_small(word: str) -> bool:
    return len(word) <= SMALL_LETTERS and word.isalpha()


@lru_cache(maxsize=2_048)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(words(text))


@lru_cache(maxsize=2_048)
def _bare(command: str) -> tuple[str, ...]:
    return tuple(without_options(_SEEN_THROUGH.sub("", command)))

"""Calls that ask the same of one object after the other, and which name each of them has in its place; pure."""

import re
from collections.abc import Sequence
from itertools import pairwise

from pydantic import JsonValue

from chargehand.orchestrator.likeness import same_stem
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.tones import says_there_is_none
from chargehand.orchestrator.volatile import without_clocks, without_opaque, words

# Of the words of a question, so many name what it is asked of.
SLOTS_SHARE = 0.34
# A name has no more words.
NAME_WORDS = 3
# Of pairs of names, so many may be spellings of another by chance.
ALIKE_SHARE = 0.3
# Of texts in one form, so many have a name that no other has.
OWN_NAMES_SHARE = 0.8
# A number of an object has so many digits; a shorter one counts or limits something.
NUMBER_DIGITS = 3
# A key that a machine made has so many signs.
KEY_CHARACTERS = 6
# Of numbers of objects, so many end in 0 or 5; people's limits mostly do.
ROUND_SHARE = 0.5
# A shorter word does not tell what a value is about.
TELLING_LETTERS = 3

# A name with the signs that hold it together.
_TOKEN = re.compile(r"[^\s\"'=,;()\[\]{}<>|&]+")
_WORD = re.compile(r"\w+")
_PARTS = re.compile(r"\W*w(?:[.@/:-]+w)+")
_MIXED = re.compile(r"(?=.*[^\W\d])(?=.*\d)\w{4,}")
# A day, or a month, without a time of the day.
_DAY = re.compile(r"\b\d{4}-\d\d(?:-\d\d)?\b(?![T ]?\d\d:)")
# Said by people, who leave out the seconds.
_WHEN = re.compile(r"\b\d{4}-\d\d-\d\d\b(?!T)|(?<![\d:])\d?\d:\d\d\b(?!:)")
# No part of a name, a time, or a measure.
_ALONE = re.compile(r"(?<![\w:./#-])\d{1,9}(?![\w:/-])(?!\.\d)")
_MAILBOX = re.compile(r"[\w.+-]+@[\w.-]+\.\w+")
_LETTER = re.compile(r"\w")
_DIGITS = re.compile(r"\d+")
_SIGN = re.compile(r"\W+")
# A length of time, or a size: how a call is made, and no name.
_MEASURE = re.compile(r"-?\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d|b|kb|mb|gb|k|g|px)?", re.IGNORECASE)


def is_a_sweep(calls: Sequence[Observed]) -> bool:
    """Whether one question was asked of one object after the other: all words are the same, but for the objects'."""
    texts = [words(" ".join(str(value) for value in call.values)) for call in calls]
    if len({len(text) for text in texts}) > 1:
        return _are_names_in_one_place(texts)
    if _are_names_in_slots(texts):
        return True
    # A name of several parts is one.
    tokens = [_TOKEN.findall(" ".join(str(value) for value in call.values)) for call in calls]
    return len({len(each) for each in tokens}) == 1 and _are_names_in_slots(tokens)


def _are_names_in_slots(texts: Sequence[Sequence[str]]) -> bool:
    varied = [column for column in zip(*texts, strict=True) if len(set(column)) > 1]
    return 0 < len(varied) <= SLOTS_SHARE * len(texts[0]) and any(_are_objects(column) for column in varied)


def is_a_series(calls: Sequence[Observed]) -> bool:
    """Whether objects are asked after whose names differ by their numbers alone, as machines', tickets' and orders' do.

    A number by itself must be one of many digits, and no round one: others count, limit or wait. Keys that a machine
    made, all built alike, will do as well.
    """
    texts = [_TOKEN.findall(" ".join(str(value) for value in call.values)) for call in calls]
    names = [" ".join(name) for name in _differing(texts)]
    if len(set(names)) < len(names) or any(" " in name or not _DIGITS.search(name) for name in names):
        return False
    # One number is written in several ways.
    if len({_SIGN.sub("", name) for name in names}) < len(names):
        return False
    if any(without_clocks(name) != name for name in names):
        return False
    # One object by its own name is asked after in several ways.
    if any(_MIXED.fullmatch(token) for token in texts[0] if token != names[0]):
        return False
    if len({_DIGITS.sub("0", name) for name in names}) > 1:
        return len({_LETTER.sub("x", name) for name in names}) == 1 and len(names[0]) >= KEY_CHARACTERS
    if not all(map(_MEASURE.fullmatch, names)):
        return True
    return (
        all(name.isdecimal() for name in names)
        and min(map(len, names)) >= NUMBER_DIGITS
        and sum(name[-1] in "05" for name in names) <= ROUND_SHARE * len(names)
    )


def is_a_calendar(calls: Sequence[Observed]) -> bool:
    """Whether days are asked after one after the other, each once, and all else is the same."""
    texts = [" ".join(str(value) for value in call.values) for call in calls]
    days = [_DAY.findall(text) for text in texts]
    if len({_DAY.sub("~", text) for text in texts}) > 1 or not all(days):
        return False
    return all(earlier < later for earlier, later in pairwise(days)) or all(
        earlier > later for earlier, later in pairwise(days)
    )


def are_built_alike(calls: Sequence[Observed]) -> bool:
    """Whether calls differ by one name of several parts, as hosts and addresses are, all put together alike."""
    texts = [_TOKEN.findall(" ".join(str(value) for value in call.values)) for call in calls]
    names = [" ".join(name) for name in _differing(texts)]
    forms = {_WORD.sub("w", name) for name in names}
    return len(set(names)) == len(names) and len(forms) == 1 and _PARTS.fullmatch(forms.pop()) is not None


def is_a_list(calls: Sequence[Observed]) -> bool:
    """Whether objects with numbers are asked after one by one, all of which are there."""
    if _are_mailboxes(calls):
        return True
    return is_a_series(calls) and not any(says_there_is_none(call.said) for call in calls)


def _are_mailboxes(calls: Sequence[Observed]) -> bool:
    """Whether each call has a mailbox of its own; nobody guesses at those."""
    boxes = [_MAILBOX.findall(" ".join(str(value) for value in call.values)) for call in calls]
    return all(boxes) and len({box for each in boxes for box in each}) >= len(calls)


def are_listed(calls: Sequence[Observed], before: Sequence[Observed]) -> bool:
    """Whether objects are asked after one by one whose names all stood in one earlier answer."""
    texts = [_TOKEN.findall(" ".join(str(value) for value in call.values)) for call in calls]
    names = [" ".join(name) for name in _differing(texts)]
    if len(set(names)) < len(names) or any(len(name) < TELLING_LETTERS for name in names):
        return False
    # A file may be listed by its name and asked for by its path.
    short = [name.rpartition("/")[2] or name for name in names]
    return any(all(name in call.said for name in short) for call in before if call.tone != "failure")


def names_another(messages: Sequence[Observed]) -> bool:
    """Whether messages are word for word the same but for a word or a few, each of which is another one each time."""
    texts = [words(" ".join(str(value) for value in call.values)) for call in messages]
    if len(texts) < 2 or len({len(text) for text in texts}) > 1:
        return False
    varied = [column for column in zip(*texts, strict=True) if len(set(column)) > 1]
    told = [column for column in varied if all(word.isalpha() and _is_telling(word) for word in column)]
    return 0 < len(varied) <= SLOTS_SHARE * len(texts[0]) and any(_are_objects(column) for column in told)


def name_other_days(messages: Sequence[Observed]) -> bool:
    """Whether every message names a day or a time, and none of them one that was named before."""
    named = [frozenset(_WHEN.findall(" ".join(str(value) for value in call.values))) for call in messages]
    return len(named) > 1 and all(named) and len(set(named)) == len(named)


def name_other_numbers(messages: Sequence[Observed]) -> bool:
    """Whether every message has a number of its own, as a source or a finding has, and none that only counts them."""
    named = [frozenset(_ALONE.findall(" ".join(str(value) for value in call.values))) for call in messages]
    own = [numbers.difference(*(other for other in named if other is not numbers)) for numbers in named]
    if len(named) < 2 or not all(own):
        return False
    first = [min(map(int, numbers)) for numbers in own]
    steps = {later - earlier for earlier, later in pairwise(first)}
    return len(steps) > 1 or max(map(abs, steps)) > len(messages)


def is_a_form(deeds: Sequence[Observed]) -> bool:
    """Whether texts differ first of all by a name of their own, or have one beside them, as filled-in forms do.

    Who says the same in other words changes a word here and a word there.
    """
    texts = [words(" ".join(str(value) for value in call.values)) for call in deeds]
    varied = next((column for column in zip(*texts, strict=False) if len(set(column)) > 1), ())
    if len(set(varied)) >= OWN_NAMES_SHARE * len(texts):
        return True
    named = [call.named_values for call in deeds]
    return any(_are_own_names([each[key] for each in named]) for key in set(named[0]).intersection(*named[1:]))


def _are_own_names(values: Sequence[JsonValue]) -> bool:
    """Whether short values have nothing in common, and are neither counts nor made by a machine."""
    texts = [words(without_opaque(str(value))) for value in values]
    if any(not text or len(text) > NAME_WORDS or not any(map(_is_telling, text)) for text in texts):
        return False
    telling = [frozenset(filter(_is_telling, text)) for text in texts]
    pairs = [(one, other) for index, one in enumerate(telling) for other in telling[:index]]
    alike = [any(_are_spellings(a, b) for a in one for b in other) for one, other in pairs]
    return sum(alike) <= ALIKE_SHARE * len(alike)


def _is_telling(word: str) -> bool:
    return len(word) >= TELLING_LETTERS


def _are_spellings(one: str, other: str) -> bool:
    # Two numbers are the numbers of two objects.
    return one == other or (not (_DIGITS.search(one) and _DIGITS.search(other)) and same_stem(one, other))


def _differing(texts: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """What stands in each text between the beginning and the end that all have in common."""
    shortest = min(len(text) for text in texts)
    before = next((i for i in range(shortest) if len({text[i] for text in texts}) > 1), shortest)
    behind = next((i for i in range(shortest - before) if len({text[-1 - i] for text in texts}) > 1), shortest - before)
    return [tuple(text[before : len(text) - behind]) for text in texts]


def _are_names_in_one_place(texts: Sequence[Sequence[str]]) -> bool:
    """Whether texts begin and end alike, and each has a name of its own in between, of a word or a few."""
    names = _differing(texts)
    return (
        len(texts[0]) > len(names[0])
        and len(set(names)) == len(names)
        and min(map(len, names)) > 0
        and max(map(len, names)) <= min(NAME_WORDS, SLOTS_SHARE * max(len(text) for text in texts))
    )


def _are_objects(column: Sequence[str]) -> bool:
    """Whether names are all different, and few are spellings of another, as names may be by chance."""
    if len(set(column)) < len(column):
        return False
    alike = [same_stem(one, other) for index, one in enumerate(column) for other in column[:index]]
    return sum(alike) <= ALIKE_SHARE * len(alike)

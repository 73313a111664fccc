"""Which words of a passage a question has asked for, and which lines show them; pure, and only for the eye.

Ranking knows stems by Postgres's dictionary; these are rougher, so that now and then a word is left unmarked.
"""

import re
from collections.abc import Sequence

# `renderLabel` and `render_label` are two words each, as in the index.
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+")
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ies", "ers", "ed", "es", "er", "ly", "s", "e", "y")
# A shorter rest is another word.
_SHORTEST = 3
_COMMON = frozenset(
    """
    a an and are as at be by can do does for from has have how i in is it of on or our the their there this to was we
    were what when where which who why will with you your
    """.split()  # noqa: SIM905 - thirty quoted words would be harder to read
)


def highlights(text: str, query: str) -> list[tuple[int, int]]:
    """The places in `text`, first character and the one after the last, of words of the query."""
    asked = {stem(word.group()) for word in _WORD.finditer(query) if word.group().lower() not in _COMMON}
    return [word.span() for word in _WORD.finditer(text) if stem(word.group()) in asked]


def stem(word: str) -> str:
    """The word without its most common endings."""
    word = word.lower()
    while ending := next((one for one in _ENDINGS if word.endswith(one) and len(word) - len(one) >= _SHORTEST), ""):
        word = word.removesuffix(ending)
    return word


def best_lines(lines: Sequence[str], marked: Sequence[int], *, most: int) -> range:
    """The `most` lines in a row with the most of the marked ones, the earliest of them."""
    if len(lines) <= most:
        return range(len(lines))
    known = set(marked)
    starts = range(len(lines) - most + 1)
    best = max(starts, key=lambda start: (len(known.intersection(range(start, start + most))), -start))
    return range(best, best + most)

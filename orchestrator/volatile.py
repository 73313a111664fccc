"""What in a text changes by itself: clocks, spans of time, names that a machine made; and texts without it; pure."""

import re

from pydantic import JsonValue

_WORD = re.compile(r"[^\W_]+")
NUMBER = r"\d+(?:\.\d+)?"
SPAN = rf"{NUMBER}\s?(?:ns|us|µs|ms|s|secs?|seconds?|mins?|minutes?|m|h|hrs?|hours?)\b"
CLOCK = (
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?(?!\w)"
    r"|\b\d\d?:\d\d:\d\d(?:[.,]\d+)?(?:\s?(?:Z|UTC|GMT))?(?!\w)"
    r"|(?:\b(?:at|checked|as of|now|time)[\s:]{1,2}|[\[(])\d\d?:\d\d(?![:\w])(?:\s?[ap]m\b)?"
    r"|\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? \d\d? [a-z]{3} \d{4}"
    # Seconds or milliseconds since 1970, of the years 2014 to 2033.
    r"|\b1[4-9]\d{8}(?:\d{3})?(?:\.\d+)?\b"
)
# An opaque name: hexadecimal digits that are neither a word nor a number.
OPAQUE = r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,64}\b"
# The end of a pod's name: five signs that are no word.
POD = r"(?<=[0-9a-z]-)(?:(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{5}|[bcdfghjklmnpqrstvwxz]{5})(?![\w-])"
# Whatever it is called: letters and digits mixed, as no person names a thing; and how long something took.
_MADE = re.compile(
    r"(?P<span>\b(?P<count>\d+(?:\.\d+)?)\s?(?:ns|us|µs|ms|s|sec|secs|seconds)\b)"
    r"|\b\d?\d:\d\d(?::\d\d)?(?![:\w])"
    # A letter's.
    r"|<[\w.+$=~-]+@[\w.-]+>"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    # A number of a thing, by its form or by what it is called.
    r"|(?P<called>(?:(?:\b|_)(?:id|no|nr|number|key)|(?-i:(?<=[a-z])(?:Id|ID|Key|Token)))[\"'\s:=]{1,4})"
    r"(?=[\w-]*\d)[\w-]+|#\d+\b|\b(?-i:[A-Z]{2,10})-\d+\b"
    r"|(?<![^\W_])(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{6,}(?![^\W_])"
    rf"|{POD}",
    re.IGNORECASE,
)
# Before how long something has lasted, told as clocks tell it.
_LASTS = re.compile(
    r"\b(?:elapsed|uptime|runtime|running|duration|lasted|for)(?:[_ ](?:time|for))?[\"'\s:=]{1,4}\Z", re.IGNORECASE
)
BEFORE_A_SPAN = 20
# What goes from page to page: long, in one piece, letters and digits.
_MADE_ALONE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w=+/.:-]+")
MADE_CHARACTERS = 10
_CLOCK_ANYWHERE = re.compile(CLOCK, re.IGNORECASE)
# A part of a whole, which moves while something is being done: a percentage, or so many of so many.
_SHARE = re.compile(
    rf"(?<!\d){NUMBER} ?%|\b\d+ ?(?:/|of) ?\d+\b|\b\d+, \"(?:of|total)\": ?\d+\b"
    rf"|(?:percent\w*|pct|progress)[\"'\s:=]{{1,4}}{NUMBER}",
    re.IGNORECASE,
)
# How old something is, as tables have it: 57s, 3m44s, 2d4h.
_AGE = re.compile(r"\b(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?<=\d[dhms])(?!\w)")
_AGO = re.compile(
    r"\b(?P<count>\d+(?:\.\d+)?)\s?(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?) ago\b",
    re.IGNORECASE,
)
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TEMPORARY = re.compile(
    r"(/tmp/[\w./-]{0,120}?)(?<![a-z0-9])(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{6,}(?![a-z0-9])", re.IGNORECASE
)
_OPAQUE_ANYWHERE = re.compile(
    rf"\b[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\b|{OPAQUE}|{CLOCK}", re.IGNORECASE
)
# What is left of a result must say something by itself.
ESSENCE_WORDS = 4
# So many words beside their ratings tell what the hits are.
HIT_WORDS = 6
# How well a hit fits a question: a share of one.
_RATING = re.compile(r"(?<![\d.])(?:0?\.\d+|1\.0+)(?![\d.%])")
WHOLE = 100
# In the place of what is set aside.
NAME = "~"


def words(text: str) -> list[str]:
    """Letters and digits, in lower case."""
    return _WORD.findall(text.casefold())


def essence(text: str, least_words: int = ESSENCE_WORDS) -> tuple[str, frozenset[str], tuple[float, ...]]:
    """A result without names that a machine made and spans of time, these names, and these spans.

    The first is empty where so few words are left that the names may be what was asked for.
    """
    names: list[str] = []
    spans: list[float] = []

    def strip(found: re.Match[str]) -> str:
        if found["span"]:
            spans.append(float(found["count"]))
            return NAME
        if ":" in found[0] and _LASTS.search(text, max(0, found.start() - BEFORE_A_SPAN), found.start()):
            spans.append(_seconds(found[0]))
            return NAME
        called = found["called"] or ""
        names.append(found[0].removeprefix(called).casefold())
        return called + NAME

    left = _MADE.sub(strip, text)
    return (left if len(words(left)) >= least_words else ""), frozenset(names), tuple(spans)


def _seconds(clock: str) -> float:
    """Of minutes and seconds, or of hours, minutes and seconds."""
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def without_names(text: str) -> str:
    """A result without clocks and the names that a machine made; spans of time stay."""
    left = _CLOCK_ANYWHERE.sub(NAME, text)
    return _MADE.sub(lambda found: found[0] if found["span"] else f"{found['called'] or ''}{NAME}", left)


def without_clocks(text: str) -> str:
    """A result without clocks."""
    return _CLOCK_ANYWHERE.sub(NAME, text)


def shares(text: str) -> tuple[str, ...]:
    """What a result says of how far it is."""
    return tuple(_SHARE.findall(text))


def is_part(share: str) -> bool:
    """Whether what a result says of how far it is leaves something to be done."""
    numbers = [float(number) for number in re.findall(NUMBER, share)]
    return (numbers[0] < numbers[1]) if len(numbers) > 1 else any(number < WHOLE for number in numbers)


def without_numbers(text: str) -> str:
    """A result without clocks and numbers."""
    return re.sub(NUMBER, NAME, _AGE.sub(NAME, _CLOCK_ANYWHERE.sub(NAME, text)))


def without_ago(text: str) -> tuple[str, tuple[float, ...]]:
    """A text without how long ago things were, and these times in seconds."""
    if " ago" not in text:
        return text, ()
    times = tuple(float(found["count"]) * UNITS[found["unit"][0].lower()] for found in _AGO.finditer(text))
    return _AGO.sub(NAME, text), times


def without_temporary(value: JsonValue) -> JsonValue:
    """An argument without what a temporary file is called by a machine."""
    return _TEMPORARY.sub(rf"\1{NAME}", value) if isinstance(value, str) and "tmp/" in value else value


def without_opaque(text: str) -> str:
    """A text without identifiers in hexadecimal, and without clocks."""
    return _OPAQUE_ANYWHERE.sub(NAME, text)


def has_ratings(text: str) -> bool:
    """Whether a text may be a list of hits, each with how well it fits the question."""
    return "." in text and len(_RATING.findall(text)) > 1


def without_ratings(text: str) -> str:
    """A list of hits without how well each fits the question; empty where there are no ratings, or few words."""
    left, ratings = _RATING.subn(NAME, text)
    return "\n".join(sorted(left.splitlines())) if ratings > 1 and len(words(left)) >= HIT_WORDS else ""


def names_in(text: str) -> list[str]:
    """The names in a text that a machine made."""
    return [
        found[0].removeprefix(found["called"] or "").casefold() for found in _MADE.finditer(text) if not found["span"]
    ]


def is_made(value: JsonValue) -> bool:
    """Whether an argument is a name that a machine made."""
    return isinstance(value, str) and len(value) >= MADE_CHARACTERS and _MADE_ALONE.fullmatch(value) is not None

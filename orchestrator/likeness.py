"""When two calls ask the same and two results say the same, whatever changes by itself set aside; pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, NamedTuple

from pydantic import JsonValue

from chargehand.orchestrator.volatile import CLOCK, NUMBER, OPAQUE, POD, SPAN, words
from chargehand.orchestrator.wrappings import MOST_JSON, structure_of, without_exit, without_notes_on_itself

# Where a result says what changes by itself: a program tells what it is first, and how long it took last. What lies
# between is compared as it stands, because expressions over a long text take longer than all the rest of a look.
HEAD_CHARACTERS = 400
TAIL_CHARACTERS = 200
# Of a longer text only its ends are read.
MOST_OF_AN_END = MOST_JSON // 2
# Enough of an argument to see whether two are alike; a file's whole text may be one.
COMPARED_WORDS = 120
# Two words with the same stem: repository and repos, users1 and users2.
WORD_RATIO = 0.5
STEM_LETTERS = 3
# More words in another form are another text.
MOST_FORMS = 3
# Of a sentence, so many words may be exchanged for others.
EXCHANGED_SHARE = 0.2

Change = Literal["same", "wording", "figures", "numbered"]

# Names that one attempt has and the next has not.
_NAMES = (
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b0x[0-9a-f]+\b"
    r"|(?:/private)?/(?:tmp|var/folders)/[\w./-]+"
    r"|\b(?:request|req|ref|r[ée]f|reference|référence|referenz|vorgang|incident|trace|span|correlation"
    r"|session|connection|conn|transaction|txn)(?:[ _-]?id)?\.?[\"'\s:=#-]{1,4}"
    r"(?=[\w:.-]*\d)[\w:.-]*\w"
    r"|\b(?:pid|process|port|thread|worker|attempts?|try|retry|retries)[\"'\s:=#-]{1,4}"
    r"(?:(?=\w*\d)[0-9a-f]{6,64}\b|\d+(?: ?(?:/|of) ?\d+)?)"
    # What counts the calls: a cell of a notebook, an action of a browser, a job of a shell.
    r"|\b(?:(?:in|out) ?\[|(?:action|command|invocation|call|turn|snapshot|seq|execution_count"
    r"|polls?|poll[ _]?count)[\"'\s:=#-]{1,4})\d+\b"
    r"(?! ?(?:/|of\b))"
    r"|^\[\d+\]\s+\d+$"
)
_TIMINGS = (
    rf"\b(?:in|after|within|time)[\"'\s:=]{{1,4}}{SPAN}|\b{NUMBER}\s?(?:[smhd]|[a-z]{{3,8}}) ago\b"
    # Alone in brackets, or behind who answered.
    rf"|[(\[](?:\w+, )?{SPAN}[)\]]"
)
_TIMINGS_OF_THE_ANSWER = (
    rf"\btook[\"'\s:=]{{1,4}}{SPAN}"
    rf"|\btime[\"'\s:=]{{1,4}}\d+\.\d{{3,}}(?![\d\w])"
    # How fast it came.
    rf"|\b{NUMBER}\s?[kMG]i?B/s"
    # How long a name server lets its answer stand.
    rf"|\b\d+(?=\s+IN\s+(?:A|AAAA|CNAME|MX|TXT|NS|SOA|PTR|SRV)\b)|\bttl[\"'\s:=]{{1,4}}\d+"
    rf"|\b(?:took|latency|duration|(?:response|query|search|execution|processing|run)_?time|runtime)(?:_\w+)?[\"'\s:=]{{1,4}}{NUMBER}"
)
# A failure says nothing new by a time, an id, or where something lay in memory.
_FAILURE_ONLY = (
    rf"|\b{SPAN}|\b(?:\d+h)?\d+m\d+s\b"
    rf"|{OPAQUE}"
    r"|\b\d+ (?:more )?(?:attempts?|tries|retries)\b|\(x\d+ over \w+\)"
    # As services call a request of theirs.
    r"|\b[a-z]{2,12}_(?=[0-9a-z]*\d)(?=[0-9a-z]*[a-z])[0-9a-z]{8,64}\b"
    # Who asked, or who of many answered; and names that are no hexadecimal number.
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b"
    rf"|{POD}"
    r"|\b(?=(?:[a-z]*\d){3})(?=(?:\d*[a-z]){3})[0-9a-z]{12,64}\b"
    r"|\bframe[ :=#]{1,2}(?=\w*\d)[0-9a-f]{5,}\b"
    # A file that is called by its date.
    r"|/[\w./-]*\d{4}-?\d\d-?\d\d[\w.:-]*"
)
# The signs between a name's parts.
_FORM = re.compile(r"\w+")
_OPERATOR = re.compile(r"(?<=\w )(?:==|!=|<=|>=|//|\*\*|<<|>>|[-+*/%<>])(?= \w)")
_OPTION = re.compile(r"(?<!\S)-{1,2}[A-Za-z][\w-]*(?:=\S*)?")
# Without one of these (or the dashes of a UUID) there is no such name, and the longer expression need not be tried.
NAMED_BY = (
    "0x", "/tmp/", "/var/folders", "req", "ref", "réf", "vorgang", "incident", "trace", "span", "correlation",
    "session", "conn", "transaction", "txn", "pid", "process", "port", "thread", "worker", "attempt", "try", "retries",
    "in [", "out[", "action", "command", "invocation", "call", "turn", "snapshot", "seq", "execution_count", "poll",
    "[1]", "[2]", "[3]",
)  # fmt: skip
DASHES_OF_A_UUID = 4
_TIMES = f"(?P<time>{CLOCK}|{_TIMINGS})|{_TIMINGS_OF_THE_ANSWER}"
_TIMES_IN_FAILURES = f"{CLOCK}|{_TIMINGS_OF_THE_ANSWER}|{_TIMINGS}{_FAILURE_ONLY}"


def _at_a_beginning(expression: str) -> re.Pattern[str]:
    """The expression, which is tried only where a word or a bracket begins: all of it begins so."""
    return re.compile(rf"(?:\b|(?=[/\[(]))(?:{expression})", re.IGNORECASE | re.MULTILINE)


# Without names and with them.
_VOLATILE = (_at_a_beginning(_TIMES), _at_a_beginning(f"{_TIMES}|{_NAMES}"))
_VOLATILE_IN_FAILURES = (
    _at_a_beginning(_TIMES_IN_FAILURES),
    _at_a_beginning(f"{_NAMES}|{_TIMES_IN_FAILURES}"),
)
# A number by itself, unlike a percentage or a part of a whole, which are always told as they are.
_FIGURE = re.compile(rf"(?<![\w./%])(?<!of ){NUMBER}(?!\s?%|\s?/\s?\d| of \d|\w)")
# A line that tells how far it was, by a wheel that turns.
_SPINS = re.compile(r"[\u2801-\u28ff]|\[[#=>. -]{8,}\]")
_HOLDER = re.compile(r"\b(?:held|owned|locked|used|blocked) by\W+(?:\w+[ #])?[\w-]+", re.IGNORECASE)
_STATUS = re.compile(r"(?:\b|_)(?:status|code|http(?:/[\d.]+)?|error)[\"'\s:=]{1,4}[45]\d\d\b", re.IGNORECASE)
_LETTERS_FOR_DIGITS = str.maketrans("0123456789", "abcdefghij")
_STILL_TO_WAIT = re.compile(
    rf"\b(?:retry|again|wait|resets?)[\s_-](?:(?:after|in|for)\W+)?({NUMBER})"
    rf"|\b({NUMBER})\s?(?:s|secs?|seconds?|m|mins?|minutes?) (?:left|remaining|to go)\b",
    re.IGNORECASE,
)
# Where something stands in a file; what is written above it moves it.
_POSITION = re.compile(
    r"(?<=\w:)\d+(?::\d+)?(?![\w.])|\b(?:line|lines|at|ln) (?P<line>\d+)\b|^\s*\d+(?= ?\|)", re.I | re.M
)
# Of a long text's middle, what changes by itself beyond doubt; quick, because such a text may be a whole file.
_VOLATILE_IN_THE_MIDDLE = re.compile(r"0x[0-9a-f]{4,}|\d\d:\d\d:\d\d(?:[.,]\d+)?|/tmp/[\w./-]+|(?<!\d)\d+\.\d+ ?m?s\b")
_WITH_DIGITS = re.compile(r"(?<!\S)[^\s\d]*\d\S*")
_IDENTITY = re.compile(
    OPAQUE
    + r"|(?:\b|_)(?:rev(?:ision)?|version|generation|etag|serial|offset|lsn|txn?)[\"'\s:=]{1,4}[\w-]*\d[\w-]*"
    + r"|(?:\b|_)id[\"'\s:=#-]{1,4}(?=[\w-]*\d)[\w-]+|#\d+|\b[a-z]{2,10}-\d+\b",
    re.IGNORECASE,
)

# A time beside one of these, in a few words, is the time of the work, not of the answer.
_AT_WORK = re.compile(
    r"updated|heartbeat|last|modified|progress|running|processing|working|building|compiling|training|syncing"
    r"|(?:up|down)loading|copying|migrating|deploying|rolling|pending|waiting|queued"
    r"|elapsed|uptime|remaining|\beta\b|\b\d\w* left\b",
    re.IGNORECASE,
)
AT_WORK_WORDS = 30
# A span of time, and what it is the time of: a measurement, which is the answer.
_MEASURED = re.compile(rf"\W*(?:\w+[ _])?(?:time|duration|latency|runtime)\b\W{{1,4}}{SPAN}\W*", re.IGNORECASE)
# Before the time of a look, and before a time that moves while something is being done.
_LOOKED_AT = re.compile(
    r"(?<!last )\b(?:viewed|checked|read|fetched|queried|retrieved|loaded|rendered|taken|captured|as of)[\W_]+"
    r"(?:at[\W_]+)?$",
    re.IGNORECASE,
)
_MOVED_ON = re.compile(
    r"(?:updated|heartbeat|modified|progress|changed|active|activity|seen|last)\W*(?:about )?$", re.I
)
BEFORE_A_TIME = 24
_BETWEEN_OBJECTS = re.compile(r"(?<=\[)(?=\{)|(?<=\}), ?(?=\{)|(?<=\})(?=\])")
# Short names in one line, one after the other.
_IN_A_LINE = re.compile(r"(?<![\w.#-])(?:[\w.#-]+, ){3,}[\w.#-]+")
DIGITS = "0123456789"
# So far beside each other lie two clicks that are meant for one thing, in points or as a share.
BESIDE = 5
BESIDE_SHARE = 0.01
# A tool behind another gets its arguments as a text of that one's.
MOST_TEXTS = 2


def normalise(arguments: JsonValue, *, texts: int = MOST_TEXTS) -> JsonValue:
    """Arguments without what does not change their meaning: key order, white space, the spelling of numbers.

    `texts`: how many texts within each other are taken for the JSON that they are.
    """
    if isinstance(arguments, dict):
        return {key.strip(): normalise(arguments[key], texts=texts) for key in sorted(arguments)}
    if isinstance(arguments, list):
        return [normalise(item, texts=texts) for item in arguments]
    if isinstance(arguments, bool) or arguments is None:
        return arguments
    if isinstance(arguments, int | float):
        return _number(arguments)
    text = " ".join(arguments.split())
    if text[:1] in ("{", "[") and texts:
        try:
            return normalise(structure_of(text), texts=texts - 1)
        except ValueError:
            return text
    # Only plain decimal numbers: "1e5" or "0x10" may be names, and leading zeros mean something in an id.
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?", text):
        return _number(float(text))
    return text


def leaves(arguments: JsonValue) -> Iterator[JsonValue]:
    """The values of normalised arguments, in the order of their keys."""
    if isinstance(arguments, dict):
        for key in sorted(arguments):
            yield from leaves(arguments[key])
    elif isinstance(arguments, list):
        for item in arguments:
            yield from leaves(item)
    else:
        yield arguments


def spelling(value: JsonValue) -> str:
    """A value whatever its case and punctuation; numbers and signs alone stay as they are."""
    if not isinstance(value, str):
        return repr(value)
    # What stands between two names by itself may be all that a change of code is about.
    return " ".join([*words(value), *_OPERATOR.findall(value)]) or value


def settle(text: str) -> str:
    """What an answer says, without names and times that are new in every answer; the order of its lines is none."""
    said = without_notes_on_itself(text)
    keeps_times = len(said.split(maxsplit=AT_WORK_WORDS)) <= AT_WORK_WORDS and _AT_WORK.search(said) is not None
    head, middle, tail = parts(said, HEAD_CHARACTERS, TAIL_CHARACTERS)
    volatile = _VOLATILE[_may_name(head, tail)]
    head = volatile.sub(lambda found: found[0] if keeps_times and _is_of_the_work(found) else "~", head)
    said = f"{head}{_VOLATILE_IN_THE_MIDDLE.sub('~', middle)}{volatile.sub('~', tail)}"
    # Neither is that of the objects in a list.
    if not middle and ", " in said:
        said = _IN_A_LINE.sub(lambda found: ", ".join(sorted(found[0].split(", "))), said)
    if _MEASURED.fullmatch(text):
        said = text
    lines = (_BETWEEN_OBJECTS.sub("\n", said) if "{" in said else said).splitlines()
    return "\n".join(sorted(lines if middle else (" ".join(line.split()) for line in lines)))


def _is_of_the_work(found: re.Match[str]) -> bool:
    """Whether a time may say when something happened to the work, and not when it began, or somebody looked."""
    if not found["time"]:
        return False
    before = found.string[max(0, found.start() - BEFORE_A_TIME) : found.start()]
    return bool(_MOVED_ON.search(before)) if found[0].endswith("ago") else not _LOOKED_AT.search(before)


class Settled(NamedTuple):
    """A failure, taken apart."""

    said: str
    """Its words."""
    figures: tuple[float, ...]
    """Its numbers, but for those that change by themselves."""
    positions: tuple[float, ...]
    """Numbers of lines."""


def settle_failure(text: str) -> Settled:
    """What a failure says, and its figures apart: those that change by themselves tell nothing."""
    head, middle, tail = parts(without_exit(without_notes_on_itself(text)), HEAD_CHARACTERS, TAIL_CHARACTERS)
    if _SPINS.search(head):
        head = "\n".join(line for line in head.splitlines() if not _SPINS.search(line))
    if " by " in head:
        # Whoever holds what is waited for has a name, even if it is a number.
        head = _HOLDER.sub(lambda found: found[0].translate(_LETTERS_FOR_DIGITS).replace(" ", "_"), head)
    volatile = _VOLATILE_IN_FAILURES[_may_name(head, tail)]
    # How long is still to be waited goes down while time goes by.
    left = tuple(float(found[1] or found[2]) for end in (head, tail) for found in _STILL_TO_WAIT.finditer(end))
    head, tail = volatile.sub("~", head), volatile.sub("~", tail)
    # A status says what is wrong, and does not count.
    head = _STATUS.sub(lambda found: found[0].translate(_LETTERS_FOR_DIGITS), head)
    positions: list[float] = []

    def place(found: re.Match[str]) -> str:
        positions.append(float(re.findall(r"\d+", found[0])[0]))
        return re.sub(r"\d+", "#", found[0])

    head, tail = _POSITION.sub(place, head), _POSITION.sub(place, tail)
    figures = left + tuple(float(found) for found in (*_FIGURE.findall(head), *_FIGURE.findall(tail)))
    # Of the middle of a long failure, the way to it, only words count.
    said = f"{_FIGURE.sub('#', head)}{_WITH_DIGITS.sub('#', middle)}{_FIGURE.sub('#', tail)}"
    lines = said.splitlines()
    said = "\n".join(sorted(lines if middle else (" ".join(line.split()) for line in lines)))
    return Settled(said, figures, tuple(positions))


def abridged(text: str, *, by_numbers: bool = True) -> str:
    """The text; of a long one its ends, and between them a word that is another one when other lines stand there.

    Expressions over a long text take longer than a lease allows. `by_numbers`: whether other numbers are another.
    """
    head, middle, tail = parts(text, MOST_OF_AN_END, MOST_OF_AN_END)
    if not middle:
        return text
    settled = _VOLATILE_IN_THE_MIDDLE.sub("~", middle)
    lines = sorted((settled if by_numbers else _WITH_DIGITS.sub("#", settled)).splitlines())
    digest = blake2b("\n".join(lines).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    # A name with digits in it is taken for one that a machine made, which it is, and passed over.
    return f"{head}\n{digest.translate(_LETTERS_FOR_DIGITS)}\n{tail}"


def without_identity(text: str) -> str:
    """An acknowledgement without the id of what it acknowledges."""
    return _IDENTITY.sub("~", text)


def without_echo(said: Iterable[str], asked: frozenset[str]) -> list[str]:
    """The words of a message that do not come from the question."""
    return [word for word in said if word not in asked]


def without_options(command: str) -> list[str]:
    """What a command is about: its words without options, dots and quotes."""
    return words(_OPTION.sub(" ", command))


def change(one: JsonValue, other: JsonValue) -> Change | None:
    """How little lies between two values; None: they are different.

    `wording`: another spelling, a word's other form, a word in a sentence. `figures`: another number. `numbered`:
    the same name with another number in it.
    """
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return "same" if one is other or (one == other and type(one) is type(other)) else "wording"
    if isinstance(one, int | float) and isinstance(other, int | float):
        return "same" if one == other else "figures"
    return _change_of_text(str(one), str(other))


def is_sibling(one: Sequence[JsonValue], other: Sequence[JsonValue], *, by_form: bool = False) -> bool:
    """Whether two calls ask the same of two objects: all values but one are the same, or one form with other names.

    `by_form`: names that are wholly others will do, if they are built alike, as `owner/repository`.
    """
    if len(one) != len(other):
        return False
    different = [(mine, theirs) for mine, theirs in zip(one, other, strict=True) if mine != theirs]
    if len(different) != 1:
        return not different
    if len(one) > 1 or (by_form and len({_FORM.sub("w", str(value)) for value in different[0]}) == 1):
        return True
    mine, theirs = (_beginning(str(value)) for value in different[0])
    if len(mine) != len(theirs):
        return False
    changed = sum(a != b for a, b in zip(mine, theirs, strict=True))
    return len(mine) == 1 or changed <= max(1, len(mine) // 3)


def _are_places(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two texts are the coordinates of one place, or of one right beside it."""
    return len(one) == len(other) and all(
        mine.isdecimal()
        and theirs.isdecimal()
        and abs(int(mine) - int(theirs)) <= max(BESIDE, BESIDE_SHARE * int(mine))
        for mine, theirs in zip(one, other, strict=True)
    )


@lru_cache(maxsize=4_096)
def _change_of_text(one: str, other: str) -> Change | None:
    if one == other:
        return "same"
    mine, theirs = _beginning(one), _beginning(other)
    is_sentence = " " in one and " " in other
    most = max(MOST_FORMS, int(EXCHANGED_SHARE * max(len(mine), len(theirs))))
    # Most texts are simply others, and that is soon seen.
    if abs(len(mine) - len(theirs)) > most or len(set(mine).difference(theirs)) > most:
        return None
    if len(mine) > 1 and _are_places(mine, theirs):
        return "wording"
    left, right = Counter(mine), Counter(theirs)
    gone, come = list((left - right).elements()), list((right - left).elements())
    if (not gone and not come) or "".join(mine) == "".join(theirs):
        return "wording"
    # A question with a few words more is the same question; a path with a part more is another one.
    if (not gone or not come) and len(gone) + len(come) <= MOST_FORMS and " " in max(one, other, key=len):
        return "wording"
    if [word.strip(DIGITS) for word in gone] == [word.strip(DIGITS) for word in come]:
        return "figures" if is_sentence and len(mine) > 2 else "numbered"
    if max(len(gone), len(come)) > most:
        return None
    lost = 0
    for word in gone:
        partner = next((candidate for candidate in come if same_stem(word, candidate)), None)
        if partner is None:
            lost += 1
        else:
            come.remove(partner)
    if min(lost, len(come)) == 0 and max(lost, len(come)) < MOST_FORMS and " " in max(one, other, key=len):
        return "wording"
    lost = max(lost, len(come))
    if lost == 0:
        return "wording"
    return "wording" if is_sentence and lost <= EXCHANGED_SHARE * max(len(mine), len(theirs)) else None


def _may_name(*texts: str) -> bool:
    """Whether there may be a name that one attempt has and the next has not."""
    said = " ".join(texts).casefold()
    return said.count("-") >= DASHES_OF_A_UUID or any(word in said for word in NAMED_BY)


def parts(text: str, head: int, tail: int) -> tuple[str, str, str]:
    """A text's beginning, middle and end; one that is not longer than both is all beginning."""
    if len(text) <= head + tail:
        return text, "", ""
    # Where a word ends: half an address is no address.
    head = text.rfind(" ", 0, head) + 1 or head
    end = text.find(" ", len(text) - tail) if " " in text[-tail:] else len(text) - tail
    return text[:head], text[head:end], text[end:]


@lru_cache(maxsize=1_024)
def _beginning(text: str) -> tuple[str, ...]:
    return tuple(words(text)[:COMPARED_WORDS])


def same_stem(one: str, other: str) -> bool:
    """Whether two words are one in two spellings."""
    longest, shortest = max(len(one), len(other)), min(len(one), len(other))
    if shortest >= STEM_LETTERS and shortest >= WORD_RATIO * longest and (one in other or other in one):
        return True
    before = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    behind = next((i for i in range(shortest - before) if one[-1 - i] != other[-1 - i]), shortest - before)
    return before >= STEM_LETTERS and before + behind >= WORD_RATIO * longest


def _number(value: float) -> JsonValue:
    return int(value) if isinstance(value, int) or value.is_integer() else value

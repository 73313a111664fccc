"""How a text is cut into passages that answer one question each: at functions, classes and headings; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from chargehand.memory.outline import Outline

# Longer than most functions, and about what the embedding model reads (256 tokens).
MAX_LINES = 40
# Small neighbours (constants, accessors) are one passage: alone they say too little to be found.
MERGE_UP_TO_LINES = 15
# The head of a class says too little alone: it stays with its first method, unless that is long.
HEAD_LINES = 5
HEAD_MERGE_UP_TO_LINES = 30
# Only the beginning of a line tells what it is; a regex on all of a long line would be wasted time.
LOOK_AT_CHARACTERS = 160

DEFINITION = re.compile(
    r"\s*(?:export\s+)?(?:default\s+)?(?:pub(?:\([a-z]+\))?\s+)?(?:public\s+|private\s+|protected\s+|internal\s+)?"
    r"(?:static\s+|final\s+|abstract\s+|async\s+|unsafe\s+)*"
    r"(?:def|class|function|func|fn|struct|enum|impl|trait|interface|module|namespace|object|sub|proc|type)\b\s*\S"
)
# A method of Java or C#, or a function of C at the left margin.
SIGNATURE = re.compile(
    r"(?:\s+(?:public|private|protected|static)\s[^=;]*\(|[A-Za-z_][\w \t*&:<>,]*\([^;]*\)\s*\{?\s*$)"
)
STATEMENT = re.compile(r"(?:create|alter)\s+(?:or\s+replace\s+)?\w+", re.IGNORECASE)
SECTION = re.compile(r"\[[^\]]+\]\s*$")
HEADING = re.compile(r"#{1,6}\s+\S")
UNDERLINE = re.compile(r"[=\-~^\"*+#]{3,}\s*$")
# What stands directly above a definition belongs to it.
ATTACHED = re.compile(r"\s*(?:@|#|//|/\*|\*|--|///)")

WORD = re.compile(r"\w")

PROSE = (".md", ".markdown", ".rst", ".adoc")
# No headings that could be relied on: their paragraphs are what they consist of.
PLAIN = (".txt", ".text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """Consecutive lines of a file."""

    line_start: int
    """1-based."""
    line_end: int
    text: str


def cut(path: str, lines: Sequence[str], outline: Outline | None = None) -> list[Passage]:
    """The passages of a file, in order, each of at most `MAX_LINES` lines; every line that is not blank is in one.

    Without the `outline` of its syntax, code is cut by the look of its lines.
    """
    merged: list[tuple[int, int]] = []
    for begin, end in segments(path, lines, outline):
        first, last = merged[-1] if merged else (begin, begin)
        limit = HEAD_MERGE_UP_TO_LINES if last - first <= HEAD_LINES else MERGE_UP_TO_LINES
        if merged and (end - first <= limit or says_nothing(lines, begin, end)):
            merged[-1] = (first, end)
        else:
            merged.append((begin, end))
    statements = outline.statements if outline is not None else ()
    pieces = [piece for begin, end in merged for piece in split(lines, begin, end, statements)]
    return [passage for begin, end in pieces if (passage := trimmed(lines, begin, end)) is not None]


def segments(path: str, lines: Sequence[str], outline: Outline | None) -> list[tuple[int, int]]:
    """The file's parts before small ones are joined and long ones are cut."""
    name = path.lower()
    if name.endswith(PLAIN):
        starts = heading_lines(lines) | paragraph_lines(lines)
    elif name.endswith(PROSE):
        starts = heading_lines(lines)
    elif outline is not None:
        starts = {attached(lines, first) for first, _ in outline.definitions}
        starts |= {last for _, last in outline.definitions}
    else:
        starts = definition_lines(lines)
    edges = [0, *sorted(start for start in starts if 0 < start < len(lines)), len(lines)]
    return [(begin, end) for begin, end in pairwise(edges) if end > begin]


def definition_lines(lines: Sequence[str]) -> set[int]:
    """Where a function, class or section begins, with the comments and decorators above it."""
    starts = set()
    for number, line in enumerate(lines):
        beginning = line[:LOOK_AT_CHARACTERS]
        if any(pattern.match(beginning) for pattern in (DEFINITION, SIGNATURE, STATEMENT, SECTION)):
            starts.add(attached(lines, number))
    return starts


def attached(lines: Sequence[str], number: int) -> int:
    """The first of the lines directly above a definition that belong to it."""
    while number > 0 and ATTACHED.match(lines[number - 1][:LOOK_AT_CHARACTERS]):
        number -= 1
    return number


def heading_lines(lines: Sequence[str]) -> set[int]:
    """Where a section of prose begins; a `#` inside a fenced block is none, nor is the front matter's end."""
    starts: set[int] = set()
    fenced, front = False, bool(lines) and lines[0].rstrip() == "---"
    for number, line in enumerate(lines):
        if front:
            front = number == 0 or line.rstrip() != "---"
        elif line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and HEADING.match(line[:LOOK_AT_CHARACTERS]):
            starts.add(number)
        elif not fenced and number > 0 and UNDERLINE.match(line[:LOOK_AT_CHARACTERS]) and lines[number - 1].strip():
            # reStructuredText draws some titles between two lines.
            has_overline = number > 1 and lines[number - 2].rstrip() == line.rstrip()
            starts.add(number - 2 if has_overline else number - 1)
    return starts


def paragraph_lines(lines: Sequence[str]) -> set[int]:
    """Where something follows a blank line."""
    return {number for number in range(1, len(lines)) if lines[number].strip() and not lines[number - 1].strip()}


def says_nothing(lines: Sequence[str], begin: int, end: int) -> bool:
    """Whether these few lines hold no word: the brackets that close a class."""
    return end - begin <= HEAD_LINES and not any(WORD.search(line[:LOOK_AT_CHARACTERS]) for line in lines[begin:end])


def split(
    lines: Sequence[str], begin: int, end: int, statements: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """A segment in parts of at most `MAX_LINES`, cut where that hurts least in the second half of each.

    Before one of the outermost statements there, after a blank line if it can be; without any, at a blank line.
    """
    parts = []
    depths = dict(sorted(statements, reverse=True)) if end - begin > MAX_LINES else {}
    while end - begin > MAX_LINES:
        window = range(begin + MAX_LINES // 2, begin + MAX_LINES + 1)
        known = [number for number in window if number in depths]
        blank = [number for number in window if not lines[number - 1].strip()]
        if known:
            least = min(depths[number] for number in known)
            at = max((not lines[number - 1].strip(), number) for number in known if depths[number] == least)[1]
        else:
            at = blank[-1] if blank else begin + MAX_LINES
        parts.append((begin, at))
        begin = at
    return [*parts, (begin, end)]


def trimmed(lines: Sequence[str], begin: int, end: int) -> Passage | None:
    """The passage without blank lines at its edges; None if nothing is left."""
    while begin < end and not lines[begin].strip():
        begin += 1
    while end > begin and not lines[end - 1].strip():
        end -= 1
    if begin == end:
        return None
    return Passage(line_start=begin + 1, line_end=end, text="\n".join(lines[begin:end]))

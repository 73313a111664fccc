"""How a text is cut into passages that answer one question each: at functions, classes and headings; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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

PROSE = (".md", ".markdown", ".rst", ".txt", ".adoc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """Consecutive lines of a file."""

    line_start: int
    """1-based."""
    line_end: int
    text: str


def cut(path: str, lines: Sequence[str]) -> list[Passage]:
    """The passages of a file, in order, each of at most `MAX_LINES` lines; every line that is not blank is in one."""
    starts = heading_lines(lines) if path.lower().endswith(PROSE) else definition_lines(lines)
    edges = [0, *sorted(starts - {0}), len(lines)]
    segments = [(begin, end) for begin, end in pairwise(edges) if end > begin]
    merged: list[tuple[int, int]] = []
    for begin, end in segments:
        first, last = merged[-1] if merged else (begin, begin)
        limit = HEAD_MERGE_UP_TO_LINES if last - first <= HEAD_LINES else MERGE_UP_TO_LINES
        if merged and end - first <= limit:
            merged[-1] = (first, end)
        else:
            merged.append((begin, end))
    pieces = [piece for begin, end in merged for piece in split(lines, begin, end)]
    return [passage for begin, end in pieces if (passage := trimmed(lines, begin, end)) is not None]


def definition_lines(lines: Sequence[str]) -> set[int]:
    """Where a function, class or section begins, with the comments and decorators above it."""
    starts = set()
    for number, line in enumerate(lines):
        beginning = line[:LOOK_AT_CHARACTERS]
        if any(pattern.match(beginning) for pattern in (DEFINITION, SIGNATURE, STATEMENT, SECTION)):
            while number > 0 and ATTACHED.match(lines[number - 1][:LOOK_AT_CHARACTERS]):
                number -= 1
            starts.add(number)
    return starts


def heading_lines(lines: Sequence[str]) -> set[int]:
    """Where a section of prose begins; a `#` inside a fenced block is none."""
    starts, fenced = set(), False
    for number, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and HEADING.match(line[:LOOK_AT_CHARACTERS]):
            starts.add(number)
        elif not fenced and number > 0 and UNDERLINE.match(line[:LOOK_AT_CHARACTERS]) and lines[number - 1].strip():
            starts.add(number - 1)
    return starts


def split(lines: Sequence[str], begin: int, end: int) -> list[tuple[int, int]]:
    """A segment in parts of at most `MAX_LINES`, cut at a blank line where there is one in the second half."""
    parts = []
    while end - begin > MAX_LINES:
        half = begin + MAX_LINES // 2
        blank = [number for number in range(half, begin + MAX_LINES) if not lines[number].strip()]
        at = blank[-1] + 1 if blank else begin + MAX_LINES
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

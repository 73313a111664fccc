"""A repair as a person types it: the corrected line with its place, or what stands there and what should; pure.

parcel_desk/timeline.py:6: return events[-count:][::-1]
events[-count:-1] -> events[-count:]
"""

import re
from dataclasses import dataclass

from chargehand.orchestrator.errors import UserError

FORM = "FILE:LINE: the corrected line, or OLD -> NEW"
# A line of code; what is longer is no repair that a person types.
MAX_CHARACTERS = 2_000

_PLACED = re.compile(r"\s*(?P<path>[^\s:][^:\n]*?):(?P<line>[1-9][0-9]{0,6}):(?P<text>[^\n]*)\Z")
_ARROWS = ("\u2192", "->")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedLine:
    """A line that takes the place of another."""

    path: str
    line: int
    text: str
    """Without indentation: that of the line that stands there is kept, unless more is typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swap:
    """A passage that takes the place of another, wherever that stands once."""

    old: str
    new: str


def parse_fix(typed: str) -> PlacedLine | Swap:
    """The repair that was typed; raises `UserError` with the form that it should have."""
    text = typed.strip("\n").rstrip()
    if not text.strip():
        raise UserError(f"The answer is empty; write {FORM}.")
    if "\n" in text:
        raise UserError(f"The answer has several lines, and a repair has one; write {FORM}.")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"The answer has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read; write {FORM}.")
    placed = _PLACED.match(text)
    if placed is not None:
        if not placed["text"].strip():
            raise UserError(f"{text!r} has no line behind its place; write {FORM}.")
        path = placed["path"].strip().removeprefix("./")
        return PlacedLine(path=path, line=int(placed["line"]), text=placed["text"].rstrip())
    for arrow in _ARROWS:
        parts = text.split(arrow)
        if len(parts) == 2 and all(part.strip() for part in parts):
            old, new = (part.strip() for part in parts)
            if old == new:
                raise UserError(f"{text!r} changes nothing; write {FORM}.")
            return Swap(old=old, new=new)
    raise UserError(f"{text[:200]!r} is no repair that can be applied; write {FORM}.")


def named_file(typed: str) -> str | None:
    """The file that an answer names, if it is a repair that names one."""
    try:
        fix = parse_fix(typed)
    except UserError:
        return None
    return fix.path if isinstance(fix, PlacedLine) else None


def corrected(fix: PlacedLine, standing: str) -> str:
    """The line that takes the place of the one that stands there, indented like it."""
    text = fix.text[1:] if fix.text.startswith(" ") else fix.text
    if text[:1].isspace():
        return text
    return standing[: len(standing) - len(standing.lstrip())] + text

"""Small phrases that several chapters of the report share."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from chargehand.workers.report.escaping import code, fence

LANGUAGES = {".py": "python", ".js": "javascript", ".ts": "typescript", ".sh": "sh", ".yml": "yaml", ".yaml": "yaml"}

# Twice a wide line of code.
LINE_CHARACTERS = 240


def listing(text: str, path: str) -> str:
    """Lines of a file as a fenced block, coloured by the file's suffix."""
    return fence(shortened(text), LANGUAGES.get(PurePosixPath(path).suffix, ""))


def shortened(text: str) -> str:
    """The text with lines that nobody would read, as in minified code, cut short."""
    lines = (line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…" for line in text.split("\n"))
    return "\n".join(lines)


def count(number: int, one: str, many: str = "") -> str:
    """`1 fix`, `2 fixes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some_code(names: Iterable[str], limit: int = 5) -> str:
    """The first names as code, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(map(code, listed[:limit])) + more


def number(value: int | None) -> str | None:
    """`51,200`, or None when nobody counted."""
    return None if value is None else f"{value:,}"


def dollars(microusd: int | None) -> str | None:
    """`$0.0123`, or None when nobody counted."""
    if microusd is None:
        return None
    return f"${microusd / 1_000_000:,.4f}" if microusd else "$0"

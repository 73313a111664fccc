"""What a terminal shows: consoles, JSON for programs, and amounts, times and names as people write them."""

import dataclasses
import json
import re
import sys
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from chargehand.orchestrator.cli.completing import run_names

# A file or a pipe has no width; this one keeps a row of a table on one line.
PIPE_WIDTH = 180
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", autocompletion=run_names, help="Id of a run, or the beginning or end of it.")
]

STATUS_STYLES = {
    "running": "cyan",
    "waiting": "yellow",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "magenta",
    "skipped": "dim",
}
# Text of a repository or of a model must not steer the terminal (nor turn its direction).
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Output(Console):
    """A console whose closed pipe is the caller's to notice; rich would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        """The reader has seen enough."""
        raise BrokenPipeError


def answers() -> Console:
    """Standard output: what was asked for."""
    return Output(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def notes() -> Console:
    """Standard error: progress, hints, errors."""
    return Output(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def print_json(value: object) -> None:
    """One JSON document on standard output, indented for a person who looks."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, default=jsonable, indent=indent) + "\n")
    sys.stdout.flush()


def jsonable(value: object) -> Any:
    """What `json` does not know: dataclasses as objects, ids and times as text, bytes as hexadecimal digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)


def plain(text: str, limit: int | None = None) -> str:
    """The text without what would steer a terminal, at most `limit` characters long."""
    text = _STEERING.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


def one_line(text: str, limit: int | None = None) -> str:
    """The text on one line, without what would steer a terminal."""
    # A goal may be 100 kB long: no more of it is looked at than can be shown.
    return plain(" ".join(text[: 4 * limit if limit else None].split()), limit)


def short(run_id: UUID) -> str:
    """The end of the id: runs of one minute begin alike."""
    return run_id.hex[-8:]


def money(microusd: int) -> str:
    """Dollars with four decimals, because a call of a small model costs fractions of a cent."""
    return f"${microusd / 1_000_000:,.4f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def ago(moment: datetime) -> str:
    """How long it is since then."""
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"


def ahead(moment: datetime) -> str:
    """How long it is until then."""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else "now"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

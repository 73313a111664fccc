"""What one analyser said, before it is compared with the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chargehand.workers.sandbox import limited

Confidence = Literal["high", "medium", "low"]
# A whole repository of a million lines takes bandit about this long on one core.
SCAN_TIMEOUT_SECONDS = 300.0
# Command lines are capped at 2 MB by Linux; paths are short.
FILES_PER_CALL = 400
# JSON about a few thousand findings.
REPORT_BYTES = 64 << 20


class ScannerFailed(Exception):
    """An analyser did not give a report; the message holds what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawHit:
    """One report line of one analyser."""

    tool: str
    rule: str
    path: str
    """Relative to the scanned folder, as Python opens it."""
    line: int
    end_line: int
    message: str
    confidence: Confidence = "medium"
    silenced_by: str = ""
    """What keeps the usual analysers silent here, when that is no comment: `usedforsecurity=False`."""
    secret_sha1: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolReport:
    """Everything one analyser said about one folder."""

    tool: str
    version: str
    hits: tuple[RawHit, ...]
    not_covered: tuple[str, ...] = ()
    """Files it could not read, with its reason."""


def batches(files: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut the files into pieces that fit on a command line."""
    for start in range(0, len(files), FILES_PER_CALL):
        yield files[start : start + FILES_PER_CALL]


def output_of(tool: str, argv: Sequence[str], *, folder: Path, accepted: Sequence[int] = (0,)) -> bytes:
    """Run an analyser and give what it printed, or raise `ScannerFailed` with what it complained about."""
    result = limited(argv, folder=folder, timeout_seconds=SCAN_TIMEOUT_SECONDS, stdout_bytes=REPORT_BYTES)
    if result.killed or result.exit_code not in accepted:
        said = result.stderr.decode("utf-8", "backslashreplace").strip()[-500:]
        why = f"stopped ({result.killed})" if result.killed else f"ended with {result.exit_code}"
        raise ScannerFailed(f"{tool} {why}: {said or 'no message'}")
    return result.stdout


def relative(path: str) -> str:
    """Strip the `./` that analysers keep, once or more."""
    while path.startswith("./"):
        path = path[2:]
    return path

"""Which files of a workspace are worth remembering, and the lines of their text; pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

# A longer file is data or generated: nobody asks what it says, and embedding it would take minutes.
MAX_FILE_BYTES = 1024 * 1024
# Nobody writes such lines; minified code would fill passages that no model can read.
MAX_LINE_CHARACTERS = 2_000
VENDORED = frozenset(
    {
        "vendor",
        "vendored",
        "third_party",
        "thirdparty",
        "third-party",
        "node_modules",
        "bower_components",
        "site-packages",
        "dist",
        "build",
        ".venv",
        "venv",
        "__pycache__",
        ".tox",
        ".eggs",
        "_vendor",
    }
)
GENERATED = re.compile(
    r".*(\.min\.(js|css)|\.map|\.lock|-lock\.(json|yaml)|\.svg|\.csv|\.tsv|\.ipynb|_pb2\.py)", re.DOTALL
)
TESTS = re.compile(r"(.*/)?(tests?/|test_|conftest)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A file that may be read."""

    source: str
    """Under which it is remembered."""
    size_bytes: int
    blob: str | None = None
    """git's hash of its content; None: known once it is read."""


def choose(listing: Sequence[Listed]) -> tuple[list[Listed], Counter[str]]:
    """The files to read, tests last, and why others are left out."""
    wanted, skipped = [], Counter[str]()
    for file in listing:
        reason = unwanted(file.source, file.size_bytes)
        if reason is None:
            wanted.append(file)
        elif reason:
            skipped[reason] += 1
    wanted.sort(key=lambda file: (TESTS.match(file.source) is not None, file.source))
    return wanted, skipped


def unwanted(path: str, size_bytes: int) -> str | None:
    """Why a file is not worth reading; "" for an empty one, which is no loss; None if it is."""
    if size_bytes == 0:
        return ""
    if size_bytes > MAX_FILE_BYTES:
        return "larger than 1 MB"
    if any(part.lower() in VENDORED for part in PurePosixPath(path).parts[:-1]):
        return "vendored"
    if GENERATED.fullmatch(path.lower()):
        return "generated or data"
    return None


def text_of(content: bytes) -> str | None:
    """The content as text, bytes that are not UTF-8 as backslash escapes; None if it is binary."""
    if b"\0" in content:
        return None
    return content.decode("utf-8", "backslashreplace")


def lines_of(text: str) -> list[str]:
    """The lines without their newline; only `\\n` ends a line, as in git, so that `\\r` stays visible."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def lines_to_cut(content: bytes) -> tuple[list[str], str | None]:
    """The lines to cut, or none and the reason."""
    written = text_of(content)
    if written is None:
        return [], "binary"
    lines = lines_of(written)
    if any(len(line) > MAX_LINE_CHARACTERS for line in lines):
        return [], "minified"
    return lines, None

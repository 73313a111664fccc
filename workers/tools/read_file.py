"""The tool `read_file`: numbered lines of one file of the workspace."""

import os
from typing import Annotated

from pydantic import Field

from chargehand.workers.tools.registry import ToolContext, ToolRetry, tool
from chargehand.workers.tools.workspace_paths import open_inside

# A screenful of functions; more is asked for by range.
DEFAULT_LINES = 400
MAX_LINES = 1_000
# A minified line would fill the answer by itself.
MAX_LINE_CHARACTERS = 600
# Reading stops here: a bigger file is data, and its end is not worth the time of the process.
MAX_SCANNED_BYTES = 64_000_000
# Git's own rule: a NUL near the start means binary.
SNIFFED_BYTES = 8_000


@tool(effect="pure")
def read_file(
    path: Annotated[str, Field(description="Relative to the repository's root.")],
    context: ToolContext,
    first_line: Annotated[int, Field(ge=1, description="1-based.")] = 1,
    last_line: Annotated[int | None, Field(ge=1, description="Inclusive; 400 lines when it is left out.")] = None,
) -> str:
    """Read lines of a text file of the repository. Each line comes as its number, a tab, and its text verbatim.

    Ask for the range you need; at most 1,000 lines come at once.
    """
    last = last_line if last_line is not None else first_line + DEFAULT_LINES - 1
    if last < first_line:
        raise ToolRetry(f"last_line {last} is before first_line {first_line}; swap them.")
    last = min(last, first_line + MAX_LINES - 1)
    with os.fdopen(open_inside(context.open_workspace().path, path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if b"\0" in file.read(SNIFFED_BYTES):
            raise ToolRetry(f"{path!r} is a binary file of {size} bytes; it cannot be shown as text.")
        file.seek(0)
        kept: list[str] = []
        number = 0
        while file.tell() < MAX_SCANNED_BYTES and (line := file.readline(MAX_SCANNED_BYTES)):
            number += 1
            if first_line <= number <= last:
                kept.append(f"{number}\t{_shown(line)}")
        complete = file.tell() >= size
    if number == 0:
        return f"{path} is empty."
    if not kept:
        raise ToolRetry(f"{path!r} has {number} lines; line {first_line} does not exist.")
    total = f"{number} lines" if complete else f"more than {number} lines"
    return "\n".join([f"{path}, lines {first_line} to {first_line + len(kept) - 1} of {total}", *kept])


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\n").removesuffix("\r")
    if len(text) > MAX_LINE_CHARACTERS:
        return f"{text[:MAX_LINE_CHARACTERS]} … ({len(text) - MAX_LINE_CHARACTERS} more characters in this line)"
    return text

"""The tool `search_text`: where a text or an expression occurs in the workspace.

The pattern is a model's: it is matched by `git grep` in a process of its own, with a time-out, never by `re` here (one
27-character expression held the interpreter, and every heartbeat, for nine seconds).
"""

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from chargehand.memory.git import quiet_environment
from chargehand.memory.pathnames import shown
from chargehand.workers.tools.registry import ToolContext, ToolRetry, tool

# Above this the model should search for something rarer.
MAX_MATCHES = 200
DEFAULT_MATCHES = 60
MAX_LINE_CHARACTERS = 240
# One generated file must not use up all matches.
MAX_MATCHES_A_FILE = 20
MAX_OUTPUT_BYTES = 4_000_000
MAX_PATTERN_CHARACTERS = 500
# Nested repetitions make glibc's matcher allocate gigabytes.
MAX_MEMORY_BYTES = 1 << 30


@tool(effect="pure", timeout_seconds=15)
def search_text(
    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS, description="What to look for.")],
    context: ToolContext,
    regex: Annotated[bool, Field(description="The pattern is a POSIX extended expression, not plain text.")] = False,
    ignore_case: Annotated[bool, Field(description="Upper and lower case are the same.")] = False,
    under: Annotated[str, Field(description="Only files in this folder, or this file.")] = "",
    limit: Annotated[int, Field(ge=1, le=MAX_MATCHES, description="Most matches to show.")] = DEFAULT_MATCHES,
) -> str:
    """Search the repository's tracked text files, line by line. Each match comes as `path:line: text`.

    At most 20 matches a file are shown. "No match" says nothing about other spellings of the same thing.
    """
    if "\n" in pattern or "\0" in pattern:
        raise ToolRetry("The pattern has a line break; search for one line of it.")
    if under.startswith("/") or ".." in under.split("/"):
        raise ToolRetry(f"{under!r} is not inside the repository; name a folder relative to its root.")
    lines: list[str] = []
    more = False
    for path, line, text in _matches(context, pattern, regex=regex, ignore_case=ignore_case, under=under):
        if len(lines) == limit:
            more = True
            break
        lines.append(f"{path}:{line}: {text}")
    if not lines:
        place = f" under {under}" if under else ""
        return f"No match for {pattern!r}{place}."
    if more:
        lines.append(f"… there are more than {limit} matches; search for something rarer or under a folder.")
    return "\n".join(lines)


def _matches(
    context: ToolContext, pattern: str, *, regex: bool, ignore_case: bool, under: str
) -> Iterator[tuple[str, int, str]]:
    output = _grep(
        context.open_workspace().path,
        ["-E" if regex else "-F", *(["-i"] if ignore_case else []), "-e", pattern, "--", under.rstrip("/") or "."],
        context.timeout_seconds,
    )
    # path NUL line NUL text LF: a path may hold anything but NUL, a text line no LF.
    while output:
        path, separator, output = output.partition(b"\0")
        number, _, output = output.partition(b"\0")
        text, _, output = output.partition(b"\n")
        if not separator or not number.isdigit():
            return
        shown_text = text.decode("utf-8", "backslashreplace").rstrip("\r")
        if len(shown_text) > MAX_LINE_CHARACTERS:
            shown_text = f"{shown_text[:MAX_LINE_CHARACTERS]} …"
        yield shown(path), int(number), shown_text


def _grep(workspace: Path, arguments: list[str], timeout_seconds: float) -> bytes:
    """The output of one `git grep`, at most `MAX_OUTPUT_BYTES` of it; its process group is dead when this returns."""
    process = subprocess.Popen(
        [
            # The work tree is a clone that Chargehand made, perhaps as another user: that is fine here.
            *("git", "-c", f"safe.directory={workspace}", "-c", "core.fsmonitor=false", "-c", "grep.threads=1"),
            *("--literal-pathspecs", "grep", "-n", "-z", "-I", "--no-color", "--no-textconv", "--full-name"),
            *("-m", str(MAX_MATCHES_A_FILE), *arguments),
        ],
        cwd=workspace,
        env=quiet_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with suppress(ProcessLookupError):  # it may have ended already
        resource.prlimit(process.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    rang = threading.Event()

    def stop() -> None:
        rang.set()
        _kill(process)

    alarm = threading.Timer(timeout_seconds, stop)
    alarm.daemon = True
    alarm.start()
    try:
        with process:
            output, said, exit_code = _collect(process)
    finally:
        alarm.cancel()
    if rang.is_set():
        raise ToolRetry(f"The search was stopped after {timeout_seconds:.0f} s; use a simpler pattern or a folder.")
    if exit_code > 1:
        raise ToolRetry(f"The search failed: {said.removeprefix('fatal: ')[:300]}")
    return output


def _collect(process: "subprocess.Popen[bytes]") -> tuple[bytes, str, int]:
    """Output, complaint and exit code; output beyond the cap is cut at a line, and the process ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    output = process.stdout.read(MAX_OUTPUT_BYTES)
    if len(output) == MAX_OUTPUT_BYTES:
        _kill(process)
        return output[: output.rfind(b"\n") + 1], "", 0
    said = process.stderr.read(2_000).decode("utf-8", "backslashreplace").strip()
    return output, said, process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # An ended process may have given its number away; `poll` knows.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)

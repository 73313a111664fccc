"""Sandboxes that outlived the process that made them: found by a mark in their command lines, and ended.

Bubblewrap binds its life to its parent's, and the life of its inner process to its own, only when both have begun. A
worker that is killed in these milliseconds leaves an inner process that nobody tells, and that runs to its own end.
"""

import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "CHARGEHAND_SANDBOX_OF"
# A look goes through the machine's processes.
LOOK_SECONDS = 30.0
_next_look = 0.0
_MARK = re.compile(rf"\0--setenv\0{VARIABLE}\0([^\0]+)\0--unsetenv\0{VARIABLE}\0")
_PROC = Path("/proc")
# Of `/proc/PID/stat`, behind the name in brackets, which may hold spaces: when the process began, in ticks since boot.
_BEGAN = 19


def mark() -> list[str]:
    """Arguments for bubblewrap that name this process, and of which the command inside sees nothing."""
    return ["--setenv", VARIABLE, _owner(os.getpid()), "--unsetenv", VARIABLE]


def end_orphans() -> int:
    """Kill the sandboxes of this machine whose owner is dead; gives how many of their processes."""
    ended = 0
    here = _namespace()
    for pid, owner in _marked():
        namespace, _, process = owner.partition("/")
        # A process of another container has another table of processes.
        if namespace != here or _is_alive(process):
            continue
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            ended += 1
    if ended:
        log.warning("sandboxes ended whose worker had died", extra={"processes": ended})
    return ended


def end_now_and_then() -> None:
    """The same, if this process has not looked of late; cheap enough to go before every sandbox."""
    global _next_look
    now = time.monotonic()
    if now >= _next_look:
        _next_look = now + LOOK_SECONDS
        end_orphans()


def _marked() -> Iterator[tuple[int, str]]:
    """Processes of sandboxes, and whose they are."""
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            if found := _MARK.search(line):
                yield int(folder.name), found[1]


def _owner(pid: int) -> str:
    return f"{_namespace()}/{pid}.{_began(pid)}"


def _is_alive(process: str) -> bool:
    """Whether the process is there, and no later one of its number."""
    pid, _, began = process.partition(".")
    try:
        return _began(int(pid)) == began
    except (OSError, ValueError):
        return False


def _began(pid: int) -> str:
    """Raises `OSError` when there is no such process, and for one that only waits for its parent to hear of its end."""
    state, *rest = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise ProcessLookupError(pid)
    return rest[_BEGAN - 1]


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")

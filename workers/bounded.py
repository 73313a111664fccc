"""A child process that ends: its time, its output, its tree's memory and the disk it may fill are bounded.

Bounds are watched from outside, a few times a second; a burst between two looks is seen late. Whoever needs more than
accounting (no network, no files) uses `chargehand.workers.sandbox`, which builds on this.
"""

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

# Of a flood, the start says what ran and the end says how it went.
HEAD_BYTES = 65_536
TAIL_BYTES = 262_144
# How often memory, disk and cancellation are looked at.
WATCH_INTERVAL_SECONDS = 0.2
# After the child is gone its pipes close at once, unless a grandchild holds them.
DRAIN_SECONDS = 1.0

_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


def _never() -> bool:
    return False


# Whether the step that this thread works for is not ours any more: its children are then ended, wherever they were
# started, without every function between the executor and a child having to pass it on.
CANCELLED: ContextVar[Callable[[], bool]] = ContextVar("cancelled", default=_never)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildResult:
    """How a child process ended."""

    exit_code: int
    """Its own, or 128 + the signal that ended it."""
    stdout: bytes
    """At most `HEAD_BYTES` from the start and `TAIL_BYTES` from the end; a line between them says what was cut."""
    stderr: bytes
    killed: str
    """Why we ended it: `time`, `memory`, `disk`, `cancelled`; empty when it ended by itself."""
    duration_seconds: float

    @property
    def timed_out(self) -> bool:
        """Whether it was ended because its time was up."""
        return self.killed == "time"


@dataclass(kw_only=True, slots=True)
class _Capture:
    """The start and the end of a stream of any length."""

    head_bytes: int = HEAD_BYTES
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    dropped: int = 0

    def add(self, chunk: bytes) -> None:
        room = self.head_bytes - len(self.head)
        self.head += chunk[: max(0, room)]
        self.tail += chunk[max(0, room) :]
        excess = len(self.tail) - TAIL_BYTES
        # Trimmed in large steps: one memmove a chunk would make a flood quadratic.
        if excess > TAIL_BYTES:
            del self.tail[:excess]
            self.dropped += excess

    def text(self) -> bytes:
        excess = max(0, len(self.tail) - TAIL_BYTES)
        dropped = self.dropped + excess
        gap = b"\n[... %d bytes left out ...]\n" % dropped if dropped else b""
        return bytes(self.head) + gap + bytes(self.tail[excess:])


def run_bounded(
    argv: Sequence[str | bytes],
    *,
    environment: Mapping[str, str],
    folder: Path,
    timeout_seconds: float,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
    cancelled: Callable[[], bool] | None = None,
    stdout_bytes: int = HEAD_BYTES,
) -> ChildResult:
    """Run `argv` in `folder` to its end or to a bound, and leave no process of its group behind.

    `memory_bytes` is for the whole tree; `disk_bytes` is how much free space of the folder's disk may vanish meanwhile;
    `stdout_bytes` is how much of the output's start is kept whole. `cancelled` ends it early; by default `CANCELLED`.
    """
    cancelled = cancelled or CANCELLED.get()
    started = time.monotonic()
    free_at_start = shutil.disk_usage(folder).free
    child = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    captures = {"stdout": _Capture(head_bytes=stdout_bytes), "stderr": _Capture()}
    killed = ""
    next_look = started + WATCH_INTERVAL_SECONDS
    gone_since: float | None = None
    try:
        with selectors.DefaultSelector() as selector:
            _register(selector, child, stdin)
            while True:
                now = time.monotonic()
                if child.poll() is not None:
                    gone_since = gone_since or now
                    if not _readable(selector) or now - gone_since > DRAIN_SECONDS:
                        break
                elif now - started > timeout_seconds:
                    killed = "time"
                    break
                elif now >= next_look:
                    next_look = now + WATCH_INTERVAL_SECONDS
                    killed = _broken_bound(child.pid, folder, memory_bytes, disk_bytes, free_at_start, cancelled)
                    if killed:
                        break
                _pump(selector, captures, child)
    finally:
        _kill_group(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                _close(pipe)
    code = child.returncode
    return ChildResult(
        exit_code=code if code >= 0 else 128 - code,
        stdout=captures["stdout"].text(),
        stderr=captures["stderr"].text(),
        killed=killed,
        duration_seconds=time.monotonic() - started,
    )


def _register(selector: selectors.BaseSelector, child: subprocess.Popen[bytes], stdin: bytes) -> None:
    for name, pipe in (("stdout", child.stdout), ("stderr", child.stderr)):
        assert pipe is not None
        selector.register(pipe, selectors.EVENT_READ, name)
    if child.stdin is not None:
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE, bytearray(stdin))


def _readable(selector: selectors.BaseSelector) -> bool:
    return any(key.events & selectors.EVENT_READ for key in selector.get_map().values())


def _pump(selector: selectors.BaseSelector, captures: Mapping[str, _Capture], child: subprocess.Popen[bytes]) -> None:
    """Move what the pipes hold, once; wait a little when they hold nothing."""
    if not selector.get_map():
        try:
            child.wait(WATCH_INTERVAL_SECONDS)
        except subprocess.TimeoutExpired:
            return
        return
    for key, _ in selector.select(WATCH_INTERVAL_SECONDS / 2):
        if isinstance(key.data, bytearray):
            try:
                del key.data[: os.write(key.fd, key.data[:65_536])]
            except BrokenPipeError:
                key.data.clear()
            if not key.data:
                selector.unregister(key.fileobj)
                assert child.stdin is not None
                _close(child.stdin)
            continue
        chunk = os.read(key.fd, 65_536)
        if chunk:
            captures[key.data].add(chunk)
        else:
            selector.unregister(key.fileobj)


def _broken_bound(
    pid: int,
    folder: Path,
    memory_bytes: int | None,
    disk_bytes: int | None,
    free_at_start: int,
    cancelled: Callable[[], bool] | None,
) -> str:
    if cancelled is not None and cancelled():
        return "cancelled"
    if disk_bytes is not None and free_at_start - shutil.disk_usage(folder).free > disk_bytes:
        return "disk"
    if memory_bytes is not None and _tree_memory_bytes(pid, memory_bytes) > memory_bytes:
        return "memory"
    return ""


def _tree_memory_bytes(pid: int, enough: int) -> int:
    """Resident memory of a process and all below it; only when that looks too much are shared pages divided (PSS)."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    resident = sum(_resident(process) for process in tree)
    return resident if resident <= enough else sum(_proportional(process) for process in tree)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        match = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_bytes())
    except OSError:
        return _resident(process)
    return int(match.group(1)) * 1024 if match else 0


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End every process of the child's session that did not make a session of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        # The group is empty: the child ended by itself and left nothing.
        child.poll()
    child.wait()


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        # What was not written yet has nobody left to read it.
        return

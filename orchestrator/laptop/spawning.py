"""Child processes that end when this one does, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# The kernel sends the death signal when the *thread* that forked ends. Threads of a caller come and go; this one
# ends with the interpreter.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_LIFELINE = Path(__file__).with_name("lifeline.py")
# Above this a log is set aside when its process starts, so that a laptop's disk does not fill up with them.
LOG_ROTATE_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A system user that a child runs as."""

    name: str
    uid: int
    gid: int


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> "subprocess.Popen[bytes]":
    """Start `argv` in a session of its own, its output appended to `log`.

    If this process dies, even by SIGKILL, the child gets `death_signal`. Ctrl-C in the terminal reaches only us.
    """
    rotate(log)
    owner = "-" if account is None else f"{account.uid}:{account.gid}"
    command = [sys.executable, "-I", "-S", str(_LIFELINE), str(os.getpid()), str(int(death_signal)), owner, *argv]

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                start_new_session=True,
            )

    return _SPAWNER.submit(start).result()


def rotate(log: Path) -> None:
    """Set a log that has grown too long aside as `NAME.log.1`, replacing the one before."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log.exists() and log.stat().st_size > LOG_ROTATE_BYTES:
        log.replace(log.with_name(log.name + ".1"))


def signal_group(leader_pid: int, signal_number: signal.Signals) -> None:
    """Send a signal to the process and everything it started that stayed in its group; gone is fine."""
    try:
        os.killpg(leader_pid, signal_number)
    except ProcessLookupError:
        return


def tail(log: Path, *, offset: int = 0, limit_bytes: int = 65_536) -> str:
    """The end of what was written to `log` after `offset`; empty if there is no log."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(min(offset, end), end - limit_bytes))
        return file.read().decode(errors="replace")

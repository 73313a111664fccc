"""`<home>/laptop.json`: where the running laptop is, for clients that were given no URL."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.laptop.services import Endpoints

# Clock granularity of /proc is a hundredth of a second; two processes of one pid are further apart.
SAME_PROCESS_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class LaptopState:
    """A laptop that is up."""

    pid: int
    """The process that runs `up`."""
    started_at: float
    """When that process was created: its pid may be another program's tomorrow."""
    endpoints: Endpoints
    flower_url: str
    api_url: str
    pids: dict[str, int] = field(default_factory=dict)
    """Process ids of the servers, the supervisor, the pools and Flower, by name."""


def write_state(home: Path, state: LaptopState) -> None:
    """Replace the file atomically, readable for its owner only: the URLs carry passwords."""
    building = home / f".laptop.json.{os.getpid()}"
    building.touch(mode=0o600)
    building.write_text(json.dumps(dataclasses.asdict(state), indent=2) + "\n")
    building.replace(_file(home))


def remove_state(home: Path) -> None:
    """Say that nothing runs here any more."""
    _file(home).unlink(missing_ok=True)


def running_laptop(home: Path) -> LaptopState | None:
    """The laptop that is up in `home`, or None; what a dead one left is removed."""
    try:
        content = json.loads(_file(home).read_text())
        state = LaptopState(**{**content, "endpoints": Endpoints(**content["endpoints"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Not written by this version.
        remove_state(home)
        return None
    if not _is_same_process(state):
        remove_state(home)
        return None
    return state


def process_started_at(pid: int) -> float | None:
    """When the process was created; None if there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Be the only `up` of this home, or raise; the kernel lets go when the process ends, however it ends."""
    with (home / "laptop.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            running = running_laptop(home)
            who = f" (pid {running.pid})" if running else ""
            raise UserError(
                f"Chargehand is already up in {home}{who}; use it, stop it with Ctrl-C, "
                "or set CHARGEHAND_HOME to another folder."
            ) from error
        yield


def _file(home: Path) -> Path:
    return home / "laptop.json"


def _is_same_process(state: LaptopState) -> bool:
    started_at = process_started_at(state.pid)
    return started_at is not None and abs(started_at - state.started_at) < SAME_PROCESS_SECONDS

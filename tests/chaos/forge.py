"""Worker processes that need not import everything again: forked by one that has, and from then on like any other.

A worker that starts costs about three seconds of a core, nearly all of it imports; a thousand of them are an hour. One
that is forged costs .2 s. `python -m chaos.forge SOCKET` imports everything once, reads no settings, starts no thread,
and forks a process for each request: with its own environment, session, log and death signal, running `python -m MODULE
ARG…` as it was asked to. Whoever asks becomes its parent, so that it can wait for it: the harness is a subreaper, and
the forge forks twice.

What a start is itself worth testing for (a broken import, a missing setting) shows in fleets without a forge.
"""

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from chargehand.orchestrator.laptop.spawning import rotate, spawn

# What a worker and a supervisor import; `chargehand.workers.app` itself reads the settings, and is left to the child.
PREPARED = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.fixups",
    "celery.worker.worker",
    "kombu.transport.redis",
    "anthropic.types.shared",
    "chargehand.orchestrator.broker",
    "chargehand.orchestrator.forks",
    "chargehand.orchestrator.telemetry.exporter",
    "chargehand.orchestrator.telemetry.following",
    "chargehand.workers.models.client",
    "chargehand.workers.recollection",
    "chargehand.workers.reembedding",
    "chargehand.workers.scripts.catalogue",
    "chargehand.workers.scripts.index",
    "chargehand.workers.shop",
    "chargehand.workers.tasks",
    "chargehand.workers.tools.catalogue",
    "chargehand.workers.tools.recall",
    "chargehand.workers.user_code",
    "chargehand.workers.workspace",
)
START_SECONDS = 60.0
LOOK_SECONDS = 0.01
# <linux/prctl.h>
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36


class Forged:
    """A process that was forged, as `subprocess.Popen` shows one; it is a child of this process."""

    def __init__(self, pid: int) -> None:
        """It runs, or has ended and waits to be waited for."""
        self.pid = pid
        self.returncode: int | None = None
        self._guard = threading.Lock()

    def poll(self) -> int | None:
        """How it ended; None: it runs."""
        with self._guard:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(LOOK_SECONDS)
        return code

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Forge:
    """The forge, seen from the harness."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]") -> None:
        """It listens at `path`."""
        self._path, self.process = path, process

    def spawn(
        self, argv: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None, **rest: Any
    ) -> "subprocess.Popen[bytes]":
        """What `spawning.spawn` does, by a fork for `python -m celery …`, as ever for everything else."""
        if tuple(argv[1:3]) != ("-m", "celery") or environment is None:
            return spawn(argv, log=log, environment=environment, **rest)
        rotate(log)
        asked = {
            "module": argv[2],
            "arguments": list(argv[3:]),
            "log": str(log),
            "environment": dict(environment),
            "cwd": str(rest["cwd"]) if rest.get("cwd") else None,
            "parent": os.getpid(),
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self._path))
            connection.sendall(json.dumps(asked).encode() + b"\n")
            return Forged(int(connection.makefile("rb").readline()))  # type: ignore[return-value]


@contextmanager
def running_forge(home: Path) -> Iterator[Forge]:
    """A forge while the block runs, in which this process adopts what its descendants leave behind."""
    _prctl(_SET_SUBREAPER, 1)
    path = home / "forge.sock"
    # The home shows in what is forged whose it is, to those who look for processes that are left over.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CHARGEHAND_HOME": str(home)}
    argv = [sys.executable, "-m", "chaos.forge", str(path)]
    process = spawn(argv, log=home / "forge.log", environment=environment)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The forge does not start: {(home / 'forge.log').read_text()}")
            time.sleep(LOOK_SECONDS)
        yield Forge(path, process)
    finally:
        process.kill()
        process.wait()
        _prctl(_SET_SUBREAPER, 0)


# --- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Fork for whoever asks, for ever."""
    path = Path(sys.argv[1])
    for name in PREPARED:
        import_module(name)
    # A child that collects garbage need not look at, and so copy, all of this.
    gc.collect()
    gc.freeze()
    if threading.active_count() > 1:
        raise SystemExit(f"A fork would lose the threads {threading.enumerate()}.")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path.with_suffix(".new")))
        listening.listen(64)
        # There from the moment on at which it can be asked.
        path.with_suffix(".new").rename(path)
        while True:
            connection, _ = listening.accept()
            with connection:
                asked = json.loads(connection.makefile("rb").readline())
                pid = _fork_twice(asked, [listening, connection])
                connection.sendall(b"%d\n" % pid)


def _fork_twice(asked: Mapping[str, Any], inherited: Sequence[socket.socket]) -> int:
    """Start it as a child of whoever adopts orphans; gives its pid."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.close(writing)
            for one in inherited:
                one.close()
            _become(asked)
        os.write(writing, b"%d" % pid)
        os._exit(0)
    os.close(writing)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as pipe:
        return int(pipe.read())


def _become(asked: Mapping[str, Any]) -> NoReturn:
    """Be the process that was asked for, and end as one; never returns."""
    os.setsid()
    while (parent := os.getppid()) != asked["parent"]:
        if parent == 1:
            # Whoever asked is gone, and nobody will end this one.
            os._exit(1)
        # The one in between is just ending.
        time.sleep(0.001)
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    if asked["cwd"]:
        os.chdir(asked["cwd"])
    # Python has read the variable when the forge began.
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in folders if folder and folder not in sys.path]
    sys.argv = [asked["module"], *asked["arguments"]]
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main()

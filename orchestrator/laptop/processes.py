"""A supervisor of processes: starts them, waits until they are ready, restarts what dies, leaves nothing behind."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.laptop.spawning import signal_group, spawn, tail
from chargehand.orchestrator.laptop.specs import ProcessSpec

# Importing a worker takes 1.7 s idle, and a cold disk with two cores busy multiplies that.
READY_TIMEOUT_SECONDS = 90.0
# A worker finishes its turn on SIGTERM; a call of a model may take this long.
STOP_GRACE_SECONDS = 20.0
# A process that dies at once is restarted after 1, 2, 4 … seconds, so that a broken one does not eat the machine.
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LAST_SECONDS = 30.0
# One that ran this long was healthy: its next death starts the backoff over.
HEALTHY_SECONDS = 60.0
WATCH_SECONDS = 0.1
# A process that is ready may have much to say before somebody looks whether it is.
LOG_OF_A_START_BYTES = 4_000_000
LINES_OF_LOG_IN_AN_ERROR = 8


def backoff_seconds(deaths_in_a_row: int) -> float:
    """How long to wait before the next start."""
    return float(min(BACKOFF_LAST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (deaths_in_a_row - 1)))


@dataclass(kw_only=True, slots=True)
class Child:
    """A process of ours as it is now."""

    spec: ProcessSpec
    log: Path
    process: "subprocess.Popen[bytes]"
    log_offset: int
    started_at: float
    deaths_in_a_row: int = 0
    restart_at: float | None = None

    def is_ready(self) -> bool:
        """Whether it runs and its probe is content."""
        logged = tail(self.log, offset=self.log_offset, limit_bytes=LOG_OF_A_START_BYTES)
        return self.process.poll() is None and self.spec.ready(logged)


class Processes:
    """Named processes, each with a log under `logs` and a process group of its own.

    `tend` is called on every round of the watch, for what else must be kept alive; it answers the names of what it
    started again. `changed` is called after any restart.
    """

    def __init__(
        self,
        *,
        logs: Path,
        cwd: Path,
        progress: Callable[[str], None],
        tend: Callable[[], list[str]] = lambda: [],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is started yet."""
        self._logs, self._cwd = logs, cwd
        self._progress, self._tend, self._changed = progress, tend, changed
        self._children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="laptop-watch", daemon=True)

    def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Start all and return when all are ready; what depends on a foundation starts after it is ready."""
        for wave in (
            [spec for spec in specs if spec.foundation],
            [spec for spec in specs if not spec.foundation],
        ):
            for spec in wave:
                self._children[spec.name] = self._launch(spec)
            self._wait_until_ready([self._children[spec.name] for spec in wave])
        self._watcher.start()

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        return {name: child.process.pid for name, child in self._children.items() if child.process.poll() is None}

    def ready(self) -> set[str]:
        """Names of those that run and have said since their start that they are ready."""
        return {name for name, child in self._children.items() if child.is_ready()}

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """End all in reverse order: SIGTERM, then after the grace SIGKILL to whatever is left of each group."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        children = list(reversed(self._children.values()))
        for wave in (
            [child for child in children if not child.spec.foundation],
            [child for child in children if child.spec.foundation],
        ):
            for child in wave:
                if child.process.poll() is None:
                    child.process.terminate()
            self._wait_for_the_end(wave, grace_seconds)
            for child in wave:
                signal_group(child.process.pid, signal.SIGKILL)
                child.process.wait()

    def hurry(self) -> None:
        """End the grace of a `stop` that is under way; safe in a signal handler."""
        self._hurry.set()

    def _launch(self, spec: ProcessSpec) -> Child:
        log = self._logs / f"{spec.name}.log"
        offset = log.stat().st_size if log.exists() else 0
        self._progress(f"starting {spec.name}")
        process = spawn(spec.argv, log=log, environment=spec.environment, cwd=self._cwd)
        return Child(spec=spec, log=log, process=process, log_offset=offset, started_at=time.monotonic())

    def _wait_until_ready(self, children: list[Child]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        waiting = list(children)
        while waiting:
            for child in waiting:
                if child.process.poll() is not None:
                    raise Unavailable(
                        f"{child.spec.name} ended while it started ({_ending(child)}).\n{_excerpt(child)}"
                    )
            waiting = [child for child in waiting if not child.is_ready()]
            if waiting and time.monotonic() > deadline:
                raise Unavailable(
                    f"{waiting[0].spec.name} was not ready after {READY_TIMEOUT_SECONDS:.0f} s.\n{_excerpt(waiting[0])}"
                )
            time.sleep(WATCH_SECONDS)

    def _wait_for_the_end(self, children: list[Child], grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        while any(child.process.poll() is None for child in children):
            if self._hurry.is_set() or time.monotonic() > deadline:
                return
            time.sleep(0.02)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            try:
                revived = self._tend()
            except Unavailable as error:
                self._progress(str(error))
                revived = []
                self._stopping.wait(BACKOFF_LAST_SECONDS)
            for name in revived:
                self._progress(f"{name} had died; it is up again")
            restarted = [self._watch_child(name, child) for name, child in list(self._children.items())]
            if revived or any(restarted):
                self._changed()

    def _watch_child(self, name: str, child: Child) -> bool:
        """Notice a death, or end its backoff; whether a process was started."""
        now = time.monotonic()
        if child.process.poll() is None:
            return False
        if child.restart_at is None:
            # What it had started must not go on without it.
            signal_group(child.process.pid, signal.SIGKILL)
            child.deaths_in_a_row = 1 if now - child.started_at > HEALTHY_SECONDS else child.deaths_in_a_row + 1
            wait_seconds = backoff_seconds(child.deaths_in_a_row)
            child.restart_at = now + wait_seconds
            self._progress(f"{name} died ({_ending(child)}); it starts again in {wait_seconds:.0f} s, see {child.log}")
            return False
        if now < child.restart_at:
            return False
        successor = self._launch(child.spec)
        successor.deaths_in_a_row = child.deaths_in_a_row
        self._children[name] = successor
        return True


def _ending(child: Child) -> str:
    code = child.process.returncode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _excerpt(child: Child) -> str:
    lines = tail(child.log, offset=child.log_offset).splitlines()[-LINES_OF_LOG_IN_AN_ERROR:]
    return "\n".join([*(f"  {line}" for line in lines), f"Whole log: {child.log}"])

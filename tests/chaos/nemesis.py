"""Breaks a machine at random moments: SIGKILL, an emptied Valkey, messages that come twice or out of nowhere."""

import random
import signal
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chaos.machine import Machine
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.errors import Unavailable

# Long enough past a lease that somebody else holds what the frozen process believes to hold.
FROZEN_LEASES = 1.7


@dataclass(kw_only=True)
class Nemesis:
    """Strikes something that is ready about every `pause_seconds`, until the run has ended.

    What is starting is spared: a process that never gets ready only proves that it was not there.
    """

    machine: Machine
    run: RunHandle
    keys: Sequence[str]
    chance: random.Random
    pause_seconds: float = 2.0
    """About; between a half and one and a half of it."""
    strikes: Tally[str] = field(default_factory=Tally)
    kills: list[tuple[int, float]] = field(default_factory=list)
    """pid and time of each SIGKILL."""
    failure: BaseException | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Nemesis":
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), name=body.__name__)
            for body in (self._kill_for_ever, self._repeat_for_ever)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as failure:  # noqa: BLE001 - raised again where the test sees it
            self.failure = failure

    def _kill_for_ever(self) -> None:
        while not self._stopping.wait(self.pause_seconds * self.chance.uniform(0.5, 1.5)):
            strike = self.chance.choices((self._kill, self._empty, self._freeze), weights=(6, 2, 2))[0]
            strike()

    def _kill(self) -> None:
        ready = self.machine.laptop.processes.ready()
        if ready:
            name = self.chance.choice(sorted(ready))
            pid = self.machine.signal(name)
            self.kills.append((pid, time.monotonic()))
            self.strikes[f"kill {name}"] += 1

    def _empty(self) -> None:
        self.machine.empty_valkey()
        self.strikes["empty valkey"] += 1

    def _freeze(self) -> None:
        pools = sorted(name for name in self.machine.laptop.processes.ready() if "supervisor" not in name)
        if not pools:
            return
        name = self.chance.choice(pools)
        self.machine.signal(name, signal.SIGSTOP)
        try:
            self._stopping.wait(self.machine.settings.lease_seconds * FROZEN_LEASES)
        finally:
            self.machine.signal(name, signal.SIGCONT)
        self.strikes[f"freeze {name}"] += 1

    def _repeat_for_ever(self) -> None:
        chance = random.Random(self.chance.random())
        while not self._stopping.wait(self.pause_seconds / 10):
            try:
                self.machine.send_again(self.run, chance.choice(list(self.keys)))
                self.machine.client.ring(self.run.run_id)
            except (Unavailable, OSError):
                # The broker is down right now; that is the other thread's doing.
                continue
            self.strikes["repeat"] += 1

"""Which processes of a machine were ready, from when to when: looked at ten times a second while the block runs."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from chaos.machine import TWIN, Machine

LOOK_SECONDS = 0.1


@dataclass(kw_only=True, slots=True)
class Stay:
    """One process from its readiness to its end, by the wall."""

    name: str
    pid: int
    ready_at: float
    ended_at: float | None = None


class Diary:
    """Remembers who was ready: a log that has grown long does not say so any more."""

    def __init__(self, machine: Machine) -> None:
        """Nothing is written yet."""
        self._machine = machine
        self._stays: dict[int, Stay] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_for_ever, name="diary", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join()

    def ready(self, pools: Collection[str]) -> dict[str, int]:
        """Processes that are ready now, by name, of these pools (or `supervisor`)."""
        pids = self._machine.laptop.processes.pids()
        return {
            stay.name: stay.pid
            for stay in list(self._stays.values())
            if pids.get(stay.name) == stay.pid and pool_of(stay.name) in pools
        }

    def served_again(self, pool: str, moment: float, *, without: Collection[int]) -> float:
        """From when on, after a moment, the pool had a process that was ready, other than these; infinity: never."""
        others = [stay for stay in self._stays.values() if pool_of(stay.name) == pool and stay.pid not in without]
        return min(
            (max(stay.ready_at, moment) for stay in others if stay.ended_at is None or stay.ended_at > moment),
            default=float("inf"),
        )

    def _look_for_ever(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        processes = self._machine.laptop.processes
        pids, now = processes.pids(), time.time()
        alive = set(pids.values())
        for stay in self._stays.values():
            if stay.ended_at is None and stay.pid not in alive:
                stay.ended_at = now
        fresh = {name: pid for name, pid in pids.items() if pid not in self._stays}
        for name in fresh.keys() & (processes.ready() if fresh else set()):
            self._stays[fresh[name]] = Stay(name=name, pid=fresh[name], ready_at=now)


def pool_of(name: str) -> str:
    """The pool of a process."""
    return name.removesuffix(TWIN)

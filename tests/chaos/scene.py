"""Where a strike happens, and what it may draw on: the machine, what runs there, chance, and nobody in the way."""

import random
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from chaos.diary import Diary
from chaos.evidence import Strike
from chaos.machine import Machine
from chargehand.orchestrator.client import RunHandle

SUPERVISOR = "supervisor"
# How long a strike looks for something to strike.
SEARCH_SECONDS = 3.0


class NothingThere(Exception):
    """What would be struck is not there, or is being struck already; something else is tried."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One machine in one story."""

    machine: Machine
    diary: Diary
    chance: random.Random
    open_runs: Callable[[], Sequence[RunHandle]]
    pause: Callable[[float], object]
    """Waits, but not beyond the end of the story."""
    _struck: set[str] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def only(self, *targets: str) -> Iterator[None]:
        """Have these for oneself: a thing that is broken twice at once is mended too early."""
        with self._guard:
            if self._struck & {*targets}:
                raise NothingThere
            self._struck.update(targets)
        try:
            yield
        finally:
            with self._guard:
                self._struck.difference_update(targets)

    def some(self, pools: Collection[str]) -> tuple[str, int]:
        """A process that is ready, of these pools; one that holds a step, if there is one."""
        ready = sorted(self.diary.ready(pools).items())
        busy = self.machine.holders() if ready else set()
        found = [(name, pid) for name, pid in ready if pid in busy] or ready
        if not found:
            raise NothingThere
        return self.chance.choice(found)


Act = Callable[[Scene], list[Strike]]
"""Gives what was done; raises `NothingThere`."""

"""Many worlds, each from its seed, in several processes at once."""

import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from simulation.world import Verdict, simulate

# Worlds that one process takes at a time.
BATCH = 20


@dataclass(kw_only=True, slots=True)
class Tally:
    """What became of all of them."""

    worlds: int = 0
    steps: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Steps that ended, by their kind."""
    deeds: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    interleavings: int = 0
    """Runs that at least two of cancel, pause, resume, answer and deadline raced for."""
    distinct: set[int] = field(default_factory=set)
    """Hashes of those, by what was done and how the run stood then."""
    broken: list[Verdict] = field(default_factory=list)
    slowest_end_seconds: float = 0.0
    """Virtual, from the end of the trouble to the end of the last run of a world."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """One more world."""
        self.worlds += 1
        self.steps += verdict.steps
        self.kinds += verdict.kinds
        self.deeds += verdict.deeds
        self.endings += verdict.statuses
        self.interleavings += len(verdict.interleavings)
        self.distinct.update(map(hash, verdict.interleavings))
        self.slowest_end_seconds = max(self.slowest_end_seconds, verdict.settled_after_seconds)
        if verdict.objection:
            self.broken.append(verdict)


def simulate_many(
    first: int,
    seeds: int,
    *,
    processes: int,
    on_world: Callable[[Tally, Verdict], None] = lambda _tally, _verdict: None,
) -> Tally:
    """So many worlds; `on_world` is told of each as it comes."""
    tally = Tally()
    began, cpu = time.monotonic(), _cpu_seconds()
    for verdict in _verdicts(range(first, first + seeds), processes):
        tally.add(verdict)
        tally.wall_seconds = time.monotonic() - began
        on_world(tally, verdict)
    tally.cpu_seconds = _cpu_seconds() - cpu
    return tally


def _cpu_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _verdicts(seeds: range, processes: int) -> Iterator[Verdict]:
    if processes == 1:
        yield from map(simulate, seeds)
        return
    # Forked, so that their CPU seconds are counted here; nothing else runs in this process.
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, initializer=_be_quiet) as pool:
        yield from pool.imap(simulate, seeds, chunksize=BATCH)
        pool.close()
        pool.join()


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)

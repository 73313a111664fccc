"""`python -m simulation --seeds 10000`: so many worlds, each from its seed; `--seed 42` tells the story of one."""

import argparse
import json
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from simulation.shrinking import shrink
from simulation.story import shortened
from simulation.world import Verdict, simulate

MINUTES_TARGET = 10.0
# Worlds that one process takes at a time.
BATCH = 20
SHOWN = 3


def main() -> int:
    """Simulate; gives 1 when a world breaks a rule, with its story made short."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell the story of this world")
    parser.add_argument("--seeds", type=int, default=1_000, help="simulate so many worlds")
    parser.add_argument("--from", type=int, default=1, dest="first", help="seed of the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shrink-seconds", type=float, default=30.0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.seed is not None:
        return tell(simulate(options.seed, tells=True), whole=True, seconds=options.shrink_seconds)
    began = time.monotonic()
    broken = 0
    deeds: Counter[str] = Counter()
    interleavings = 0
    slowest = 0.0
    for count, verdict in enumerate(verdicts(options.first, options.seeds, options.processes), start=1):
        deeds += verdict.deeds
        interleavings += verdict.deeds.total() > 1
        slowest = max(slowest, verdict.settled_after_seconds)
        if verdict.objection:
            broken += 1
            if broken <= SHOWN:
                tell(verdict, whole=False, seconds=options.shrink_seconds)
        if count % 500 == 0:
            sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {count} worlds, {broken} broken\n")
    minutes = (time.monotonic() - began) / 60
    sys.stderr.write(f"people: {', '.join(f'{times} x {deed}' for deed, times in deeds.most_common())}\n")
    for line in figures(options.seeds, broken, interleavings, minutes, slowest):
        sys.stdout.write(f"{json.dumps(line)}\n")
    return 1 if broken else 0


def verdicts(first: int, seeds: int, processes: int) -> Iterator[Verdict]:
    """What became of each world."""
    numbers = range(first, first + seeds)
    if processes == 1:
        yield from map(simulate, numbers)
        return
    # Nothing of this module is handed over: the children of a `python -m` do not find it.
    context = multiprocessing.get_context("forkserver")
    with context.Pool(processes, initializer=logging.disable, initargs=(logging.CRITICAL,)) as pool:
        yield from pool.imap(simulate, numbers, chunksize=BATCH)


def tell(verdict: Verdict, *, whole: bool, seconds: float) -> int:
    """Print what became of a world; one that broke a rule is made short first."""
    say = sys.stderr.write
    if not verdict.objection:
        say("\n".join(verdict.story) + f"\nseed {verdict.seed}: all is well\n")
        return 0
    say(f"seed {verdict.seed}: {verdict.objection}\n")
    if whole:
        say("\n".join(verdict.story) + "\n")
    short = shrink(verdict, seconds=seconds)
    decisions = sum(value > 0 for tape in short.tapes.values() for value in tape)
    say(f"seed {verdict.seed} made short, {decisions} decisions: {short.objection}\n")
    say("\n".join(shortened(short.story, short.objection)) + "\n")
    say(f"PYTHONPATH=tests python -m simulation --seed {verdict.seed} tells it again\n")
    return 1


def figures(seeds: int, broken: int, interleavings: int, minutes: float, slowest: float) -> list[dict[str, object]]:
    """The outcome as figures: value, target, and whether it is met."""
    target = MINUTES_TARGET * seeds / 10_000
    return [
        figure("simulation_seeds", seeds, None),
        figure("simulation_broken_rules", broken, 0),
        figure("simulation_interleavings", interleavings, None),
        figure("simulation_minutes", round(minutes, 2), round(target, 2)),
        figure("simulation_slowest_end_virtual_seconds", round(slowest, 1), None),
    ]


def figure(name: str, value: float, target: float | None) -> dict[str, object]:
    """One line of JSON."""
    return {
        "figure": name,
        "value": value,
        "target": target,
        "better": "lower",
        "ok": target is None or value <= target,
    }


if __name__ == "__main__":
    sys.exit(main())

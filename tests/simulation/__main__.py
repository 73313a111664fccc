"""`python -m simulation --seeds 10000`: so many worlds, each from its seed; `--seed 42` tells the story of one."""

import argparse
import json
import logging
import sys

from simulation.fleet import Tally, simulate_many
from simulation.shrinking import shrink
from simulation.story import shortened
from simulation.world import Verdict, simulate

MINUTES_TARGET = 10.0
WORLDS_A_LINE = 500
# Worlds whose story is made short and told.
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
    tally = simulate_many(options.first, options.seeds, processes=options.processes, on_world=tell_progress)
    for verdict in tally.broken[:SHOWN]:
        tell(verdict, whole=False, seconds=options.shrink_seconds)
    for what, counted in (("people", tally.deeds), ("steps", tally.kinds), ("runs", tally.endings)):
        sys.stderr.write(f"{what}: {', '.join(f'{times} x {name}' for name, times in counted.most_common())}\n")
    for line in figures(tally):
        sys.stdout.write(f"{json.dumps(line)}\n")
    return 1 if tally.broken else 0


def tell_progress(tally: Tally, verdict: Verdict) -> None:
    """A line for every so many worlds, and one for each that breaks a rule."""
    if verdict.objection:
        sys.stderr.write(f"{tally.wall_seconds:7.1f} s  seed {verdict.seed}: {verdict.objection}\n")
    if tally.worlds % WORLDS_A_LINE == 0:
        sys.stderr.write(f"{tally.wall_seconds:7.1f} s  {tally.worlds} worlds, {len(tally.broken)} broken\n")


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


def figures(tally: Tally) -> list[dict[str, object]]:
    """The outcome as figures: value, target, and whether it is met."""
    target = MINUTES_TARGET * tally.worlds / 10_000
    return [
        figure("simulation_seeds", tally.worlds, None),
        figure("simulation_broken_rules", len(tally.broken), 0),
        figure("simulation_interleavings", tally.interleavings, None),
        figure("simulation_distinct_interleavings", len(tally.distinct), None),
        figure("simulation_minutes", round(tally.wall_seconds / 60, 2), round(target, 2)),
        figure("simulation_cpu_seconds", round(tally.cpu_seconds, 1), None),
        figure("simulation_slowest_end_virtual_seconds", round(tally.slowest_end_seconds, 1), None),
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

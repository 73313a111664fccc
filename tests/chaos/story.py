"""One random plan under one random nemesis, from its submission to the checker's verdict."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from chaos.counter import Knock
from chaos.machine import Fleet, machine, until
from chaos.nemesis import Nemesis
from chaos.plans import random_plan

# The nemesis kills the same step's workers more often than any real machine would; nobody is there to be asked.
MAX_CRASHES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a story ended."""

    seed: int
    steps: int
    seconds: float
    strikes: dict[str, int]
    claims: int
    """More than steps: the difference was taken over or handed back."""
    repeated_effects: int
    """Attempts that knocked again with the key of an effect that was counted already."""
    gaps: tuple[float, ...]
    """Seconds from the SIGKILL of a step's process to the moment when the step ran again, shortest first."""
    objections: tuple[str, ...]


def play(
    home: Path,
    *,
    seed: int,
    steps: int,
    pause_seconds: float = 2.0,
    seconds_a_step: float = 0.6,
    timeout_seconds: float = 600.0,
    say: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Run the story of this seed in `home`."""
    chance = random.Random(seed)
    plan = random_plan(chance, steps, seconds=seconds_a_step)
    fleet = Fleet(twins=("supervisor",))
    with machine(home, fleet, max_crashes=MAX_CRASHES) as running:
        say(f"up; {steps} steps, seed {seed}")
        began = time.monotonic()
        run = running.client.submit(f"chaos {seed}", plan=plan)
        keys = [step.key for step in plan.steps]
        with Nemesis(
            machine=running, run=run, keys=keys, chance=random.Random(chance.random()), pause_seconds=pause_seconds
        ) as nemesis:
            running.wait(run, timeout_seconds)
        seconds = time.monotonic() - began
        # The zombies of the last strike have their say first.
        until(running.is_whole, 90, "everything is up again")
        found = running.objections(run, plan)
        knocks = running.counter.knocks(run.run_id)
        return Verdict(
            seed=seed,
            steps=steps,
            seconds=seconds,
            strikes=dict(nemesis.strikes),
            claims=sum(running.epochs(run).values()),
            repeated_effects=len(knocks) - len(running.counter.effects(run.run_id)),
            gaps=gaps_of(knocks, nemesis.kills),
            objections=tuple(found),
        )


def gaps_of(knocks: Sequence[Knock], kills: Iterable[tuple[int, float]]) -> tuple[float, ...]:
    """Seconds from the SIGKILL of a step's process to the moment when the step ran again, shortest first."""
    killed = dict(kills)
    of_step: dict[str, list[Knock]] = {}
    for knock in knocks:
        of_step.setdefault(knock.step, []).append(knock)
    pairs = [pair for ordered in of_step.values() for pair in pairwise(ordered)]
    return tuple(
        sorted(
            again.at - killed[before.pid]
            for before, again in pairs
            if before.at < killed.get(before.pid, 0.0) < again.at
        )
    )

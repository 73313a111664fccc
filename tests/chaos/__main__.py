"""`python -m chaos --seed 1 --steps 200 --faults 20`: random work under a random nemesis; one JSON line a figure."""

import argparse
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chaos.machine import LEASE_SECONDS
from chaos.story import Scale, Verdict, play

SIZES: Mapping[str, Scale] = {
    # What one has a minute or two for.
    "short": Scale(steps=200, faults=20),
    # Hours of a laptop: a thousand kills, other faults beside them, wide runs between the agents'.
    "long": Scale(
        steps=100_000,
        kills=1_000,
        faults=300,
        wide_share=0.85,
        open_runs=40,
        submitters=3,
        twins=("supervisor", "audit", "research", "coding"),
        threads=8,
        forged=True,
        pause_seconds=1.0,
        look_seconds=1.0,
        seconds_a_step=0.3,
    ),
}
# How long a step may stand still beyond a lease when nothing is in its way: a watch round, a message, a claim.
MARGIN_SECONDS = 5.0


def main() -> int:
    """Play the story; gives 1 when the checker objects."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", choices=sorted(SIZES), default="short", help="what the other options change")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--faults", type=int, help="strikes of every kind; with --kills: of every other kind")
    parser.add_argument("--kills", type=int, help="strikes that kill, beside the faults")
    parser.add_argument("--pause-seconds", type=float, help="about how long one hand waits between strikes")
    parser.add_argument("--open-runs", type=int, help="another run is submitted while fewer are open")
    parser.add_argument("--most-seconds", type=float, help="submit and strike no longer than this, then judge")
    parser.add_argument("--keep", action="store_true", help="leave databases, logs and the ledger behind for a look")
    options = parser.parse_args()
    # What breaks is told below; the client's own warnings of it would only be in the way.
    logging.basicConfig(level=logging.ERROR)
    scale = scale_of(options)
    home = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    home.chmod(0o711)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {line}\n")
        sys.stderr.flush()

    try:
        verdict = play(home, seed=options.seed, scale=scale, say=say)
    finally:
        if options.keep:
            say(f"kept: {home}")
        else:
            shutil.rmtree(home)
    for line in verdict.objections:
        say(f"objection: {line}")
    for name, counted in (("runs", verdict.outcomes), ("struck", verdict.strikes), ("people", verdict.deeds)):
        say(f"{name}: " + ", ".join(f"{times} x {what}" for what, times in sorted(counted.items())))
    say("calls: " + ", ".join(f"{times} x {what}" for what, times in sorted(verdict.outcomes_of_calls.items())))
    for figure in [*figures(verdict), figure_of(verdict, "chaos_cpu_seconds", _cpu_seconds(), None)]:
        sys.stdout.write(f"{json.dumps(figure)}\n")
    return 1 if verdict.objections else 0


def scale_of(options: argparse.Namespace) -> Scale:
    """The named size, with what was said otherwise."""
    names = ("steps", "faults", "kills", "pause_seconds", "open_runs", "most_seconds")
    told = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(SIZES[options.size], **told)


def figures(verdict: Verdict) -> list[dict[str, object]]:
    """The verdict as figures: value, target, and whether it is met."""
    recoveries = sorted(gap.undisturbed_seconds for gap in verdict.gaps)
    # Without the turn that anything ready had to wait for.
    in_turn = [max(0.0, gap.undisturbed_seconds - gap.turn_seconds) for gap in verdict.gaps]
    turns = sorted(gap.turn_seconds for gap in verdict.gaps)
    disturbed = sorted(gap.seconds for gap in verdict.gaps)
    measured: list[tuple[str, float, float | None]] = [
        ("chaos_objections", len(verdict.objections), 0),
        ("chaos_seconds", verdict.seconds, None),
        ("chaos_drained_seconds", verdict.drained_seconds, None),
        ("chaos_judged_seconds", verdict.judged_seconds, None),
        ("chaos_memory_max_megabytes", verdict.most_megabytes, None),
        ("chaos_steps", verdict.steps, None),
        ("chaos_kills", verdict.made["kills"], None),
        ("chaos_killed_processes", verdict.made["killed"], None),
        ("chaos_strikes", sum(verdict.strikes.values()), None),
        ("chaos_claims_a_step", verdict.claims / max(1, verdict.steps), None),
        ("chaos_repeated_knocks", verdict.knocks - verdict.effects, None),
        ("chaos_recoveries", len(recoveries), None),
        ("chaos_recovery_p50_seconds", _middle(recoveries), None),
        # Of what nothing else stood in the way of; with everything else that was broken at the time: the last one.
        ("chaos_recovery_max_seconds", max(in_turn, default=0.0), LEASE_SECONDS + MARGIN_SECONDS),
        ("chaos_turn_p50_seconds", _middle(turns), None),
        ("chaos_disturbed_recovery_max_seconds", max(disturbed, default=0.0), None),
    ]
    return [figure_of(verdict, *figure) for figure in measured]


def figure_of(verdict: Verdict, name: str, value: float, target: float | None) -> dict[str, object]:
    """One figure of a story."""
    return {
        "figure": name,
        "value": round(value, 3),
        "target": target,
        "better": "lower",
        "ok": None if target is None else value <= target,
        "class": "fsync",
        "seed": verdict.seed,
        "steps": verdict.scale.steps,
        "faults": verdict.scale.faults,
        "kills": verdict.scale.kills,
    }


def _cpu_seconds() -> float:
    """Of this process and of everything that it has started and seen end."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2] if values else 0.0


if __name__ == "__main__":
    sys.exit(main())

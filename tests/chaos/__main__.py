"""`python -m chaos --seed 1 --steps 200 --faults 20`: random work under a random nemesis; one JSON line a figure."""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.machine import LEASE_SECONDS
from chaos.story import Scale, Verdict, play

# How long a step may stand still beyond a lease when nothing is in its way: a watch round, a message, a claim.
MARGIN_SECONDS = 5.0


def main() -> int:
    """Play the story; gives 1 when the checker objects."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument(
        "--pause-seconds", type=float, default=2.0, help="about how long one hand waits between strikes"
    )
    parser.add_argument("--keep", action="store_true", help="leave databases, logs and the ledger behind for a look")
    options = parser.parse_args()
    # What breaks is told below; the client's own warnings of it would only be in the way.
    logging.basicConfig(level=logging.ERROR)
    scale = Scale(steps=options.steps, faults=options.faults, pause_seconds=options.pause_seconds)
    home = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    home.chmod(0o711)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {line}\n")

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
    for figure in figures(verdict):
        sys.stdout.write(f"{json.dumps(figure)}\n")
    return 1 if verdict.objections else 0


def figures(verdict: Verdict) -> list[dict[str, object]]:
    """The verdict as figures: value, target, and whether it is met."""
    recoveries = sorted(gap.undisturbed_seconds for gap in verdict.gaps)
    disturbed = sorted(gap.seconds for gap in verdict.gaps)
    measured: list[tuple[str, float, float | None]] = [
        ("chaos_objections", len(verdict.objections), 0),
        ("chaos_seconds", verdict.seconds, None),
        ("chaos_drained_seconds", verdict.drained_seconds, None),
        ("chaos_strikes", sum(verdict.strikes.values()), None),
        ("chaos_claims_a_step", verdict.claims / max(1, verdict.steps), None),
        ("chaos_repeated_knocks", verdict.knocks - verdict.effects, None),
        ("chaos_recoveries", len(recoveries), None),
        ("chaos_recovery_p50_seconds", _middle(recoveries), None),
        # Of what nothing else stood in the way of; with everything else that was broken at the time: the last one.
        ("chaos_recovery_max_seconds", max(recoveries, default=0.0), LEASE_SECONDS + MARGIN_SECONDS),
        ("chaos_disturbed_recovery_max_seconds", max(disturbed, default=0.0), None),
    ]
    return [
        {
            "figure": name,
            "value": round(value, 3),
            "target": target,
            "better": "lower",
            "ok": None if target is None else value <= target,
            "class": "fsync",
            "seed": verdict.seed,
            "steps": verdict.scale.steps,
            "faults": verdict.scale.faults,
        }
        for name, value, target in measured
    ]


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2] if values else 0.0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m chaos --seed 1 --steps 200`: a random plan under a random nemesis; one JSON line a figure."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.story import Verdict, play

# A lease, a new process on a busy machine, a message.
GAP_TARGET_SECONDS = 15.0


def main() -> int:
    """Play the story; gives 1 when the checker objects."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pause-seconds", type=float, default=2.0, help="about how long between two strikes")
    parser.add_argument("--keep", action="store_true", help="leave databases and logs behind for a look")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    home.chmod(0o711)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {line}\n")

    try:
        verdict = play(home, seed=options.seed, steps=options.steps, pause_seconds=options.pause_seconds, say=say)
    finally:
        if options.keep:
            say(f"kept: {home}")
        else:
            shutil.rmtree(home)
    for line in verdict.objections:
        say(f"objection: {line}")
    say(", ".join(f"{times} x {strike}" for strike, times in sorted(verdict.strikes.items())))
    for line in figures(verdict):
        sys.stdout.write(f"{json.dumps(line)}\n")
    return 1 if verdict.objections else 0


def figures(verdict: Verdict) -> list[dict[str, object]]:
    """The verdict as figures: value, target, and whether it is met."""
    middle = verdict.gaps[len(verdict.gaps) // 2] if verdict.gaps else 0.0
    longest = verdict.gaps[-1] if verdict.gaps else 0.0
    measured: list[tuple[str, float, float | None]] = [
        ("chaos_objections", len(verdict.objections), 0),
        ("chaos_seconds", verdict.seconds, None),
        ("chaos_strikes", sum(verdict.strikes.values()), None),
        ("chaos_claims_a_step", verdict.claims / verdict.steps, None),
        ("chaos_repeated_knocks", verdict.repeated_effects, None),
        ("chaos_gap_p50_seconds", middle, None),
        ("chaos_gap_max_seconds", longest, GAP_TARGET_SECONDS),
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
            "steps": verdict.steps,
        }
        for name, value, target in measured
    ]


if __name__ == "__main__":
    sys.exit(main())

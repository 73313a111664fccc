"""What recorded runs of many agents cost, priced four ways: all by the large model or routed, uncached or cached.

A trace is a journal's: `tests/data/cost_trace*.json` hold step, role, tier and tokens of every call of real runs, as
the offline server counted them by the provider's rules of caching. No dollar in them was ever paid: the tokens are
priced with Claude's list prices. `python -m benchmarks.cost RUN FILE` records another one.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from chargehand.orchestrator.charges import CLAUDE, calls_of_run
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.costing import Charge, Compared, compare, served_by
from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import PRICES, PRICES_AS_OF

DATA = Path(__file__).parents[1] / "tests" / "data"
# The main job with its planner: 19 steps, eight agents side by side.
TRACE = DATA / "cost_trace.json"
# A plan of twelve steps: eight triagers side by side, of six turns each.
TRACE_OF_TWELVE = DATA / "cost_trace_12_steps.json"
# Twelve steps, too: eight researchers whose three turns leave little to read again. Nobody is promised a share of it.
TRACE_OF_SHORT = DATA / "cost_trace_short.json"
TARGET_BOTH = 0.20
# Users are promised that caching alone saves between these shares.
PROMISED_BY_CACHING = (0.5, 0.8)


def measure() -> Iterator[Figure]:
    """Of each trace the four sums, and what each of the two saves; the arithmetic goes to standard error."""
    yield from _of_trace(TRACE, "", target=TARGET_BOTH)
    yield from _of_trace(TRACE_OF_TWELVE, "_12_steps", target=TARGET_BOTH)
    yield from _of_trace(TRACE_OF_SHORT, "_short", target=None)


def _of_trace(path: Path, name_ending: str, *, target: float | None) -> Iterator[Figure]:
    trace = json.loads(path.read_text())
    charges = charges_in(trace)
    found = compare(charges, large_model=CLAUDE["large"])
    print(f"{path.name}: {arithmetic(charges, found)}", file=sys.stderr)
    for name, microusd in (
        ("cost_all_large_uncached_usd", found.neither_microusd),
        ("cost_all_large_cached_usd", found.cached_microusd),
        ("cost_routed_uncached_usd", found.routed_microusd),
        ("cost_routed_cached_usd", found.routed_and_cached_microusd),
    ):
        yield Figure(name=name + name_ending, value=microusd / 1e6, unit="usd", durability="memory")
    yield Figure(
        name=f"cost_saved_by_caching_share{name_ending}",
        value=1 - found.cached_microusd / found.neither_microusd,
        unit="share",
        durability="memory",
        target=None if target is None else PROMISED_BY_CACHING[0],
        better="higher",
    )
    yield Figure(
        name=f"cost_both_share{name_ending}",
        value=found.routed_and_cached_microusd / found.neither_microusd,
        unit="share",
        durability="memory",
        target=target,
    )


def charges_in(trace: dict[str, Any]) -> list[Charge]:
    """The trace's calls, as if Claude's model of each tier had answered them."""
    calls = [
        Charge(
            step=one["step"],
            role=one["role"],
            model=one["model"],
            tier=one["tier"],
            cost_microusd=0,
            usage=Usage(**one["usage"]),
        )
        for one in trace["calls"]
    ]
    return served_by(calls, CLAUDE, PRICES)


def arithmetic(charges: list[Charge], found: Compared) -> str:
    """The sums line by line, so that one can do them by hand."""
    lines = [f"prices of {PRICES_AS_OF}; tokens of {len(charges)} calls in {len({one.step for one in charges})} steps"]
    for model in sorted({one.model for one in charges}):
        used = [one.usage for one in charges if one.model == model and one.usage is not None]
        band = PRICES[model].bands[0]
        tokens = {
            "plain": sum(one.input_tokens for one in used),
            "written": sum(one.cache_write_tokens for one in used),
            "read": sum(one.cache_read_tokens for one in used),
            "out": sum(one.output_tokens for one in used),
        }
        said = ", ".join(f"{count:,} {name}" for name, count in tokens.items())
        lines.append(
            f"{model}: {said}; ${band.input_microusd / 1e6:g} in, x1.25 written, "
            f"x{PRICES[model].cache_read_permille / 1000:g} read, ${band.output_microusd / 1e6:g} out for a million"
        )
    lines += [
        f"all by {found.large_model}, nothing cached  ${found.neither_microusd / 1e6:.4f}  100%",
        f"all by {found.large_model}, cached          ${found.cached_microusd / 1e6:.4f}  "
        f"{found.cached_microusd / found.neither_microusd:.1%}",
        f"routed by tier, nothing cached          ${found.routed_microusd / 1e6:.4f}  "
        f"{found.routed_microusd / found.neither_microusd:.1%}",
        f"routed by tier, cached                  ${found.routed_and_cached_microusd / 1e6:.4f}  "
        f"{found.routed_and_cached_microusd / found.neither_microusd:.1%}",
    ]
    return "\n".join(lines)


def record(run: str) -> str:
    """The trace of a run, as JSON with a call a line."""
    with Client() as client:
        handle = client.run(run)
        steps = [f"{step.key}: {step.label}" for step in handle.steps()]
        with client.session() as session:
            calls = calls_of_run(session, handle.run_id)
    told = [
        json.dumps(
            {
                "step": one.step,
                "role": one.role,
                "tier": one.tier,
                "model": one.model,
                "usage": one.usage.model_dump(),
            }
        )
        for one in calls
        if one.usage is not None
    ]
    return f'{{"steps": {json.dumps(steps)},\n"calls": [\n' + ",\n".join(told) + "\n]}\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(record(sys.argv[1]))

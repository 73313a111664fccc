"""What choosing a model costs by itself: the pure router, and a whole quote without a server."""

import statistics
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType

from benchmarks.figures import Figure
from chargehand.workers.models.router import Tiers, choose, problems_in, wish

# Enough for a median that stands still.
ROUNDS = 5_000
TARGET_MICROSECONDS = 50.0
TIERS = Tiers(small="claude-haiku-5-5", medium="claude-sonnet-5-5", large="claude-opus-5-5")
SHUNNED = MappingProxyType({"claude-sonnet-5-5": "overloaded"})


def measure() -> Iterator[Figure]:
    """Median microseconds of a decision in the twelfth turn of an agent, with everything that can bear on it."""
    messages = conversation(12)

    def decide() -> None:
        wanted = wish("triager", "medium", run=("medium", None), role_models={"writer": "small"})
        problems = problems_in(messages, {"submit_verdicts"})
        choose(TIERS, wanted.tier, by=wanted.by, problems=["refuted", *problems], shunned=SHUNNED, used_percent=80)

    yield Figure(
        name="routing_overhead_us",
        value=median_microseconds(decide),
        unit="µs",
        target=TARGET_MICROSECONDS,
        better="lower",
        durability="memory",
    )


def conversation(turns: int) -> list[dict[str, object]]:
    """Turns of an agent with four tool calls each, two of them refused submissions."""
    messages: list[dict[str, object]] = [{"role": "user", "content": [{"type": "text", "text": "Begin."}] * 2}]
    for turn in range(turns):
        names = ["read_file"] * 3 + ["submit_verdicts" if turn in (5, 9) else "search_text"]
        ids = [f"{turn}-{index}" for index in range(4)]
        uses = [{"type": "tool_use", "id": use, "name": name} for use, name in zip(ids, names, strict=True)]
        results = [{"type": "tool_result", "tool_use_id": use, "is_error": turn in (5, 9)} for use in ids]
        messages += [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    return messages


def median_microseconds(work: Callable[[], None]) -> float:
    """The median of many single runs."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1e6)
    return statistics.median(taken)

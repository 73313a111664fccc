"""What an append to a conversation costs: one call that adds, trims and refreshes, beside a bare `XADD`."""

import json
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground
from chargehand.memory.episodic import Entry, append, window
from chargehand.memory.keyspace import Keyspace, connect

TARGET_APPEND_P50_MS = 0.3
ROUNDS = 2_000
WARM_UP_ROUNDS = 200
BODY = {"role": "user", "content": "x" * 1_000}
TOKENS = 250
# Full after a hundred entries: from then on each append trims.
MAX_TOKENS = 25_000
WINDOW_TOKENS = 6_000
KEYS = Keyspace("bench")


def measure(ground: Ground, *, rounds: int = ROUNDS) -> Iterator[Figure]:
    """Append, window and floor by turns in one thread, on a stream that is full."""
    client = connect(ground.redis_url, connect_timeout_seconds=3.0)
    seconds: dict[str, list[float]] = {"append": [], "floor": [], "window": []}
    body = json.dumps(BODY)
    for number in range(1, WARM_UP_ROUNDS + rounds + 1):
        started = time.perf_counter()
        client.xadd("bench:floor", {"body": body})
        floored = time.perf_counter()
        entry = Entry(seq=number, previous_seq=number - 1, tokens=TOKENS, body=BODY)
        stored = append(client, KEYS, "bench", entry, max_tokens=MAX_TOKENS).stored
        appended = time.perf_counter()
        shown = window(client, KEYS, "bench", newest_seq=number, max_tokens=WINDOW_TOKENS)
        ended = time.perf_counter()
        assert stored
        assert shown.whole
        if number > WARM_UP_ROUNDS:
            seconds["floor"].append(floored - started)
            seconds["append"].append(appended - floored)
            seconds["window"].append(ended - appended)
    client.close()
    p50 = {name: percentile(values, 50) * 1000 for name, values in seconds.items()}
    p99 = {name: percentile(values, 99) * 1000 for name, values in seconds.items()}
    yield Figure(name="episodic_xadd_p50_ms", value=p50["floor"], unit="ms", durability="memory")
    yield Figure(
        name="episodic_append_p50_ms",
        value=p50["append"],
        unit="ms",
        durability="memory",
        target=TARGET_APPEND_P50_MS,
    )
    yield Figure(name="episodic_append_p99_ms", value=p99["append"], unit="ms", durability="memory")
    yield Figure(name="episodic_append_ratio", value=p50["append"] / p50["floor"], unit="x", durability="memory")
    yield Figure(name="episodic_window_p50_ms", value=p50["window"], unit="ms", durability="memory")

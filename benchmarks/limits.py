"""Limits of the fleet against a provider with published-style limits: what it refuses, and how much of it is used.

The provider counts as Claude's do: requests and uncached input when a call arrives, output as it was, each in a bucket
that refills by the second and holds a minute's worth. The fleet knows the limits, guesses the prompt's tokens from its
bytes and the answer's from `max_tokens`, and gives back what was not used.
"""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from benchmarks.figures import Figure
from chargehand.orchestrator.laptop import Valkey
from chargehand.workers.models.limits import Admitted, FleetLimits, Need, RateLimits

# A small tier's ratios (requests : input : output), so that input is what runs out, as it does for agents.
LIMITS = RateLimits(requests=1_200, input_tokens=600_000, output_tokens=160_000)
WORKERS = 32
PROCESSES = 4
# So long until what the first calls were admitted for and did not use has come back.
SPENT_SECONDS = 5.0
MEASURED_SECONDS = 40.0
CALL_SECONDS = (0.2, 0.8)
INPUT_TOKENS = (1_000, 5_000)
MAX_TOKENS = 2_000
OUTPUT_TOKENS = (100, 900)
# What the fleet guesses of a prompt, against what the provider counts.
GUESS = (1.0, 1.25)
LONGEST_SLEEP_SECONDS = 1.0
TARGET_REFUSED = 0.005
TARGET_USED = 0.95
SEED = 1


@dataclass
class Provider:
    """One model's limits as its server keeps them."""

    limits: RateLimits
    have: list[float] = field(init=False)
    at: float = field(default_factory=time.monotonic)
    calls: int = 0
    refused: int = 0
    used: list[int] = field(default_factory=lambda: [0, 0, 0])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.have = [float(one) for one in self.minute]

    @property
    def minute(self) -> tuple[int, int, int]:
        """Requests, input and output of a minute."""
        return self.limits.requests, self.limits.input_tokens, self.limits.output_tokens

    def arrive(self, input_tokens: int) -> float | None:
        """A call begins: None, or the seconds of its `retry-after`."""
        with self.lock:
            self._refill()
            self.calls += 1
            missing = [need - have for need, have in zip((1, input_tokens, 1), self.have, strict=True)]
            if max(missing) > 0:
                self.refused += 1
                return max(gap / limit * 60 for gap, limit in zip(missing, self.minute, strict=True) if gap > 0)
            self._take((1, input_tokens, 0))
            return None

    def answer(self, output_tokens: int) -> None:
        """A call ends."""
        with self.lock:
            self._refill()
            self._take((0, 0, output_tokens))

    def _take(self, needs: tuple[int, int, int]) -> None:
        self.have = [have - need for have, need in zip(self.have, needs, strict=True)]
        self.used = [used + need for used, need in zip(self.used, needs, strict=True)]

    def _refill(self) -> None:
        now = time.monotonic()
        passed, self.at = now - self.at, now
        self.have = [min(limit, have + limit / 60 * passed) for have, limit in zip(self.have, self.minute, strict=True)]


def measure() -> Iterator[Figure]:
    """A minute of 32 workers who always have work."""
    with TemporaryDirectory(prefix="chb-", dir="/tmp") as folder:
        home = Path(folder)
        home.chmod(0o711)
        valkey = Valkey.start(home)
        try:
            provider, shares = drive(valkey.url, spent_seconds=SPENT_SECONDS, measured_seconds=MEASURED_SECONDS)
        finally:
            valkey.stop()
    yield Figure(name="limits_calls", value=provider.calls, unit="calls", durability="memory")
    yield Figure(
        name="limits_refused_share",
        value=provider.refused / provider.calls,
        unit="share",
        durability="memory",
        target=TARGET_REFUSED,
    )
    yield Figure(
        name="limits_quota_used_share",
        value=max(shares),
        unit="share",
        durability="memory",
        target=TARGET_USED,
        better="higher",
    )


def drive(
    redis_url: str,
    *,
    spent_seconds: float,
    measured_seconds: float,
    limits: RateLimits = LIMITS,
    workers: int = WORKERS,
) -> tuple[Provider, list[float]]:
    """Let workers of several processes ask as fast as they may; gives the provider, and what they used of its rates."""
    provider = Provider(limits)
    processes = [
        FleetLimits(Redis.from_url(redis_url), key_prefix="bench", limits={"model": limits}) for _ in range(PROCESSES)
    ]
    stopping = threading.Event()
    # Both sides begin with nearly empty buckets: what counts is the rate, not the minute that was saved up. The server
    # has a little more left, because what is left of the fleet's last call is not known here.
    provider.have = [one * 0.02 for one in provider.minute]
    drain = Need(input_tokens=limits.input_tokens // 200, output_tokens=limits.output_tokens // 200)
    while isinstance(processes[0].admit("model", drain), Admitted):
        pass
    threads = [
        threading.Thread(
            target=_work, args=(processes[number % PROCESSES], provider, stopping, random.Random(SEED + number))
        )
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    time.sleep(spent_seconds)
    with provider.lock:
        began, before = time.monotonic(), list(provider.used)
    time.sleep(measured_seconds)
    with provider.lock:
        seconds, after = time.monotonic() - began, list(provider.used)
    stopping.set()
    for thread in threads:
        thread.join()
    rates = [limit / 60 * seconds for limit in provider.minute]
    return provider, [(end - start) / rate for end, start, rate in zip(after, before, rates, strict=True)]


def _work(fleet: FleetLimits, provider: Provider, stopping: threading.Event, chance: random.Random) -> None:
    while not stopping.is_set():
        prompt = chance.randint(*INPUT_TOKENS)
        need = Need(input_tokens=round(prompt * chance.uniform(*GUESS)), output_tokens=MAX_TOKENS)
        answer = fleet.admit("model", need)
        if not isinstance(answer, Admitted):
            # A longer wait would release the worker's slot; here its next task is the same.
            stopping.wait(min(answer.seconds, LONGEST_SLEEP_SECONDS))
            continue
        refused = provider.arrive(prompt)
        if refused is not None:
            fleet.slow_down("model", refused)
            fleet.give_back("model", needed=need, used=Need(input_tokens=0, output_tokens=0))
            continue
        stopping.wait(chance.uniform(*CALL_SECONDS))
        said = chance.randint(*OUTPUT_TOKENS)
        provider.answer(said)
        fleet.give_back("model", needed=need, used=Need(input_tokens=prompt, output_tokens=said))

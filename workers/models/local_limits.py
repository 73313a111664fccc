"""A process's own limits while the fleet's are lost: its share of the minute, halved, and never nothing.

Nobody knows then what the others do. Each takes the share that it had when Redis last answered, of processes that had
asked for a model within a minute, and half of that; buckets start nearly empty, because the minute may be spent.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# When nobody has ever said how many processes there are.
ASSUMED_PROCESSES = 16
# The others may know less than we do.
CAUTION = 2
# Of a model that has no limits: nobody knows what its server stands, and the fleet cannot slow down together.
REQUESTS_WITHOUT_LIMITS = 120 * ASSUMED_PROCESSES * CAUTION
# Seconds' worth that a bucket may hold: a lost Redis is no reason for a burst.
BURST_SECONDS = 5.0
SECONDS_OF_A_MINUTE = 60.0
DECREASE = 0.5
LOWEST = 0.1
# Given back in a second.
INCREASE = 0.05


@dataclass(kw_only=True, slots=True)
class _State:
    at: float
    have: list[float | None] = field(default_factory=lambda: [None, None, None])
    factor: float = 1.0
    not_before: float = 0.0


class LocalLimits:
    """Requests, input and output tokens of each model family, for this process alone; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def admit(self, family: str, limits: tuple[int, int, int], needs: tuple[int, int, int], processes: int) -> float:
        """Seconds to wait; 0: it is admitted, and taken. `limits` of a minute for the whole fleet, 0 for none."""
        parts = CAUTION * (processes or ASSUMED_PROCESSES)
        if not any(limits):
            limits = (REQUESTS_WITHOUT_LIMITS, 0, 0)
        with self._lock:
            now = self._clock()
            state = self._states.setdefault(family, _State(at=now))
            if state.not_before > now:
                return state.not_before - now
            passed, state.at = now - state.at, now
            state.factor = min(1.0, state.factor + INCREASE * passed)
            wait = 0.0
            for kind, limit in enumerate(limits):
                if not limit:
                    continue
                rate = limit * state.factor / parts / SECONDS_OF_A_MINUTE
                # At least one call's worth fits in, or a small share would never admit a large one.
                most = max(rate * BURST_SECONDS, float(min(needs[kind], limit)))
                before = state.have[kind]
                have = min(most, rate if before is None else before + passed * rate)
                state.have[kind] = have
                wait = max(wait, (min(needs[kind], limit) - have) / rate)
            if wait <= 0:
                state.have = [None if have is None else have - needs[kind] for kind, have in enumerate(state.have)]
            return max(0.0, wait)

    def slow_down(self, family: str, seconds: float) -> None:
        """The server refused: not before that time, and at half the rate after it."""
        with self._lock:
            now = self._clock()
            state = self._states.setdefault(family, _State(at=now))
            state.not_before = max(state.not_before, now + max(0.0, seconds))
            state.factor = max(LOWEST, state.factor * DECREASE)

    def forget(self) -> None:
        """The fleet's limits are back."""
        with self._lock:
            self._states.clear()

"""Circuits around tools and models: what fails for the whole fleet is left alone for a while, then tried by one call.

Closed: calls go through, and their outcomes are counted over a minute. Open: nobody calls before the cool-down is over.
Half-open: one call is let through; its outcome closes the circuit or opens it for longer. The counts live in Redis, one
Lua call each; when Redis is lost or slow every circuit is closed, because a lost count must not stop the work.

What counts as a failure is the caller's to say: an outside system that does not answer, never arguments that a model
got wrong. M. Nygard, "Release It!", 2007, calls this a circuit breaker.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import redis

log = logging.getLogger(__name__)

Kind = Literal["tool", "model"]

# Outcomes count for a minute, in six parts.
PART_MS = 10_000
# Fewer failures are bad luck; more, when they are half of all calls, are an outage.
LEAST_FAILURES = 5
PERCENT = 50
# The first cool-down; each failed probe doubles it.
COOL_DOWN_MS = 10_000
LONGEST_COOL_DOWN_MS = 300_000
# A probe whose worker died is not waited for longer.
PROBE_MS = 30_000
TTL_MS = 900_000
# What a process was told holds for so long: a closed circuit costs a healthy fleet two calls of Redis a second.
KNOWN_SECONDS = 0.5
# Redis that did not answer is not asked again before this.
LOST_SECONDS = 2.0
# Longer than any Lua call here takes, shorter than a turn would notice often.
TIMEOUT_SECONDS = 0.05

_ASK = """
local state = redis.call('HMGET', KEYS[1], 'until', 'probe', 'why')
if not state[1] then return {0, 0, ''} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = tonumber(state[1]) - now
if left > 0 then return {1, left, state[3]} end
local probing = (tonumber(state[2]) or 0) - now
if probing > 0 then return {1, math.min(probing, 2000), state[3]} end
redis.call('HSET', KEYS[1], 'probe', now + tonumber(ARGV[1]))
return {2, 0, state[3]}
"""

_REPORT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local failed, passed = tonumber(ARGV[1]), tonumber(ARGV[2])
local function open(why)
  local opens = tonumber(redis.call('HGET', KEYS[1], 'opens') or '0')
  local pause = math.min(tonumber(ARGV[8]), tonumber(ARGV[7]) * 2 ^ math.min(opens, 20)) * tonumber(ARGV[9]) / 1000
  redis.call('HSET', KEYS[1], 'until', math.floor(now + pause), 'opens', opens + 1, 'why', why, 'since', now)
  redis.call('HDEL', KEYS[1], 'probe')
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[10]) + math.floor(pause))
  return {1, math.floor(pause), why}
end
local until_ms = tonumber(redis.call('HGET', KEYS[1], 'until'))
if until_ms then
  local why = redis.call('HGET', KEYS[1], 'why')
  if now < until_ms then return {1, until_ms - now, why} end
  if failed > 0 then return open(ARGV[3]) end
  redis.call('DEL', KEYS[1])
  return {0, 0, ''}
end
local part = math.floor(now / tonumber(ARGV[4]))
local own = part % 6
if tonumber(redis.call('HGET', KEYS[1], 'b' .. own)) ~= part then
  redis.call('HSET', KEYS[1], 'b' .. own, part, 'f' .. own, 0, 'p' .. own, 0)
end
redis.call('HINCRBY', KEYS[1], 'f' .. own, failed)
redis.call('HINCRBY', KEYS[1], 'p' .. own, passed)
redis.call('PEXPIRE', KEYS[1], ARGV[10])
if failed == 0 then return {0, 0, ''} end
local failures, all = 0, 0
for number = 0, 5 do
  local one = redis.call('HMGET', KEYS[1], 'b' .. number, 'f' .. number, 'p' .. number)
  if one[1] and part - tonumber(one[1]) < 6 then
    failures = failures + tonumber(one[2])
    all = all + tonumber(one[2]) + tonumber(one[3])
  end
end
if failures >= tonumber(ARGV[5]) and failures * 100 >= all * tonumber(ARGV[6]) then
  return open(failures .. ' of ' .. all .. ' calls failed within a minute, the last one: ' .. ARGV[3])
end
return {0, 0, ''}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """The circuit is open: leave it alone for so long."""

    seconds: float
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitView:
    """A circuit as people look at it."""

    kind: str
    name: str
    state: Literal["closed", "open", "half-open"]
    why: str
    seconds_left: float
    failures: int
    """Within the last minute, while it is closed."""
    calls: int


@dataclass(slots=True)
class _Known:
    """What this process knows of a circuit, and has not told yet."""

    asked_at: float = float("-inf")
    open_until: float = 0.0
    why: str = ""
    passed: int = 0
    told_at: float = float("-inf")
    probing_thread: int | None = None


class Circuits:
    """The circuits of the fleet, as one process sees them; any thread may call it, and no call raises."""

    def __init__(self, client: "redis.Redis", *, key_prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`client` has short time-outs (`TIMEOUT_SECONDS`): a slow Redis must not stop a turn."""
        self._clock, self._prefix = clock, key_prefix
        self._ask = client.register_script(_ASK)
        self._report = client.register_script(_REPORT)
        self._known: dict[str, _Known] = {}
        self._lost_until = float("-inf")
        self._guard = threading.Lock()

    def ask(self, kind: Kind, name: str) -> Open | None:
        """Whether a call must wait; None: make it, and report how it went. May make the call the one probe."""
        now = self._clock()
        known = self._of(kind, name)
        if known.probing_thread == threading.get_ident():
            return None
        if now - known.asked_at < KNOWN_SECONDS:
            left = known.open_until - now
            return Open(seconds=left, why=known.why) if left > 0 else None
        answer = self._call(self._ask, kind, name, [PROBE_MS])
        if answer is None:
            return None
        state, left_ms, why = int(answer[0]), float(answer[1]), str(answer[2])
        known.asked_at, known.why = now, why
        known.open_until = now + left_ms / 1_000 if state == 1 else 0.0
        if state == 2:
            # Everybody else of this process waits for the probe, too.
            known.probing_thread, known.open_until = threading.get_ident(), now + KNOWN_SECONDS
            return None
        return Open(seconds=left_ms / 1_000, why=why) if state == 1 else None

    def passed(self, kind: Kind, name: str) -> None:
        """A call went well; told to the fleet at most twice a second, or at once by a probe."""
        known = self._of(kind, name)
        with self._guard:
            known.passed += 1
            if known.probing_thread is None and self._clock() - known.told_at < KNOWN_SECONDS:
                return
        self._tell(kind, name, known, failed=0, why="")

    def failed(self, kind: Kind, name: str, why: str) -> None:
        """The outside system failed; told at once."""
        known = self._of(kind, name)
        log.info("outside failure", extra={"kind": kind, "name_of": name, "why": why})
        self._tell(kind, name, known, failed=1, why=" ".join(why.split())[:200])

    def _tell(self, kind: Kind, name: str, known: _Known, *, failed: int, why: str) -> None:
        now = self._clock()
        with self._guard:
            passed, known.passed, known.told_at, known.probing_thread = known.passed, 0, now, None
        # Between half and all of it, so that the fleet does not come back as one.
        jitter = random.randint(500, 1_000)
        limits = [PART_MS, LEAST_FAILURES, PERCENT, COOL_DOWN_MS, LONGEST_COOL_DOWN_MS, jitter, TTL_MS]
        answer = self._call(self._report, kind, name, [failed, passed, why, *limits])
        if answer is None:
            return
        state, left_ms = int(answer[0]), float(answer[1])
        if state == 1 and known.open_until <= now:
            log.warning("circuit open", extra={"kind": kind, "name_of": name, "why": str(answer[2])})
        known.asked_at, known.why = now, str(answer[2])
        known.open_until = now + left_ms / 1_000 if state == 1 else 0.0

    def _of(self, kind: Kind, name: str) -> _Known:
        with self._guard:
            return self._known.setdefault(f"{kind}:{name}", _Known())

    def _call(self, script: Any, kind: Kind, name: str, arguments: list[Any]) -> Any:
        if self._clock() < self._lost_until:
            return None
        try:
            return script(keys=[f"{self._prefix}:circuit:{kind}:{name}"], args=arguments)
        except redis.RedisError as error:
            self._lost_until = self._clock() + LOST_SECONDS
            log.warning("circuits lost, calls go through", extra={"error": str(error)})
            return None


def look(client: "redis.Redis", *, key_prefix: str) -> list[CircuitView]:
    """All circuits that anybody has told of within a quarter of an hour, open ones first; raises `redis.RedisError`."""
    seconds, microseconds = client.time()
    now = seconds * 1_000 + microseconds // 1_000
    found = []
    for key in client.scan_iter(match=f"{key_prefix}:circuit:*", count=1_000):
        fields: dict[str, str] = client.hgetall(key)  # type: ignore[assignment]
        kind, _, name = str(key).removeprefix(f"{key_prefix}:circuit:").partition(":")
        left = int(fields["until"]) - now if "until" in fields else 0
        recent = [
            number for number in range(6) if f"b{number}" in fields and now // PART_MS - int(fields[f"b{number}"]) < 6
        ]
        failures = sum(int(fields[f"f{number}"]) for number in recent)
        found.append(
            CircuitView(
                kind=kind,
                name=name,
                state="closed" if "until" not in fields else "open" if left > 0 else "half-open",
                why=fields.get("why", ""),
                seconds_left=max(0, left) / 1_000,
                failures=failures,
                calls=failures + sum(int(fields[f"p{number}"]) for number in recent),
            )
        )
    return sorted(found, key=lambda one: (one.state == "closed", one.kind, one.name))

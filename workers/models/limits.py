"""The fleet's rate limits, kept in Redis: how many requests and tokens a minute all workers together may use.

One bucket each of requests, input and output tokens for every model family of an endpoint; additive increase and
multiplicative decrease (Chiu and Jain, 1989) of what the fleet allows itself after a 429. When Redis is lost a process
goes on with a careful share of its own, see `local_limits`.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

from chargehand.orchestrator import limit_view
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.workers.models.local_limits import LocalLimits

log = logging.getLogger(__name__)

# A 429 halves what the fleet allows itself, a quiet second gives a twentieth back; never below a tenth.
DECREASE_PERMILLE = 500
INCREASE_PERMILLE = limit_view.RAISED_PERMILLE
LOWEST_PERMILLE = 100
# One burst of refusals is one event.
DECREASE_PAUSE_MS = 1_000
# State that nobody used for so long is as good as full buckets.
TTL_MS = 600_000
# A process that has asked for no model for so long has no share when Redis is lost.
PROCESS_SILENCE_MS = 60_000
# A lost Redis is tried again after this, so that not every call waits for a time-out.
LOST_SECONDS = 1.0

# Beside what is counted, whose it is and the caps: for those who look (`orchestrator/limit_view.py`), as keys cannot be
# taken apart where both endpoint and model have colons.
#
# One bucket a kind, each holding a minute's worth. A need above the whole bucket is admitted when the bucket is full,
# and puts it into debt: it must not wait for ever.
_ADMIT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], now, ARGV[9])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[10])
redis.call('PEXPIRE', KEYS[2], ARGV[8])
local processes = redis.call('ZCARD', KEYS[2])
local state = redis.call('HMGET', KEYS[1], 'not_before', 'factor', 'raised', 'at', 'b1', 'b2', 'b3')
local not_before = tonumber(state[1]) or 0
if not_before > now then return {0, not_before - now, processes} end
local factor = tonumber(state[2]) or 1000
local raised = tonumber(state[3]) or now
if factor < 1000 and now - raised >= 1000 then
  factor = math.min(1000, factor + tonumber(ARGV[7]) * math.floor((now - raised) / 1000))
  raised = now
end
local at = tonumber(state[4]) or now
local wait = 0
local left = {}
for kind = 1, 3 do
  local limit = tonumber(ARGV[kind])
  if limit > 0 then
    local rate = limit * factor / 1000 / 60000
    local have = math.min(limit, (tonumber(state[4 + kind]) or limit) + (now - at) * rate)
    local need = math.min(tonumber(ARGV[3 + kind]), limit)
    if have < need then wait = math.max(wait, math.ceil((need - have) / rate)) end
    left[kind] = have
  end
end
local fields = {'factor', factor, 'raised', raised, 'at', now, 'endpoint', ARGV[11], 'family', ARGV[12]}
for kind = 1, 3 do
  fields[#fields + 1] = 'l' .. kind
  fields[#fields + 1] = ARGV[kind]
  if left[kind] then
    local rest = left[kind]
    if wait == 0 then rest = rest - tonumber(ARGV[3 + kind]) end
    fields[#fields + 1] = 'b' .. kind
    fields[#fields + 1] = rest
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ARGV[8])
if wait > 0 then return {0, wait, processes} end
return {1, 0, processes}
"""

_SLOW_DOWN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'not_before', 'factor', 'lowered')
local until_ms = math.max(tonumber(state[1]) or 0, now + tonumber(ARGV[1]))
local factor = tonumber(state[2]) or 1000
local lowered = tonumber(state[3]) or 0
if now - lowered >= tonumber(ARGV[4]) then
  factor = math.max(tonumber(ARGV[3]), math.floor(factor * tonumber(ARGV[2]) / 1000))
  lowered = now
end
local raised = math.max(now, until_ms)
redis.call('HSET', KEYS[1], 'not_before', until_ms, 'factor', factor, 'raised', raised, 'lowered', lowered,
  'endpoint', ARGV[6], 'family', ARGV[7])
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[5]), until_ms - now + 1000))
return factor
"""

_GIVE_BACK = """
for kind = 2, 3 do
  local field = 'b' .. kind
  local have = tonumber(redis.call('HGET', KEYS[1], field))
  local limit = tonumber(ARGV[kind - 1])
  if have and limit > 0 then
    redis.call('HSET', KEYS[1], field, math.min(limit, have + tonumber(ARGV[kind + 1])))
  end
end
return 1
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimits:
    """What one model may be asked in a minute; 0 is no limit."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a call is going to use, as far as one can tell before."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """The call may be made now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """The call would be refused; it may be made after this."""

    seconds: float


class FleetLimits:
    """Admission of model calls across all workers."""

    def __init__(
        self, redis: "Redis", *, key_prefix: str, limits: Mapping[str, RateLimits], endpoint: str = "default"
    ) -> None:
        """`limits` by model or by the beginning of a model's name, which makes a family; `endpoint`: whose they are."""
        self._redis = redis
        self._key_prefix = f"{key_prefix}:limits:{endpoint}"
        self._endpoint = endpoint
        self._limits = dict(limits)
        self._admit = redis.register_script(_ADMIT)
        self._slow_down = redis.register_script(_SLOW_DOWN)
        self._give_back = redis.register_script(_GIVE_BACK)
        self._local = LocalLimits()
        self._process = uuid4().hex
        self._processes = 0
        self._lost_until = 0.0

    def admit(self, model: str, need: Need) -> Admitted | Wait:
        """Take what the call needs from the family's minute, or say how long to wait; takes nothing then."""
        limits = self._of(model)
        caps = (limits.requests, limits.input_tokens, limits.output_tokens)
        needs = (1, need.input_tokens, need.output_tokens)
        shared: list[int | str] = [*caps, *needs, INCREASE_PERMILLE, TTL_MS, self._process, PROCESS_SILENCE_MS]
        shared += [self._endpoint, family_of(model, self._limits)]
        keys = [self._key(model), f"{self._key_prefix}:processes"]
        answer = self._ask(self._admit, keys, shared)
        if answer is None:
            seconds = self._local.admit(family_of(model, self._limits), caps, needs, self._processes)
            return Wait(seconds=seconds) if seconds else Admitted()
        admitted, wait_ms, self._processes = (int(value) for value in answer)
        return Admitted() if admitted else Wait(seconds=wait_ms / 1_000)

    def slow_down(self, model: str, seconds: float) -> None:
        """The server refused: nobody asks this family before that time, and fewer do after it."""
        pause_ms = max(0, round(seconds * 1_000))
        arguments: list[int | str] = [pause_ms, DECREASE_PERMILLE, LOWEST_PERMILLE, DECREASE_PAUSE_MS, TTL_MS]
        arguments += [self._endpoint, family_of(model, self._limits)]
        if self._ask(self._slow_down, [self._key(model)], arguments) is None:
            self._local.slow_down(family_of(model, self._limits), seconds)

    def give_back(self, model: str, *, needed: Need, used: Need) -> None:
        """Return what a call was admitted for and did not use (or take what it used beyond)."""
        limits = self._of(model)
        arguments = [
            limits.input_tokens,
            limits.output_tokens,
            needed.input_tokens - used.input_tokens,
            needed.output_tokens - used.output_tokens,
        ]
        # A process alone gives nothing back: its share is a guess, and the careful side of it.
        self._ask(self._give_back, [self._key(model)], arguments)

    def _ask(self, script: Script, keys: Sequence[str], arguments: Sequence[int | str]) -> Any:
        """What Redis answers; None while it is lost."""
        if time.monotonic() < self._lost_until:
            return None
        try:
            answer: Any = script(keys=keys, args=arguments)
        except RedisError as error:
            if not self._lost_until:
                log.warning("limits lost, each process keeps its share", extra={"error": str(error)})
            self._lost_until = time.monotonic() + LOST_SECONDS
            return None
        if self._lost_until:
            self._lost_until = 0.0
            self._local.forget()
            log.warning("limits are back")
        return answer

    def _of(self, model: str) -> RateLimits:
        return self._limits.get(family_of(model, self._limits)) or self._limits.get("*") or RateLimits()

    def _key(self, model: str) -> str:
        return f"{self._key_prefix}:{family_of(model, self._limits)}"


def family_of(model: str, limits: Mapping[str, RateLimits]) -> str:
    """The longest configured name that the model has or begins with; without one every model is its own family.

    `claude-sonnet` stands for all of `claude-sonnet-5-5` and `claude-sonnet-5-5-20260901`, which share its minute.
    """
    named = [name for name in limits if model == name or model.startswith((f"{name}-", f"{name}@"))]
    return max(named, key=len, default=model)


def endpoint_of(base_url: str) -> str:
    """A server as the keys of its limits name it: host and port."""
    parts = urlsplit(base_url)
    return parts.netloc.rpartition("@")[2] or "default"


def parse_limits(text: str) -> dict[str, RateLimits]:
    """Limits by model or family from JSON: `{"claude-sonnet": {"requests": 50}}`; `*` stands for every other.

    Raises `InvalidSettings`.
    """
    if not text.strip():
        return {}
    known = set(asdict(RateLimits()))
    remedy = f"CHARGEHAND_MODEL_LIMITS is JSON by model with {', '.join(sorted(known))} for a minute"
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise InvalidSettings(f"{remedy}; it is not JSON: {error}.") from error
    if not isinstance(listed, dict):
        raise InvalidSettings(f"{remedy}; it is {text[:80]!r}.")
    limits = {}
    for model, values in listed.items():
        valid = isinstance(values, dict) and set(values) <= known
        if not valid or not all(isinstance(value, int) and value >= 0 for value in values.values()):
            raise InvalidSettings(f"{remedy}; {model!r} has {values!r}.")
        limits[model] = RateLimits(**values)
    return limits

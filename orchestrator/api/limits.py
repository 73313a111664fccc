"""How often a key may ask: a leaky bucket in Redis that all processes share, or one of this process when it is lost.

The algorithm is GCRA (ITU-T I.371): one number a key, the time at which its bucket would be empty.
"""

import threading
import time
from dataclasses import dataclass
from uuid import UUID

import redis

# What a page or a program asks for at once, in seconds of its rate.
BURST_SECONDS = 2.0
# Redis that does not answer is left alone for so long: each request would wait for its time-out otherwise.
PATIENCE_SECONDS = 5.0
MOST_LOCAL = 10_000

# What a key that asks all the time is granted at once, in seconds of its rate: Redis is not asked for each request. It
# is good for as long, in this process only.
GRANTED_SECONDS = 0.1

_TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local full = tonumber(redis.call('GET', KEYS[1]) or '0')
if full < now then full = now end
local interval, burst, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if full + interval * count - burst - now > 0 then count = 1 end
local wait = full + interval * count - burst - now
if wait > 0 then return {tostring(wait), 0} end
full = full + interval * count
redis.call('SET', KEYS[1], tostring(full), 'PX', math.ceil((full - now + 2 * burst) * 1000))
return {'0', count}
"""


@dataclass(kw_only=True, slots=True)
class Grant:
    """What a key may still ask without asking Redis."""

    left: int
    until: float
    """By this process's clock."""


class RateLimit:
    """So many requests a second for each key, and what comes at once on top; any thread may call it."""

    def __init__(self, client: "redis.Redis | None", *, per_second: float, key_prefix: str) -> None:
        """`client` None: there is no Redis, each process counts for itself."""
        self._client, self._prefix = client, key_prefix
        self._interval_seconds = 1.0 / per_second
        self._granted = max(1, int(per_second * GRANTED_SECONDS))
        self._take = client.register_script(_TAKE) if client is not None else None
        self._burst_seconds = max(BURST_SECONDS, self._interval_seconds)
        self._away_until = 0.0
        self._local: dict[UUID, float] = {}
        self._grants: dict[UUID, Grant] = {}
        self._guard = threading.Lock()

    def wait_seconds(self, key_id: UUID) -> float:
        """0 when the request may go on, else after how long it may be made again."""
        at_once = self.wait_at_once(key_id)
        if at_once is not None:
            return at_once
        assert self._take is not None
        with self._guard:
            grant = self._grants.get(key_id)
            wanted = 1 if grant is None or grant.until < time.monotonic() else self._granted
        try:
            wait, granted = self._take(
                keys=[f"{self._prefix}:api:rate:{key_id}"], args=[self._interval_seconds, self._burst_seconds, wanted]
            )
        except redis.RedisError:
            self._away_until = time.monotonic() + PATIENCE_SECONDS
            return self._here(key_id)
        with self._guard:
            if len(self._grants) >= MOST_LOCAL:
                self._grants.clear()
            self._grants[key_id] = Grant(left=max(0, granted - 1), until=time.monotonic() + GRANTED_SECONDS)
        return float(wait)

    def wait_at_once(self, key_id: UUID) -> float | None:
        """As `wait_seconds`, if Redis need not be asked; else None."""
        now = time.monotonic()
        if self._take is None or now < self._away_until:
            return self._here(key_id)
        with self._guard:
            grant = self._grants.get(key_id)
            if grant is None or grant.left == 0 or grant.until < now:
                return None
            grant.left -= 1
            return 0.0

    def _here(self, key_id: UUID) -> float:
        now = time.monotonic()
        with self._guard:
            if len(self._local) >= MOST_LOCAL:
                self._local = {key: full for key, full in self._local.items() if full > now}
            full = max(now, self._local.get(key_id, now))
            wait = full + self._interval_seconds - self._burst_seconds - now
            if wait > 0:
                return wait
            self._local[key_id] = full + self._interval_seconds
            return 0.0

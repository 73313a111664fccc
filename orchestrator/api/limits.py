"""How often a key may ask: a leaky bucket in Redis that all processes share, or one of this process when it is lost.

The algorithm is GCRA (ITU-T I.371): one number a key, the time at which its bucket would be empty.
"""

import threading
import time
from uuid import UUID

import redis

# What a page or a program asks for at once, in seconds of its rate.
BURST_SECONDS = 2.0
# Redis that does not answer is left alone for so long: each request would wait for its time-out otherwise.
PATIENCE_SECONDS = 5.0
MOST_LOCAL = 10_000

_TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local full = tonumber(redis.call('GET', KEYS[1]) or '0')
if full < now then full = now end
local wait = full + tonumber(ARGV[1]) - tonumber(ARGV[2]) - now
if wait > 0 then return tostring(wait) end
redis.call('SET', KEYS[1], tostring(full + tonumber(ARGV[1])), 'PX', math.ceil((full - now + 2 * tonumber(ARGV[2])) * 1000))
return '0'
"""  # noqa: E501 - Lua


class RateLimit:
    """So many requests a second for each key, and what comes at once on top; any thread may call it."""

    def __init__(self, client: "redis.Redis | None", *, per_second: float, key_prefix: str) -> None:
        """`client` None: there is no Redis, each process counts for itself."""
        self._client, self._prefix = client, key_prefix
        self._interval_seconds = 1.0 / per_second
        self._take = client.register_script(_TAKE) if client is not None else None
        self._burst_seconds = max(BURST_SECONDS, self._interval_seconds)
        self._away_until = 0.0
        self._local: dict[UUID, float] = {}
        self._guard = threading.Lock()

    def wait_seconds(self, key_id: UUID) -> float:
        """0 when the request may go on, else after how long it may be made again."""
        if self._take is None or time.monotonic() < self._away_until:
            return self._here(key_id)
        try:
            return float(
                self._take(
                    keys=[f"{self._prefix}:api:rate:{key_id}"], args=[self._interval_seconds, self._burst_seconds]
                )
            )
        except redis.RedisError:
            self._away_until = time.monotonic() + PATIENCE_SECONDS
            return self._here(key_id)

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

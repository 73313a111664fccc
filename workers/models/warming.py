"""Warm first, then fan out: of many workers about to send one prefix, one sends it and the others wait briefly.

A server's cache can be read once the first answer has begun; N cold calls at once pay N writes. This saves money and
promises nothing: a leader that dies, a Redis that is gone and a wait that gets long all end in an ordinary call.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

# Longer is not waited for: a worker that sleeps is a place that nobody else has.
WAIT_SECONDS = 4.0
# A leader that has said nothing for so long is taken for dead.
LEADER_SECONDS = 20.0
POLL_SECONDS = 0.02
# After a Redis that did not answer, so long nobody asks it.
GONE_SECONDS = 5.0
WARM = "warm"

# The leader alone may say that it has failed.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Warming:
    """Chooses who warms a prefix; safe to use from many threads."""

    def __init__(
        self,
        redis: "Redis",
        *,
        key_prefix: str,
        wait_seconds: float = WAIT_SECONDS,
        leader_seconds: float = LEADER_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`redis`: with short time-outs, because calls wait for its answer."""
        self._redis = redis
        self._key_prefix = key_prefix
        self._wait_seconds = wait_seconds
        self._leader_ms = round(leader_seconds * 1_000)
        self._sleep = sleep
        self._clock = clock
        self._release = redis.register_script(_RELEASE)
        self._gone_until = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, prefix: str, *, ttl_seconds: float) -> Iterator[Callable[[], None] | None]:
        """Wait until this call may be made; gives a leader the function that says "warm", and others None.

        A leader calls it when its answer has begun. One that ends without having done so has failed, and another takes
        its place at once.
        """
        token = self._enter(prefix)
        if token is None:
            yield None
            return
        said = threading.Event()

        def warm() -> None:
            if not said.is_set():
                said.set()
                self._try(lambda: self._redis.set(self._key(prefix), WARM, px=round(ttl_seconds * 1_000)))

        try:
            yield warm
        finally:
            if not said.is_set():
                self._try(lambda: self._release(keys=[self._key(prefix)], args=[token]))

    def _enter(self, prefix: str) -> str | None:
        """A leader's token, or None for whoever may go on without leading."""
        token = uuid4().hex
        deadline = self._clock() + self._wait_seconds
        while self._clock() < deadline:
            held = self._try(lambda: self._take(prefix, token))
            if held is None or held == WARM:
                return None
            if held == token:
                return token
            self._sleep(POLL_SECONDS)
        log.info("prefix not warm in time", extra={"prefix": prefix, "waited_seconds": self._wait_seconds})
        return None

    def _take(self, prefix: str, token: str) -> str:
        key = self._key(prefix)
        if self._redis.set(key, token, nx=True, px=self._leader_ms):
            return token
        value: Any = self._redis.get(key)
        return value.decode() if isinstance(value, bytes) else str(value or "")

    def _try(self, asked: Callable[[], Any]) -> Any:
        """What Redis says, or None while it is gone."""
        if self._clock() < self._gone_until:
            return None
        try:
            return asked()
        except RedisError as error:
            with self._lock:
                self._gone_until = self._clock() + GONE_SECONDS
            log.warning("warming lost, prefixes are sent as they come", extra={"error": str(error)})
            return None

    def _key(self, prefix: str) -> str:
        return f"{self._key_prefix}:warm:{prefix}"

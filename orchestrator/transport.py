"""Kombu's Redis transport with five repairs, under a name of its own so that a user's other apps keep theirs.

- A channel whose connection is gone raises a connection error, which Celery handles by reconnecting; kombu 5.7 fails
  with `'NoneType' object has no attribute 'hostname'` and takes the whole worker with it.
- One client per channel instead of one per operation: building one costs 93 µs, a fifth of a worker's time.
- What this process holds unacknowledged is kept invisible to others by a heartbeat (`refresh_unacked`), so that a short
  visibility time-out is safe for a long step.
- A process that stops consuming answers for what Redis still hands to its last BRPOP: kombu would look at it again only
  when the last task of the process has ended, and the message is with nobody until then.
- When a message was taken is told by Redis's clock: kombu asks each process for its own, and one that is ahead by more
  than the visibility time-out sends everybody's messages out again, every second.

It leans on internals of kombu 5.7; `tests/system/test_kill_nine.py` and the pin in `pyproject.toml` guard that.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty
from typing import Any

import kombu.transport
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

# In a broker URL's place of `redis`; kombu 5.7 refuses dots and colons in names.
NAME = "chargehandredis"


# A process that is off by less does no harm.
SLIGHTLY_OFF_SECONDS = 1.0


class QoS(kombu_redis.QoS):
    """What a channel has delivered and nobody has acknowledged, dated by Redis's clock."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery."""
        super().append(message, delivery_tag)
        if abs(self.channel.ahead_seconds) > SLIGHTLY_OFF_SECONDS:
            self.channel.date([delivery_tag])

    @property
    def visibility_timeout(self) -> float:
        """What kombu takes off its own clock to find what was taken too long ago."""
        return float(self.channel.visibility_timeout + self.channel.ahead_seconds)


class Channel(kombu_redis.Channel):
    """A channel that survives the loss of its connection, reuses its client, and knows what time it is."""

    QoS = QoS

    _plain_client: Any = None
    _ahead_seconds: float | None = None

    @property
    def ahead_seconds(self) -> float:
        """By how much this process's clock is ahead of Redis's."""
        if self._ahead_seconds is None:
            self._ahead_seconds = self._compare_clocks()
        return self._ahead_seconds

    def _compare_clocks(self) -> float:
        seconds, microseconds = self._create_client().time()
        return time.time() - (seconds + microseconds / 1_000_000)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("The broker connection is closed.")
        return dict(super()._connparams(asynchronous=asynchronous))

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._plain_client is None or self._plain_client.connection_pool is not self.pool:
            self._plain_client = super()._create_client(asynchronous=False)
        return self._plain_client

    def _basic_cancel(self, consumer_tag: str) -> Any:
        cancelled = super()._basic_cancel(consumer_tag)
        if self._in_poll and not self.active_queues:
            # It takes a second at most. Nobody is there to take a message that comes, so it goes back.
            with suppress(Empty):
                self._brpop_read()
        return cancelled

    def refresh_unacked(self) -> int:
        """Say that this process still works on what it has not acknowledged; gives how many messages that is."""
        self._ahead_seconds = self._compare_clocks()
        tags = list(self.qos._delivered)
        if tags:
            self.date(tags)
        return len(tags)

    def date(self, tags: Sequence[str]) -> None:
        """Say that these deliveries are being worked on now."""
        now = time.time() - self.ahead_seconds
        self._create_client().zadd(self.unacked_index_key, dict.fromkeys(tags, now), xx=True)


class Transport(kombu_redis.Transport):
    """Kombu's transport with our channel."""

    Channel = Channel


def register() -> None:
    """Make the transport known to kombu under `NAME`."""
    kombu.transport.TRANSPORT_ALIASES[NAME] = f"{__name__}:Transport"


def broker_url(redis_url: str) -> str:
    """The Redis URL as a broker URL that uses this transport."""
    scheme, separator, rest = redis_url.partition("://")
    if scheme != "redis" or not separator:
        raise ValueError(f"Redis URL {redis_url!r} does not begin with redis://; give one that does.")
    return f"{NAME}://{rest}"

"""Hints that a run's journal has grown, from whoever commits to whoever follows; lost with Redis, missed by nobody.

Not `NOTIFY`: inside the commits of turns it serialises them.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import redis

log = logging.getLogger(__name__)

# A run that nobody listened to just now is not hinted at for so long: a turn has no time for empty messages.
QUIET_SECONDS = 1.0
# A follower that is told nothing looks this often: who began to listen a moment ago, or lost Redis, waits no longer.
LOOK_SECONDS = 0.5
# Hints come in crowds: so many follow each other within a turn that one look serves them all.
CROWD_SECONDS = 0.02
MOST_QUIET = 10_000


def channel_of(run_id: UUID, *, key_prefix: str) -> str:
    """Where hints about the run are given."""
    return f"{key_prefix}:hints:{run_id}"


class Hints:
    """Gives hints about runs, and waits for them; any thread may call it."""

    def __init__(self, client: "redis.Redis", *, key_prefix: str) -> None:
        """Nothing is connected yet."""
        self._client, self._prefix = client, key_prefix
        self._quiet_until: dict[UUID, float] = {}
        self._guard = threading.Lock()

    def give(self, run_id: UUID) -> None:
        """Say that the run's journal has grown; called after the commit."""
        now = time.monotonic()
        if now < self._quiet_until.get(run_id, 0.0):
            return
        try:
            heard = bool(self._client.publish(self._channel(run_id), ""))
        except redis.RedisError as error:
            log.debug("hint not given", extra={"error": str(error)})
            heard = False
        if heard:
            return
        with self._guard:
            if len(self._quiet_until) >= MOST_QUIET:
                self._quiet_until.clear()
            self._quiet_until[run_id] = now + QUIET_SECONDS

    @contextmanager
    def follow(self, run_id: UUID) -> Iterator["Follower"]:
        """Listen while the block lasts."""
        with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            try:
                channel.subscribe(self._channel(run_id))
            except redis.RedisError:
                yield Follower(None)
            else:
                yield Follower(channel)

    def _channel(self, run_id: UUID) -> str:
        return channel_of(run_id, key_prefix=self._prefix)


class Follower:
    """Whoever waits for a run to go on."""

    def __init__(self, channel: "redis.client.PubSub | None") -> None:
        """Of a subscription; None where there is no Redis: then it looks by the clock."""
        self._channel = channel

    @property
    def is_deaf(self) -> bool:
        """Whether no hint can reach it."""
        return self._channel is None

    def wait(self) -> None:
        """Return at the next hint, or when it is time to look anyway."""
        deadline = time.monotonic() + LOOK_SECONDS
        while self._channel is not None and time.monotonic() < deadline:
            try:
                if self._channel.get_message(timeout=max(0.0, deadline - time.monotonic())) is not None:
                    _let_the_crowd_pass(self._channel)
                    return
            except redis.RedisError:
                self._channel = None
        time.sleep(max(0.0, deadline - time.monotonic()))


def _let_the_crowd_pass(channel: "redis.client.PubSub") -> None:
    time.sleep(CROWD_SECONDS)
    while channel.get_message() is not None:
        pass

"""Hints about many runs, heard on one connection by one thread; lost with Redis, missed by nobody (`hints`)."""

import logging
import threading
from collections.abc import Callable, Iterable
from uuid import UUID

import redis

from chargehand.orchestrator.hints import channel_of

log = logging.getLogger(__name__)

# Who begins to watch a run hears of it after this at the latest.
PATIENCE_SECONDS = 0.1
# Redis that is away is looked for so often.
AWAY_SECONDS = 1.0


class Hearing:
    """Subscribed to the runs that somebody watches; any thread may call it."""

    def __init__(self, client: "redis.Redis", *, key_prefix: str, heard: Callable[[UUID], None]) -> None:
        """`heard` is called in the hearing thread, for each hint."""
        self._client, self._prefix, self._heard = client, key_prefix, heard
        self._wanted: dict[str, UUID] = {}
        self._guard = threading.Lock()
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hear, name="hearing", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Hear nothing more."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def watch(self, run_ids: Iterable[UUID]) -> None:
        """Hear of these runs, and of no others."""
        wanted = {channel_of(run_id, key_prefix=self._prefix): run_id for run_id in run_ids}
        with self._guard:
            self._wanted = wanted
        self._changed.set()

    def _hear(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    self._listen(channel)
            except redis.RedisError as error:
                log.debug("no hints are heard", extra={"error": str(error)})
                self._stopping.wait(AWAY_SECONDS)

    def _listen(self, channel: "redis.client.PubSub") -> None:
        subscribed: set[str] = set()
        while not self._stopping.is_set():
            self._changed.clear()
            with self._guard:
                wanted = dict(self._wanted)
            if new := wanted.keys() - subscribed:
                channel.subscribe(*new)
            if gone := subscribed - wanted.keys():
                channel.unsubscribe(*gone)
            subscribed = set(wanted)
            if not subscribed:
                self._changed.wait()
                continue
            while not self._changed.is_set():
                message = channel.get_message(timeout=PATIENCE_SECONDS)
                if message is not None and (run_id := wanted.get(str(message["channel"]))) is not None:
                    self._heard(run_id)

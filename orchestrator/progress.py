"""The newest line of each running step, for whoever watches; lost with Redis and missed by nobody else."""

import logging
from uuid import UUID

import redis

log = logging.getLogger(__name__)

# Nobody looks at the progress of a run for longer than this without a new line.
TTL_SECONDS = 3600
MAX_LINE = 200
# Who watches looks several times a second.
WATCHED_SECONDS = 10


class Progress:
    """Lines by run and step key."""

    def __init__(self, client: "redis.Redis", *, key_prefix: str) -> None:
        """`client` gives text."""
        self._client, self._prefix = client, key_prefix

    def say(self, run_id: UUID, step_key: str, line: str) -> None:
        """Replace the step's line."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hset(self._key(run_id), step_key, line[:MAX_LINE])
                pipe.expire(self._key(run_id), TTL_SECONDS)
                pipe.execute()
        except redis.RedisError as error:
            log.debug("progress not shown", extra={"error": str(error)})

    def clear(self, run_id: UUID, step_key: str) -> None:
        """The step does not run any more."""
        try:
            self._client.hdel(self._key(run_id), step_key)
        except redis.RedisError as error:
            log.debug("progress not cleared", extra={"error": str(error)})

    def lines(self, run_id: UUID) -> dict[str, str]:
        """step key → newest line; empty when Redis does not answer. Whoever reads is watching."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self._key(run_id))
                pipe.set(self._watched_key(run_id), "1", ex=WATCHED_SECONDS)
                return dict(pipe.execute()[0])
        except redis.RedisError:
            return {}

    def is_watched(self, run_id: UUID) -> bool:
        """Whether somebody has looked at the run of late; False when Redis does not answer."""
        try:
            return bool(self._client.exists(self._watched_key(run_id)))
        except redis.RedisError:
            return False

    def _key(self, run_id: UUID) -> str:
        return f"{self._prefix}:progress:{run_id}"

    def _watched_key(self, run_id: UUID) -> str:
        return f"{self._prefix}:watched:{run_id}"

"""The Redis client, the names of our keys and how long each lives."""

import random
from dataclasses import dataclass

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

# A conversation that nobody continued for a day is rebuilt from the journal when somebody does.
CONVERSATION_TTL_SECONDS = 24 * 3600
# However often it is continued: then it is made anew from the journal, without what was erased there.
CONVERSATION_LIFE_SECONDS = 7 * 24 * 3600
# A lease longer than any compare-and-set that a holder would do; a crashed holder blocks others no longer than this.
LOCK_TTL_SECONDS = 10.0
# Longer than any command of ours takes; without a limit redis-py waits for ever on a stopped server.
SOCKET_TIMEOUT_SECONDS = 10.0
# A dropped connection is tried again within about .3 s; a server that is away longer is the caller's to know.
RETRIES = 2
RETRY_BASE_SECONDS = 0.05
RETRY_CAP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Names of keys under one prefix; the parts of a conversation share a slot of a cluster."""

    prefix: str = "chargehand"

    def conversation(self, conversation: str) -> str:
        """The stream of one conversation."""
        return f"{self.prefix}:conversation:{{{conversation}}}"

    def lock(self, name: str) -> str:
        """A Redlock on each of its nodes."""
        return f"{self.prefix}:lock:{{{name}}}"


def connect(
    redis_url: str,
    *,
    connect_timeout_seconds: float,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    retries: int = RETRIES,
) -> redis.Redis:
    """A thread-safe client that gives text, never waits for ever and retries a dropped connection.

    It does not connect yet: the first command does, and raises `redis.exceptions.ConnectionError` if nobody answers.
    A retried command may run twice on the server: give it to scripts that can bear that.
    """
    # A Unix socket has no such thing, and its connections refuse the word.
    keepalive = {} if redis_url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        redis_url,
        decode_responses=True,
        socket_connect_timeout=connect_timeout_seconds,
        socket_timeout=socket_timeout_seconds,
        **keepalive,
        health_check_interval=30,
        retry=Retry(ExponentialWithJitterBackoff(cap=RETRY_CAP_SECONDS, base=RETRY_BASE_SECONDS), retries),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )


def jittered(seconds: float) -> float:
    """Between half of `seconds` and all of it, so that those who were refused together do not return together."""
    return seconds * random.uniform(0.5, 1.0)

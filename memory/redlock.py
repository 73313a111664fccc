"""Redlock: one holder at a time over a majority of Redis nodes.

It saves wasted work; it does *not* make anything correct. A holder that was stopped longer than its validity comes
back and believes that it holds the lock: whatever it writes must be refused by a fence (see `shared_state`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

import redis
from redis.connection import Connection
from redis.exceptions import RedisError

from chargehand.memory.keyspace import LOCK_TTL_SECONDS, Keyspace, jittered

# Clocks of the nodes may run apart by one per cent; two milliseconds for the expiry's own grain (antirez's figures).
CLOCK_DRIFT = 0.01
EXPIRY_GRAIN_SECONDS = 0.002
# Between two attempts to take a lock that somebody holds.
RETRY_SECONDS = 0.05

# Only the holder's own token is removed or extended: an expired holder must not free its successor's lock.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"
EXTEND = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end"
)


class LockBusy(RuntimeError):
    """Somebody else holds the lock, or a majority of its nodes does not answer; try later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock that is held until `valid_until` by this process's monotonic clock."""

    name: str
    token: str
    valid_until: float
    acquired_in_seconds: float
    """How long the successful attempt took."""

    def remaining_seconds(self) -> float:
        """How long it may still be relied on; negative: no longer."""
        return self.valid_until - time.monotonic()


class Redlock:
    """Locks over `clients`, one a node, an odd number of independent ones (one node is a plain lock).

    Give clients with a short `socket_timeout` and no retries (`connect(url, connect_timeout_seconds=.2,
    socket_timeout_seconds=.2, retries=0)`): a node that is away costs each attempt that long.
    """

    def __init__(
        self, clients: Sequence[redis.Redis], keyspace: Keyspace, *, ttl_seconds: float = LOCK_TTL_SECONDS
    ) -> None:
        if not clients:
            raise ValueError("A Redlock needs at least one node; give it a client.")
        self._clients = tuple(clients)
        self._keyspace = keyspace
        self._ttl_seconds = ttl_seconds

    @property
    def quorum(self) -> int:
        """How many nodes must agree."""
        return len(self._clients) // 2 + 1

    def acquire(self, name: str, *, wait_seconds: float = 0.0) -> Lock:
        """Take the lock, or raise `LockBusy` when it was not free within `wait_seconds`."""
        deadline = time.monotonic() + wait_seconds
        while True:
            lock = self._attempt(name)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise LockBusy(f"The lock {name!r} is held by another; try later or wait longer than {wait_seconds} s.")
            time.sleep(min(jittered(RETRY_SECONDS), max(0.0, deadline - time.monotonic())))

    def release(self, lock: Lock) -> None:
        """Give the lock back; a node that is away frees it when its time is over."""
        self._ask(("EVAL", RELEASE, "1", self._keyspace.lock(lock.name), lock.token))

    def extend(self, lock: Lock) -> Lock:
        """The same lock with its full time again, or `LockBusy` when it was lost."""
        started = time.monotonic()
        milliseconds = str(self._milliseconds())
        replies = self._ask(("EVAL", EXTEND, "1", self._keyspace.lock(lock.name), lock.token, milliseconds))
        extended = self._valid(lock.name, lock.token, started, sum(reply == 1 for reply in replies))
        if extended is None:
            raise LockBusy(f"The lock {lock.name!r} was lost before it was extended; take it again.")
        return extended

    @contextmanager
    def held(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[Lock]:
        """The lock for the length of a block."""
        lock = self.acquire(name, wait_seconds=wait_seconds)
        try:
            yield lock
        finally:
            self.release(lock)

    def _attempt(self, name: str) -> Lock | None:
        token, started = token_hex(16), time.monotonic()
        key = self._keyspace.lock(name)
        replies = self._ask(("SET", key, token, "NX", "PX", str(self._milliseconds())))
        lock = self._valid(name, token, started, sum(is_ok(reply) for reply in replies))
        if lock is None:
            # Also where no answer came: the node may have taken it.
            self._ask(("EVAL", RELEASE, "1", key, token))
        return lock

    def _valid(self, name: str, token: str, started: float, votes: int) -> Lock | None:
        now = time.monotonic()
        drift = self._ttl_seconds * CLOCK_DRIFT + EXPIRY_GRAIN_SECONDS
        valid_until = started + self._ttl_seconds - drift
        if votes < self.quorum or valid_until <= now:
            return None
        return Lock(name=name, token=token, valid_until=valid_until, acquired_in_seconds=now - started)

    def _milliseconds(self) -> int:
        return round(self._ttl_seconds * 1000)

    def _ask(self, command: tuple[str, ...]) -> list[object]:
        """The replies of all nodes; an error where a node did not answer.

        Every node is sent the command before the first is read: five nodes cost one round trip (.3 ms against 1.5).
        """
        sent = [send(client, command) for client in self._clients]
        return [
            receive(client, connection) if isinstance(connection, Connection) else connection
            for client, connection in zip(self._clients, sent, strict=True)
        ]


def send(client: redis.Redis, command: tuple[str, ...]) -> Connection | RedisError:
    """A connection on which the command was sent and not yet answered, or why it could not be."""
    connection = None
    try:
        connection = client.connection_pool.get_connection()
        connection.send_command(*command)
    except RedisError as error:
        discard(client, connection)
        return error
    return connection


def receive(client: redis.Redis, connection: Connection) -> object:
    """The answer to the command that was sent, or the error."""
    try:
        reply: object = connection.read_response()
    except RedisError as error:
        discard(client, connection)
        return error
    client.connection_pool.release(connection)
    return reply


def discard(client: redis.Redis, connection: Connection | None) -> None:
    """Close a connection that failed, so that its late reply is never read as the next command's."""
    if connection is not None:
        connection.disconnect()
        client.connection_pool.release(connection)


def is_ok(reply: object) -> bool:
    """Redis said OK, as bytes or as text."""
    return reply in (b"OK", "OK", True)

"""Redlock: one holder at a time over a majority of Redis nodes.

It saves wasted work; it does *not* make anything correct. A holder that was stopped longer than its validity, a node
that came back empty, or clocks that jumped give two holders at once, each of whom believes that it is the only one:
whatever they write must be refused by a fence (see `shared_state`).

The algorithm is Salvatore Sanfilippo's (redis.io, "Distributed Locks with Redis"); that it needs a fence is Martin
Kleppmann's ("How to do distributed locking", 2016).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

import redis

from chargehand.memory.keyspace import LOCK_TTL_SECONDS, Keyspace, jittered
from chargehand.memory.quorum import Nodes

# Clocks of the nodes may run apart by one per cent; two milliseconds for the expiry's own grain (antirez's figures).
CLOCK_DRIFT = 0.01
EXPIRY_GRAIN_SECONDS = 0.002
# Between two attempts to take a lock that somebody holds.
RETRY_SECONDS = 0.05
# What asking all nodes may take; a lock lives much longer.
TIMEOUT_SECONDS = 0.2

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

    Give clients with a short `connect_timeout_seconds` and no retries (`connect(url, connect_timeout_seconds=.2,
    socket_timeout_seconds=.2, retries=0)`). Threads may share one.
    """

    def __init__(
        self,
        clients: Sequence[redis.Redis],
        keyspace: Keyspace,
        *,
        ttl_seconds: float = LOCK_TTL_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Nothing is connected before the first lock is taken.

        `ttl_seconds`: how long a lock outlives a holder that has died. `timeout_seconds`: what an attempt may wait for
        nodes that are away. `retry_seconds`: between two attempts for a lock that somebody holds.
        """
        if not clients:
            raise ValueError("A Redlock needs at least one node; give it a client.")
        self._nodes = Nodes(clients, timeout_seconds=timeout_seconds)
        self._keyspace = keyspace
        self._ttl_seconds = ttl_seconds
        self._retry_seconds = retry_seconds

    @property
    def quorum(self) -> int:
        """How many nodes must agree."""
        return self._nodes.majority

    def close(self) -> None:
        """Give all connections back to their clients."""
        self._nodes.close()

    def acquire(self, name: str, *, wait_seconds: float = 0.0) -> Lock:
        """Take the lock, or raise `LockBusy` when it was not free within `wait_seconds`."""
        deadline = time.monotonic() + wait_seconds
        while True:
            lock = self._attempt(name)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise LockBusy(
                    f"The lock {name!r} is held by another, or fewer than {self.quorum} of {len(self._nodes)} nodes "
                    f"answer; try later or wait longer than {wait_seconds} s."
                )
            time.sleep(min(jittered(self._retry_seconds), max(0.0, deadline - time.monotonic())))

    def release(self, lock: Lock) -> None:
        """Give the lock back; a node that is away frees it when its time is over."""
        self._nodes.tell(("EVAL", RELEASE, "1", self._keyspace.lock(lock.name), lock.token))

    def extend(self, lock: Lock) -> Lock:
        """The same lock with its full time again, or `LockBusy` when it was lost.

        Whether it is valid is asked before and after: one whose time is over is not brought back, though nobody may
        have taken it, and one whose extension took too long counts as lost.
        """
        started = time.monotonic()
        replies: list[object] = []
        if lock.valid_until > started:
            milliseconds = str(self._milliseconds())
            command = ("EVAL", EXTEND, "1", self._keyspace.lock(lock.name), lock.token, milliseconds)
            replies = self._nodes.ask(command, agrees=is_one)
        extended = self._valid(lock.name, lock.token, started, sum(map(is_one, replies)))
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
        replies = self._nodes.ask(("SET", key, token, "NX", "PX", str(self._milliseconds())), agrees=is_ok)
        lock = self._valid(name, token, started, sum(map(is_ok, replies)))
        if lock is None:
            # Also where no answer came: the node may have taken it.
            self._nodes.tell(("EVAL", RELEASE, "1", key, token))
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


def is_ok(reply: object) -> bool:
    """Redis said OK, as bytes or as text."""
    return reply in (b"OK", "OK", True)


def is_one(reply: object) -> bool:
    """A script found the holder's own token."""
    return reply == 1 and reply is not True

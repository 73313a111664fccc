"""The heartbeat of one worker process: renews its leases, says that its pool lives, and learns what it has lost.

It has a connection of its own: a locked run that fills the pool of connections must not cost other steps their leases.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from chargehand.memory.database import APP_ROLE, KEEPALIVE, session_options

log = logging.getLogger(__name__)

# Of a lease. After an outage everybody must be back soon: who stays silent longer than the others is taken for dead.
BEAT = 1 / 3
RETRY = 1 / 15
# A beat that takes longer than this hangs: its connection is cut and made anew.
LONGEST_BEAT_SECONDS = 5.0
SHORTEST_PATIENCE_SECONDS = 1.0
# Who misses its own times by so much has stood still; a server that is away makes nobody late.
STANDSTILL_SECONDS = 1.0
# A step that ended is missed by a beat that comes before the executor has dropped it; what is missed again is lost.
LOOK_AGAIN_SECONDS = 0.25

_RENEW = "SELECT renew_leases(%s::uuid[], %s::integer[], %s)"
# `since` tells an outage of Postgres from a lost worker: it moves when the connection broke, but not when the process
# had stood still. It is kept here, too: the row of who was silent for long is gone.
_LIVE = """
INSERT INTO pools (holder, pool, slots, since)
VALUES (%(holder)s, %(pool)s, %(slots)s, coalesce(%(since)s, clock_timestamp()))
ON CONFLICT (holder) DO UPDATE SET seen_at = clock_timestamp(), slots = excluded.slots, since = excluded.since
RETURNING since
"""
_GONE = "DELETE FROM pools WHERE holder = %s"


def new_holder(pool: str) -> str:
    """The name under which a process holds leases: `<pool>@<host>~<chance>:<pid>`.

    Of its own in each life: a container that starts again has the same host and pid, and would vouch for the steps that
    killed it.
    """
    return f"{pool}@{socket.gethostname()}~{secrets.token_hex(3)}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class _Lease:
    step_id: UUID
    epoch: int


class Heartbeat:
    """Renews what this process holds, a third of a lease apart."""

    def __init__(self, database_url: str, *, holder: str, pool: str, slots: int, lease_seconds: float) -> None:
        """Nothing runs before `start`."""
        self._database_url = database_url
        self._holder, self._pool, self._slots = holder, pool, slots
        self._lease_seconds = lease_seconds
        self._held: dict[_Lease, Callable[[], None]] = {}
        self._missed: frozenset[_Lease] = frozenset()
        self._patience_seconds = min(LONGEST_BEAT_SECONDS, max(SHORTEST_PATIENCE_SECONDS, lease_seconds * BEAT))
        # None: the next beat says that the connection was broken.
        self._since: datetime | None = None
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Say that the pool is gone and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def hold(self, step_id: UUID, epoch: int, on_lost: Callable[[], None]) -> None:
        """Renew this claim from now on; `on_lost` is called once if it turns out to be lost."""
        with self._guard:
            self._held[_Lease(step_id, epoch)] = on_lost

    def drop(self, step_id: UUID, epoch: int) -> None:
        """Stop renewing this claim."""
        with self._guard:
            self._held.pop(_Lease(step_id, epoch), None)

    def _beat(self) -> None:
        connection: psycopg.Connection | None = None
        late_seconds = 0.0
        while True:
            pause = self._lease_seconds * BEAT
            began = time.monotonic()
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                    began = time.monotonic()
                with _cut_after(self._patience_seconds, connection):
                    self._round(connection)
            except psycopg.Error as error:
                log.warning("heartbeat missed", extra={"error": str(error).strip()})
                if connection is not None:
                    connection.close()
                connection = None
                late_seconds += max(0.0, time.monotonic() - began - self._patience_seconds)
                # A step that keeps the interpreter to itself makes a time-out run out, too: that is its own failure.
                if late_seconds < STANDSTILL_SECONDS:
                    self._since = None
                pause = self._lease_seconds * RETRY
            # Out of files or threads, it tries again too: without it every lease of the process is lost.
            except (OSError, RuntimeError) as error:
                log.warning("heartbeat missed", extra={"error": str(error).strip()})
                pause = self._lease_seconds * RETRY
            pause = min(LOOK_AGAIN_SECONDS, pause) if self._missed else pause
            began = time.monotonic()
            if self._stopping.wait(pause):
                break
            late_seconds = max(0.0, time.monotonic() - began - pause)
        self._leave(connection)

    def _connect(self) -> psycopg.Connection:
        options = f"{session_options(role=APP_ROLE)} -c statement_timeout={round(self._patience_seconds * 1000)}ms"
        parameters: dict[str, Any] = {"connect_timeout": 3, "options": options, **KEEPALIVE}
        return psycopg.connect(self._database_url, autocommit=True, **parameters)

    def _round(self, connection: psycopg.Connection) -> None:
        self._renew(connection)
        # After the renewal: whoever was seen after a lease had expired does not hold it any more.
        live = {"holder": self._holder, "pool": self._pool, "slots": self._slots, "since": self._since}
        row = connection.execute(_LIVE, live).fetchone()
        self._since = row[0] if row is not None else None

    def _renew(self, connection: psycopg.Connection) -> None:
        with self._guard:
            held = list(self._held)
        if not held:
            self._missed = frozenset()
            return
        rows = connection.execute(
            _RENEW, [[lease.step_id for lease in held], [lease.epoch for lease in held], self._lease_seconds]
        )
        renewed = {row[0] for row in rows}
        # Epochs only grow: when this very process has claimed a step again, its earlier claim is over.
        newest: dict[UUID, int] = {}
        for lease in held:
            newest[lease.step_id] = max(lease.epoch, newest.get(lease.step_id, 0))
        missed = frozenset(
            lease for lease in held if lease.step_id not in renewed or lease.epoch < newest[lease.step_id]
        )
        for lease in missed & self._missed:
            self._report_lost(lease)
        self._missed = missed - self._missed

    def _report_lost(self, lease: _Lease) -> None:
        with self._guard:
            on_lost = self._held.pop(lease, None)
        # A step that ended meanwhile was dropped and is not lost.
        if on_lost is not None:
            log.warning("lease lost", extra={"step_id": str(lease.step_id), "epoch": lease.epoch})
            on_lost()

    def _leave(self, connection: psycopg.Connection | None) -> None:
        if connection is None:
            return
        try:
            connection.execute(_GONE, [self._holder])
        except psycopg.Error as error:
            log.info("pool row left behind", extra={"error": str(error).strip()})
        finally:
            connection.close()


@contextmanager
def _cut_after(seconds: float, connection: psycopg.Connection) -> Iterator[None]:
    """Cut the connection if the block takes longer: a server that keeps silent is waited for without an end."""
    stream = socket.socket(fileno=os.dup(connection.fileno()))
    timer = threading.Timer(seconds, _cut, [stream])
    timer.daemon = True
    try:
        timer.start()
        yield
    finally:
        timer.cancel()
        stream.close()


def _cut(stream: socket.socket) -> None:
    # Not closed under the thread that waits for it: the end of the stream wakes it up.
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)

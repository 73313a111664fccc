"""The heartbeat of one worker process: renews its leases, says that its pool lives, and learns what it has lost.

It has a connection of its own: a locked run that fills the pool of connections must not cost other steps their leases.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import psycopg

from chargehand.memory.database import APP_ROLE, session_options

log = logging.getLogger(__name__)

_RENEW = "SELECT renew_leases(%s::uuid[], %s::integer[], %s)"
_LIVE = """
INSERT INTO pools (holder, pool, slots) VALUES (%s, %s, %s)
ON CONFLICT (holder) DO UPDATE SET seen_at = clock_timestamp(), slots = excluded.slots
"""
_GONE = "DELETE FROM pools WHERE holder = %s"


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
        while True:
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(
                        self._database_url,
                        autocommit=True,
                        connect_timeout=3,
                        options=f"{session_options(role=APP_ROLE)} -c statement_timeout=5s",
                    )
                self._round(connection)
            except psycopg.Error as error:
                log.warning("heartbeat missed", extra={"error": str(error).strip()})
                if connection is not None:
                    connection.close()
                connection = None
            if self._stopping.wait(self._lease_seconds / 3):
                break
        self._leave(connection)

    def _round(self, connection: psycopg.Connection) -> None:
        connection.execute(_LIVE, [self._holder, self._pool, self._slots])
        with self._guard:
            held = list(self._held)
        if not held:
            return
        rows = connection.execute(
            _RENEW, [[lease.step_id for lease in held], [lease.epoch for lease in held], self._lease_seconds]
        )
        renewed = {row[0] for row in rows}
        # Epochs only grow: when this very process has claimed a step again, its earlier claim is over.
        newest: dict[UUID, int] = {}
        for lease in held:
            newest[lease.step_id] = max(lease.epoch, newest.get(lease.step_id, 0))
        for lease in held:
            if lease.step_id not in renewed or lease.epoch < newest[lease.step_id]:
                with self._guard:
                    on_lost = self._held.pop(lease, None)
                # A step that ended between the look and the renewal was dropped meanwhile and is not lost.
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

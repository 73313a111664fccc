"""Connections for the statements that run thousands of times a minute: autocommit, prepared, one round trip each."""

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from uuid import UUID

import psycopg
from psycopg import errors as pg
from psycopg import pq
from psycopg_pool import ConnectionPool, PoolTimeout
from psycopg_pool.base import AttemptWithBackoff

from chargehand.memory.database import APP_ROLE, KEEPALIVE, session_options
from chargehand.orchestrator.errors import ReplyLost, Unavailable
from chargehand.orchestrator.joint_commits import LANES, Joint, JointCommits
from chargehand.orchestrator.prepared import Parameters, PreparedStatements, Row

__all__ = ["Connections", "Parameters", "Row"]

# A hundred threads share them: a turn holds one for half a millisecond on a quiet disk, for five on a busy one. A
# supervisor and three pools of twelve are as many as a server with its default of a hundred connections can take.
POOL_SIZE = 12
# So long a connection goes from thread to thread; then the pool looks whether it is too old, or not needed.
KEPT_SECONDS = 60.0
SHORTEST_WAIT_SECONDS = 0.1
# Deadlocks cannot happen by the lock order; if one does all the same, the statement is simply run again. So is one that
# waited in vain for a lock: what it was to record would cost a lease, and what it was to claim a message.
ATTEMPTS = 3
# Whoever waits for a connection has it within so long after Postgres is back.
RECONNECT_FIRST_SECONDS = 0.25
RECONNECT_LAST_SECONDS = 1.0

_BIND = "SELECT set_config('chargehand.tenant', %(tenant)s, false)"

T = TypeVar("T")


class TenantConnection(psycopg.Connection[Row]):
    """A connection that knows whom its session acts for, and what was prepared on it."""

    bound_to: UUID | None = None
    statements: PreparedStatements | None = None
    kept_until: float = 0.0


class Reconnection(AttemptWithBackoff):
    """When a connection that could not be made is tried again: psycopg's own pause doubles to minutes.

    Postgres would be back for as long as it was away, and every message of a worker would be lost meanwhile.
    """

    INITIAL_DELAY = RECONNECT_FIRST_SECONDS

    def update_delay(self, now: float) -> None:
        """Wait longer than before, up to a second."""
        super().update_delay(now)
        self.delay = min(self.delay, RECONNECT_LAST_SECONDS)


class TenantConnections(ConnectionPool[TenantConnection]):
    """psycopg's pool, soon back after an outage; it leans on internals of psycopg_pool 3.3."""

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        super()._add_connection(attempt or Reconnection(timeout=self.reconnect_timeout), growing)


class Connections:
    """A pool of autocommit connections that act as the application's role, each statement bound to its tenant."""

    def __init__(
        self,
        database_url: str,
        *,
        role: str = APP_ROLE,
        max_size: int = POOL_SIZE,
        lock_timeout_seconds: float = 2.0,
        timeout_seconds: float = 5.0,
        lanes: int = LANES,
    ) -> None:
        """Nothing is connected before the first statement; at most `lanes` joint statements are under way."""
        options = session_options(role=role, generic_plans=True)
        self._pool = TenantConnections(
            database_url,
            connection_class=TenantConnection,
            min_size=0,
            max_size=max_size,
            timeout=timeout_seconds,
            open=False,
            kwargs={
                "autocommit": True,
                "options": f"{options} -c lock_timeout={round(lock_timeout_seconds * 1000)}ms",
                "connect_timeout": 3,
                **KEEPALIVE,
            },
        )
        self._timeout_seconds = timeout_seconds
        self._opening = threading.Lock()
        self._opened = self._closed = False
        # The pool's own books cost a fifth of a statement's CPU here: what works is passed on beside it.
        self._places = threading.Semaphore(max_size)
        self._idle: deque[TenantConnection] = deque()
        self._joint = JointCommits(self._committed, lanes=lanes)

    def run(self, tenant: UUID, statement: str, parameters: Parameters) -> Row | None:
        """Run one statement as `tenant` in one round trip and one commit; give its first row.

        Raises `Unavailable` when Postgres does not answer, and `ReplyLost` when it breaks off: the statement may have
        been committed all the same, and the caller asks what became of it. A deadlock's victim is run again.
        """
        rows = self.rows(tenant, statement, parameters)
        return rows[0] if rows else None

    def rows(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        """All rows of one statement; a `Joint` one may share its commit with those of other threads."""
        if isinstance(statement, Joint):
            return self._joint.run(tenant, statement, parameters)
        return self._committed(tenant, statement, parameters)

    @contextmanager
    def _connection(self) -> Iterator[TenantConnection]:
        """One connection of the pool; raises `Unavailable` when there is none within the time-out.

        Private, because its session is still bound to the tenant of the statement before.
        """
        connection = self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _take(self) -> TenantConnection:
        began = time.monotonic()
        if not self._places.acquire(timeout=self._timeout_seconds):
            raise Unavailable("Postgres does not answer (no connection in time); start it, then try again.")
        try:
            with suppress(IndexError):
                while True:
                    # The last one used: the others are not needed, and the pool may have them back.
                    connection = self._idle.pop()
                    if not _has_hung_up(connection):
                        return connection
                    self._replace(connection)
            self._open()
            while True:
                left = self._timeout_seconds - (time.monotonic() - began)
                connection = self._pool.getconn(timeout=max(left, SHORTEST_WAIT_SECONDS))
                if not _has_hung_up(connection):
                    break
                self._replace(connection)
        except BaseException as error:
            self._places.release()
            if isinstance(error, PoolTimeout):
                raise Unavailable(
                    "Postgres does not answer (no connection in time); start it, then try again."
                ) from error
            raise
        connection.kept_until = time.monotonic() + KEPT_SECONDS
        return connection

    def _replace(self, connection: TenantConnection) -> None:
        """Let the pool make another one in its place."""
        connection.close()
        self._pool.putconn(connection)

    def _give_back(self, connection: TenantConnection) -> None:
        now = time.monotonic()
        is_whole = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if is_whole and now < connection.kept_until and not self._closed:
            self._idle.append(connection)
        else:
            self._pool.putconn(connection)
        self._places.release()
        with suppress(IndexError):
            if self._idle[0].kept_until < now:
                self._pool.putconn(self._idle.popleft())

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._opened:
            with suppress(IndexError):
                while True:
                    self._pool.putconn(self._idle.pop())
            self._pool.close()

    def _open(self) -> None:
        with self._opening:
            if not self._opened:
                self._pool.open()
                self._opened = True

    def _committed(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        return self._retried(lambda: self._run(tenant, statement, parameters))

    def _run(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        connection = self._take()
        try:
            statements = connection.statements
            if statements is None:
                statements = connection.statements = PreparedStatements(connection=connection)
            # The binding lasts as the session's role does: most connections serve one tenant all day, and to bind each
            # statement anew costs as much as the statement's own work.
            if connection.bound_to != tenant:
                connection.bound_to = None
                statements.run(_BIND, {"tenant": tenant})
                connection.bound_to = tenant
            return statements.run(statement, parameters)
        finally:
            self._give_back(connection)

    @staticmethod
    def _retried(act: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return act()
            except (pg.DeadlockDetected, pg.SerializationFailure):
                if attempt == ATTEMPTS:
                    raise
            except pg.LockNotAvailable as error:
                if attempt == ATTEMPTS:
                    raise Unavailable("Somebody holds a lock in Postgres for too long; try again.") from error
            except psycopg.OperationalError as error:
                if isinstance(error, pg.QueryCanceled):
                    raise
                raise ReplyLost(f"Postgres broke off: {str(error).strip()}") from error
        raise AssertionError("unreachable")


def _has_hung_up(connection: TenantConnection) -> bool:
    """Whether Postgres has closed it while nobody used it: a server says nothing unasked but its good-bye.

    One call of the kernel. Else each connection of the process would cost a statement after a restart of Postgres.
    """
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))

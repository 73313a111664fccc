"""Connections for the statements that run thousands of times a minute: autocommit, prepared, one round trip each."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors as pg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from chargehand.memory.database import APP_ROLE, session_options
from chargehand.orchestrator.errors import Unavailable

# Eight to sixteen connections serve 200 threads: a turn holds one for half a millisecond.
POOL_SIZE = 8
# Deadlocks cannot happen by the lock order; if one does all the same, the statement is simply run again.
ATTEMPTS = 3

Row = dict[str, Any]
Parameters = Mapping[str, object]
T = TypeVar("T")


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
    ) -> None:
        """Nothing is connected before the first statement."""
        options = session_options(role=role, generic_plans=True)
        self._pool: ConnectionPool[psycopg.Connection[Row]] = ConnectionPool(
            database_url,
            min_size=0,
            max_size=max_size,
            timeout=timeout_seconds,
            open=False,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "options": f"{options} -c lock_timeout={round(lock_timeout_seconds * 1000)}ms",
                "connect_timeout": 3,
                "prepare_threshold": 1,
            },
        )
        self._opening = threading.Lock()
        self._opened = False

    def run(self, tenant: UUID, statement: str, parameters: Parameters) -> Row | None:
        """Run one statement as `tenant` in one round trip and one commit; give its first row.

        Raises `Unavailable` when Postgres does not answer. A connection that broke is tried again once only when the
        statement cannot have been sent; otherwise the caller asks what became of it.
        """
        return self._retried(lambda: self._run(tenant, statement, parameters))

    def rows(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        """All rows of one statement."""

        def fetch() -> list[Row]:
            with self.connection() as connection, connection.pipeline():
                self._bind(connection, tenant)
                cursor = connection.execute(statement, parameters)
                return cursor.fetchall()

        return self._retried(fetch)

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Row]]:
        """One connection of the pool; raises `Unavailable` when there is none within the time-out."""
        self._open()
        try:
            connection = self._pool.getconn()
        except PoolTimeout as error:
            raise Unavailable("Postgres does not answer (no connection in time); start it, then try again.") from error
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    def close(self) -> None:
        """Close every connection."""
        if self._opened:
            self._pool.close()

    def _open(self) -> None:
        with self._opening:
            if not self._opened:
                self._pool.open()
                self._opened = True

    def _run(self, tenant: UUID, statement: str, parameters: Parameters) -> Row | None:
        with self.connection() as connection, connection.pipeline():
            self._bind(connection, tenant)
            cursor = connection.execute(statement, parameters, prepare=True)
            return cursor.fetchone() if cursor.description else None

    @staticmethod
    def _bind(connection: psycopg.Connection[Row], tenant: UUID) -> None:
        # Without a sync between them both statements are one implicit transaction: `true` makes it local to that.
        connection.execute("SELECT set_config('chargehand.tenant', %s, true)", [str(tenant)], prepare=True)

    @staticmethod
    def _retried(act: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return act()
            except (pg.DeadlockDetected, pg.SerializationFailure):
                if attempt == ATTEMPTS:
                    raise
            except psycopg.OperationalError as error:
                if isinstance(error, pg.LockNotAvailable | pg.QueryCanceled):
                    raise
                raise Unavailable(f"Postgres broke off: {str(error).strip()}") from error
        raise AssertionError("unreachable")


def text_array(values: Sequence[str]) -> list[str]:
    """A list for a `text[]` parameter; NUL, which Postgres text cannot hold, becomes visible."""
    return [value.replace("\x00", "\\u0000") for value in values]

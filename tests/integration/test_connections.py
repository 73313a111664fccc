"""The connections of the hot path: few, passed on from thread to thread, and none that is broken or too old."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from chargehand.orchestrator import connections as module
from chargehand.orchestrator.connections import Connections, Reconnection, TenantConnections
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.settings import DEFAULT_TENANT

if TYPE_CHECKING:
    from tests.conftest import WaitUntil

WHO = "SELECT pg_backend_pid() AS pid"


@pytest.fixture
def connections(database_url: str) -> Iterator[Connections]:
    made = Connections(database_url, max_size=2, timeout_seconds=3.0)
    yield made
    made.close()


def pid(connections: Connections) -> int:
    row = connections.run(DEFAULT_TENANT, WHO, {})
    assert row is not None
    return int(row["pid"])


def alive(database_url: str) -> set[int]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {row[0] for row in rows}


def test_many_threads_share_few_connections(connections: Connections) -> None:
    with ThreadPoolExecutor(20) as pool:
        seen = {*pool.map(lambda _: pid(connections), range(300))}
    assert 1 <= len(seen) <= 2


def test_who_waits_longer_than_the_time_out_is_told_that_there_is_none(connections: Connections) -> None:
    connections._timeout_seconds = 0.1
    with (
        connections._connection(),
        connections._connection(),
        pytest.raises(Unavailable, match="no connection in time"),
    ):
        pid(connections)
    assert pid(connections)


def test_a_connection_that_broke_is_not_passed_on(connections: Connections, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        for _ in range(3):
            with connections._connection() as connection:
                owner.execute("SELECT pg_terminate_backend(%s)", [connection.pgconn.backend_pid])
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("SELECT pg_sleep(60)")
            assert pid(connections)


def test_a_restart_of_postgres_costs_the_connections_that_nobody_used_no_statement(
    connections: Connections, database_url: str, wait_until: "WaitUntil"
) -> None:
    with connections._connection() as first, connections._connection() as second:
        before = {first.pgconn.backend_pid, second.pgconn.backend_pid}
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [[*before]])
    wait_until(lambda: not before & alive(database_url))

    assert pid(connections) not in before
    with connections._connection() as first, connections._connection() as second:
        assert first.execute("SELECT 1").fetchone()
        assert second.execute("SELECT 1").fetchone()


def test_what_waits_for_a_connection_has_it_soon_after_postgres_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[object] = []
    monkeypatch.setattr(ConnectionPool, "_add_connection", lambda _self, attempt, growing: attempts.append(attempt))
    TenantConnections("", min_size=0, max_size=1, open=False)._add_connection(None, growing=True)
    [attempt] = attempts
    assert isinstance(attempt, Reconnection)

    delays = []
    for minute in range(10):
        attempt.update_delay(minute)
        delays.append(attempt.delay)

    assert 0 < delays[0] < 0.3
    assert max(delays) <= 1.0
    assert not attempt.time_to_give_up(10)


def test_a_lock_that_somebody_keeps_is_waited_for_more_than_once_and_is_no_mistake_of_the_step(
    database_url: str,
) -> None:
    connections = Connections(database_url, lock_timeout_seconds=0.05)
    taken = "SELECT pg_advisory_xact_lock(812)::text AS taken"
    with closing(connections), psycopg.connect(database_url) as owner:
        owner.execute("SELECT pg_advisory_xact_lock(812)")
        with pytest.raises(Unavailable, match="lock"):
            connections.run(DEFAULT_TENANT, taken, {})
        owner.rollback()
        assert connections.run(DEFAULT_TENANT, taken, {})


def test_a_connection_in_the_middle_of_something_is_not_passed_on(connections: Connections) -> None:
    with connections._connection() as connection:
        before = connection.pgconn.backend_pid
        connection.pgconn.exec_(b"BEGIN")
    with connections._connection() as connection:
        assert connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE, before


def test_what_is_not_needed_any_more_goes_back_to_the_pool(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    for _ in range(3):
        with connections._connection(), connections._connection():
            pass
    assert not connections._idle
    assert connections._pool.get_stats()["pool_available"] == 2


def test_closing_ends_every_connection(database_url: str, connections: Connections, wait_until: "WaitUntil") -> None:
    held, close = threading.Event(), threading.Event()

    def hold() -> None:
        with connections._connection():
            held.set()
            close.wait(60)

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(hold)
        assert held.wait(60)
        assert len({pid(connections)} & alive(database_url)) == 1
        connections.close()
        close.set()
        busy.result()
    with pytest.raises(Exception, match="closed"):
        pid(connections)
    wait_until(lambda: not alive(database_url))

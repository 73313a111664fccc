"""The connections of the hot path: few, passed on from thread to thread, and none that is broken or too old."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from chargehand.orchestrator import connections as module
from chargehand.orchestrator.connections import Connections
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
            owner.execute("SELECT pg_terminate_backend(%s)", [pid(connections)])
            with pytest.raises(Unavailable):
                pid(connections)
    assert pid(connections)


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

"""Prepared statements on a real server: rows, errors, lost connections and the binding of tenants."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors as pg

from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.errors import Unavailable

if TYPE_CHECKING:
    from tests.conftest import WaitUntil

WHO = "SELECT current_setting('chargehand.tenant') AS tenant, %(value)s::text AS value"


def test_each_statement_acts_for_its_own_tenant_on_a_shared_connection(database_url: str) -> None:
    connections = Connections(database_url, max_size=1)
    tenants = [uuid4() for _ in range(3)]

    def ask(index: int) -> bool:
        tenant = tenants[index % 3]
        row = connections.run(tenant, WHO, {"value": "x"})
        return row is not None and row["tenant"] == str(tenant)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(60)))
    connections.close()


def test_a_failed_statement_leaves_the_connection_usable_and_bound(database_url: str) -> None:
    connections = Connections(database_url, max_size=1)
    first, second = uuid4(), uuid4()
    connections.run(first, WHO, {"value": "x"})
    with pytest.raises(pg.DivisionByZero):
        connections.run(second, "SELECT 1 / %(zero)s::int AS never", {"zero": 0})
    row = connections.run(first, WHO, {"value": 'quote " and \\ and %'})
    assert row == {"tenant": str(first), "value": 'quote " and \\ and %'}
    connections.close()


def test_values_come_back_as_python_has_them(database_url: str) -> None:
    connections = Connections(database_url)
    identity = uuid4()
    row = connections.run(
        identity,
        "SELECT %(id)s::uuid AS id, %(n)s::bigint AS n, %(f)s::float8 AS f, %(b)s::bool AS b, "
        "%(nothing)s::text AS nothing, jsonb_build_object('a', %(n)s::bigint) AS json, %(list)s::text[] AS list",
        {"id": identity, "n": 2**40, "f": 0.25, "b": True, "nothing": None, "list": ["a,b", "c"]},
    )
    assert row == {
        "id": identity,
        "n": 2**40,
        "f": 0.25,
        "b": True,
        "nothing": None,
        "json": {"a": 2**40},
        "list": ["a,b", "c"],
    }
    assert connections.rows(identity, "SELECT 1 AS one WHERE false", {}) == []
    connections.close()


def test_a_connection_that_the_server_ends_is_an_outage_once_and_then_replaced(
    database_url: str, wait_until: "WaitUntil"
) -> None:
    connections = Connections(database_url, max_size=1)
    tenant = uuid4()
    row = connections.run(tenant, "SELECT pg_backend_pid() AS pid", {})
    assert row is not None
    with psycopg.connect(database_url, autocommit=True) as owner, ThreadPoolExecutor(1) as thread:
        cut_off = thread.submit(connections.run, tenant, "SELECT pg_sleep(600)::text AS nothing", {})
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
        wait_until(lambda: owner.execute(end, [row["pid"]]).fetchall())
        with pytest.raises(Unavailable, match="Postgres broke off"):
            cut_off.result()
    assert connections.run(tenant, WHO, {"value": "x"}) == {"tenant": str(tenant), "value": "x"}
    connections.close()

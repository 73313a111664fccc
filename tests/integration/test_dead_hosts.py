"""A Postgres host that dies without a word: the kernel is asked to notice, on every kind of connection.

What the kernel then does cannot be shown on one machine: a proxy in between answers for the dead.
"""

import pytest
from sqlalchemy import Engine, text

from chargehand.memory.database import APP_ROLE, KEEPALIVE, SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.settings import DEFAULT_TENANT

EXPECTED = {name: str(value) for name, value in KEEPALIVE.items()}


@pytest.mark.parametrize("role", [APP_ROLE, SUPERVISOR_ROLE])
def test_engines_of_clients_workers_and_supervisors_ask_the_kernel_to_notice(database_url: str, role: str) -> None:
    engine: Engine = open_engine(database_url, role=role)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        driver = connection.connection.driver_connection
        assert driver is not None
        assert EXPECTED.items() <= driver.info.get_parameters().items()
    engine.dispose()


def test_connections_of_the_hot_path_ask_the_kernel_to_notice(database_url: str) -> None:
    connections = Connections(database_url)
    connections.run(DEFAULT_TENANT, "SELECT 1 AS one", {})
    with connections._connection() as connection:
        assert EXPECTED.items() <= connection.info.get_parameters().items()
    connections.close()

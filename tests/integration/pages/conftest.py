"""The pages in the process of the test, for a browser that signed in."""

# ruff: noqa: F401, F811 - fixtures of the API's tests

from uuid import UUID

import pytest

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.supervisor.advance import advance
from chargehand.orchestrator.supervisor.graphs import Graphs
from tests.integration.api.conftest import GATE, Api, Open, api, open_api


@pytest.fixture
def house_of_gate(api: Api, database_url: str) -> str:
    """A run whose gate is open: its question waits for an answer."""
    run_id = api.submit(GATE)
    engine = open_engine(database_url, role=SUPERVISOR_ROLE)
    try:
        advance(engine, Graphs(), UUID(run_id), audit_key=b"k" * 32)
    finally:
        engine.dispose()
    return run_id

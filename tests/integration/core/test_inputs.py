"""What a step reads of its run while Postgres is away: the step waits for it and does not fail."""

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Step
from chargehand.workers.inputs import RunReader

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

WORK = Step(key="a", kind="script", script="work")


def test_a_reader_says_that_postgres_does_not_answer(house: "House") -> None:
    nobody = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    reader = RunReader(nobody, house.tenant, house.submit(WORK))
    with pytest.raises(Unavailable, match="does not answer"):
        reader.gather(WORK)
    with pytest.raises(Unavailable, match="does not answer"):
        reader.result("a")


def test_a_reader_whose_process_has_no_connection_free_says_try_later(house: "House") -> None:
    engine = open_engine(house.database_url, role=APP_ROLE, pool_size=1, connect_timeout_seconds=0.1)
    reader = RunReader(engine, house.tenant, house.submit(WORK))
    with tenant_session(engine, house.tenant) as one, tenant_session(engine, house.tenant) as two:
        one.execute(text("SELECT 1"))
        two.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="does not answer"):
            reader.gather(WORK)
    assert reader.gather(WORK).goal == "Test this"
    engine.dispose()

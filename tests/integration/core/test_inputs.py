"""What a step reads of its run while Postgres is away: the step waits for it and does not fail."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Step, step_id
from chargehand.workers.executor import execute
from chargehand.workers.inputs import RunReader
from chargehand.workers.scripts.registry import SCRIPTS, ScriptContext
from chargehand.workers.scripts.registry import script as register
from chargehand.workers.shop import LONG_SESSIONS

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

WORK = Step(key="a", kind="script", script="work")


def test_a_reader_says_that_postgres_does_not_answer(house: "House") -> None:
    nobody = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    reader = RunReader(nobody, house.tenant, house.submit(WORK))
    with pytest.raises(Unavailable, match="does not answer"):
        reader.gather(WORK)
    with pytest.raises(Unavailable, match="does not answer"):
        reader.result("a")


def test_scripts_that_hold_their_sessions_leave_the_others_connections(house: "House", wait_until: "WaitUntil") -> None:
    # Ten of them, embedding, had all ten connections: every other step of the process saw an outage.
    release, held = threading.Event(), threading.Semaphore(0)

    def hold(context: ScriptContext) -> None:
        with context.open_session() as session:
            session.execute(text("SELECT 1"))
            held.release()
            assert release.wait(60)

    scripts = [register(name="hold_session")(hold), register(name="work")(lambda: None)]
    for one in scripts:
        del SCRIPTS[one.name]
    keys = [f"s{n}" for n in range(10)]
    run_id = house.start(*[Step(key=key, kind="script", script="hold_session") for key in keys], WORK)
    shop = house.shop(*scripts)

    def deliver(key: str) -> str:
        return execute(shop, tenant=house.tenant, step_id=step_id(run_id, key))

    with ThreadPoolExecutor(10) as holders:
        holding = [holders.submit(deliver, key) for key in keys]
        try:
            for _ in range(LONG_SESSIONS):
                assert held.acquire(timeout=30)
            wait_until(lambda: list(house.statuses(run_id).values()).count("running") == 10, timeout_seconds=30)
            assert deliver("a") == "go_on"
        finally:
            release.set()
        assert [one.result(timeout=60) for one in holding] == ["go_on"] * 10


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

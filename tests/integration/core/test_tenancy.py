"""Row-level security: a tenant neither sees nor writes another's rows, through any table."""

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs, views
from chargehand.orchestrator.errors import NotFound, NothingToClaim
from chargehand.orchestrator.facts import StepWaiting
from chargehand.orchestrator.listing import RunFilter, page_of_runs
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.schema import METADATA
from chargehand.orchestrator.steps import new_wait_id

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

TENANT_TABLES = sorted(table.name for table in METADATA.tables.values() if "tenant" in table.columns)
OF_A_RUN = ("runs", "steps", "edges", "rings", "signals", "budgets", "journal", "submissions", "settlements")


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


@pytest.fixture
def foreign(house: "House") -> tuple[UUID, UUID]:
    """Another tenant's run, with a row in every table of a run."""
    tenant = uuid4()
    run_id = house.submit(script("a"), script("b", "a"), tenant=tenant)
    house.open_pool("research")
    house.advance(run_id)
    house.admit()
    wait_id = new_wait_id()
    house.claim(run_id, "a", tenant=tenant).wait(StepWaiting(wait_id=wait_id, reason="human", question="?"))
    with house.as_tenant(tenant) as session:
        runs.answer(session, tenant, run_id=run_id, step=step_id(run_id, "a"), wait_id=wait_id, choice="retry")
        runs.enqueue(session, tenant, house.request(script("x")))
        settled = (
            "INSERT INTO settlements (tenant, call, run, step, cost_microusd) VALUES (:tenant, :run, :run, :run, 1)"
        )
        session.execute(text(settled), {"tenant": tenant, "run": run_id})
    return tenant, run_id


def count(session: Session, table: str, tenant: UUID) -> int:
    query = text(f"SELECT count(*) FROM {table} WHERE tenant = :tenant")
    return int(session.execute(query, {"tenant": tenant}).scalar_one())


@pytest.mark.parametrize("table", OF_A_RUN)
def test_a_tenant_sees_its_own_rows_only(house: "House", foreign: tuple[UUID, UUID], table: str) -> None:
    tenant, _ = foreign
    with house.as_tenant(tenant) as session:
        assert count(session, table, tenant) > 0
    with house.as_tenant() as session:
        assert count(session, table, tenant) == 0
    with Session(house.app) as unbound:
        assert count(unbound, table, tenant) == 0


@pytest.mark.parametrize("table", ["runs", "steps", "budgets"])
def test_a_tenant_updates_none_of_anothers_rows(house: "House", foreign: tuple[UUID, UUID], table: str) -> None:
    tenant, _ = foreign
    with house.as_tenant() as session:
        changed: Any = session.execute(
            text(f"UPDATE {table} SET tenant = tenant WHERE tenant = :tenant"), {"tenant": tenant}
        )
        assert changed.rowcount == 0


@pytest.mark.parametrize("table", ["runs", "steps", "budgets"])
def test_a_tenant_gives_no_row_away(house: "House", table: str) -> None:
    house.submit(script("a"))
    with pytest.raises(DBAPIError, match="row-level security"), house.as_tenant() as session:
        session.execute(text(f"UPDATE {table} SET tenant = gen_random_uuid()"))


@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("runs", "id, goal", "gen_random_uuid(), 'x'"),
        ("steps", "id, run, key, ordinal, pool, spec", "gen_random_uuid(), :run, 'x', 9, 'research', '{}'"),
        ("edges", "predecessor, successor, run", "gen_random_uuid(), gen_random_uuid(), :run"),
        ("rings", "run", ":run"),
        ("signals", "step, wait_id, run, choice", "gen_random_uuid(), gen_random_uuid(), :run, 'x'"),
        ("budgets", "run, cap_microusd", ":run, 1"),
        ("settlements", "call, run, step, cost_microusd", "gen_random_uuid(), :run, :run, 1"),
        ("submissions", "run, request", "gen_random_uuid(), '{}'"),
        (
            "journal",
            "run, step, seq, kind, schema_version, epoch, body",
            "gen_random_uuid(), gen_random_uuid(), 1, 'x', 1, 0, '{}'",
        ),
    ],
)
def test_a_tenant_inserts_nothing_for_another(
    house: "House", foreign: tuple[UUID, UUID], table: str, columns: str, values: str
) -> None:
    tenant, run_id = foreign
    statement = text(f"INSERT INTO {table} (tenant, {columns}) VALUES (:tenant, {values})")
    parameters = {"tenant": tenant, "run": run_id} if ":run" in values else {"tenant": tenant}
    with pytest.raises(DBAPIError, match="row-level security"), house.as_tenant() as session:
        session.execute(statement, parameters)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_every_table_with_a_tenant_forces_its_policy_on_its_owner_too(house: "House", table: str) -> None:
    secured = house.execute(
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = ('chargehand.' || :name)::regclass",
        {"name": table},
    )
    assert secured == [(True, True)]


def test_no_verb_of_a_run_reaches_another_tenants(house: "House", foreign: tuple[UUID, UUID]) -> None:
    _, run_id = foreign
    for verb in (runs.cancel, runs.pause, runs.resume):
        with pytest.raises(NotFound), house.as_tenant() as session:
            verb(session, house.tenant, run_id)
    with pytest.raises(NotFound), house.as_tenant() as session:
        views.view_run(session, run_id)
    with pytest.raises(NotFound), house.as_tenant() as session:
        views.find_run(session, str(run_id))
    with house.as_tenant() as session:
        assert page_of_runs(session, RunFilter(), limit=20).runs == ()
        assert views.escalations(session) == []
    with pytest.raises(NothingToClaim, match="unknown"):
        house.claim(run_id, "a")


def test_nobody_answers_for_another_tenant(house: "House") -> None:
    owner = uuid4()
    gate = Step(key="gate", kind="gate")
    run_id = house.submit(gate, tenant=owner)
    house.advance(run_id)
    wait_id = house.row(run_id, "gate").wait_id
    with house.as_tenant() as session, pytest.raises(NotFound):
        runs.answer(session, house.tenant, run_id=run_id, step=wait_id, wait_id=wait_id, choice="approve")
    # Row-level security lets a tenant write a row of its own about another's step; the supervisor takes no such answer.
    with house.as_tenant() as session:
        session.execute(
            text(
                "INSERT INTO signals (step, wait_id, run, tenant, choice) VALUES (:step, :step, :run, :tenant, 'yes')"
            ),
            {"step": wait_id, "run": run_id, "tenant": house.tenant},
        )
    house.watch()
    assert house.statuses(run_id) == {"gate": "waiting"}
    # Nor does it take the place of the first answer, which is the owner's.
    with house.as_tenant(owner) as session:
        assert runs.answer(session, owner, run_id=run_id, step=wait_id, wait_id=wait_id, choice="approve")
    house.watch()
    assert house.statuses(run_id) == {"gate": "succeeded"}


def test_a_session_that_served_one_tenant_serves_the_next_one_its_own(house: "House") -> None:
    # The pool's connections stay bound between statements: each statement must find its own tenant.
    tenants = [uuid4() for _ in range(3)]
    mine = {tenant: house.submit(script("a"), tenant=tenant) for tenant in tenants}
    for tenant in tenants * 4:
        rows = house.connections.rows(tenant, "SELECT id FROM runs", {})
        assert [row["id"] for row in rows] == [mine[tenant]]


def test_the_supervisor_sees_every_tenant(house: "House", foreign: tuple[UUID, UUID]) -> None:
    tenant, _ = foreign
    house.submit(script("a"))
    with Session(house.supervisor) as session:
        assert count(session, "runs", tenant) == count(session, "runs", house.tenant) == 1


def test_neither_role_may_change_the_schema_or_switch_the_policies_off(house: "House") -> None:
    for engine in (house.app, house.supervisor):
        for statement in (
            "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
            "DROP TRIGGER keep ON journal",
            "CREATE TABLE chargehand.mine (id integer)",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DBAPIError), Session(engine) as session:
                session.execute(text(statement))

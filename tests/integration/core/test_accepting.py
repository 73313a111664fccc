"""A run accepted in one round trip is the run that a session makes, and what it cannot make is left to a session."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chargehand.memory import procedural
from chargehand.memory.procedural import Role
from chargehand.orchestrator import accepting, runs
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import InvalidPlan, ReplyLost, Unavailable
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.requests import RunRequest

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

STEPS = (
    Step(key="read", kind="script", script="inventory", pool="research"),
    Step(key="judge", kind="agent", role="triager", instruction='Ask: "why\\?" {each}, NULL', after=("read",)),
    Step(key="write", kind="script", script="render", after=("judge", "read")),
)


@pytest.fixture
def roles() -> list[Role]:
    return list(procedural.load_roles(Path(__file__).parents[3] / "workers" / "roles").values())


def everything(house: "House", run_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """What there is of the run, but for what no two runs have in common."""
    own = {"id", "run", "created_at", "at", "salt", "hash", "body_hash", "rung_at", "predecessor", "successor"}
    found = {}
    with house.as_tenant() as session:
        for table, order in {
            "runs": "id",
            "budgets": "run",
            "steps": "ordinal",
            "edges": "predecessor, successor",
            "journal": "step, seq",
            "rings": "id",
        }.items():
            column = "id" if table == "runs" else "run"
            rows = session.execute(
                text(f"SELECT * FROM {table} WHERE {column} = :run ORDER BY {order}"), {"run": run_id}
            )
            found[table] = [
                {name: value for name, value in row._mapping.items() if name not in own} for row in rows.all()
            ]
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"priority": -3, "deadline_seconds": 1e6, "tier": "large", "model": "local/qwen3", "replans": 2},
        {"on_budget": "ask", "max_calls": 7, "max_tokens": 9, "consolidate_microusd": 5, "traceparent": "00-a-b-01"},
        {"goal": "Ünïcode 'quotes' \\ {braces} %s and\nlines"},
    ],
)
def test_it_is_the_run_that_a_session_makes(house: "House", roles: list[Role], fields: dict[str, Any]) -> None:
    with house.as_tenant() as session:
        slowly = runs.accept(session, house.tenant, house.request(*STEPS, **fields), roles)
    request = house.request(*STEPS, **fields)
    assert accepting.needs_nothing_first(request)
    assert accepting.accept_at_once(house.connections, house.tenant, request, roles) == request.run_id
    made, by_session = everything(house, request.run_id), everything(house, slowly)
    for found in (made, by_session):
        (run,) = found["runs"]
        assert (run.pop("deadline_at") is not None) == ("deadline_seconds" in fields)
    assert made == by_session
    assert [len(made[table]) for table in ("steps", "edges", "journal", "rings", "budgets")] == [3, 3, 1, 1, 1]
    house.advance(request.run_id)
    with house.as_tenant() as session:
        ready = session.execute(text("SELECT key FROM steps WHERE status = 'ready' AND run = :run"), {"run": slowly})
        assert ready.all() == []
        ready = session.execute(
            text("SELECT key FROM steps WHERE status = 'ready' AND run = :run"), {"run": request.run_id}
        )
        assert ready.scalars().all() == ["read"]


def test_roles_that_were_never_pinned_are_pinned_first(house: "House", roles: list[Role]) -> None:
    request = house.request(*STEPS)
    assert accepting.accept_at_once(house.connections, house.tenant, request, roles) is None
    assert everything(house, request.run_id)["runs"] == []
    with house.as_tenant() as session:
        assert runs.accept(session, house.tenant, request, roles) == request.run_id
    changed = [replace(roles[0], blob_hash="0" * 40), *roles[1:]]
    assert accepting.accept_at_once(house.connections, house.tenant, house.request(*STEPS), changed) is None


def at_once(house: "House", request: RunRequest) -> UUID | None:
    return accepting.accept_at_once(house.connections, house.tenant, request, [])


def test_of_an_id_or_a_key_that_is_taken_nothing_is_written(house: "House") -> None:
    script = (STEPS[0],)
    first = house.request(*script, idempotency_key="k")
    assert at_once(house, first) == first.run_id
    again = house.request(*script, idempotency_key="k")
    assert at_once(house, again) is None
    assert at_once(house, house.request(*script, run_id=first.run_id)) is None
    assert [len(rows) for rows in everything(house, again.run_id).values()] == [0] * 6
    assert len(everything(house, first.run_id)["journal"]) == 1


def test_a_tenant_with_caps_has_lent_the_run_nothing_yet(house: "House") -> None:
    with house.owner.begin() as connection:
        connection.execute(
            text("INSERT INTO tenant_budgets (tenant, cap_microusd) VALUES (:tenant, 10)"), {"tenant": house.tenant}
        )
    request = house.request(STEPS[0])
    at_once(house, request)
    (budget,) = everything(house, request.run_id)["budgets"]
    assert budget["allotted_microusd"] == 0


def test_a_plan_that_cannot_run_is_refused_before_anything_is_sent(house: "House") -> None:
    request = house.request(*STEPS)
    with pytest.raises(InvalidPlan, match="triager"):
        accepting.accept_at_once(house.connections, house.tenant, request, [])


@pytest.fixture
def busy(house: "House") -> Iterator[Services]:
    services = Services(house.settings, database_url=house.database_url, redis_url="redis://127.0.0.1:1", is_busy=True)
    yield services
    services.close()


def test_a_busy_server_finds_the_run_of_a_reply_that_was_lost(
    house: "House", busy: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client.sharing(busy, tenant=uuid4(), name="test")
    script = Plan.of([STEPS[0]])
    client.submit(plan=script)
    assert busy.connections is not None
    run_it, made = busy.connections.run, []

    def lost(tenant: UUID, statement: str, parameters: Any) -> Any:
        made.append(run_it(tenant, statement, parameters))
        raise ReplyLost("Postgres broke off: gone")

    monkeypatch.setattr(busy.connections, "run", lost)
    run = client.submit(plan=script)
    assert [one["run"] for one in made] == [run.run_id]
    assert len(client.runs()) == 2


def test_a_busy_server_says_that_a_run_may_be_there_when_nobody_can_tell(
    busy: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client.sharing(busy, tenant=uuid4(), name="test")

    def away(*_: object) -> Any:
        raise ReplyLost("Postgres broke off: gone")

    def still_away(*_: object) -> Any:
        raise Unavailable("Postgres does not answer")

    monkeypatch.setattr(busy.connections, "run", away)
    monkeypatch.setattr(busy, "session", still_away)
    with pytest.raises(Unavailable, match="same idempotency key"):
        client.submit(plan=Plan.of([STEPS[0]]))

"""What a program asks for gives the same on the database and through the HTTP API: one test, both clients."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from inspect import isabstract, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import keys, steps
from chargehand.orchestrator.api.runs import RunBody
from chargehand.orchestrator.api.schedules import ScheduleBody
from chargehand.orchestrator.client import AnyClient, AnyRun, Client, RunHandle
from chargehand.orchestrator.client import http_run as reading
from chargehand.orchestrator.client.http import HttpClient, HttpSchedules
from chargehand.orchestrator.client.http_memories import HttpMemories
from chargehand.orchestrator.client.http_run import HttpRun
from chargehand.orchestrator.client.interface import AnySchedules
from chargehand.orchestrator.client.memories import Memories
from chargehand.orchestrator.client.scheduling import Schedules
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import (
    ConcurrencyConflict,
    InvalidGoal,
    InvalidPlan,
    NotFound,
    RunCancelled,
    RunEnded,
    RunFailed,
    Unavailable,
    UserError,
    WaitTimeout,
)
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.listing import RunFilter
from chargehand.orchestrator.plan import Plan, Step, step_id
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor import advance
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.tables import RunRow
from chargehand.orchestrator.telemetry import following

sys.path.insert(0, str(Path(__file__).parents[2]))

from api_serving import serving

if TYPE_CHECKING:
    from tests.conftest import WaitUntil

PLAN = Plan.of([Step(key="a", kind="script", script="inventory")])
GATE = Plan.of([Step(key="sure", kind="gate", instruction="Sure?")])


@pytest.fixture(scope="module")
def shared(database_url: str, valkey: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    services = Services(settings, database_url=database_url, redis_url=valkey.url, is_busy=True)
    yield services
    services.close()


@pytest.fixture(scope="module")
def _port(shared: Services) -> Iterator[int]:
    with serving(shared.settings, shared) as port:
        yield port


@pytest.fixture
def local(shared: Services) -> Client:
    """On the database, of a tenant of this test's own."""
    return Client.sharing(shared, tenant=uuid4(), name="test")


@pytest.fixture
def remote(local: Client, _port: int) -> Iterator[HttpClient]:
    """Through the API, of the same tenant."""
    with HttpClient(f"http://127.0.0.1:{_port}", key_of(local), name="test") as client:
        yield client


@pytest.fixture(params=["database", "http"])
def client(request: pytest.FixtureRequest, local: Client, remote: HttpClient) -> AnyClient[Any]:
    """One of the two."""
    return local if request.param == "database" else remote


def key_of(local: Client) -> str:
    with local.session() as session:
        return str(keys.add(session, local.tenant, "test", ("admin",)).secret)


def advanced(local: Client, run_id: UUID) -> None:
    engine = open_engine(
        local.services.engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
        role=SUPERVISOR_ROLE,
        keeps_connections=False,
    )
    advance.advance(engine, Graphs(), run_id, audit_key=b"k")


def queued(local: Client, run_id: UUID) -> None:
    advanced(local, run_id)
    with local.session() as session:
        session.execute(
            text("UPDATE steps SET status = 'queued' WHERE run = :run AND status = 'ready'"), {"run": run_id}
        )


def ended(shared: Services, local: Client, run_id: UUID, key: str, fact: StepFinished) -> None:
    """What a worker does at last."""
    assert shared.connections is not None
    claimed = steps.claim(
        shared.connections, tenant=local.tenant, step_id=step_id(run_id, key), holder="test", lease_seconds=600.0
    )
    steps.HeldStep(shared.connections, claimed).finish(fact)


def test_both_clients_have_every_method_of_the_interface_with_its_arguments() -> None:
    for kind, interface in ((Client, AnyClient), (HttpClient, AnyClient), (RunHandle, AnyRun), (HttpRun, AnyRun)):
        assert not isabstract(kind)
        for name in interface.__abstractmethods__:
            wanted, made = getattr(interface, name), getattr(kind, name)
            if callable(wanted):
                assert signature(wanted).parameters.keys() <= signature(made).parameters.keys(), (kind, name)


def test_a_run_goes_on_in_the_callers_trace(client: AnyClient[Any], local: Client) -> None:
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with following.asked_from(header):
        run = client.submit(plan=PLAN)
    with local.session() as session:
        found = session.connection().exec_driver_sql(following.TRACEPARENT, {"run": run.run_id})
        assert found.scalar_one() == header


def test_a_run_is_asked_for_with_the_same_words_everywhere() -> None:
    asked = set(signature(Client.submit).parameters) - {"self"}
    in_body = {name.replace("_microusd", "_usd") for name in RunBody.model_fields}
    # The key is a header, and only a database knows a caller's transaction.
    assert in_body == asked - {"idempotency_key", "connection"}
    assert set(signature(HttpClient.submit).parameters) - {"self"} == asked - {"connection"}
    scheduled = {"expression", "name", "timezone", "missed"} | asked - {"idempotency_key", "connection"}
    for kind in (AnySchedules, Schedules, HttpSchedules):
        assert set(signature(kind.add).parameters) - {"self"} == scheduled, kind
    assert {name.replace("_microusd", "_usd") for name in ScheduleBody.model_fields} == scheduled - {"expression"} | {
        "cron"
    }


def test_what_is_asked_for_is_in_the_run(client: AnyClient[Any], local: Client) -> None:
    wanted: dict[str, Any] = {"on_budget": "ask", "max_calls": 7, "max_tokens": 900, "tier": "large", "replans": 2}
    run = client.submit("Look", **wanted, consolidate_usd="0.02")
    (fact,) = [event.fact for event in run.events(follow=False) if event.kind == "run.submitted"]
    assert {name: getattr(fact, name) for name in wanted} == wanted
    with local.session() as session:
        assert session.get_one(RunRow, run.run_id).consolidate_microusd == 20_000
    assert client.submit("Look", consolidate_usd="0").status().status == "running"
    client.schedules.add("0 3 * * *", "Look", name="wanted", **wanted, consolidate_usd="0.02", conversation_id="talk")
    kept = local.schedules.request("wanted")
    assert {name: getattr(kept, name) for name in wanted} == wanted
    assert (kept.consolidate_microusd, kept.conversation_id) == (20_000, "talk")
    asked = kept.of_run(run_id=uuid4(), workspace=None, idempotency_key=None)
    assert {name: getattr(asked, name) for name in wanted} == wanted
    client.schedules.remove("wanted")


def test_a_run_is_asked_for_once_and_found_by_its_id_and_parts_of_it(client: AnyClient[Any], local: Client) -> None:
    run = client.submit("Look", plan=PLAN, budget_usd="0.25", idempotency_key="k", conversation_id="talk")
    assert client.submit("Other", plan=PLAN, idempotency_key="k").run_id == run.run_id
    assert client.run(run.run_id).run_id == client.run(run.run_id.hex[-12:]).run_id == run.run_id
    view = run.status()
    assert view == local.run(run.run_id).status()
    assert (view.goal, view.cap_microusd, view.conversation_id) == ("Look", 250_000, "talk")
    assert run.steps() == local.run(run.run_id).steps()
    assert client.runs() == [view]
    assert client.runs(wanted=RunFilter(status=("failed",))) == []
    assert run.explain() == local.run(run.run_id).explain()
    assert run.costs() == local.run(run.run_id).costs()
    assert client.costs(timedelta(hours=1)).runs == 0
    assert run.artifacts() == {}
    assert run.progress() == {}


def test_what_came_of_a_run_is_the_same_result_partial_artifacts_costs_and_audit(
    client: AnyClient[Any], local: Client, shared: Services
) -> None:
    run = client.submit(plan=Plan.of([Step(key=key, kind="script", script="x", pool="research") for key in "ab"]))
    queued(local, run.run_id)
    assert run.explain_step("b").status == "queued"
    assert run.explain_step("b").step == local.run(run.run_id).explain_step("b").step
    with pytest.raises(NotFound):
        run.explain_step("nothing")
    report = bytes(range(256)) * 20
    kept = {"report.bin": shared.artifacts.put(report)}
    ended(shared, local, run.run_id, "a", StepFinished(outcome="succeeded", result={"n": 1}, artifacts=kept))
    assert run.partial() == {"a": {"n": 1}}
    ended(shared, local, run.run_id, "b", StepFinished(outcome="failed", error="no such file"))
    advanced(local, run.run_id)
    with pytest.raises(RunFailed) as failed:
        run.wait(timeout_seconds=60)
    assert failed.value.partial == {"a": {"n": 1}}
    assert run.artifacts() == kept
    assert run.artifact("report.bin") == report
    with pytest.raises(NotFound):
        run.blob(shared.artifacts.put(b"of another run"))
    assert run.costs(as_claude=True) == local.run(run.run_id).costs(as_claude=True)
    here, there = client.costs(timedelta(hours=1)), local.costs(timedelta(hours=1))
    assert replace(here, since=there.since) == there

    found = run.verify()
    assert [one.run_id for one in found.runs] == [run.run_id]
    assert found.runs[0].objections == ()
    assert client.verify() == local.verify()
    rows = list(run.journal())
    assert rows == list(local.run(run.run_id).journal())
    assert next(row["kind"] for row in rows if row["step"] is None) == "run.submitted"
    assert rows[-1]["kind"] == "anchor"
    replayed = run.replay()
    assert (replayed.run_id, replayed.rows) == (run.run_id, found.runs[0].rows)


def test_a_key_is_made_listed_and_revoked_and_its_secret_is_shown_once(client: AnyClient[Any], local: Client) -> None:
    made = client.keys.add("ci", ["submit", "read"])
    assert (made.name, made.scopes) == ("ci", ("read", "submit"))
    assert keys.holder_of(local.services.engine, str(made.secret)) is not None
    assert [(key.name, key.secret) for key in client.keys.list() if key.name == "ci"] == [("ci", None)]
    gone = client.keys.revoke("ci")
    assert (gone.key_id, gone.revoked_at is not None) == (made.key_id, True)
    assert keys.holder_of(local.services.engine, str(made.secret)) is None
    for nobody in ("nobody", "ci"):
        with pytest.raises(NotFound):
            client.keys.revoke(nobody)
    wrong: list[tuple[str, list[str]]] = [("", ["read"]), ("x", ["root"]), ("x", [])]
    for name, scopes in wrong:
        with pytest.raises(UserError):
            client.keys.add(name, scopes)


def test_what_a_run_has_said_is_erased_when_it_has_ended(client: AnyClient[Any]) -> None:
    run = client.submit("Call Ada Lovelace", plan=PLAN, conversation_id="talk")
    with pytest.raises(UserError):
        client.erase(run=run.run_id)
    wrong: list[dict[str, Any]] = [{}, {"later": True}, {"run": run.run_id, "conversation_id": "talk"}]
    for named in wrong:
        with pytest.raises(UserError):
            client.erase(**named)
    run.cancel()
    erased = client.erase(conversation_id="talk")
    assert erased.runs == (run.run_id,)
    assert erased.rows > 0
    assert "Ada" not in str(run.status())
    assert all("Ada" not in str(row) for row in run.journal())
    assert run.verify().runs[0].objections == ()
    with pytest.raises(NotFound):
        client.erase(run=uuid4())


def test_pages_go_on_where_they_ended(client: AnyClient[Any]) -> None:
    made = [client.submit(plan=PLAN).run_id for _ in range(3)]
    first = client.page(RunFilter(), limit=2)
    second = client.page(RunFilter(), limit=2, cursor=first.next_cursor)
    assert [view.run_id for view in (*first.runs, *second.runs)] == made[::-1]
    assert second.next_cursor is None


def test_a_run_is_steered_and_ends(client: AnyClient[Any], local: Client) -> None:
    run = client.submit(plan=PLAN)
    assert [run.pause("lunch"), run.pause(), run.resume(), run.raise_budget("9")] == [True, False, True, True]
    run.tell("Skip vendored code")
    assert run.retry("a") == ("a~2",)
    with pytest.raises(WaitTimeout):
        run.result()
    with pytest.raises(WaitTimeout):
        run.wait(timeout_seconds=0.2)
    assert [run.cancel("enough"), run.cancel()] == [True, False]
    with pytest.raises(RunCancelled, match="enough"):
        run.wait(timeout_seconds=60)
    with pytest.raises(RunEnded):
        run.tell("too late")


def test_events_are_the_same_facts_in_the_same_order(client: AnyClient[Any], local: Client) -> None:
    run = client.submit(plan=PLAN)
    assert [event.kind for event in run.events(follow=False)] == ["run.submitted"]
    run.cancel()
    assert list(run.events()) == list(local.run(run.run_id).events())
    assert [event.kind for event in run.events()] == ["run.submitted", "steps.skipped", "run.finished"]


def test_a_question_is_answered_by_the_first(client: AnyClient[Any], local: Client) -> None:
    run = client.submit(plan=GATE)
    advanced(local, run.run_id)
    (question,) = client.escalations(run.run_id)
    assert question == local.escalations()[0]
    with pytest.raises(UserError, match="choose one of: approve, reject"):
        client.answer(question, "maybe")
    assert client.answer(question, "approve")
    assert not client.answer(question, "reject")


def test_a_fork_leaves_its_run(client: AnyClient[Any]) -> None:
    run = client.submit(plan=PLAN)
    made = client.fork(run.run_id, "a", idempotency_key="f")
    assert made.run_id == client.fork(run, "a", idempotency_key="f").run_id
    assert made.status().forked_from == run.run_id


def test_schedules_and_webhooks_are_kept(client: AnyClient[Any], local: Client) -> None:
    made = client.schedules.add("0 3 * * *", "Look around", name="night", timezone="Europe/Berlin")
    assert client.schedules.list() == local.schedules.list() == [made]
    assert [client.schedules.pause("night"), client.schedules.pause("night")] == [True, False]
    assert client.schedules.resume("night")
    client.schedules.remove("night")
    with pytest.raises(NotFound):
        client.schedules.remove("night")
    hook = client.add_webhook("https://example.org/hook")
    assert hook.secret is not None
    assert [one.webhook_id for one in client.webhooks()] == [hook.webhook_id]
    assert client.remove_webhook(str(hook.webhook_id)).webhook_id == hook.webhook_id
    assert client.deliveries() == []
    assert client.redeliver() == 0


def test_what_is_noted_is_found_counted_and_forgotten(client: AnyClient[Any], local: Client) -> None:
    assert isinstance(client, Client | HttpClient)
    memory_id = client.memory.note("The desk opens at nine.", source="desk")
    found = client.memory.search("When does the desk open?", limit=1)
    assert [one.memory_id for one in found] == [memory_id]
    assert client.memory.search("When does the desk open?", kinds=["nothing"]) == ()
    assert client.memory.stats() == local.memory.stats() != ()
    assert client.memory.forget("desk").memories == (memory_id,)
    with pytest.raises(NotFound):
        client.memory.forget("desk")
    for name in ("note", "search", "forget", "stats"):
        here, there = (signature(getattr(kind, name)).parameters for kind in (Memories, HttpMemories))
        assert here == there, name


def test_mistakes_are_the_same_errors(client: AnyClient[Any], tmp_path: Path) -> None:
    with pytest.raises((NotFound, UserError)):
        client.escalations("zzz")
    with pytest.raises(NotFound):
        client.run(uuid4())
    with pytest.raises(NotFound):
        client.run("ffffffff")
    with pytest.raises((InvalidGoal, UserError)):
        client.submit(" ")
    with pytest.raises(InvalidPlan, match="wizard"):
        client.submit(plan=Plan.of([Step(key="a", kind="agent", role="wizard")]))
    with pytest.raises(UserError):
        client.submit("x", workspace=tmp_path / "nothing")
    client.submit(plan=PLAN, concurrency_key="k")
    with pytest.raises(ConcurrencyConflict):
        client.submit(plan=PLAN, concurrency_key="k", on_conflict="reject")
    run = client.submit(plan=PLAN)
    with pytest.raises(NotFound):
        run.artifact("report.md")
    with pytest.raises(InvalidPlan, match="nothing"):
        run.retry("nothing")


def test_a_server_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chargehand.orchestrator.client.requesting.BACKOFF_SECONDS", 0.0)
    with HttpClient("http://127.0.0.1:1", "chk_x") as client, pytest.raises(Unavailable):
        client.runs()


def test_a_reader_whose_connection_is_cut_goes_on_where_it_was(
    local: Client, shared: Services, monkeypatch: pytest.MonkeyPatch, wait_until: "WaitUntil"
) -> None:
    monkeypatch.setattr(reading, "AGAIN_SECONDS", 0.1)
    run_id = local.submit(plan=PLAN).run_id
    seen: list[str] = []
    with serving(shared.settings, shared) as port:
        client = HttpClient(f"http://127.0.0.1:{port}", key_of(local))
        reader = threading.Thread(target=follow, args=(client, run_id, seen))
        reader.start()
        wait_until(lambda: seen == ["run.submitted"], timeout_seconds=60)
        local.run(run_id).pause()
        wait_until(lambda: seen == ["run.submitted", "run.paused"], timeout_seconds=60)
    # The server has gone and told nobody the end; what happens meanwhile is not lost.
    local.run(run_id).resume()
    with serving(shared.settings, shared, port):
        wait_until(lambda: seen[2:] == ["run.resumed"], timeout_seconds=60)
        local.run(run_id).cancel()
        reader.join(timeout=60)
    assert seen == ["run.submitted", "run.paused", "run.resumed", "steps.skipped", "run.finished"]
    client.close()


def follow(client: HttpClient, run_id: UUID, seen: list[str]) -> None:
    seen.extend(event.kind for event in client.run(run_id).events())

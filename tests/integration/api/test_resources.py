"""Questions, forks, audits, memory, schedules and webhooks through the API."""

import json
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.supervisor import advance
from chargehand.orchestrator.supervisor.graphs import Graphs

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

GATE = {"steps": [{"key": "sure", "kind": "gate", "instruction": "Sure?"}]}


@pytest.fixture
def asked(api: "Api", database_url: str) -> str:
    """A run whose gate asks a person."""
    run_id = api.submit(GATE)
    engine = open_engine(database_url, role=SUPERVISOR_ROLE, keeps_connections=False)
    advance.advance(engine, Graphs(), UUID(run_id), audit_key=b"k")
    return run_id


def test_a_question_is_listed_read_and_answered_once(api: "Api", asked: str) -> None:
    (question,) = api.http.get("/v1/escalations", params={"run_id": asked}).json()
    url = f"/v1/escalations/{question['wait_id']}"
    assert (question["step_key"], question["options"]) == ("sure", ["approve", "reject"])
    assert api.http.get(url).json() == question

    wrong = api.http.post(f"{url}/answer", json={"choice": "maybe"})
    assert (wrong.status_code, "approve, reject" in wrong.json()["detail"]) == (422, True)
    taken = api.http.post(f"{url}/answer", json={"choice": "approve", "by": "Ada"})
    assert taken.json() == {"first": True, "with_it": []}
    assert api.http.post(f"{url}/answer", json={"choice": "reject"}).status_code == 404
    with api.client.session() as session:
        sent = session.connection().exec_driver_sql("SELECT choice, sent_by FROM signals WHERE run = %s", (asked,))
        assert sent.all() == [("approve", "Ada (key test)")]


def test_a_journal_is_exported_row_by_row_and_verified(api: "Api") -> None:
    run_id = api.submit()
    api.http.post(f"/v1/runs/{run_id}/cancel")
    exported = api.http.get(f"/v1/runs/{run_id}/journal")
    assert exported.headers["Content-Type"].startswith("application/jsonl")
    rows = [json.loads(line) for line in exported.text.splitlines()]
    assert [row["kind"] for row in rows] == ["run.submitted", "steps.skipped", "run.finished"]
    assert all(len(row["hash"]) == 64 for row in rows)

    found = api.http.post(f"/v1/runs/{run_id}/verify").json()
    assert (found["ok"], found["runs"][0]["rows"]) == (True, 3)
    assert api.http.post("/v1/audit/verify").json()["ok"] is True


def test_a_fork_is_made_of_a_run_and_only_of_one_that_is_there(api: "Api") -> None:
    run_id = api.submit()
    made = api.http.post(f"/v1/runs/{run_id}/fork", json={"at": "a"}, headers={"Idempotency-Key": "once"})
    again = api.http.post(f"/v1/runs/{run_id}/fork", json={"at": "a"}, headers={"Idempotency-Key": "once"})
    assert (made.status_code, made.json()) == (202, again.json())
    assert api.http.get(made.headers["Location"]).json()["forked_from"] == run_id
    assert api.http.post(f"/v1/runs/{run_id}/fork", json={"at": "nothing"}).status_code in (404, 422)
    assert api.http.post(f"/v1/runs/{uuid4()}/fork", json={"at": "a"}).status_code == 404


def test_schedules_are_kept_paused_and_removed(api: "Api") -> None:
    made = api.http.post("/v1/schedules", json={"cron": "0 3 * * *", "goal": "Look around", "name": "night"})
    assert made.status_code == 201, made.text
    assert [one["name"] for one in api.http.get("/v1/schedules").json()] == ["night"]
    assert api.http.post("/v1/schedules/night/pause").json() == {"changed": True}
    assert api.http.post("/v1/schedules/night/resume").json() == {"changed": True}
    assert api.http.post("/v1/schedules", json={"cron": "never", "goal": "x"}).status_code == 422
    assert api.http.delete("/v1/schedules/night").status_code == 204
    assert api.http.delete("/v1/schedules/night").status_code == 404


def test_webhooks_are_told_their_secret_once(api: "Api") -> None:
    made = api.http.post("/v1/webhooks", json={"url": "https://example.org/hook"}).json()
    assert made["secret"].startswith("whsec_")
    assert [one["secret"] for one in api.http.get("/v1/webhooks").json()] == [None]
    assert api.http.get("/v1/deliveries").json() == []
    assert api.http.delete(f"/v1/webhooks/{made['webhook_id']}").status_code == 200
    assert api.http.post("/v1/webhooks", json={"url": "ftp://example.org"}).status_code == 422


def test_what_is_noted_is_found_unless_models_are_mixed_and_forgotten(api: "Api", database_url: str) -> None:
    note = api.http.post("/v1/memory/notes", json={"text": "The desk opens at nine.", "source": "desk"})
    assert note.status_code == 201, note.text
    asked = {"query": "When does the desk open?"}
    rename = "UPDATE chargehand.embeddings SET model_id = %s"
    with psycopg.connect(database_url, autocommit=True) as connection:
        [model] = connection.execute("SELECT model_id FROM chargehand.embeddings").fetchone() or ()
        connection.execute(rename, ("former",))
        refused = api.http.get("/v1/memory/search", params=asked)
        assert (refused.status_code, "chargehand memory reindex" in refused.json()["detail"]) == (503, True)
        connection.execute(rename, (model,))
    (found,) = api.http.get("/v1/memory/search", params=asked).json()
    assert found["memory_id"] == note.json()["memory_id"]
    assert api.http.post("/v1/memory/forget", json={"source": "desk"}).json()["memories"] == [found["memory_id"]]
    assert api.http.post("/v1/memory/forget", json={"source": "desk"}).status_code == 404
    assert api.http.post("/v1/memory/forget", json={}).status_code == 422

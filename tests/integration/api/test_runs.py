"""Runs are asked for, listed, looked at and steered through the API, and errors say what is wrong."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from chargehand.orchestrator.telemetry.following import TRACEPARENT

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api, Open

PLAN = {"steps": [{"key": "a", "kind": "script", "script": "inventory"}]}


def test_a_run_that_is_accepted_is_committed(api: "Api") -> None:
    answer = api.http.post("/v1/runs", json={"plan": PLAN, "goal": "look", "budget_microusd": 250_000})

    assert answer.status_code == 202
    run_id = answer.json()["run_id"]
    assert answer.headers["Location"] == f"/v1/runs/{run_id}"
    (view,) = api.client.runs()
    assert (str(view.run_id), view.goal, view.cap_microusd, view.status) == (run_id, "look", 250_000, "running")
    assert api.http.get(answer.headers["Location"]).json()["run_id"] == run_id


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",) * 2,
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
        ("Robert'); DROP TABLE runs", None),
        (None, None),
    ],
)
def test_a_run_goes_on_in_the_trace_of_the_request_that_asked_for_it(
    api: "Api", header: str | None, kept: str | None
) -> None:
    sent = {} if header is None else {"traceparent": header}
    run_id = api.http.post("/v1/runs", json={"plan": PLAN}, headers=sent).json()["run_id"]
    with api.client.session() as session:
        assert session.connection().exec_driver_sql(TRACEPARENT, {"run": run_id}).scalar_one() == kept


def test_requests_with_one_idempotency_key_make_one_run_however_many_come_at_once(api: "Api") -> None:
    def submit(_: int) -> str:
        answer = api.http.post("/v1/runs", json={"plan": PLAN}, headers={"Idempotency-Key": "build-7"})
        assert answer.status_code == 202
        return str(answer.json()["run_id"])

    with ThreadPoolExecutor(6) as threads:
        made = set(threads.map(submit, range(12)))

    assert len(made) == len(api.client.runs()) == 1


def test_pages_show_each_run_once_while_others_are_made(api: "Api") -> None:
    made = [api.submit() for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = api.http.get("/v1/runs", params=query).json()
        seen += [run["run_id"] for run in page["runs"]]
        api.submit()
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_are_filtered(api: "Api") -> None:
    mine = api.submit(goal="Audit 100%_sure", conversation_id="talk")
    other = api.submit(goal="Something else")
    api.http.post(f"/v1/runs/{other}/cancel")

    def found(**query: object) -> list[str]:
        return [run["run_id"] for run in api.http.get("/v1/runs", params=query).json()["runs"]]

    assert found(status="cancelled") == [other]
    assert found(status=["cancelled", "running"]) == [other, mine]
    assert found(goal="audit 100%_") == [mine]
    assert found(goal="100_") == []
    assert found(conversation_id="talk") == [mine]
    assert found(named=mine[-8:]) == [mine]
    assert found(created_after="2999-01-01T00:00:00Z") == []


def test_runs_are_steered(api: "Api") -> None:
    run_id = api.submit()
    url = f"/v1/runs/{run_id}"

    assert api.http.post(f"{url}/pause", json={"reason": "lunch"}).json() == {"changed": True}
    assert api.http.get(url).json()["status"] == "paused"
    assert "paused" in api.http.get(f"{url}/explain").json()[0]["why"]
    assert api.http.post(f"{url}/resume").json() == {"changed": True}
    assert api.http.post(f"{url}/resume").json() == {"changed": False}
    assert api.http.post(f"{url}/budget", json={"budget_microusd": 9_000_000}).json() == {"changed": True}
    assert api.http.post(f"{url}/tell", json={"message": "skip vendored code"}).status_code == 204
    assert api.http.post(f"{url}/steps/a/retry").json() == {"steps": ["a~2"]}
    assert api.http.post(f"{url}/cancel").json() == {"changed": True}
    assert api.http.post(f"{url}/cancel").json() == {"changed": False}
    view = api.http.get(f"{url}/result").json()
    assert (view["status"], view["ended"], view["reason"]) == ("cancelled", True, "cancelled by key test")
    assert api.http.post(f"{url}/tell", json={"message": "too late"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "goal"),
        ({"goal": " "}, 422, "/goal"),
        ({"goal": "x", "colour": "red"}, 422, "/colour"),
        ({"goal": "x", "budget_microusd": 0}, 422, "/budget_microusd"),
        ({"goal": "x", "workspace": "/etc"}, 422, "URLs only"),
        ({"goal": "x", "workspace": "file:///etc"}, 422, "URLs only"),
        ({"plan": {"steps": [{"key": "a", "kind": "agent", "role": "wizard"}]}}, 422, "wizard"),
        ({"goal": "x", "roles": ["no front matter"]}, 422, "role 1"),
        ({"goal": "x", "concurrency_key": "k", "on_conflict": "maybe"}, 422, "/on_conflict"),
        ({"goal": "x", "on_conflict": "reject"}, 422, "concurrency_key"),
        ({"plan": {"steps": [{"key": "a", "kind": "gate", "instruction": "a\x00b"}]}}, 422, "NUL"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong_and_makes_nothing(
    api: "Api", body: object, status: int, said: str
) -> None:
    answer = api.http.post("/v1/runs", json=body)

    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert said in problem["detail"]
    assert api.client.runs() == []


def test_what_is_not_there_not_possible_or_not_json_is_a_problem_too(api: "Api") -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", f"/v1/runs/{uuid4()}", 404),
        ("GET", "/v1/runs/some-run", 422),
        ("POST", f"/v1/runs/{uuid4()}/cancel", 404),
        ("DELETE", "/v1/runs", 405),
        ("GET", "/v1/runs?cursor=bm9uZQ", 422),
        ("GET", "/v1/runs?status=asleep", 422),
    ):
        answer = api.http.request(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), path
        assert answer.json()["type"].startswith("urn:chargehand:problem:")
    assert set(api.http.delete("/v1/runs").headers["Allow"].split(", ")) == {"GET", "POST"}
    broken = api.http.post("/v1/runs", content=b'{"goal": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["type"]) == (400, "urn:chargehand:problem:unreadable")


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(open_api: "Open") -> None:
    api = open_api(api_body_bytes=1_000)
    large = b'{"goal": "' + b"x" * 2_000 + b'"}'

    said = api.http.post("/v1/runs", content=large, headers={"Content-Type": "application/json"})
    unsaid = api.http.post("/v1/runs", content=iter([large]), headers={"Content-Type": "application/json"})

    assert [said.status_code, unsaid.status_code] == [413, 413]
    assert said.headers["Content-Type"] == unsaid.headers["Content-Type"] == "application/problem+json"


def test_a_conflict_of_concurrency_keys_is_a_409(api: "Api") -> None:
    api.submit(concurrency_key="deploy")
    answer = api.http.post("/v1/runs", json={"plan": PLAN, "concurrency_key": "deploy", "on_conflict": "reject"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:chargehand:problem:concurrency-conflict")


def test_a_run_of_another_tenant_is_not_there(open_api: "Open") -> None:
    mine, other = open_api(), open_api()
    run_id = mine.submit()
    assert other.http.get(f"/v1/runs/{run_id}").status_code == 404
    assert other.http.post(f"/v1/runs/{run_id}/cancel").status_code == 404
    assert other.http.get(f"/v1/runs/{run_id}/events").status_code == 404
    assert other.http.get("/v1/runs").json() == {"runs": [], "next_cursor": None}


def test_no_browser_of_another_origin_may_call_unless_it_is_allowed(open_api: "Open") -> None:
    ask = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}
    closed, opened = open_api(), open_api(api_cors_origins=["https://desk.example"])

    assert "access-control-allow-origin" not in closed.http.options("/v1/runs", headers=ask).headers
    assert opened.http.options("/v1/runs", headers=ask).headers["access-control-allow-origin"] == ask["Origin"]
    stranger = opened.http.options("/v1/runs", headers={**ask, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_health_needs_no_key_and_readiness_says_what_is_there(api: "Api") -> None:
    api.http.headers.pop("Authorization")
    assert api.http.get("/healthz").json() == {"status": "ok"}
    assert api.http.get("/readyz").json() == {"status": "ok", "redis": True}

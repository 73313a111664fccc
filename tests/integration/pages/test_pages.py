"""What people see and do on the pages, without a browser."""

import re
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from httpx2 import Response
from markupsafe import escape
from sqlalchemy import text

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import keys, steps
from chargehand.orchestrator.api.app import PAGES, ROUTERS
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, Usage
from chargehand.orchestrator.pages import entrance
from chargehand.orchestrator.pages.entrance import _own
from chargehand.orchestrator.pages.visitors import COOKIE
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.prices import PRICES_AS_OF
from chargehand.orchestrator.supervisor.advance import advance
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.turns import StepRecorder
from tests.integration.api.conftest import GATE, Api, Open

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def signed_in(api: Api, key: str) -> TestClient:
    browser = TestClient(api.http.app)
    answer = browser.post("/sign-in", data={"key": key, "next": "/runs"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    return browser


@pytest.fixture
def browser(api: Api) -> TestClient:
    """A browser that signed in with a key of all scopes."""
    return signed_in(api, api.key)


def proof(page: Response) -> str:
    return re.findall(r'name="proof" value="([0-9a-f]{64})"', page.text)[0]


def send(browser: TestClient, path: str, page: str = "/runs", **fields: str) -> Response:
    return browser.post(path, data={"proof": proof(browser.get(page)), **fields}, follow_redirects=False)


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_whoever_has_not_signed_in_sees_nothing_and_comes_back_to_where_they_wanted(api: Api) -> None:
    run_id = api.submit()
    visitor = TestClient(api.http.app)
    for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/parts", f"/runs/{run_id}/live", f"/runs/{run_id}/money",
                 f"/runs/{run_id}/journal", f"/runs/{run_id}/files/x", f"/runs/{run_id}/steps/a", "/inbox",
                 "/memory", "/fleet"):  # fmt: skip
        answer = visitor.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={path}")
        assert run_id not in answer.text


def test_a_key_that_is_none_opens_nothing(api: Api) -> None:
    visitor = TestClient(api.http.app)
    for key in ("", "chk_000000000000_" + "a" * 43, EVIL):
        answer = visitor.post("/sign-in", data={"key": key})
        assert answer.status_code == 403
        assert "not known" in answer.text
        assert COOKIE not in visitor.cookies


def test_the_cookie_is_no_key_and_scripts_cannot_read_it(api: Api) -> None:
    answer = TestClient(api.http.app).post("/sign-in", data={"key": api.key}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert api.key not in cookie


def test_a_revoked_key_ends_its_sign_ins_and_so_does_signing_out(api: Api) -> None:
    other = signed_in(api, api.key_of("read", name="leaving"))
    assert other.get("/runs").status_code == 200
    with api.client.session() as session:
        keys.revoke(session, api.tenant, "leaving")
    assert other.get("/runs", follow_redirects=False).status_code == 303

    browser = signed_in(api, api.key)
    secret = browser.cookies[COOKIE]
    send(browser, "/sign-out")
    again = TestClient(api.http.app, cookies={COOKIE: secret})
    assert again.get("/runs", follow_redirects=False).status_code == 303


def test_a_sign_in_whose_time_is_over_is_none(api: Api, browser: TestClient, database_url: str) -> None:
    assert browser.get("/runs", follow_redirects=False).status_code == 200
    engine = open_engine(database_url, role=SUPERVISOR_ROLE)
    try:
        with engine.begin() as connection:
            expired = "UPDATE sign_ins SET expires_at = clock_timestamp() WHERE tenant = :tenant"
            assert connection.execute(text(expired), {"tenant": api.tenant}).rowcount == 1
    finally:
        engine.dispose()
    assert browser.get("/runs", follow_redirects=False).status_code == 303


def test_another_tenant_finds_none_of_it(api: Api, open_api: Open) -> None:
    run_id = api.submit()
    elsewhere = open_api()
    stranger = signed_in(elsewhere, elsewhere.key)
    assert stranger.get(f"/runs/{run_id}").status_code == 404
    assert run_id not in stranger.get("/runs").text
    assert stranger.get(f"/runs/{run_id}/live").status_code == 404


@pytest.mark.parametrize(
    "address", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "x"]
)
def test_signing_in_leads_to_no_other_site(address: str) -> None:
    assert _own(address) == "/runs"


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_every_page_of_a_run_is_there_and_runs_no_script_but_ours(api: Api, browser: TestClient) -> None:
    run_id = api.submit()
    for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/parts", f"/runs/{run_id}/journal?verify=true",
                 f"/runs/{run_id}/money", f"/runs/{run_id}/steps/a", "/inbox", "/memory?q=counter", "/fleet",
                 "/sign-in"):  # fmt: skip
        answer = browser.get(path)
        assert answer.status_code == 200, (path, answer.text[:500])
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", answer.text) is None, path
    page = browser.get(f"/runs/{run_id}")
    for name in re.findall(r'/static/[^"]+', page.text):
        static = browser.get(name)
        assert static.status_code == 200
        assert "immutable" in static.headers["cache-control"]
    assert browser.get("/static/..%2f__init__.py").status_code == 404


def test_the_page_of_a_step_says_what_explain_says(api: Api, browser: TestClient) -> None:
    behind = {"key": "behind", "kind": "gate", "instruction": EVIL, "after": ["sure"]}
    run_id = api.submit({"steps": [{"key": "sure", "kind": "gate", "instruction": "Sure?"}, behind]})
    assert f'href="/runs/{run_id}/steps/behind"' in browser.get(f"/runs/{run_id}").text
    page = browser.get(f"/runs/{run_id}/steps/behind").text
    told = api.http.get(f"/v1/runs/{run_id}/steps/behind/explain").json()
    for words in (told["why"], *told["details"].values(), *(one["why"] for one in told["behind"])):
        assert str(escape(words)) in page
    assert f'href="/runs/{run_id}/steps/sure"' in page
    nowhere = browser.get(f"/runs/{run_id}/steps/{quote('<img src=x>')}")
    assert nowhere.status_code == 404
    assert "<img" not in nowhere.text


def test_the_page_of_a_runs_money_shows_where_it_went_and_what_was_saved(
    api: Api, browser: TestClient, database_url: str
) -> None:
    plan = {"steps": [{"key": "ask", "kind": "agent", "role": "researcher", "instruction": "Where?"}]}
    run_id = UUID(api.submit(plan))
    ask(api, run_id, database_url)

    shown = " ".join(re.sub(r"<[^>]+>", " ", browser.get(f"/runs/{run_id}/money").text).split())
    as_read = api.http.get(f"/v1/runs/{run_id}/costs").json()["costs"]

    for part in (
        "Prompt cache 9,000 tokens read, 500 written: 86% of the prompts read",
        "Cache miss tools_changed: 1 call, 700 tokens (ask)",
        "Saved by caching $0.0008 of $0.0010 without it",
        "Saved by routing $0.0080 of $0.0083 with all by claude-opus-5-5",
        f"Prices of {PRICES_AS_OF}",
        "ask 1 1,000 500 9,000 86% 0 $0.0003",
        "researcher 1 1,000 500 9,000 86% 0 $0.0003",
        "claude-haiku-5-5 1 1,000 500 9,000 86% 0 $0.0003",
        "small 1 1,000 500 9,000 86% 0 $0.0003",
    ):
        assert part in shown
    assert as_read["cache_misses"] == {"tools_changed": {"calls": 1, "tokens": 700, "steps": ["ask"]}}


def ask(api: Api, run_id: UUID, database_url: str) -> None:
    """What a worker records of one call of the run's step, whose cached tools had changed."""
    engine = open_engine(database_url, role=SUPERVISOR_ROLE)
    try:
        advance(engine, Graphs(), run_id, audit_key=b"k" * 32)
    finally:
        engine.dispose()
    with api.client.session() as session:
        session.execute(text("UPDATE steps SET status = 'queued' WHERE run = :run"), {"run": run_id})
    connections = api.client.services.connections
    assert connections is not None
    claimed = steps.claim(
        connections, tenant=api.tenant, step_id=step_id(run_id, "ask"), holder="test", lease_seconds=600.0
    )
    recorder = StepRecorder(connections, steps.HeldStep(connections, claimed), lease_seconds=600.0)
    asked = ModelRequested(
        call_id=uuid4(), turn=1, model="claude-haiku-5-5", tier="small", routed_because="small: named for the run",
        prompt_hash="0", max_tokens=1, reserved_microusd=1_000,
    )  # fmt: skip
    recorder.request([], asked)
    usage = Usage(input_tokens=1_000, cache_write_tokens=500, cache_read_tokens=9_000)
    recorder.respond(
        ModelResponded(
            call_id=asked.call_id, model="claude-haiku-5-5", content=({"type": "text", "text": "x"},),
            stop_reason="end_turn", usage=usage, cost_microusd=253, cache_miss="tools_changed: 700 tokens",
        )
    )  # fmt: skip


def test_the_page_of_a_run_leads_to_its_tasks_in_flower_where_there_is_one(open_api: Open) -> None:
    for flower_url, links in (("http://flower.example:5555/", 1), ("", 0)):
        api = open_api(flower_url=flower_url)
        run_id = api.submit()
        visitor = TestClient(api.http.app)
        visitor.post("/sign-in", data={"key": api.key})
        text = visitor.get(f"/runs/{run_id}").text
        assert text.count(f'href="http://flower.example:5555/runs/{run_id}"') == links
        assert ("in Flower" in text) == bool(links)


def test_what_agents_and_people_write_is_never_markup(api: Api, browser: TestClient) -> None:
    plan = {"steps": [{"key": "sure", "kind": "gate", "instruction": EVIL, "title": EVIL, "arguments": {}}]}
    run_id = api.submit(plan, goal=EVIL)
    api.client.run(UUID(run_id)).tell(EVIL)
    for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/journal", "/inbox", f"/memory?q={EVIL}&scope={EVIL}"):
        shown = browser.get(path).text
        assert "<script>alert" not in shown, path
        assert "<img" not in shown, path
    assert "&lt;script&gt;alert(1)" in browser.get(f"/runs/{run_id}").text


def test_the_live_feed_goes_on_where_the_page_stood(api: Api, browser: TestClient) -> None:
    run_id = api.submit()
    position = re.findall(r'data-position="([^"]*)"', browser.get(f"/runs/{run_id}").text)[0]
    run = api.client.run(UUID(run_id))
    run.tell("hello")
    run.cancel()
    with browser.stream("GET", f"/runs/{run_id}/live?after={position}") as answer:
        told = "".join(answer.iter_text())
    kinds = re.findall(r"^event: (.*)$", told, re.MULTILINE)
    assert kinds[0] == "run.told"
    assert kinds[-1] == "end"
    assert "run.submitted" not in kinds
    assert '"gist": "hello"' in told


def test_what_is_not_there_is_told_on_a_page(browser: TestClient) -> None:
    missing = browser.get(f"/runs/{UUID(int=7)}")
    assert missing.status_code == 404
    assert "There is no run" in missing.text
    assert "Sign out" in missing.text
    refused = browser.get("/runs?status=happy")
    assert refused.status_code == 400
    assert "No run is &#39;happy&#39;" in refused.text


# --- what people do ---------------------------------------------------------------------------------------------------


def test_a_form_sent_twice_is_one_run(api: Api, browser: TestClient) -> None:
    page = browser.get("/runs")
    request = re.findall(r'name="request" value="(\w+)"', page.text)[0]
    form = {"proof": proof(page), "request": request, "goal": "Count the parcels", "budget": "0.25"}
    first, second = (browser.post("/runs", data=form, follow_redirects=False) for _ in range(2))
    assert first.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    [run] = api.client.runs()
    assert (run.goal, run.cap_microusd) == ("Count the parcels", 250_000)


@pytest.mark.parametrize(
    "fields", [{"goal": "x", "budget": "much"}, {"goal": ""}, {"goal": "x", "workspace": "/nowhere"}]
)
def test_a_wrong_request_is_told_and_leaves_nothing(api: Api, browser: TestClient, fields: dict[str, str]) -> None:
    answer = send(browser, "/runs", **fields)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert api.client.runs() == []


def test_a_run_is_paused_resumed_told_raised_and_cancelled(api: Api, browser: TestClient) -> None:
    run_id = api.submit()
    run, path = api.client.run(UUID(run_id)), f"/runs/{run_id}"
    assert send(browser, f"{path}/pause").headers["location"] == path
    assert run.status().status == "paused"
    send(browser, f"{path}/resume")
    assert run.status().status == "running"
    send(browser, f"{path}/budget", value="9")
    assert run.status().cap_microusd == 9_000_000
    send(browser, f"{path}/tell", value="hurry")
    assert "hurry" in browser.get(path).text
    send(browser, f"{path}/cancel")
    assert run.status().status == "cancelled"
    assert "Cancel" not in browser.get(path).text
    assert send(browser, f"{path}/explode").status_code == 400


def test_a_form_of_another_site_does_nothing(api: Api, browser: TestClient) -> None:
    run_id = api.submit()
    for forged in ({}, {"proof": "0" * 64}, {"proof": proof(signed_in(api, api.key).get("/runs"))}):
        assert browser.post(f"/runs/{run_id}/cancel", data=forged).status_code == 403
        assert browser.post("/runs", data={"goal": "x", **forged}).status_code == 403
        assert browser.post("/inbox", data={"wait_id": "x", "choice": "approve", **forged}).status_code == 403
        assert browser.post("/sign-out", data=forged).status_code == 403
    assert api.client.run(UUID(run_id)).status().status == "running"


def test_a_key_does_no_more_than_its_scopes_say(api: Api) -> None:
    run_id = api.submit(GATE)
    reader = signed_in(api, api.key_of("read"))
    page = reader.get(f"/runs/{run_id}")
    assert page.status_code == 200
    assert "Cancel" not in page.text
    assert "New run" not in reader.get("/runs").text
    assert send(reader, f"/runs/{run_id}/cancel").status_code == 403
    assert send(reader, "/runs", goal="x").status_code == 403
    assert send(reader, "/inbox", wait_id="x", choice="y").status_code == 403


@pytest.mark.usefixtures("house_of_gate")
def test_the_first_of_two_who_answer_is_told_so_and_so_is_the_second(api: Api) -> None:
    ada, bob = signed_in(api, api.key), signed_in(api, api.key_of("operate", "read", name="bob"))
    wait_id = re.findall(r'name="wait_id" value="([^"]+)"', ada.get("/inbox").text)[0]
    assert "Sure?" in bob.get("/inbox").text

    first = send(ada, "/inbox", wait_id=wait_id, choice="approve")
    second = send(bob, "/inbox", wait_id=wait_id, choice="reject")

    assert (first.headers["location"], second.headers["location"]) == ("/inbox?said=taken", "/inbox?said=late")
    assert "was not taken" in bob.get("/inbox?said=late").text
    assert "Nobody asks anything" in ada.get("/inbox").text


def test_a_result_by_hand_must_be_json(api: Api, browser: TestClient, house_of_gate: str) -> None:
    asked = api.client.escalations(UUID(house_of_gate))[0]
    answer = send(browser, "/inbox", wait_id=str(asked.wait_id), choice="override", text="{")
    assert answer.status_code == 400
    assert "no JSON" in answer.text


# --- what is refused --------------------------------------------------------------------------------------------------


def test_the_form_takes_a_path_of_the_server_only_where_the_api_does(open_api: Open, tmp_path: Path) -> None:
    for allowed in (False, True):
        api = open_api(api_local_workspaces=allowed)
        answer = send(signed_in(api, api.key), "/runs", goal="Read it", workspace=str(tmp_path))
        # Where a path may be taken, this one is looked at, and is no repository.
        assert ("is a path" in answer.text) is not allowed
        assert answer.status_code == 400


PROXY = "10.1.2.3"


@pytest.mark.parametrize("said", ["https", "HTTPS", "https, http"])
@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}", "192.0.2.9"])
def test_the_cookie_is_for_https_only_where_a_trusted_proxy_says_that_the_browser_uses_it(
    open_api: Open, peer: str, said: str
) -> None:
    api = open_api(api_trusted_proxies=["10.1.0.0/16"])
    browser = TestClient(api.http.app, client=(peer, 50_000))
    for headers, secure in (
        ({}, False),
        ({"X-Forwarded-Proto": "http"}, False),
        # Anybody may send it; it counts from the proxies alone.
        ({"X-Forwarded-Proto": said}, peer.endswith(PROXY)),
    ):
        answer = browser.post("/sign-in", data={"key": api.key}, headers=headers, follow_redirects=False)
        assert ("Secure" in answer.headers["set-cookie"]) is secure


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        (PROXY, "198.51.100.7", "198.51.100.7"),
        # The browser wrote the first one itself, the second proxy the last one.
        (PROXY, "203.0.113.1, 198.51.100.7, 10.1.9.9", "198.51.100.7"),
        (PROXY, "", PROXY),
        ("192.0.2.9", "198.51.100.7", "192.0.2.9"),
    ],
)
def test_a_sign_in_that_is_refused_is_logged_with_the_address_that_a_trusted_proxy_names(
    open_api: Open, monkeypatch: pytest.MonkeyPatch, peer: str, said: str, address: str
) -> None:
    logged = []
    # Other tests of this process set up loggers as they like.
    monkeypatch.setattr(entrance.log, "warning", lambda message, extra: logged.append((message, extra)))
    browser = TestClient(open_api(api_trusted_proxies=["10.1.0.0/16"]).http.app, client=(peer, 50_000))
    assert browser.post("/sign-in", data={"key": "x"}, headers={"X-Forwarded-For": said}).status_code == 403
    assert logged == [("sign-in refused", {"address": address})]


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({}, True),
    ],
)
def test_another_site_signs_nobody_in_as_somebody_else(api: Api, headers: dict[str, str], is_let_in: bool) -> None:
    browser = TestClient(api.http.app)
    answer = browser.post("/sign-in", data={"key": api.key}, headers=headers, follow_redirects=False)
    assert answer.status_code == (303 if is_let_in else 403)
    assert (COOKIE in browser.cookies) is is_let_in


@pytest.mark.parametrize("address", ["//[", "//[x", "http://[::1", "/\t/evil.example"])
def test_an_address_that_is_none_leads_to_the_runs(address: str) -> None:
    assert _own(address) == "/runs"


def test_a_browser_asks_no_oftener_than_its_key_may(open_api: Open) -> None:
    # One in fifty seconds: on a busy machine a page takes as long as many of the usual ones.
    api = open_api(api_requests_per_second=0.02)
    browser = signed_in(api, api.key)
    answers = [browser.get("/runs") for _ in range(8)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_words_that_postgres_cannot_hold_are_told_on_a_page(api: Api, browser: TestClient) -> None:
    run_id = api.submit()
    for path, fields in ((f"/runs/{run_id}/tell", {"value": "a\x00b"}), ("/runs", {"goal": "x", "request": "\x00"})):
        answer = send(browser, path, **fields)
        assert answer.status_code in (303, 400), (path, answer.text)
        assert "urn:chargehand" not in answer.text
    for path in (
        "/runs?goal=%00",
        "/memory?q=%00x",
        "/memory?q=x&scope=%00",
        "/runs?cursor=%00",
        f"/runs/{run_id}/files/%00",
        f"/runs/{run_id}/live?after=" + "_" * 400,
    ):
        answer = browser.get(path)
        assert answer.status_code in (200, 400, 404), (path, answer.status_code, answer.text)
        assert "urn:chargehand" not in answer.text, path


def test_every_route_needs_a_key_but_those_that_say_so(api: Api) -> None:
    stranger = TestClient(api.http.app, follow_redirects=False)
    open_to_all = {"/", "/static/{name}", "/sign-in", "/healthz", "/readyz", "/metrics", "/v1/openapi.json"}
    routes = [route for router in (*ROUTERS, *PAGES) for route in router.routes if isinstance(route, APIRoute)]
    asked = 0
    for route in routes:
        path = route.path.replace("{run_id}", str(UUID(int=7))).replace("{wait_id}", str(UUID(int=7)))
        path = re.sub(r"{\w+}", "a" * 64, path) if "digest" in path else re.sub(r"{\w+}", "aaaa", path)
        for method in route.methods if route.path not in open_to_all else ():
            answer = stranger.request(method, path, json={} if path.startswith("/v1") else None)
            assert answer.status_code == (401 if path.startswith("/v1") else 303), (method, path, answer.text)
            asked += 1
    assert asked > 50


def test_a_file_of_any_name_is_a_download(api: Api, browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = api.submit()
    monkeypatch.setattr(RunHandle, "artifact", lambda _self, name: name.encode())
    for name, called in (("报告.md", ".md"), ('a"\r\nX: y.md', "aXy.md"), ("報", "file")):
        answer = browser.get(f"/runs/{run_id}/files/{quote(name, safe='')}")
        assert (answer.status_code, answer.content.decode()) == (200, name)
        assert answer.headers["content-disposition"] == f'attachment; filename="{called}"'


def test_an_address_with_a_wrong_parameter_is_told_on_a_page_and_never_by_json(browser: TestClient) -> None:
    for path, named in (
        (f"/runs?goal={'x' * 201}", "goal"),
        ("/inbox?run=nothing", "run"),
        ("/runs/nothing", "run_id"),
    ):
        answer = browser.get(path)
        assert answer.status_code == 422, path
        assert answer.headers["content-type"].startswith("text/html")
        assert f"{named}: " in answer.text
    evil = browser.get("/inbox", params={"run": EVIL})
    assert evil.status_code == 422
    assert "<script>alert" not in evil.text
    # Who has not signed in learns no more than before.
    assert TestClient(browser.app).get("/inbox?run=nothing", follow_redirects=False).status_code == 303


def test_the_cookie_goes_with_no_form_of_another_site_and_forms_need_their_proof_without_it(api: Api) -> None:
    browser = TestClient(api.http.app)
    cookie = browser.post("/sign-in", data={"key": api.key}, follow_redirects=False).headers["set-cookie"]
    assert "samesite=lax" in cookie.lower()
    with_key = signed_in(api, api.key)
    assert with_key.post("/runs", data={"goal": "x"}).status_code == 403

"""What `doctor` thinks of servers, from what they say of themselves."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE
from chargehand.orchestrator.cli.answering_servers import check_model
from chargehand.orchestrator.cli.diagnosis import (
    diagnose,
    judge_clock,
    judge_connections,
    judge_pgvector,
    judge_redis,
    judge_role,
)
from chargehand.orchestrator.settings import Settings


@pytest.mark.parametrize(
    ("installed", "available", "state"),
    [
        ("0.8.5", "0.8.5", "ok"),
        ("0.9.0", "0.9.0", "ok"),
        ("", "0.8.5", "ok"),
        ("0.8.2", "0.8.5", "wrong"),
        ("", "0.8.4", "wrong"),
        ("", "", "wrong"),
    ],
)
def test_pgvector_must_have_the_fixes_that_matter(installed, available, state):
    assert judge_pgvector(installed, available=available).state == state


def test_all_processes_must_fit_under_the_limit_of_connections():
    assert judge_connections(300).state == "ok"
    few = judge_connections(40)
    assert few.state == "wrong"
    assert few.remedy.startswith("raise max_connections to ")
    needed = int(few.remedy.split()[3])
    assert judge_connections(needed).state == "ok"
    assert judge_connections(needed - 1).state == "wrong"


@pytest.mark.parametrize(
    ("policy", "state"), [("noeviction", "ok"), ("volatile-ttl", "ok"), ("allkeys-lru", "wrong"), ("", "ok")]
)
def test_a_server_that_drops_keys_is_refused(policy, state):
    assert judge_redis("Valkey 9", speaks="7.2.4", policy=policy).state == state


@pytest.mark.parametrize(("speaks", "state"), [("7.2.4", "ok"), ("7.0.15", "ok"), ("6.2.14", "wrong"), ("", "ok")])
def test_a_redis_that_is_too_old_is_refused(speaks, state):
    found = judge_redis(f"Redis {speaks}", speaks=speaks, policy="noeviction")
    assert (found.state, "7 or newer" in found.remedy) == (state, state == "wrong")


def test_a_machine_where_nothing_runs_gets_every_check_and_the_remedy(tmp_path):
    found = {finding.name: finding for finding in diagnose(Settings(home=tmp_path))}
    assert found["Postgres"].state == found["Redis"].state == "wrong"
    assert "chargehand up" in found["Postgres"].what
    assert found["git"].state == found["Roles"].state == "ok"
    assert {"Python", "Disk", "Sandbox", "Model"} <= found.keys()


def test_a_server_that_refuses_is_wrong_and_not_an_error(tmp_path):
    settings = Settings(
        home=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none", redis_url="redis://127.0.0.1:1/0"
    )
    found = {finding.name: finding for finding in diagnose(settings)}
    assert found["Postgres"].what.startswith("does not answer")
    assert found["Redis"].state == "wrong"


def test_a_folder_of_roles_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "broken.md").write_text("no front matter")
    found = {finding.name: finding for finding in diagnose(Settings(home=tmp_path, roles_dir=tmp_path))}
    assert found["Roles"].state == "wrong"
    assert "broken.md" in found["Roles"].what


@pytest.mark.parametrize(
    ("role", "exists", "may", "state"),
    [
        (APP_ROLE, True, True, "ok"),
        (APP_ROLE, True, False, "wrong"),
        (SUPERVISOR_ROLE, True, False, "warning"),
        (SUPERVISOR_ROLE, False, False, "wrong"),
    ],
)
def test_a_user_who_may_not_act_as_a_role_is_told_what_fails_and_what_to_grant(role, exists, may, state):
    found = judge_role(role, exists=exists, may=may, without="nothing works")
    assert found.state == state
    assert bool(found.remedy) == (state != "ok")


def test_clocks_that_differ_by_more_than_the_question_took_are_told():
    assert judge_clock(-30.0, within_seconds=0.1).state == "warning"
    assert judge_clock(0.2, within_seconds=0.1).state == "ok"
    assert judge_clock(30.0, within_seconds=29.0).state == "ok"


def test_a_model_server_of_yours_is_asked_whether_it_is_there():
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        [found] = check_model({"ANTHROPIC_BASE_URL": url})
        assert (found.state, found.what) == ("ok", f"{url} answers")
    [found] = check_model({"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"})
    assert found.state == "wrong"
    assert "correct ANTHROPIC_BASE_URL" in found.remedy

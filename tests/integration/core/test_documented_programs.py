"""The short programs of the documents do what the page says, on a real database."""

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from chargehand import Client, Plan, gate, script
from chargehand.orchestrator.plan import Step

DOCS = Path(__file__).parents[3] / "docs"


def program_of(page):
    """The Python block of the page that is marked to be run."""
    (code,) = re.findall(r"^<!-- run -->\n```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def client(house, monkeypatch):
    """What `Client()` is where the environment names the servers, as the tenant of the test."""
    monkeypatch.setenv("CHARGEHAND_DATABASE_URL", house.database_url)
    monkeypatch.setenv("CHARGEHAND_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CHARGEHAND_TENANT", str(house.tenant))
    with Client() as client:
        yield client


def test_the_program_that_answers_approves_an_open_gate(client, house, capsys):
    run_id = house.start(Step(key="approve", kind="gate", instruction="Send the offer?"))
    exec(program_of("escalations.md"), {"Client": Client})
    assert "Send the offer?" in capsys.readouterr().out
    house.watch()
    house.advance(run_id)
    assert client.run(run_id).status().status == "succeeded"


def test_the_program_that_adds_schedules_adds_them(client, tmp_path):
    commit = "git init -q && git -c user.name=t -c user.email=t@localhost commit -qm x --allow-empty"
    subprocess.run(commit, shell=True, cwd=tmp_path, check=True)
    program = program_of("schedules.md").replace("/srv/shop", str(tmp_path))
    exec(program, {"client": client, "plan": Plan(gate("Import?"))})
    assert {schedule.cron for schedule in client.schedules.list()} == {"0 3 * * 1-5", "*/10 * * * *"}


def test_the_program_that_remembers_finds_what_it_added_and_forgets_it(client, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "hours.md").write_text("# Hours\n\nThe counter is open from nine to five.\n")
    monkeypatch.chdir(tmp_path)
    exec(program_of("memory.md"), {})
    assert "nine to five" in capsys.readouterr().out
    assert client.memory.search("When is the counter open?") == ()


def test_the_program_with_a_connection_of_its_own_submits_when_it_commits(client, house):
    @script(name="documented.review")
    def review(order_id: int) -> int:
        return order_id

    with psycopg.connect(house.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY, article text)")
    names = {
        "psycopg": psycopg,
        "os": os,
        "article": "kettle",
        "agents": client,
        "review_plan": lambda order_id: Plan(review.step(order_id=order_id)),
    }
    exec(program_of("enqueue.md"), names)
    house.watch()
    assert client.run(names["run"].run_id).steps()[0].key == "documented.review"

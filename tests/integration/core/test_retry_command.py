"""`RunHandle.retry` and `chargehand retry RUN STEP`: a step done once more, one that may go on, and refusals."""

import json
import os
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import runs
from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.client import Client, user_name
from chargehand.orchestrator.errors import InvalidPlan, UserError
from chargehand.orchestrator.facts import StepWaiting
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.steps import new_wait_id

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

Command = Callable[..., CompletedProcess[str]]
NO_BROKER = "redis://127.0.0.1:1"


@pytest.fixture
def chargehand(house: "House", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process, as somebody of the house's tenant; the broker is down."""
    for name in list(os.environ):
        if name.startswith("CHARGEHAND_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHARGEHAND_HOME", str(house.settings.home))
    monkeypatch.setenv("CHARGEHAND_DATABASE_URL", house.database_url)
    monkeypatch.setenv("CHARGEHAND_REDIS_URL", NO_BROKER)
    monkeypatch.setenv("CHARGEHAND_TENANT", str(house.tenant))

    def run(*arguments: str) -> CompletedProcess[str]:
        load_settings.cache_clear()
        code = invoke(arguments)
        said = capsys.readouterr()
        return CompletedProcess(arguments, code, said.out, said.err)

    return run


@pytest.fixture
def run_id(house: "House") -> UUID:
    """A run whose first step is done, and was built on; `other` stands by itself, the end is not reached."""
    run_id = house.start(script("a"), script("b", "a"), script("other"), script("end", "b", "other"))
    for key in ("a", "b", "other"):
        house.run(run_id, key, result=f"of {key}")
    return run_id


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", pool="coding", after=after)


def finish(house: "House", run_id: UUID, *keys: str) -> None:
    for key in keys:
        house.advance(run_id)
        house.admit()
        house.run(run_id, key, result=f"again of {key}")
    house.advance(run_id)


def refused(done: CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_handle_s_retry_does_a_step_again_with_what_was_built_on_it(house: "House", run_id: UUID) -> None:
    with Client(house.database_url, NO_BROKER, tenant=house.tenant, settings=house.settings) as client:
        assert client.run(str(run_id)).retry("a") == ("a~2", "b~2", "end~2")
    finish(house, run_id, "a~2", "b~2", "end~2")

    assert house.run_row(run_id).status == "succeeded"
    assert house.statuses(run_id) == {
        "a": "superseded", "b": "superseded", "end": "superseded",
        "a~2": "succeeded", "b~2": "succeeded", "end~2": "succeeded", "other": "succeeded",
    }  # fmt: skip
    # What is still valid ran once.
    assert house.row(run_id, "other").epoch == 1
    assert house.objections(run_id) == []


def test_a_handle_s_retry_of_what_cannot_be_done_again_changes_nothing(house: "House", run_id: UUID) -> None:
    with Client(house.database_url, NO_BROKER, tenant=house.tenant, settings=house.settings) as client:
        handle = client.run(str(run_id))
        before = house.kinds(run_id)
        with pytest.raises(InvalidPlan, match="no step 'nowhere'"):
            handle.retry("nowhere")
        assert house.kinds(run_id) == before
        with house.as_tenant() as session:
            runs.cancel(session, house.tenant, run_id)
        before = house.kinds(run_id)
        with pytest.raises(UserError, match=f"chargehand fork {run_id} --at a"):
            handle.retry("a")
        assert house.kinds(run_id) == before


def test_the_command_does_a_step_again_and_names_the_new_ones(
    house: "House", run_id: UUID, chargehand: Command
) -> None:
    done = chargehand("retry", str(run_id)[-8:], "b")
    assert done.returncode == 0, done.stderr
    assert "Step b is done once more: b~2, end~2." in done.stdout

    again = chargehand("retry", str(run_id), "b~2", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"run_id": str(run_id), "step": "b~2", "steps": ["b~3", "end~3"]}

    ada = chargehand("retry", str(run_id), "b~3", "--as", "ada")
    assert ada.returncode == 0, ada.stderr
    with house.as_tenant() as session:
        entries = journal.read(session, run_id, step=RUN_STREAM, kinds=["plan.patched"])
    told = [json.loads(entry.body or "")["reason"] for entry in entries]
    assert told == [
        f"b again, asked for by {user_name()}",
        f"b~2 again, asked for by {user_name()}",
        "b~3 again, asked for by ada",
    ]

    finish(house, run_id, "b~4", "end~4")
    assert house.run_row(run_id).status == "succeeded"
    assert house.row(run_id, "a").epoch == 1


def test_the_command_lets_a_step_that_asks_try_again_instead_of_doing_it_anew(
    house: "House", run_id: UUID, chargehand: Command
) -> None:
    house.advance(run_id)
    house.admit()
    asked = StepWaiting(wait_id=new_wait_id(), reason="human", question="It fails.", options=("retry", "abort"))
    house.claim(run_id, "end").wait(asked)

    done = chargehand("retry", str(run_id), "end", "--as", "ada")
    assert done.returncode == 0, done.stderr
    house.watch()
    house.admit()
    held = house.claim(run_id, "end")
    heard = held.fold_signal(asked.wait_id)
    assert heard is not None
    assert (heard.choice, heard.by) == ("retry", "ada")
    # The same step, one claim later; no new one.
    assert "end~2" not in house.statuses(run_id)
    assert house.row(run_id, "end").epoch == 2


def test_the_command_refuses_what_cannot_be_done_again_in_one_line(
    house: "House", run_id: UUID, chargehand: Command
) -> None:
    before = house.kinds(run_id)
    refused(chargehand("retry", str(run_id), "nowhere"), "nowhere", "name one of the plan")
    refused(chargehand("retry", "ffffffff", "a"), "names no run")
    assert house.kinds(run_id) == before

    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    refused(chargehand("retry", str(run_id), "a"), "has ended (cancelled)", f"chargehand fork {run_id} --at a")

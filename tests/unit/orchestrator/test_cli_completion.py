"""Completion as a shell asks for it: commands, options, runs and steps; never an error, and never for long."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chargehand.orchestrator.cli import completing, invoke, offering
from chargehand.orchestrator.cli.offering import Offer
from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.laptop.state import LaptopState, write_state
from chargehand.orchestrator.settings import Settings, default_home


def complete(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash would offer at the end of the line."""
    words = line.split(" ")
    for name, value in (("_CHARGEHAND_COMPLETE", "complete_bash"), ("COMP_WORDS", line), ("COMP_CWORD", "")):
        monkeypatch.setenv(name, value or str(len(words) - 1))
    with pytest.raises(SystemExit) as ended:
        invoke([])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.split()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda line: complete(line, capsys, monkeypatch)


def steps_of(run: str) -> list[Offer]:
    assert run == "4f7e681c"
    return [("triage-1", "ready", "triager"), ("survey", "ready", "researcher")]


def test_commands_and_their_own_commands_and_options_are_offered_though_none_is_loaded_before(shell: Any) -> None:
    assert shell("chargehand sta") == ["status"]
    assert {"run", "top", "doctor", "explain"} <= set(shell("chargehand "))
    assert set(shell("chargehand audit ")) == {"verify", "export"}
    assert shell("chargehand top --on") == ["--once"]


def test_recent_runs_and_the_steps_of_one_are_offered(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "recent_runs", lambda: [("4f7e681c", "running", "Audit: this\x1b[2J")])
    monkeypatch.setattr(offering, "steps_of", steps_of)
    assert shell("chargehand explain 4f") == ["4f7e681c"]
    assert shell("chargehand explain 4f7e681c tri") == ["triage-1"]
    assert shell("chargehand resolve 4f7e681c ") == ["triage-1", "survey"]
    assert completing.run_names("") == [("4f7e681c", "running: Audit: this[2J")]


def test_runs_are_offered_without_the_modules_of_the_command_the_client_or_the_settings() -> None:
    program = (
        "import sys, os\n"
        "from chargehand.orchestrator.cli import invoke, offering\n"
        "offering.recent_runs = lambda: [('4f7e681c', 'running', 'Audit')]\n"
        "try: invoke([])\n"
        "except SystemExit: pass\n"
        "heavy = 'sqlalchemy celery pydantic_settings chargehand.orchestrator.client'\n"
        "print('heavy:', [name for name in heavy.split() if name in sys.modules])\n"
    )
    asked = {"_CHARGEHAND_COMPLETE": "complete_bash", "COMP_WORDS": "chargehand status ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **asked}, check=False
    )
    assert (done.stdout.split("\n")[:2], done.stderr) == (["4f7e681c", "heavy: []"], "")


def test_where_the_database_is_and_whose_runs_they_are_is_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CHARGEHAND_DATABASE_URL", "CHARGEHAND_TENANT", "CHARGEHAND_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert offering.tenant() == str(Settings().tenant)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LookupError, match=str(default_home())):
        offering.database_url()
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path))
    endpoints = Endpoints(database_url="postgresql://here/x", redis_url="redis://here")
    write_state(tmp_path, LaptopState(pid=1, started_at=0.0, endpoints=endpoints, flower_url="", api_url=""))
    assert offering.database_url() == "postgresql://here/x"
    monkeypatch.setenv("CHARGEHAND_DATABASE_URL", "postgresql://there/x")
    assert offering.database_url() == Settings().database_url == "postgresql://there/x"


@contextmanager
def deaf_server() -> Iterator[int]:
    """Takes connections and says nothing, as a host that hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_a_database_that_hangs_or_is_away_offers_nothing_within_a_second(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deaf_server() as port:
        for url in (f"postgresql://x@127.0.0.1:{port}/x", "postgresql://x@127.0.0.1:1/x"):
            monkeypatch.setenv("CHARGEHAND_DATABASE_URL", url)
            took = []
            while len(took) < 10 and min(took, default=1.0) >= 1.0:
                before = time.monotonic()
                assert completing.run_names("") == []
                took.append(time.monotonic() - before)
            # A busy machine has another try.
            assert min(took) < 1.0
            assert shell("chargehand status ") == []


@pytest.mark.parametrize("line", ["chargehand frobnicate ", "chargehand status --frobnicate ", "chargehand explain "])
def test_a_line_that_is_wrong_or_asks_a_server_that_is_not_there_is_no_error(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path))
    monkeypatch.setenv("_CHARGEHAND_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    try:
        code: Any = invoke([])
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    said = capsys.readouterr()
    # Behind a command that is none, the commands are offered again.
    assert said.err == ""
    assert "rror" not in said.out


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_shown(shell_name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from chargehand.orchestrator.cli import main; main()", "--show-completion", shell_name],
        capture_output=True,
        text=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_CHARGEHAND_COMPLETE" in done.stdout


def test_no_thread_is_left_that_keeps_the_process_alive() -> None:
    before = set(threading.enumerate())
    completing.run_names("")
    assert not [one for one in set(threading.enumerate()) - before if not one.daemon]

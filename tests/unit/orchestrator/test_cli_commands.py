"""The command line without a server: its list, its options, its one-line errors and exit codes."""

import inspect
import json
import os
import subprocess
import sys
import time

import psycopg
import pytest
import redis
import typer

from chargehand.memory.git import StorageFull
from chargehand.memory.procedural import InvalidRole
from chargehand.memory.sources import RepositoryUnreadable
from chargehand.orchestrator.cli import _Chargehand, app, exits, invoke
from chargehand.orchestrator.cli.failures import describe, report
from chargehand.orchestrator.cli.lazy import load
from chargehand.orchestrator.cli.questions import choose, parse_body
from chargehand.orchestrator.cli.terminal import duration, money, one_line, plain
from chargehand.orchestrator.errors import (
    InvalidBudget,
    InvalidGoal,
    InvalidPlan,
    InvalidWorkspace,
    NotFound,
    RunCancelled,
    RunFailed,
    Unavailable,
    UserError,
    WaitTimeout,
)
from chargehand.orchestrator.views import Escalation

NAMES = list(_Chargehand.entries)


@pytest.fixture(autouse=True)
def _quiet_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CHARGEHAND_DEBUG", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_is_listed_with_the_first_line_of_its_own_help(name):
    command = load(_Chargehand.entries, name)
    assert inspect.cleandoc(command.help or "").splitlines()[0] == _Chargehand.entries[name].summary


def leaves(name):
    command = load(_Chargehand.entries, name)
    return list(getattr(command, "commands", {}).values()) or [command]


@pytest.mark.parametrize("name", NAMES)
def test_each_command_speaks_json(name):
    for command in leaves(name):
        # What `export` prints is JSON anyway.
        assert command.name == "export" or any("--json" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_explains_itself(name, capsys):
    assert invoke([name, "--help"]) == 0
    assert "Usage: chargehand" in capsys.readouterr().out


def test_help_names_every_command_and_every_exit_code(capsys):
    assert invoke(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f" {name} " in shown
    for code in exits.MEANINGS:
        assert f"{code} " in shown


def test_help_imports_neither_database_nor_celery():
    program = "import sys; from chargehand.orchestrator.cli import invoke; invoke(['--help']); "
    program += "heavy = {'sqlalchemy', 'celery', 'psycopg', 'redis', 'anthropic', 'onnxruntime'} & set(sys.modules); "
    program += "sys.exit(f'imported {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_takes_less_than_half_a_second_of_processor_time():
    before = os.times()
    subprocess.run([sys.executable, "-m", "chargehand.orchestrator.cli", "--help"], capture_output=True, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stats"], "No such command 'stats'. Did you mean 'status'?"),
        (["cancel"], "Missing argument 'RUN'"),
        (["run", "x", "--frobnicate"], "No such option: --frobnicate"),
        (["run", "x", "--priority", "high"], "Invalid value for '--priority'"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_way_to_help(arguments, said, capsys):
    assert invoke(arguments) == exits.WRONG_REQUEST
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.strip().count("\n") == 0
    assert "--help`." in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidGoal("The goal is empty; say what should be done."), 2),
        (InvalidPlan("x"), 2),
        (InvalidBudget("x"), 2),
        (InvalidWorkspace("x"), 2),
        (NotFound("x"), 2),
        (UserError("x"), 2),
        (InvalidRole("x"), 2),
        (RepositoryUnreadable("/x", "is a file", "give a folder"), 2),
        (Unavailable("x"), 3),
        (StorageFull("/x"), 3),
        (psycopg.OperationalError("connection refused"), 3),
        (redis.ConnectionError("connection refused"), 3),
        (RunFailed("x"), 1),
        (RunCancelled("x"), 1),
        (WaitTimeout("x"), 4),
    ],
)
def test_each_foreseen_error_has_its_exit_code(error, code):
    failure = describe(error)
    assert failure is not None
    assert failure.exit_code == code
    assert "\n" not in failure.line


def test_an_error_nobody_foresaw_is_one_line_and_keeps_its_traceback_in_a_file(capsys, tmp_path):
    assert report(KeyError("surprise")) == exits.BROKEN
    shown = capsys.readouterr().err
    log = tmp_path / "home" / "logs" / "chargehand-cli.log"
    assert shown.count("\n") == 1
    assert "KeyError" in shown
    assert str(log) in shown
    assert "surprise" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("CHARGEHAND_DEBUG", "1")
    try:
        raise ValueError("deep inside")
    except ValueError as error:
        report(error)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_setting_that_cannot_be_used_is_named(capsys, monkeypatch):
    program = "from chargehand.orchestrator.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "roles"],
        env={**os.environ, "CHARGEHAND_LEASE_SECONDS": "soon"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exits.WRONG_REQUEST
    assert done.stderr.startswith("Error: CHARGEHAND_LEASE_SECONDS cannot be used:")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_not_an_error():
    program = "from chargehand.orchestrator.cli import main; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program, "roles"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == exits.PIPE_CLOSED
    assert done.stderr == ""


def test_roles_are_listed_for_people_and_programs(capsys):
    assert invoke(["roles"]) == 0
    table = capsys.readouterr().out
    assert invoke(["roles", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {role["name"] for role in listed} >= {"planner", "researcher", "triager", "coder", "writer"}
    for role in listed:
        assert role["name"] in table
        assert role["hash"][:10] in table


def question(*options):
    identity = "00000000-0000-7000-8000-00000000000"
    return Escalation(
        run_id=f"{identity}1",
        step_id=f"{identity}2",
        step_key="refund",
        wait_id=f"{identity}3",
        reason="gate",
        question="Refund?",
        options=options,
        evidence=(),
        asked_at=None,
    )


def test_an_answer_must_be_one_of_those_offered():
    asked = [question("approve", "reject")]
    assert choose(asked, "refund", "approve", run="1") is asked[0]
    with pytest.raises(UserError, match="choose one of: approve, reject"):
        choose(asked, "refund", "maybe", run="1")
    with pytest.raises(NotFound, match="steps that do: refund"):
        choose(asked, "refunds", "approve", run="1")


@pytest.mark.parametrize("body", ["{", "NaN", "[" * 5000])
def test_a_body_that_is_not_json_is_refused(body):
    with pytest.raises(UserError, match="is not JSON"):
        parse_body(body)


def test_amounts_and_times_are_written_for_people():
    assert [duration(seconds) for seconds in (-1, 0.44, 12.7, 185, 7620)] == [
        "0.0 s", "0.4 s", "12 s", "3 min 05 s", "2 h 07 min",
    ]  # fmt: skip
    assert money(1_234_567) == "$1.2346"


def test_text_that_would_steer_a_terminal_is_made_visible():
    assert plain("a\x1b[31mb\x9bc\u202ed") == "a\\x1b[31mb\\x9bc\\u202ed"
    assert one_line("  many\n words\there ", 12) == "many words …"


def test_commands_are_an_ordinary_typer_app():
    assert isinstance(app, typer.Typer)
    started = time.process_time()
    assert invoke(["--help"]) == 0
    assert time.process_time() - started < 5

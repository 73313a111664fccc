"""Every command with `--json`: a program can read what it prints, also of a run that has not begun, and of nothing."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer.main

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import cli
from chargehand.orchestrator.cli import exits, invoke
from chargehand.orchestrator.cli.lazy import load
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.supervisor import advance
from chargehand.orchestrator.supervisor.graphs import Graphs

# They start processes, and system tests read what they print: test_cli_demo, test_parcel_desk, test_watching.
WITH_PROCESSES = {"demo", "up", "api", "apply"}
PLAN = Plan.of(
    [
        Step(key="sure", kind="gate", instruction="Sure?"),
        Step(key="count", kind="script", script="inventory", after=("sure",)),
    ]
)

Run = Callable[..., Any]


@pytest.fixture
def read(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Run a command with `--json`; gives what a program reads: a value, or the values of its lines."""
    for name in list(os.environ):
        if name.startswith(("CHARGEHAND_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    for name, value in (("HOME", str(tmp_path)), ("DATABASE_URL", database_url), ("REDIS_URL", redis_url)):
        monkeypatch.setenv(f"CHARGEHAND_{name}", value)
    monkeypatch.setenv("CHARGEHAND_TENANT", str(uuid4()))
    monkeypatch.chdir(tmp_path)
    load_settings.cache_clear()

    def run(*arguments: str, code: int | None = exits.OK) -> Any:
        found = invoke([*arguments, "--json"])
        said = capsys.readouterr()
        assert code in (found, None), (arguments, said)
        ran.add(" ".join(arguments[: 2 if arguments[0] in groups else 1]))
        # A document a line, and nothing that only Python reads: no Infinity, no NaN.
        documents = [json.loads(line, parse_constant=pytest.fail) for line in said.out.splitlines()]
        return documents[0] if len(documents) == 1 else documents

    ran: set[str] = set()
    groups = {name.split()[0] for name in commands() if " " in name}
    run.ran = ran  # type: ignore[attr-defined]
    yield run
    load_settings.cache_clear()


def commands() -> set[str]:
    def below(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
        if getattr(command, "commands", None):
            for name, inner in command.commands.items():
                yield from below(inner, *path, name)
        else:
            yield " ".join(path), command

    group = typer.main.get_group(cli.app)
    assert isinstance(group, cli.LazyGroup)
    found = {name: command for entry in group.entries for name, command in below(load(group.entries, entry), entry)}
    return {name for name, command in found.items() if any("--json" in each.opts for each in command.params)}


@pytest.fixture
def advanced(database_url: str) -> Iterator[Callable[[str], bool]]:
    """What a supervisor does when a run's bell rings, without what a worker does."""
    engine = open_engine(database_url, role=SUPERVISOR_ROLE, keeps_connections=False)
    yield lambda run_id: advance.advance(engine, Graphs(), UUID(run_id), audit_key=b"k")
    engine.dispose()


@pytest.mark.long
def test_a_program_can_read_what_every_command_prints(
    read: Run, advanced: Callable[[str], bool], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(PLAN.model_dump_json(exclude_defaults=True))
    note = tmp_path / "hours.md"
    note.write_text("# Hours\n\nOpen from 9 to 17.\n")

    # Where nothing is yet.
    for nothing in ("status", "escalations", "schedule list", "webhooks list", "keys list"):
        assert read(*nothing.split()) == [], nothing
    # Of the whole fleet.
    read("switches")
    read("circuits")

    assert read("plan", "check", str(plan))
    assert read("plan", "show", str(plan))
    run_id = read("run", "--plan", str(plan), "--detach")["run_id"]
    other = read("run", "Count the files", "--detach")["run_id"]
    assert {row["run_id"] for row in read("status")} == {run_id, other}
    assert read("status", run_id)["run"]["run_id"] == run_id
    assert read("plan", "show", run_id)
    assert read("explain", run_id)
    assert read("explain", run_id, "sure")
    assert read("result", run_id, code=exits.TIMED_OUT) == [], "what is wrong is said on standard error"
    assert read("cost", run_id)
    read("cost", "--since", "7d")
    assert read("logs", run_id)
    assert read("pause", run_id)
    assert read("resume", run_id)
    assert read("budget", run_id, "2")
    read("tell", run_id, "Mind the gap")
    advanced(run_id)
    [asked] = read("escalations")
    assert asked["step_key"] == "sure"
    assert read("resolve", run_id, "sure", "approve")
    advanced(run_id)
    assert read("fork", run_id, "--at", "count", "--detach")
    assert read("retry", run_id, "count")
    assert read("replay", run_id)
    assert read("audit", "verify", run_id)
    assert read("cancel", other)
    assert read("erase", other, "--yes")
    assert read("top", "--once")["pools"] is not None
    read("caps")

    assert read("schedule", "add", "0 6 * * *", "Count the files", "--name", "daily")
    for verb in ("pause", "resume", "run-now", "remove"):
        assert read("schedule", verb, "daily"), verb
    hook = read("webhooks", "add", "https://example.org/hook")
    read("webhooks", "deliveries")
    read("webhooks", "redeliver")
    assert read("webhooks", "remove", hook["webhook_id"])
    key = read("keys", "add", "ci", "--scope", "read")
    assert read("keys", "revoke", key["key_id"])

    assert read("memory", "add", str(note))
    assert read("memory", "search", "When is it open?")
    assert read("memory", "stats")
    read("memory", "reindex")
    assert read("memory", "forget", "hours.md")
    assert read("roles", "list")
    assert read("roles", "show", "researcher")
    assert read("roles", "check")
    assert read("roles", "diff", "researcher", "writer")
    read("metrics")
    # What it finds hangs on the machine.
    assert {found["name"] for found in read("doctor", code=None)["checks"]} >= {"Postgres", "Redis"}

    assert commands() - read.ran == WITH_PROCESSES  # type: ignore[attr-defined]

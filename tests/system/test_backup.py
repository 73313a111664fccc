"""A dump of a database with half-finished runs, restored into a new cluster: they go on, feeds and chains are whole."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from chaos.machine import Fleet, Machine, machine, until
from chaos.plans import counted, held, scribbler

from chargehand.orchestrator import views
from chargehand.orchestrator.laptop.ground import postgres_binaries, server_account
from chargehand.orchestrator.laptop.services import Postgres
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.views import Event

pytestmark = [pytest.mark.system, pytest.mark.long]

DOOR = "backup"
FLEET = Fleet(pools=("research",))
TOOL_SECONDS = 120.0


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path]]:
    """The machine that will be lost, and the one that replaces it."""
    folders = [Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp")) for _ in range(2)]
    for folder in folders:
        folder.chmod(0o711)
    yield folders[0], folders[1]
    for folder in folders:
        shutil.rmtree(folder)


def half_finished() -> Plan:
    """A commit to the workspace, a step that is held while it runs, a question to a person, and a commit after both."""
    return Plan.of(
        [
            scribbler("start", pool="research"),
            held("held", "start", door=DOOR, pool="research"),
            Step(key="gate", kind="gate", after=("start",)),
            scribbler("after", "start", "held", "gate", pool="research"),
            counted("end", "after", pool="research"),
        ]
    )


def tool(name: str, *arguments: str, **streams: object) -> None:
    """Run a program of the server's own version; raises with what it said when it fails."""
    program = postgres_binaries(server_account()) / name
    done = subprocess.run([program, *arguments], stderr=subprocess.PIPE, timeout=TOOL_SECONDS, **streams)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr.decode()


def repository(folder: Path) -> Path:
    """A git repository with one file."""
    folder.mkdir()
    (folder / "login.py").write_text("def check(password):\n    return True\n")
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm x"
    subprocess.run(commit, shell=True, cwd=folder, check=True)
    return folder


def dump(url: str, folder: Path) -> None:
    """What an operator keeps of a cluster: its roles, and the database."""
    with (folder / "roles.sql").open("wb") as roles:
        tool("pg_dumpall", "--roles-only", "--dbname", url, stdout=roles)
    tool("pg_dump", "--format", "custom", "--file", str(folder / "database.dump"), url)


def restore(home: Path, folder: Path) -> None:
    """Make a cluster that has never seen Chargehand and put the dump into it."""
    server = Postgres.start(home)
    try:
        # The superuser of the dump is there already; everything else must go through.
        tool("psql", "--quiet", "--dbname", server.url, "--file", str(folder / "roles.sql"), stdout=subprocess.DEVNULL)
        tool("pg_restore", "--exit-on-error", "--dbname", server.url, str(folder / "database.dump"))
    finally:
        server.stop()


def is_half_finished(laptop: Machine, run_id: UUID) -> bool:
    statuses = laptop.statuses(laptop.client.run(run_id))
    return (statuses["held"], statuses["gate"]) == ("running", "waiting")


def streams(events: list[Event]) -> dict[UUID | None, list[int]]:
    """Stream → its rows in the order in which they were shown."""
    shown: dict[UUID | None, list[int]] = defaultdict(list)
    for event in events:
        shown[event.step_id].append(event.seq)
    return shown


def test_a_dump_restored_into_a_new_cluster_goes_on_where_it_was(homes: tuple[Path, Path]) -> None:
    old, new = homes
    with machine(old, FLEET) as lost:
        ended = lost.client.submit(plan=Plan.of([counted("a", pool="research")])).run_id
        assert lost.wait(lost.client.run(ended)) == "succeeded"
        half = lost.client.submit(plan=half_finished(), workspace=repository(old / "workspace")).run_id
        until(lambda: is_half_finished(lost, half), 60, "a step runs and a person is asked")
        seen = list(lost.client.run(half).events(follow=False))
        dump(lost.laptop.services.endpoints.database_url, old)

    restore(new, old)
    # The artifacts, and the key of the seals, which the database does not know.
    shutil.copytree(old / "artifacts", new / "artifacts", symlinks=True)
    shutil.copy(old / "audit.key", new / "audit.key")

    with machine(new, FLEET) as found:
        run = found.client.run(half)
        with found.client.session() as session:
            assert views.events_after(session, half, {}) == seen, "the feed is what it was"
        [question] = found.client.escalations(half)
        assert found.client.answer(question, "approve")
        found.ledger.open(DOOR)
        # What the held step gave came after the approval, so nobody has seen it yet.
        until(lambda: found.client.escalations(half), 60, "the step behind the gate is asked about once more")
        [again] = found.client.escalations(half)
        assert again.step_key == "after"
        assert found.client.answer(again, "approve")
        assert found.wait(run, 90) == "succeeded"

        # What ran before the dump does not run again; what was cut off by it does.
        assert found.epochs(run) == {"start": 1, "held": 2, "gate": 0, "after": 2, "end": 1}
        assert [knock.step for knock in found.ledger.knocks(half)] == ["held", "after", "end"]

        with found.client.session() as session:
            commit = views.results(session, half, ["after"])["after"].commit
        bare = new / "artifacts" / "repositories" / f"{half}.git"
        kept = subprocess.run(["git", "-C", bare, "ls-tree", "-r", "--name-only", str(commit)], capture_output=True)
        assert kept.stdout.decode().split() == ["login.py", "scribbles/after.txt", "scribbles/start.txt"]

        # A follower who had seen the first part overlaps with it and sees the rest; no stream has a gap.
        events = list(run.events(timeout_seconds=30))
        assert [event for event in events if event in seen] == seen
        assert all(rows == list(range(1, len(rows) + 1)) for rows in streams(events).values())

        # A run that begins now sorts after those of the dump, and the tenant's chain goes on behind their seals.
        later = found.client.submit(plan=Plan.of([counted("b", pool="research")]))
        assert found.wait(later) == "succeeded"
        for run_id in (ended, half, later.run_id):
            verified = command(new, "audit", "verify", str(run_id))
            assert (verified.returncode, "chain OK" in verified.stdout) == (0, True), verified.stdout + verified.stderr


def command(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`chargehand …` as a person would type it beside the running laptop."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHARGEHAND_")}
    return subprocess.run(
        [sys.executable, "-m", "chargehand.orchestrator.cli", *arguments],
        env={**environment, "CHARGEHAND_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=TOOL_SECONDS,
    )

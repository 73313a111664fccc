"""A submission whose commit is never heard of is one run, and keeps its workspace."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import pytest

from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.proxy import Link, Network
from chaos.wires import SOCKET

PLAN = Plan.of([Step(key="a", kind="script", script="inventory")])


@pytest.fixture
def wire(database_url: str, laptop_home: Path) -> Iterator[Link]:
    """A breakable way to Postgres, whose socket lies in the home."""
    upstream = Path(parse_qs(urlsplit(database_url).query)["host"][0]) / SOCKET
    with Network() as network:
        yield network.link("client", upstream, listen=laptop_home / SOCKET, is_postgres=True)


@pytest.fixture
def client(database_url: str, redis_url: str, laptop_home: Path, wire: Link) -> Iterator[Client]:
    """A client at the end of that wire."""
    parts = urlsplit(database_url)
    url = urlunsplit(parts._replace(query=f"host={quote(str(laptop_home), safe='')}"))
    with Client(url, redis_url, settings=Settings(home=laptop_home)) as opened:
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A git repository."""
    (tmp_path / "a.py").write_text("pass\n")
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm x"
    subprocess.run(commit, shell=True, cwd=tmp_path, check=True)
    return tmp_path


def repositories(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "artifacts" / "repositories").glob("*.git"))


def test_a_commit_whose_reply_is_lost_is_asked_for_again_and_made_once(
    client: Client, wire: Link, workspace: Path, laptop_home: Path
) -> None:
    before = len(client.runs())
    wire.lose_replies(1)

    run = client.submit("lost", plan=PLAN, workspace=workspace)

    assert [lost.statement for lost in wire.lost] == ["COMMIT"]
    assert len(client.runs()) == before + 1
    assert run.status().status == "running"
    assert repositories(laptop_home) == [f"{run.run_id}.git"]


def test_what_was_accepted_without_anybodys_knowledge_keeps_its_workspace_and_is_found_by_its_key(
    client: Client, wire: Link, workspace: Path, laptop_home: Path
) -> None:
    before = len(client.runs())
    wire.lose_replies(2)
    with pytest.raises(Unavailable, match="same idempotency key"):
        client.submit("lost", plan=PLAN, workspace=workspace, idempotency_key="order 7")
    wire.heal()

    run = client.submit("lost", plan=PLAN, workspace=workspace, idempotency_key="order 7")

    assert len(client.runs()) == before + 1
    assert repositories(laptop_home) == [f"{run.run_id}.git"]


def test_a_request_that_certainly_was_not_accepted_leaves_nothing_behind(
    client: Client, wire: Link, workspace: Path, laptop_home: Path
) -> None:
    client.runs()
    # No connection outlives the look at it that comes before the transaction.
    wire.silence()
    wire.cut()
    with pytest.raises(Unavailable):
        client.submit("never", plan=PLAN, workspace=workspace)
    wire.heal()

    assert [run for run in client.runs() if run.goal == "never"] == []
    assert repositories(laptop_home) == []

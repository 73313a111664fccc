"""What a lock cannot promise, on five real Valkeys: each scenario ends well by the fence alone, badly without it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID

import pytest
from pydantic import JsonValue
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks.state import hammer
from chargehand.memory import shared_state
from chargehand.memory.database import tenant_session
from chargehand.memory.keyspace import Keyspace
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.shared_state import StaleState, lease, read, replaced_since, update
from chargehand.memory.state_changes import Listener
from tests.integration.memory.conftest import Node

KEYS = Keyspace("test")
SCOPE = "run"
TTL_SECONDS = 0.3


class Bench:
    """What a scenario works with."""

    def __init__(self, nodes: list[Node], engine: Engine, tenant: UUID, database_url: str) -> None:
        self.nodes, self.engine, self.tenant, self.database_url = nodes, engine, tenant, database_url

    def open_session(self) -> AbstractContextManager[Session]:
        return tenant_session(self.engine, self.tenant)

    def redlock(self, ttl_seconds: float = TTL_SECONDS, retry_seconds: float = 0.01) -> Redlock:
        clients = [node.client for node in self.nodes]
        return Redlock(clients, KEYS, ttl_seconds=ttl_seconds, retry_seconds=retry_seconds)

    def lease(
        self, redlock: Redlock, key: str = "plan", wait_seconds: float = 5.0
    ) -> AbstractContextManager[shared_state.Lease]:
        return lease(self.open_session, redlock, tenant=self.tenant, scope=SCOPE, key=key, wait_seconds=wait_seconds)

    def read(self, key: str = "plan") -> JsonValue:
        with self.open_session() as session:
            return read(session, tenant=self.tenant, scope=SCOPE, key=key).value

    def commit(self, held: shared_state.Lease, value: JsonValue) -> bool:
        """Whether the holder's commit was taken."""
        try:
            with self.open_session() as session:
                held.commit(session, value)
        except StaleState:
            return False
        return True


@pytest.fixture
def bench(nodes: list[Node], engine: Engine, tenant: UUID, database_url: str) -> Bench:
    return Bench(nodes, engine, tenant, database_url)


HOLDER = """
import sys
from uuid import UUID
from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import Redlock
from chargehand.memory.shared_state import FENCE, StaleState, lease
from chargehand.memory import shared_state
from chargehand.memory.database import tenant_session

database_url, tenant, fenced, *urls = sys.argv[1:]
if fenced == "without":
    shared_state.UPDATE = shared_state.UPDATE.replace(FENCE, "")
tenant = UUID(tenant)
engine = open_engine(database_url, role=APP_ROLE)
clients = [connect(url, connect_timeout_seconds=.5, socket_timeout_seconds=.5, retries=0) for url in urls]
redlock = Redlock(clients, Keyspace("test"), ttl_seconds=.3)
open_session = lambda: tenant_session(engine, tenant)
with lease(open_session, redlock, tenant=tenant, scope="run", key="plan", wait_seconds=30) as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        with open_session() as session:
            held.commit(session, "the stopped holder's")
    except StaleState:
        print("refused", flush=True)
    else:
        print("written", flush=True)
print("left", flush=True)
"""


def a_stopped_holder_comes_back(bench: Bench) -> None:
    """SIGSTOP past its lease; another takes the lease; the first goes on, writes and lets go of *its* lock."""
    fenced = "with" if shared_state.FENCE in shared_state.UPDATE else "without"
    urls = [node.server.url for node in bench.nodes]
    command = [sys.executable, "-c", HOLDER, bench.database_url, str(bench.tenant), fenced, *urls]
    redlock = bench.redlock(ttl_seconds=10.0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            the_first_goes_on(bench, redlock, holder)
        finally:
            holder.kill()
            redlock.close()


def the_first_goes_on(bench: Bench, redlock: Redlock, holder: "subprocess.Popen[str]") -> None:
    """From the moment it holds the lease."""
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGSTOP)
    with bench.lease(redlock) as successor:
        assert successor.fence == 2
        os.kill(holder.pid, signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        outcome = holder.stdout.readline()
        assert holder.stdout.readline() == "left\n"
        # What the late holder released was not the successor's lock.
        with pytest.raises(LockBusy):
            redlock.acquire(f"{bench.tenant}:{SCOPE}:plan")
        assert outcome == "refused\n"
        assert bench.read() is None
        assert bench.commit(successor, "the successor's")
    assert bench.read() == "the successor's"


def two_hold_it_at_once(bench: Bench, break_a_majority: Callable[[Bench], None]) -> None:
    """The nodes forget the first holder while it works; both believe that they hold the lock."""
    first, second = bench.redlock(ttl_seconds=10.0), bench.redlock(ttl_seconds=10.0)
    with bench.lease(first) as old:
        break_a_majority(bench)
        with bench.lease(second) as new:
            assert old.lock.remaining_seconds() > 0
            assert new.lock.remaining_seconds() > 0
            assert not bench.commit(old, "old")
            assert bench.commit(new, "new")
    assert bench.read() == "new"
    first.close()
    second.close()


def restart_empty(bench: Bench) -> None:
    """The vote that made the majority is lost with its node: the first holder had three."""
    name = KEYS.lock(f"{bench.tenant}:{SCOPE}:plan")
    for node in bench.nodes[3:]:
        node.client.delete(name)
    bench.nodes[2].server.kill()
    bench.nodes[2].server.restart()


def jump_forward(bench: Bench) -> None:
    """As a clock that jumps makes a key expire early: its time to live is cut to a millisecond on three nodes."""
    name = KEYS.lock(f"{bench.tenant}:{SCOPE}:plan")
    for node in bench.nodes[:3]:
        node.client.pexpire(name, 1)
    deadline = time.monotonic() + 60
    while any(node.client.exists(name) for node in bench.nodes[:3]):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def holders_overrun(bench: Bench) -> None:
    """Four threads count under leases; one holder in ten stays longer than its lease (`make bench`: 1,000 updates)."""
    clients = [node.client for node in bench.nodes]
    hammered = hammer(bench.engine, bench.tenant, clients, updates=120)
    assert hammered.lost == 0
    # Or nobody was ever overtaken, and nothing was shown.
    assert hammered.refused > 0


def a_notice_is_dropped(bench: Bench) -> None:
    """The only listener loses its connection while another replaces the value: silence is not taken for freshness."""
    with bench.open_session() as session:
        seen = update(session, tenant=bench.tenant, scope=SCOPE, key="plan", change=lambda _: "one")
    listener = Listener(bench.database_url, bench.tenant)
    listener.__exit__(None, None, None)
    with bench.open_session() as session:
        update(session, tenant=bench.tenant, scope=SCOPE, key="plan", change=lambda _: "two")
    view = {"plan": seen.version}
    with Listener(bench.database_url, bench.tenant) as again:
        assert again.wait(0.05) == []
        with bench.open_session() as session:
            (newer,) = replaced_since(session, tenant=bench.tenant, scope=SCOPE, view=view)
        assert newer.value == "two"
    late = shared_state.Lease(
        tenant=bench.tenant,
        scope=SCOPE,
        view=seen,
        fence=0,
        lock=None,  # type: ignore[arg-type]
        redlock=None,  # type: ignore[arg-type]
    )
    assert not bench.commit(late, "on the old view")
    assert bench.read() == "two"


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "a holder that was stopped past its lease": a_stopped_holder_comes_back,
    "a node that restarts empty": lambda bench: two_hold_it_at_once(bench, restart_empty),
    "clocks of a majority that jump forward": lambda bench: two_hold_it_at_once(bench, jump_forward),
    "holders that overrun under a hammer": holders_overrun,
    "a notice that was dropped": a_notice_is_dropped,
}


@pytest.fixture
def without_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits that look at neither version nor fence."""
    monkeypatch.setattr(shared_state, "UPDATE", shared_state.UPDATE.replace(shared_state.FENCE, ""))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_by(bench: Bench, scenario: str) -> None:
    SCENARIOS[scenario](bench)


@pytest.mark.usefixtures("without_the_fence")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_the_fence_there_is_no_protection_from(bench: Bench, scenario: str) -> None:
    with pytest.raises(AssertionError):
        SCENARIOS[scenario](bench)

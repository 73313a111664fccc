"""A run's core on a real database, as in production: workers act as the application's role, supervisors as theirs."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE, open_engine, tenant_session
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import runs, steps, verification
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.heartbeat import Heartbeat
from chargehand.orchestrator.hints import Hints
from chargehand.orchestrator.plan import POOLS, Plan, Step, step_id
from chargehand.orchestrator.progress import Progress
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import Ended, HeldStep
from chargehand.orchestrator.supervisor import admit, advance, watch
from chargehand.orchestrator.supervisor.admit import SOLO, Admitted
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.supervisor.sounding import Sounding
from chargehand.orchestrator.supervisor.watch import Round
from chargehand.workers.attempt import Delivery
from chargehand.workers.executor import execute
from chargehand.workers.scripts.registry import Script
from chargehand.workers.shop import Shop

AUDIT_KEY = b"a key outside the database"
# Long enough for a busy machine; tests that want an expired lease expire it by hand.
LEASE_SECONDS = 60.0

# What a test leaves alive would be admitted by the next one: admission looks at all runs of the database.
_LAY_TO_REST = (
    "UPDATE steps SET status = 'cancelled' WHERE status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')",
    "UPDATE runs SET status = 'cancelled' WHERE status IN ('queued', 'running', 'paused')",
    "DELETE FROM rings",
    "DELETE FROM pools",
    "DELETE FROM submissions",
)


class House:
    """One tenant's runs, driven by hand: submit, advance, admit, claim, look."""

    def __init__(self, database_url: str, settings: Settings) -> None:
        self.database_url = database_url
        self.settings = settings
        self.tenant = uuid4()
        self.app = open_engine(database_url, role=APP_ROLE)
        self.supervisor = open_engine(database_url, role=SUPERVISOR_ROLE)
        self.owner = open_engine(database_url)
        self.connections = Connections(database_url)
        self.graphs = Graphs()

    def close(self) -> None:
        self.connections.close()
        for engine in (self.app, self.supervisor, self.owner):
            engine.dispose()

    # --- what people and supervisors do

    def request(self, *planned: Step, **fields: Any) -> RunRequest:
        values = {"run_id": runs.new_run_id(), "goal": "Test this", "budget_microusd": 1_000_000, **fields}
        return RunRequest(plan=Plan.of(planned), **values)

    def submit(self, *planned: Step, tenant: UUID | None = None, **fields: Any) -> UUID:
        tenant = tenant or self.tenant
        with tenant_session(self.app, tenant) as session:
            return runs.accept(session, tenant, self.request(*planned, **fields), [])

    def start(self, *planned: Step, **fields: Any) -> UUID:
        """A run whose first steps are queued."""
        for pool in {step.pool for step in planned}:
            self.open_pool(pool)
        run_id = self.submit(*planned, **fields)
        self.advance(run_id)
        self.admit()
        return run_id

    def advance(self, run_id: UUID) -> bool:
        return advance.advance(self.supervisor, self.graphs, run_id, audit_key=AUDIT_KEY)

    def admit(self) -> list[Admitted]:
        return admit.admit(self.supervisor, self.graphs)

    def watch(
        self, settings: Settings | None = None, *, queue_length: int = 0, whole_since: float | None = None
    ) -> Round:
        broker = Sounding(whole_since=whole_since, lengths=dict.fromkeys((*POOLS, SOLO), queue_length))
        return watch.watch(self.supervisor, settings or self.settings, broker=broker)

    def recover(self, settings: Settings | None = None) -> int:
        return watch.recover(self.supervisor, settings or self.settings)

    def as_tenant(self, tenant: UUID | None = None) -> Any:
        """A transaction of the application, bound to a tenant."""
        return tenant_session(self.app, tenant or self.tenant)

    # --- what workers do

    def claim(
        self, run_id: UUID, key: str, *, tenant: UUID | None = None, solo_pool: bool = False, holder: str = "worker"
    ) -> HeldStep:
        claimed = steps.claim(
            self.connections,
            tenant=tenant or self.tenant,
            step_id=step_id(run_id, key),
            holder=holder,
            lease_seconds=LEASE_SECONDS,
            solo_pool=solo_pool,
        )
        return HeldStep(self.connections, claimed)

    def take_over(self, run_id: UUID, key: str) -> HeldStep:
        """Claim the step whose worker was just lost, once it has come back through the front door."""
        self.expire(run_id, key)
        assert self.recover() == 1
        self.admit()
        return self.claim(run_id, key)

    def run(self, run_id: UUID, key: str, result: object = None) -> Ended:
        """Claim and finish a queued step."""
        return self.claim(run_id, key).finish(StepFinished.model_validate({"outcome": "succeeded", "result": result}))

    def deliver(self, run_id: UUID, key: str, *scripts: Script[..., Any]) -> Delivery:
        """Run the step as a worker process does that has these scripts."""
        return execute(self.shop(*scripts), tenant=self.tenant, step_id=step_id(run_id, key))

    def shop(self, *scripts: Script[..., Any]) -> Shop:
        """A worker process that has these scripts, no model, and Redis away."""
        client = redis.Redis(port=1, retry=None)
        nobody: Any = None
        return Shop(
            settings=self.settings,
            connections=self.connections,
            engine=self.app,
            heartbeat=Heartbeat(self.database_url, holder="worker", pool="research", slots=1, lease_seconds=60),
            holder="worker",
            pool="research",
            artifacts=Artifacts(self.settings.artifacts),
            workspaces=self.settings.home / "workspaces",
            scripts={script.name: script for script in scripts},
            tools={},
            models=nobody,
            embedder=nobody,
            recall=nobody,
            progress=Progress(client, key_prefix="test"),
            hints=Hints(client, key_prefix="test"),
            ring=lambda _run: None,
            stopping=threading.Event(),
        )

    # --- what the test does behind everybody's back

    def open_pool(self, pool: str, slots: int = 50) -> None:
        """A process of the pool that lives, and whose connection has not broken for an hour."""
        self.execute(
            "INSERT INTO pools (holder, pool, slots, since) "
            "VALUES (:holder, :pool, :slots, clock_timestamp() - interval '1 h') "
            "ON CONFLICT (holder) DO UPDATE SET slots = excluded.slots, seen_at = clock_timestamp()",
            {"holder": f"test-{pool}", "pool": pool, "slots": slots},
        )

    def expire(self, run_id: UUID, key: str) -> None:
        """Let the lease run out, as if its worker had died long ago."""
        self.execute(
            "UPDATE steps SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :step",
            {"step": step_id(run_id, key)},
        )

    def lay_to_rest(self) -> None:
        """Let nothing stay alive that another test could see."""
        for statement in _LAY_TO_REST:
            self.execute(statement)

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> Sequence[Any]:
        """A statement of the database's owner, who sees everything; its rows."""
        with self.owner.begin() as connection:
            result = connection.execute(text(statement), dict(parameters or {}))
            return result.all() if result.returns_rows else []

    # --- what there is to see

    def row(self, run_id: UUID, key: str) -> Any:
        return self.execute("SELECT * FROM steps WHERE id = :step", {"step": step_id(run_id, key)})[0]

    def run_row(self, run_id: UUID) -> Any:
        return self.execute("SELECT * FROM runs WHERE id = :run", {"run": run_id})[0]

    def statuses(self, run_id: UUID) -> dict[str, str]:
        rows = self.execute("SELECT key, status FROM steps WHERE run = :run ORDER BY ordinal", {"run": run_id})
        return {key: status for key, status in rows}  # noqa: C416 - typed rows

    def kinds(self, run_id: UUID, key: str | None = None) -> list[str]:
        """Kinds of the facts of a step, or of the run itself."""
        with Session(self.owner) as session:
            stream = RUN_STREAM if key is None else step_id(run_id, key)
            return [entry.kind for entry in journal.read(session, run_id, step=stream)]

    def rings(self, run_id: UUID) -> int:
        return int(self.execute("SELECT count(*) FROM rings WHERE run = :run", {"run": run_id})[0][0])

    def budget(self, run_id: UUID) -> Any:
        return self.execute("SELECT * FROM budgets WHERE run = :run", {"run": run_id})[0]

    def drift(self, run_id: UUID) -> list[str]:
        # As the owner, whose sessions may stand idle while a journal of ten thousand turns is folded.
        with Session(self.owner) as session:
            return verification.drift(session, run_id)

    def objections(self, run_id: UUID, key: bytes = AUDIT_KEY) -> list[str]:
        """What verification says of the run and of its tenant's chain; as the owner, too."""
        with Session(self.owner) as session:
            found = [*verification.verify_run(session, run_id).objections]
            tenant = self.run_row(run_id).tenant
            found += journal.verify_anchors(session, tenant, key=key)
        return [one.what for one in found]


@pytest.fixture(scope="module")
def _shared_house(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home: Path = tmp_path_factory.mktemp("home")
    (home / "roles").mkdir()
    house = House(
        database_url,
        Settings(
            home=home, roles_dir=home / "roles", lease_seconds=LEASE_SECONDS, unclaimed_seconds=0.05, ring_age_seconds=0
        ),
    )
    yield house
    house.close()


@pytest.fixture
def house(_shared_house: House) -> Iterator[House]:
    """The module's database with a tenant of this test's own; nothing stays alive after it."""
    _shared_house.tenant = uuid4()
    yield _shared_house
    _shared_house.lay_to_rest()


@pytest.fixture
def patient_house(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """The same, waiting for a lock for as long as a loaded machine takes: a worker gives up after two seconds."""
    connections = Connections(house.database_url, lock_timeout_seconds=60)
    monkeypatch.setattr(house, "connections", connections)
    yield house
    connections.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for what happens at the same time."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool

"""What a benchmark stands on: embedded servers of its own, a schema, and the acts of supervisors and workers."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from celery import Celery
from sqlalchemy import Engine, text

from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE, open_engine, tenant_session
from chargehand.orchestrator import broker, runs, schema, steps
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.laptop import Postgres, Valkey
from chargehand.orchestrator.plan import Plan, Step, step_id
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor.admit import Admitted, admit
from chargehand.orchestrator.supervisor.advance import advance
from chargehand.orchestrator.supervisor.graphs import Graphs

AUDIT_KEY = b"a key of the benchmark"
# Longer than any benchmark: no lease runs out in the middle of one.
LEASE_SECONDS = 600.0
# Enough free places that admission never holds a step back.
SLOTS = 2_000
BUDGET_MICROUSD = 1_000_000_000


class Ground:
    """One tenant's runs on a database of its own; workers act as the application's role, supervisors as theirs."""

    def __init__(self, database_url: str, redis_url: str, settings: Settings) -> None:
        """Bring the schema up to date and say that pools are alive."""
        schema.migrate(database_url)
        self.database_url = database_url
        self.redis_url = redis_url
        self.settings = settings
        self.tenant = uuid4()
        self.connections = Connections(database_url)
        self.application = open_engine(database_url, role=APP_ROLE)
        self.supervisor = open_engine(database_url, role=SUPERVISOR_ROLE)
        self.graphs = Graphs()
        self.app: Celery = broker.make_app(settings, redis_url)

    def close(self) -> None:
        """Close every connection."""
        self.connections.close()
        for engine in (self.application, self.supervisor):
            engine.dispose()
        self.app.close()

    def open_pool(self, pool: str) -> None:
        """Say that a process of the pool is alive."""
        execute(
            self.supervisor,
            "INSERT INTO pools (holder, pool, slots) VALUES (:holder, :pool, :slots) "
            "ON CONFLICT (holder) DO UPDATE SET seen_at = clock_timestamp()",
            holder=f"bench-{pool}",
            pool=pool,
            slots=SLOTS,
        )

    def submit(self, *planned: Step) -> UUID:
        """A run that waits for its supervisor."""
        request = RunRequest(
            run_id=runs.new_run_id(), goal="Measure this", plan=Plan.of(planned), budget_microusd=BUDGET_MICROUSD
        )
        with tenant_session(self.application, self.tenant) as session:
            return runs.accept(session, self.tenant, request, [])

    def advance(self, run_id: UUID) -> bool:
        """One round of the run."""
        return advance(self.supervisor, self.graphs, run_id, audit_key=AUDIT_KEY)

    def admit(self) -> list[Admitted]:
        """Queue what is ready, without publishing it."""
        for pool in ("research", "coding", "audit"):
            self.open_pool(pool)
        return admit(self.supervisor, self.graphs)

    def queued_run(self, *planned: Step) -> UUID:
        """A run whose first steps are queued."""
        run_id = self.submit(*planned)
        self.advance(run_id)
        self.admit()
        return run_id

    def claim(self, run_id: UUID, key: str, *, committed: Callable[[], None] = lambda: None) -> HeldStep:
        """What a worker does first; `committed` is called after each of its commits."""
        claimed = steps.claim(
            self.connections,
            tenant=self.tenant,
            step_id=step_id(run_id, key),
            holder="bench",
            lease_seconds=LEASE_SECONDS,
        )
        return HeldStep(self.connections, claimed, committed=committed)


def execute(engine: Engine, statement: str, **parameters: object) -> None:
    """One statement in a transaction of its own."""
    with engine.begin() as connection:
        connection.execute(text(statement), parameters)


def make_floor_table(ground: Ground) -> None:
    """A table of bare rows with nothing but a key, made as the database's owner: what a commit costs at least."""
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.bench_floor "
            "(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)"
        )


def script_steps(count: int) -> tuple[Step, ...]:
    """Independent scripts; nobody runs them, their keys and places are what matters."""
    return tuple(Step(key=f"work-{index}", kind="script", script="work", pool="coding") for index in range(count))


@contextmanager
def open_ground() -> Iterator[Ground]:
    """Embedded Postgres and Valkey in an empty folder, which goes when the block ends."""
    with ExitStack() as stack:
        # Short enough for a Unix socket, and reachable for the account that root's Postgres runs as.
        home = Path(tempfile.mkdtemp(prefix="chb-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        postgres = Postgres.start(home)
        stack.callback(postgres.stop)
        valkey = Valkey.start(home)
        stack.callback(valkey.stop)
        ground = Ground(postgres.url, valkey.url, Settings(home=home))
        stack.callback(ground.close)
        yield ground

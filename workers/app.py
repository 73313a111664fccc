"""The worker process: `celery -A chargehand.workers.app worker -P threads -Q chargehand.research`.

Everything it needs is composed here once, when the worker is ready to consume; which pool it is follows from its queue.
"""

import logging
import threading
from typing import Any
from uuid import UUID

from celery import Celery, signals
from sqlalchemy.orm import Session

from chargehand.memory import keyspace
from chargehand.memory import redlock as redlocks
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.memory.embedder import load_embedder
from chargehand.memory.keyspace import Keyspace
from chargehand.memory.redlock import Redlock
from chargehand.memory.semantic import is_known
from chargehand.orchestrator import broker, circuits, endpoints, forks, switches
from chargehand.orchestrator.circuits import Circuits
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.heartbeat import Heartbeat, new_holder
from chargehand.orchestrator.hints import Hints
from chargehand.orchestrator.logs import configure_logging
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.progress import Progress
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.switches import Switch, Switches
from chargehand.orchestrator.telemetry.exporter import measure_process
from chargehand.orchestrator.telemetry.following import follow_process
from chargehand.workers import orphans
from chargehand.workers.holds import Holds
from chargehand.workers.models.batches import GATHER_SECONDS
from chargehand.workers.models.client import open_models
from chargehand.workers.recollection import Recollection
from chargehand.workers.reembedding import Reembedding
from chargehand.workers.scripts.catalogue import registered_scripts
from chargehand.workers.scripts.index import run_scope
from chargehand.workers.shop import Shop
from chargehand.workers.tasks import QuietRejects, register_closing, register_tasks
from chargehand.workers.thrift import Thrift
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.recall import recall_passages
from chargehand.workers.tools.registry import ToolOutput
from chargehand.workers.user_code import load_user_code
from chargehand.workers.workspace import sweep

log = logging.getLogger(__name__)

settings = load_settings()
configure_logging(settings)
for _logger in ("celery.worker.request", "celery.app.trace"):
    logging.getLogger(_logger).addFilter(QuietRejects())
broken_packages = load_user_code(settings)
app: Celery = broker.make_app(settings, endpoints.redis_url(settings))
stopping = threading.Event()
_composed: list[Shop] = []
# Pools whose processes have the embedding model.
EMBEDS = ("research", SOLO)


def shop() -> Shop:
    """What this process works with."""
    return _composed[0]


def recall_from_run(session: Session, tenant: UUID, run_id: UUID, query: str, limit: int) -> ToolOutput:
    """Passages of the run's index that answer the query, and which memories they were."""
    # A fork that took its index over reads it where it was made.
    scopes = [run_scope(run) for run in forks.lineage(session, run_id)]
    scope = next((scope for scope in scopes if is_known(session, tenant=tenant, scope=scope)), run_scope(run_id))
    found = recall_passages(session, tenant=tenant, scope=scope, query=query, embedder=load_embedder(), limit=limit)
    if found.by_words_only and (reembedding := shop().reembedding) is not None:
        reembedding.want(tenant)
    return ToolOutput(content=found.text, reads=tuple(f"memory:{memory}@1" for memory in found.memory_ids))


def redlock(redis_url: str) -> Redlock:
    """Locks over the nodes of `CHARGEHAND_LOCK_URLS`, or over our one Redis; nothing is connected yet."""
    nodes = [
        keyspace.connect(
            url,
            connect_timeout_seconds=redlocks.TIMEOUT_SECONDS,
            socket_timeout_seconds=redlocks.TIMEOUT_SECONDS,
            retries=0,
        )
        for url in settings.lock_urls or (redis_url,)
    ]
    return Redlock(nodes, Keyspace(settings.key_prefix))


def compose(pool: str, slots: int) -> Shop:
    """Open what a process of this pool needs; nothing is connected before it is used."""
    database_url, redis_url = endpoints.database_url(settings), endpoints.redis_url(settings)
    client = keyspace.connect(
        redis_url, connect_timeout_seconds=settings.connect_timeout_seconds, socket_timeout_seconds=2.0, retries=0
    )
    # One of its own: what is asked in every turn must not wait for a Redis that is slow.
    hasty = keyspace.connect(
        redis_url,
        connect_timeout_seconds=circuits.TIMEOUT_SECONDS * 2,
        socket_timeout_seconds=circuits.TIMEOUT_SECONDS,
        retries=0,
    )
    connections = Connections(database_url)
    holds = Holds(
        Switches(lambda: [Switch(**row) for row in connections.rows(settings.tenant, switches.READ, {})]),
        Circuits(hasty, key_prefix=settings.key_prefix),
    )
    holder = new_holder(pool)
    engine = open_engine(database_url, role=APP_ROLE, connect_timeout_seconds=settings.connect_timeout_seconds)
    locks = redlock(redis_url)
    models = open_models(settings, threads=slots, redis=client, hasty=hasty, holds=holds)
    return Shop(
        settings=settings,
        connections=connections,
        engine=engine,
        heartbeat=Heartbeat(database_url, holder=holder, pool=pool, slots=slots, lease_seconds=settings.lease_seconds),
        holder=holder,
        pool=pool,
        artifacts=Artifacts(settings.artifacts),
        workspaces=settings.home / "workspaces",
        scripts=registered_scripts(),
        tools=registered_tools(),
        models=models,
        batches=models.batches(gather_seconds=GATHER_SECONDS),
        holds=holds,
        embedder=load_embedder,
        recall=recall_from_run,
        progress=Progress(client, key_prefix=settings.key_prefix),
        hints=Hints(client, key_prefix=settings.key_prefix),
        ring=lambda run_id: broker.ring_bell(app, settings, run_id),
        stopping=stopping,
        broken_packages=broken_packages,
        thrift=Thrift(connections),
        recollection=Recollection(client, Keyspace(settings.key_prefix)),
        redlock=locks,
        # The other pools do without the model.
        reembedding=Reembedding(engine, load_embedder, locks) if pool in EMBEDS else None,
    )


for _pool in (*POOLS, SOLO):
    register_tasks(app, _pool, shop, stopping)
register_closing(app, shop)


def pool_of(queues: set[str]) -> str:
    """Which pool a worker that consumes these queues is; raises `SystemExit` when it is none or several."""
    served = [pool for pool in (*POOLS, SOLO) if broker.queue_name(settings, pool) in queues]
    if len(served) != 1:
        names = ", ".join(broker.queue_name(settings, pool) for pool in (*POOLS, SOLO))
        raise SystemExit(f"A worker serves one pool; start it with -Q and one of: {names} (not {sorted(queues)}).")
    return served[0]


@signals.celeryd_after_setup.connect
def _compose(instance: Any, **_: Any) -> None:
    _composed[:] = [compose(pool_of(set(instance.app.amqp.queues.consume_from)), instance.concurrency)]


@signals.worker_ready.connect
def _start(**_: Any) -> None:
    orphans.end_orphans()
    swept = sweep(shop().workspaces)
    if swept:
        log.info("clones of dead processes removed", extra={"clones": swept})
    measure_process(settings)
    follow_process(settings, f"chargehand-{shop().pool}")
    shop().heartbeat.start()
    if (reembedding := shop().reembedding) is not None:
        reembedding.want(settings.tenant)
        reembedding.start()


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    stopping.set()
    if (reembedding := shop().reembedding) is not None:
        reembedding.stop()


@signals.worker_shutdown.connect
def _stop(**_: Any) -> None:
    shop().heartbeat.stop()
    shop().connections.close()
    shop().engine.dispose()

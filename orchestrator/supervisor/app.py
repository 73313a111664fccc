"""The supervisor process: `celery -A chargehand.orchestrator.supervisor.app worker -Q chargehand.supervisor`.

Any number may run. Each answers bells and has a watch loop of its own.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import redis
from celery import Celery, signals
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from chargehand.memory import keyspace
from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import broker, endpoints
from chargehand.orchestrator.auditkey import audit_key
from chargehand.orchestrator.errors import NewerVersion
from chargehand.orchestrator.hints import Hints
from chargehand.orchestrator.logs import configure_logging
from chargehand.orchestrator.settings import Settings, load_settings
from chargehand.orchestrator.supervisor.admit import admit
from chargehand.orchestrator.supervisor.advance import advance, has_rings
from chargehand.orchestrator.supervisor.closing import due_closings
from chargehand.orchestrator.supervisor.dispatch import KIND, Dispatcher
from chargehand.orchestrator.supervisor.firing import fire
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.supervisor.messenger import Messenger
from chargehand.orchestrator.supervisor.setbacks import Setbacks
from chargehand.orchestrator.supervisor.sounding import PATIENCE_SECONDS, database_seconds, sound
from chargehand.orchestrator.supervisor.watch import for_a_while, forget_dead_pools, watch
from chargehand.orchestrator.task_brokers import CeleryBrokers, TaskBrokers
from chargehand.orchestrator.telemetry.exporter import measure_process
from chargehand.orchestrator.telemetry.following import follow_process

log = logging.getLogger(__name__)

# Behind a crowd of runs what was lost must be looked for all the same; the rings of those that are left stay.
MOST_ADVANCING_SECONDS = 1.0
# Rounds of the watch loop between two looks for dead pools.
ROUNDS_PER_CLEANING = 200


class Supervisor:
    """Answers bells; every method may be called from any thread and by any number of processes."""

    def __init__(
        self, settings: Settings, engine: Engine, celery_app: Celery, redis_client: "redis.Redis", brokers: TaskBrokers
    ) -> None:
        """Nothing is connected yet."""
        self._settings = settings
        self._engine = engine
        self._app = celery_app
        self._redis = redis_client
        self._audit_key = audit_key(settings)
        self._graphs = Graphs()
        self._hints = Hints(redis_client, key_prefix=settings.key_prefix)
        self._dispatcher = Dispatcher(engine, brokers)
        self._setbacks = Setbacks()

    def answer(self, run_id: UUID) -> None:
        """Advance the run and admit what may start, until it rings no more."""
        while True:
            try:
                may_admit = advance(self._engine, self._graphs, run_id, audit_key=self._audit_key)
            except NewerVersion as newer:
                # Its rings stay for a supervisor that can read it.
                log.warning("run left to a newer version", extra={"run_id": str(run_id), "why": str(newer)})
                return
            self._hints.give(run_id)
            if may_admit:
                self.admit()
            if self._graphs.may_have(run_id, KIND):
                self.dispatch(run_id)
            # Whoever rang while this round held the run found it locked and left.
            if not has_rings(self._engine, run_id):
                return

    def admit(self) -> int:
        """Queue and publish what the pools can take; gives the number of messages' chains."""
        count = 0
        for one in admit(self._engine, self._graphs):
            broker.publish(self._app, self._settings, tenant=one.tenant, run_id=one.run_id, emissions=one.emissions)
            count += len(one.emissions)
        return count

    def dispatch(self, run_id: UUID | None = None) -> None:
        """Send the tasks of users' own apps that are due, of one run or of all."""
        for moved in self._dispatcher.dispatch(run_id):
            self._hints.give(moved)

    def watch(self) -> None:
        """One round: find what was lost, advance what nobody answered, admit what waits."""
        found_broker = sound(self._redis, self._settings, now=lambda: database_seconds(self._engine))
        found = watch(self._engine, self._settings, broker=found_broker)
        for run_id in for_a_while(self._setbacks.due(found.runs), seconds=MOST_ADVANCING_SECONDS):
            try:
                advance(self._engine, self._graphs, run_id, audit_key=self._audit_key)
                self._hints.give(run_id)
            except OperationalError:
                raise
            except Exception:
                # A run that this version cannot read must not stop the others; its ring stays.
                self._setbacks.failed(run_id)
                log.exception("run not advanced", extra={"run_id": str(run_id)})
        for one in due_closings(self._engine):
            broker.ask_to_close(self._app, self._settings, pool=one.pool, tenant=one.tenant, call_id=one.call_id)
        # What a broker cannot take stays ready: it is sent once, when the broker is back, and not lost again and again.
        if found_broker is not None:
            self.admit()

    def watch_forever(self, stop: threading.Event) -> None:
        """Watch until `stop` is set; an outage of Postgres is waited out."""
        rounds = 0

        def one_round() -> None:
            nonlocal rounds
            self.watch()
            rounds += 1
            if rounds % ROUNDS_PER_CLEANING == 0:
                forget_dead_pools(self._engine)

        self._repeat(one_round, "watch round failed", stop)

    def dispatch_forever(self, stop: threading.Event) -> None:
        """Send what is due until `stop` is set.

        Apart from the watch loop: a broker of somebody else that does not answer must not hold up what was lost here.
        """
        self._repeat(self.dispatch, "dispatch failed", stop)

    def fire_forever(self, stop: threading.Event) -> None:
        """Make the runs of schedules until `stop` is set; beside the watch loop, because a copy may take minutes."""

        def fire_all() -> None:
            for run_id in fire(self._engine, self._settings):
                self.answer(run_id)

        self._repeat(fire_all, "schedules not looked at", stop)

    def _repeat(self, part: Callable[[], None], failed: str, stop: threading.Event) -> None:
        while not stop.wait(self._settings.watch_interval_seconds):
            try:
                part()
            except DBAPIError as error:
                log.warning(failed, extra={"error": str(error.orig).strip()})
            except Exception:
                # Without these loops nothing that was lost is ever found again: they go on whatever happens.
                log.exception(failed)


def _compose() -> tuple[Celery, Supervisor, Messenger]:
    settings = load_settings()
    configure_logging(settings)
    celery_app = broker.make_app(settings, endpoints.redis_url(settings))
    engine = open_engine(
        endpoints.database_url(settings),
        role=SUPERVISOR_ROLE,
        connect_timeout_seconds=settings.connect_timeout_seconds,
    )
    client = keyspace.connect(
        endpoints.redis_url(settings),
        connect_timeout_seconds=settings.connect_timeout_seconds,
        socket_timeout_seconds=PATIENCE_SECONDS,
        retries=0,
    )
    brokers = CeleryBrokers(settings, endpoints.redis_url(settings))
    return (
        celery_app,
        Supervisor(settings, engine, celery_app, client, brokers),
        Messenger(engine, private=settings.webhook_private_addresses),
    )


app, supervisor, messenger = _compose()
_stop = threading.Event()


@app.task(name=broker.ADVANCE, shared=False)
def answer_bell(run_id: str) -> None:
    """Advance one run."""
    supervisor.answer(UUID(run_id))


@signals.worker_ready.connect
def _start_watching(**_: Any) -> None:
    measure_process(load_settings())
    follow_process(load_settings(), "chargehand-supervisor")
    loops = {
        "watch": supervisor.watch_forever,
        "schedules": supervisor.fire_forever,
        "dispatch": supervisor.dispatch_forever,
        "webhooks": messenger.deliver_forever,
    }
    for name, loop in loops.items():
        threading.Thread(target=loop, args=(_stop,), name=name, daemon=True).start()


@signals.worker_shutting_down.connect
def _stop_watching(**_: Any) -> None:
    _stop.set()

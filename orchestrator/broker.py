"""The Celery app and what is sent through it: the doorbell, never the truth.

A message carries ids. Losing every one, or delivering each ten times, costs time and nothing else.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import celery.bootsteps
from celery import Celery, chain, chord, group
from celery.canvas import Signature
from celery.exceptions import CeleryError
from kombu.entity import Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer

from chargehand.orchestrator import transport
from chargehand.orchestrator.canvas import Chord, Emission, Line, Link, Pack
from chargehand.orchestrator.endpoints import redis_url
from chargehand.orchestrator.presence import Presence
from chargehand.orchestrator.settings import Settings, load_settings
from chargehand.orchestrator.telemetry import meters, metrics

log = logging.getLogger(__name__)

ADVANCE = "chargehand.advance"
SUPERVISOR = "supervisor"
CLOSE_BATCH = "chargehand.close_batch"
# Raised when a message means something else; a worker that does not know one leaves its steps to others.
MESSAGE_VERSION = 1
# A publish that does not get through at once is left to the watch loop.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0.05, "interval_step": 0.2, "interval_max": 0.5}
# Nobody trusts a result: they live as long as a chord may count, not longer.
RESULT_EXPIRES_SECONDS = 3600
# Celery's result backend gives up with a plain RuntimeError.
PUBLISH_ERRORS = (KombuError, CeleryError, OSError, RuntimeError)


def task_name(pool: str) -> str:
    """The task that runs a step on `pool`: one name a pool, so that Flower groups by it."""
    return f"chargehand.{pool}"


def queue_name(settings: Settings, pool: str) -> str:
    """The queue of a pool, or of the supervisors."""
    return f"{settings.key_prefix}.{pool}"


class VisibilityHeartbeat(celery.bootsteps.StartStopStep):
    """Keeps what this worker has not acknowledged from being delivered to another one."""

    requires: Any = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Nothing runs before `start`."""
        super().__init__(parent, **kwargs)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Refresh three times in each visibility time-out."""
        seconds = parent.app.conf.broker_transport_options["visibility_timeout"] / 3
        self._timer = parent.timer.call_repeatedly(seconds, self._refresh, (parent,))

    def stop(self, parent: Any) -> None:
        """End with the consumer."""
        del parent
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _refresh(parent: Any) -> None:
        channel = getattr(parent.task_consumer, "channel", None)
        if isinstance(channel, transport.Channel):
            try:
                channel.refresh_unacked()
            except PUBLISH_ERRORS as error:
                log.warning("unacked not refreshed", extra={"error": str(error)})


def make_app(settings: Settings, url: str) -> Celery:
    """A Celery app for `settings` on the Redis at `url`."""
    transport.register()
    app = Celery("chargehand", set_as_current=False)
    app.conf.update(
        broker_url=transport.broker_url(url),
        result_backend=url,
        result_expires=RESULT_EXPIRES_SECONDS,
        result_backend_thread_safe=True,
        task_ignore_result=True,
        task_acks_late=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_consumer="chargehand.orchestrator.consuming:Consumer",
        worker_send_task_events=True,
        # It carries the task's name where the others carry its label: Flower's groups would depend on which comes last.
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.connect_timeout_seconds,
        task_publish_retry=True,
        task_publish_retry_policy=PUBLISH_RETRY,
        redis_socket_timeout=10.0,
        redis_socket_connect_timeout=settings.connect_timeout_seconds,
        redis_socket_keepalive=True,
        redis_retry_on_timeout=True,
        redis_max_connections=200,
        result_backend_transport_options={"global_keyprefix": f"{settings.key_prefix}.result."},
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_seconds,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": settings.connect_timeout_seconds,
            "socket_keepalive": True,
            "max_connections": 200,
            "unacked_key": f"{settings.key_prefix}.unacked",
            "unacked_index_key": f"{settings.key_prefix}.unacked_index",
            "unacked_mutex_key": f"{settings.key_prefix}.unacked_mutex",
        },
        task_default_queue=queue_name(settings, SUPERVISOR),
        task_create_missing_queues=True,
        task_queues=[Queue(queue_name(settings, SUPERVISOR), routing_key=queue_name(settings, SUPERVISOR))],
    )
    app.steps["consumer"].update((VisibilityHeartbeat, Presence))
    return app


def step_signature(app: Celery, settings: Settings, *, tenant: UUID, run_id: UUID, link: Link) -> Signature:
    """The message that rings for one step: ids only, immutable."""
    step = str(link.step_id)
    ids = {"tenant": str(tenant), "run_id": str(run_id), "step_id": step}
    return _signature(app, settings, link, ids, shown={"run_id": str(run_id), "step_id": step, "role": link.label})


def pack_signature(app: Celery, settings: Settings, *, tenant: UUID, run_id: UUID, links: Sequence[Link]) -> Signature:
    """The message that rings for several steps of one pool."""
    ids = {"tenant": str(tenant), "run_id": str(run_id), "step_ids": [str(link.step_id) for link in links]}
    shown = {"run_id": str(run_id), "steps": len(links), "role": links[0].label}
    return _signature(app, settings, links[0], ids, shown=shown)


def _signature(app: Celery, settings: Settings, link: Link, ids: dict[str, Any], *, shown: dict[str, Any]) -> Signature:
    return app.signature(
        task_name(link.pool),
        kwargs={**ids, "version": MESSAGE_VERSION},
        immutable=True,
        options={
            "queue": queue_name(settings, link.pool),
            # A chord counts its header all the same (celery 5.7; `tests/integration/test_broker.py` looks at it).
            "ignore_result": True,
            "shadow": link.label,
            # Flower searches these: `kwargs:run_id=…` finds all tasks of a run.
            "kwargsrepr": repr(shown),
        },
    )


def advance_signature(app: Celery, settings: Settings, run_id: UUID) -> Signature:
    """The bell."""
    return app.signature(
        ADVANCE,
        kwargs={"run_id": str(run_id)},
        immutable=True,
        options={
            "queue": queue_name(settings, SUPERVISOR),
            # Nobody reads it; with a result Celery subscribes to one first, and waits 19 s for a Redis that is down.
            "ignore_result": True,
            "shadow": "supervisor/advance",
            "kwargsrepr": repr({"run_id": str(run_id), "role": "supervisor"}),
        },
    )


def publish(app: Celery, settings: Settings, *, tenant: UUID, run_id: UUID, emissions: Sequence[Emission]) -> bool:
    """Send the emissions of a run together; False when the broker did not take them (the watch loop sends them again).

    Whatever was sent of a batch that breaks is delivered, and found by nobody or somebody: a message is only a bell.
    """
    began = time.monotonic()
    try:
        with app.producer_or_acquire() as producer, producer.batch():
            for emission in emissions:
                _send(app, settings, producer, tenant=tenant, run_id=run_id, emission=emission)
    except PUBLISH_ERRORS as error:
        meters.observe(metrics.PUBLISH, time.monotonic() - began, outcome="error")
        log.warning("not published", extra={"run_id": str(run_id), "error": str(error)})
        return False
    meters.observe(metrics.PUBLISH, time.monotonic() - began, outcome="ok")
    return True


def _send(
    app: Celery, settings: Settings, producer: Producer, *, tenant: UUID, run_id: UUID, emission: Emission
) -> None:
    bell = advance_signature(app, settings, run_id)
    if isinstance(emission, Chord):
        header = [_signatures(app, settings, tenant, run_id, line) for line in emission.header]
        # A generator, never a list: of a list Celery keeps a result for each in its backend, subscribed, for ever.
        # The result object goes at once: nobody waits for it, and at exit it would want a closed backend.
        lines = (links[0] if len(links) == 1 else chain(*links) for links in header)
        chord(group(lines), bell).apply_async(producer=producer)
        return
    (first, *others) = [*_signatures(app, settings, tenant, run_id, emission), bell]
    # What `chain(…).apply_async()` sends, but for the producer, which that loses on its way: the links that follow,
    # last one first, travel in the message of the first.
    first.apply_async(producer=producer, chain=[link.clone() for link in reversed(others)])


def _signatures(app: Celery, settings: Settings, tenant: UUID, run_id: UUID, line: Line) -> list[Signature]:
    """One a link of a chain, one for a whole pack."""
    if isinstance(line, Pack):
        return [pack_signature(app, settings, tenant=tenant, run_id=run_id, links=line.links)]
    return [step_signature(app, settings, tenant=tenant, run_id=run_id, link=link) for link in line.links]


def ring_bell(app: Celery, settings: Settings, run_id: UUID) -> bool:
    """Ask a supervisor to advance the run now; False when the broker does not answer (a second later it will be)."""
    return ring_bells(app, settings, [run_id])


def ring_bells(app: Celery, settings: Settings, run_ids: Sequence[UUID]) -> bool:
    """As `ring_bell` for each of the runs, in one message to the broker where there are several."""
    try:
        if len(run_ids) == 1:
            advance_signature(app, settings, run_ids[0]).apply_async()
        else:
            with app.producer_or_acquire() as producer, producer.batch():
                for run_id in run_ids:
                    advance_signature(app, settings, run_id).apply_async(producer=producer)
    except PUBLISH_ERRORS as error:
        log.warning("bell not rung", extra={"run_id": str(run_ids[0]), "runs": len(run_ids), "error": str(error)})
        return False
    return True


def ask_to_close(app: Celery, settings: Settings, *, pool: str, tenant: UUID, call_id: UUID) -> bool:
    """Ask a worker of the pool to look after a batched call whose step has ended; False when the broker is away."""
    ids = {"tenant": str(tenant), "call_id": str(call_id)}
    try:
        app.signature(
            CLOSE_BATCH,
            kwargs=ids,
            immutable=True,
            options={
                "queue": queue_name(settings, pool),
                "ignore_result": True,
                "shadow": f"{pool}/close_batch",
                "kwargsrepr": repr(ids),
            },
        ).apply_async()
    except PUBLISH_ERRORS as error:
        log.warning("nobody asked to close a batch", extra={"call_id": str(call_id), "error": str(error)})
        return False
    return True


def _configured_app() -> Celery:
    settings = load_settings()
    return make_app(settings, redis_url(settings))


def __getattr__(name: str) -> Any:
    # `celery -A chargehand.orchestrator.broker flower` looks for `app`; building it needs a Redis URL, importing not.
    if name == "app":
        return _configured_app()
    raise AttributeError(name)

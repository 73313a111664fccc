"""The brokers of the user's own Celery apps: tasks are sent to them by name, and revoked, and nothing else.

What is there may be RabbitMQ with queues of any type, or a Redis database of somebody else: nothing is declared, so
that nobody's queue is made anew with other arguments than its owner gave it.
"""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from celery import Celery
from kombu.entity import Queue

from chargehand.orchestrator.broker import PUBLISH_ERRORS
from chargehand.orchestrator.celery_tasks import Message
from chargehand.orchestrator.endpoints import redis_url
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.settings import Settings, load_settings

log = logging.getLogger(__name__)

DEFAULT = "default"
# A broker that did not answer is left alone for so long: threads that wait for it have other runs to move.
AWAY_SECONDS = 5.0


def tasks_broker_url(name: str = DEFAULT, *, settings: Settings | None = None) -> str:
    """Where the supervisors send tasks for this broker, for an app that has no broker of its own.

    Raises `Unavailable` when neither a setting nor a running laptop says so, `InvalidSettings` for an unknown name.
    """
    settings = settings or load_settings()
    named = settings.celery_tasks_brokers.get(name, "")
    if name == DEFAULT and not named:
        return settings.celery_tasks_broker_url or redis_url(settings)
    if not named:
        raise InvalidSettings(f"Broker {name!r} has no address; give it one in CHARGEHAND_CELERY_TASKS_BROKERS.")
    return named


class TaskBrokers(Protocol):
    """Where tasks go."""

    def known(self) -> frozenset[str]:
        """The names that plans may use."""
        ...

    def away(self) -> frozenset[str]:
        """Those that did not answer a moment ago."""
        ...

    def send(self, message: Message) -> bool:
        """Send it; False when the broker did not take it, or nobody knows whether it did."""
        ...

    def revoke(self, broker: str, task_id: UUID) -> None:
        """Ask its workers to drop the task; whether one hears it is not known."""
        ...


class CeleryBrokers:
    """Real ones; any thread may use it."""

    def __init__(self, settings: Settings, own_url: str) -> None:
        """Nothing is connected yet. `own_url`: of our Redis, the default where no other is set."""
        self._urls: Mapping[str, str] = {
            DEFAULT: settings.celery_tasks_broker_url or own_url,
            **settings.celery_tasks_brokers,
        }
        self._options = settings.celery_tasks_transport_options
        self._timeout_seconds = settings.connect_timeout_seconds
        self._apps: dict[str, Celery] = {}
        self._away_until: dict[str, float] = {}

    def known(self) -> frozenset[str]:
        """The names that plans may use."""
        return frozenset(self._urls)

    def away(self) -> frozenset[str]:
        """Those that did not answer a moment ago."""
        now = time.monotonic()
        return frozenset(name for name, until in self._away_until.items() if now < until)

    def send(self, message: Message) -> bool:
        """Send it; False when the broker did not take it, or nobody knows whether it did."""
        broker, labels = message.task.broker, message.labels
        if broker in self.away():
            return False
        app = self._app(broker)
        try:
            with app.producer_or_acquire() as producer:
                _look_for(message.task.queue, producer)
                app.send_task(
                    message.task.task,
                    args=list(message.call.args),
                    kwargs=dict(message.call.kwargs),
                    task_id=str(labels.task_id),
                    queue=Queue(message.task.queue),
                    declare=[],
                    headers=message.headers(),
                    # A copy that lies in the queue until nobody waits for it any more does nothing.
                    expires=message.as_of + timedelta(seconds=message.expires_seconds),
                    # What it gives comes back by the callback; nobody reads a result backend.
                    ignore_result=True,
                    producer=producer,
                )
        except PUBLISH_ERRORS as error:
            self._away_until[broker] = time.monotonic() + AWAY_SECONDS
            said = {"broker": broker, "task_id": str(labels.task_id), "error": str(error)}
            log.warning("task not sent", extra=said)
            return False
        return True

    def revoke(self, broker: str, task_id: UUID) -> None:
        """Ask its workers to drop the task; whether one hears it is not known."""
        if broker in self.away() or broker not in self._urls:
            return
        try:
            self._app(broker).control.revoke(str(task_id))
        except PUBLISH_ERRORS as error:
            log.warning("task not revoked", extra={"broker": broker, "task_id": str(task_id), "error": str(error)})

    def _app(self, broker: str) -> Celery:
        if broker not in self._apps:
            self._apps[broker] = make_sender(
                self._urls[broker], self._options.get(broker, {}), timeout_seconds=self._timeout_seconds
            )
        return self._apps[broker]


def make_sender(url: str, options: Mapping[str, Any], *, timeout_seconds: float) -> Celery:
    """A Celery app that only sends; `options`: what the user's own app has as `broker_transport_options`."""
    app = Celery("chargehand-tasks", set_as_current=False)
    waits: dict[str, Any] = {}
    if url.startswith(("redis://", "rediss://", "redis+socket://", "sentinel://")):
        waits = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    elif url.startswith(("amqp", "pyamqp")):
        # Without it a message that RabbitMQ refuses counts as sent.
        waits = {"confirm_publish": True}
    app.conf.update(
        broker_url=url,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_timeout=timeout_seconds,
        # The dispatcher tries again, and does other work meanwhile.
        task_publish_retry=False,
        broker_transport_options={**waits, **options},
        task_send_sent_event=False,
    )
    return app


def _look_for(queue: str, producer: Any) -> None:
    """RabbitMQ drops in silence what is sent to a queue that is not there; elsewhere a message makes its queue."""
    if producer.connection.transport.driver_type == "amqp":
        producer.channel.queue_declare(queue, passive=True)

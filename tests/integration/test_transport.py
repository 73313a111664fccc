"""What our repairs of kombu's Redis transport do to a message, on a real Valkey."""

import socket
from collections.abc import Iterator
from itertools import pairwise
from threading import Timer

import kombu.utils.functional
import pytest
import redis
from celery import Celery
from kombu import Consumer, Producer, Queue
from kombu.utils.imports import symbol_by_name

from chargehand.orchestrator import broker
from chargehand.orchestrator.settings import Settings

QUEUE = "chargehand.audit"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = broker.make_app(Settings(), redis_url)
    yield app
    app.close()


def send(app: Celery) -> None:
    with app.connection_for_write() as connection:
        Producer(connection.default_channel).publish({}, routing_key=QUEUE)


def test_a_message_that_reaches_a_process_that_has_stopped_consuming_goes_back_at_once(
    app: Celery, redis_url: str
) -> None:
    with app.connection_for_read() as connection, redis.Redis.from_url(redis_url) as client:
        consumer = Consumer(connection.default_channel, [Queue(QUEUE)], callbacks=[pytest.fail], auto_declare=False)
        consumer.consume()
        # Its BRPOP stands, and nothing has come.
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.1)
        late = Timer(0.1, send, [app])
        late.start()

        # Its tasks are still at work, so the connection stays open.
        consumer.cancel()

        late.join()
        assert client.llen(QUEUE) == 1
        assert client.hlen("chargehand.unacked") == 0


def test_a_worker_is_back_soon_after_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    # Celery's own consumer would have tried three times within twelve seconds, and once more within twenty.
    class Enough(Exception):
        pass

    app = broker.make_app(Settings(), "redis://127.0.0.1:1/0")
    consumer_class = symbol_by_name(app.conf.worker_consumer)
    consumer = consumer_class.__new__(consumer_class)
    consumer.app, consumer.first_connection_attempt, consumer.broker_connection_retry_attempt = app, False, 0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) > 60:
            raise Enough

    attempts: list[float] = []

    def connect(_self: object) -> None:
        attempts.append(sum(pauses))
        raise ConnectionRefusedError

    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    connection = app.connection_for_read()
    monkeypatch.setattr(type(connection), "_establish_connection", connect)
    with pytest.raises(Enough):
        consumer.ensure_connected(connection)

    assert len([moment for moment in attempts if moment < 5]) >= 5
    assert max(later - sooner for sooner, later in pairwise(attempts)) < 2.1

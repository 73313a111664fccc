"""What our repairs of kombu's Redis transport do to a message, on a real Valkey."""

import socket
from collections.abc import Iterator
from threading import Timer

import pytest
import redis
from celery import Celery
from kombu import Consumer, Producer, Queue

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

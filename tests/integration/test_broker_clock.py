"""Whose clock says when a message was taken: Redis's, whatever the clocks of the processes say."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from kombu.transport import redis as kombu_redis

from chargehand.orchestrator import broker, transport
from chargehand.orchestrator.settings import Settings

DAY_SECONDS = 86_400.0
QUEUE = "chargehand.audit"
SETTINGS = Settings()


@contextmanager
def clock(ahead_seconds: float) -> Iterator[None]:
    """This process's clock as it is set wrongly; Redis's is right."""
    now = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kombu_redis, "time", lambda: now() + ahead_seconds)
        patch.setattr(transport.time, "time", lambda: now() + ahead_seconds)
        yield


@contextmanager
def channel(redis_url: str) -> Iterator[Any]:
    """What a worker reads its messages from."""
    app = broker.make_app(SETTINGS, redis_url)
    with app.connection_for_read() as connection:
        opened = connection.channel()
        opened.queue_declare(queue=QUEUE)
        yield opened
    app.close()


def take(opened: Any) -> bool:
    """Take a message and keep it unacknowledged, as while its step runs; whether there was one."""
    return opened.basic_get(QUEUE, no_ack=False) is not None


def look_for_abandoned(opened: Any) -> None:
    opened.qos.restore_visible(num=10, interval=1)


@pytest.mark.parametrize("ahead", [DAY_SECONDS, -DAY_SECONDS])
def test_a_worker_whose_clock_is_wrong_by_a_day_neither_takes_messages_away_nor_loses_its_own(
    redis_url: str, ahead: float
) -> None:
    with channel(redis_url) as right, channel(redis_url) as wrong, redis.Redis.from_url(redis_url) as client:
        client.lpush(QUEUE, *(message(right, n) for n in range(2)))
        assert take(right)
        with clock(ahead):
            assert take(wrong)
            look_for_abandoned(wrong)
        look_for_abandoned(right)
        assert client.llen(QUEUE) == 0, "both are being worked on"

        # A time-out later, with the worker of the wrong clock alive and the other one gone.
        timeout = SETTINGS.visibility_timeout_seconds + 1
        for tag in client.zrange(f"{SETTINGS.key_prefix}.unacked_index", 0, -1):
            client.zincrby(f"{SETTINGS.key_prefix}.unacked_index", -timeout, tag)
        with clock(ahead):
            wrong.refresh_unacked()
            look_for_abandoned(wrong)
        look_for_abandoned(right)
        assert client.llen(QUEUE) == 1, "what nobody works on any more is there again"


def message(opened: Any, number: int) -> str:
    """A message as kombu writes it."""
    body = opened.prepare_message(f"{number}", properties={"delivery_info": {"exchange": "", "routing_key": QUEUE}})
    body["properties"]["delivery_tag"] = f"tag-{number}"
    return str(kombu_redis.dumps(body))

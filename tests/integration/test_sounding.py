"""A look at a real Valkey: whether it was emptied since, and how long its queues are."""

from collections.abc import Iterator

import pytest
import redis

from chargehand.memory import keyspace
from chargehand.orchestrator import broker
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.sounding import key_of, sound

SETTINGS = Settings()


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    made = keyspace.connect(redis_url, connect_timeout_seconds=3.0, retries=0)
    yield made
    made.close()


def whole_since(client: "redis.Redis", now: float) -> float | None:
    found = sound(client, SETTINGS, now=lambda: now)
    assert found is not None
    return found.whole_since


def test_a_broker_is_whole_since_the_first_look(client: "redis.Redis") -> None:
    assert whole_since(client, 1_800_000_000.123456) == 1_800_000_000.123456
    assert whole_since(client, 1_800_000_005.0) == 1_800_000_000.123456
    assert client.ttl(key_of(SETTINGS)) == -1


@pytest.mark.parametrize("emptied", ["FLUSHALL", "FLUSHDB"])
def test_a_broker_that_was_emptied_is_whole_since_the_look_that_notices(client: "redis.Redis", emptied: str) -> None:
    whole_since(client, 1_000.0)
    client.execute_command(emptied)
    assert whole_since(client, 2_000.0) == 2_000.0
    assert whole_since(client, 3_000.0) == 2_000.0


def test_of_two_supervisors_that_notice_at_once_both_believe_the_first(client: "redis.Redis", redis_url: str) -> None:
    seen: list[float | None] = []

    def now() -> float:
        # The other one is faster.
        with keyspace.connect(redis_url, connect_timeout_seconds=3.0) as other:
            seen.append(whole_since(other, 1_500.0))
        return 1_400.0

    found = sound(client, SETTINGS, now=now)
    assert found is not None
    assert [found.whole_since] == seen == [1_500.0]


def test_it_tells_how_many_messages_wait_for_each_pool(client: "redis.Redis") -> None:
    client.rpush(broker.queue_name(SETTINGS, "audit"), "one", "two")
    found = sound(client, SETTINGS, now=lambda: 1.0)
    assert found is not None
    assert {pool: length for pool, length in found.lengths.items() if length} == {"audit": 2}


def test_a_value_that_is_no_time_says_nothing(client: "redis.Redis") -> None:
    client.set(key_of(SETTINGS), "ours")
    assert whole_since(client, 1.0) is None


def test_a_broker_that_does_not_answer_is_not_looked_into() -> None:
    with keyspace.connect("redis://127.0.0.1:1/0", connect_timeout_seconds=0.5, retries=0) as nobody:
        assert sound(nobody, SETTINGS, now=lambda: pytest.fail("nobody asks for the time")) is None

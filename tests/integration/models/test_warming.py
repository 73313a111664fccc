"""A fan-out warms its prefix once, and nobody waits for a leader or a Redis that is gone."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from wire import call, faults, message, models_over, serving

from chargehand.memory import keyspace
from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import cost_microusd, reserve_microusd
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelAnswer, ModelCall, ModelUnavailable
from chargehand.workers.models.warming import Warming
from chargehand.workers.models.wire import cache_miss_of, open_client, usage_of
from chargehand.workers.offline.server import OfflineServer

WAYS = 8


@pytest.fixture
def redis(redis_url: str) -> Iterator["Redis"]:
    """A Redis with short time-outs, as a worker has one for this."""
    with Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


def fan_out(models: AnthropicModels, ways: int = WAYS) -> list[Usage]:
    """What so many agents that start at once use; each has its own task behind the shared prefix."""
    answers: list[ModelAnswer] = []
    start = threading.Barrier(ways)

    def one(number: int) -> None:
        asking = agents_call(number)
        start.wait()
        answers.append(models.call(asking))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(ways)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(answers) == ways
    return [answer.usage for answer in answers]


def agents_call(number: int, **changes: Any) -> ModelCall:
    """The first call of an agent of the run."""
    content = [{"type": "text", "text": "<run>shared</run>"}, {"type": "text", "text": f"<task>{number}</task>"}]
    return call(padding=12_000, messages=[{"role": "user", "content": content}], **changes)


def gone_redis() -> "Redis":
    """A Redis that is not there, as a worker asks it: once."""
    return keyspace.connect("redis://127.0.0.1:9", connect_timeout_seconds=0.1, socket_timeout_seconds=0.05, retries=0)


def served(server: OfflineServer, warming: Warming | None) -> Any:
    """A client of eight connections and the models over it."""
    client = open_client(threads=WAYS, base_url=server.base_url, api_key="k")
    return client, models_over(client, warming=warming)


def test_eight_way_fan_out_is_one_write_and_seven_reads(redis: "Redis") -> None:
    with serving(delay_seconds=0.2) as server:
        client, models = served(server, Warming(redis, key_prefix="t8"))
        with client:
            usages = fan_out(models)

    assert sorted(usage.cache_write_tokens > 0 for usage in usages) == [False] * (WAYS - 1) + [True]
    assert sum(usage.cache_read_tokens > 0 for usage in usages) == WAYS - 1


def test_without_warming_a_cold_fan_out_writes_as_often_as_it_is_wide() -> None:
    with serving(delay_seconds=1.0) as server:
        client, models = served(server, None)
        with client:
            usages = fan_out(models)

    assert sum(usage.cache_write_tokens > 0 for usage in usages) == WAYS


def test_leader_that_fails_is_followed_by_another_at_once(redis: "Redis") -> None:
    with serving(delay_seconds=0.1) as server:
        client, models = served(server, Warming(redis, key_prefix="tf", wait_seconds=60))
        faults(server, kind="server_error")
        with client:
            with pytest.raises(ModelUnavailable):
                models.call(agents_call(0))
            started = time.monotonic()
            usages = fan_out(models, ways=3)

    assert time.monotonic() - started < 30
    assert sum(usage.cache_write_tokens > 0 for usage in usages) == 1


def test_leader_that_is_lost_is_not_waited_for_longer_than_said(redis: "Redis") -> None:
    lost = Warming(redis, key_prefix="tl")
    assert lost._enter("p") is not None  # its process dies here
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    waiting = Warming(redis, key_prefix="tl", wait_seconds=1.0, sleep=sleep, clock=lambda: now[0])
    with waiting.turn("p", ttl_seconds=300) as warm:
        assert warm is None

    assert 0.9 <= sum(slept) <= 1.1


def test_key_of_a_lost_leader_ends_by_itself(redis: "Redis") -> None:
    assert Warming(redis, key_prefix="te", leader_seconds=0.05)._enter("p") is not None

    with Warming(redis, key_prefix="te").turn("p", ttl_seconds=300) as warm:
        assert warm is not None


def test_without_redis_nobody_waits() -> None:
    with serving() as server, gone_redis() as gone:
        client, models = served(server, Warming(gone, key_prefix="t", wait_seconds=60))
        with client:
            started = time.monotonic()
            usages = fan_out(models)

    assert time.monotonic() - started < 30
    assert len(usages) == WAYS


def test_short_prefix_is_not_worth_a_wait(redis: "Redis") -> None:
    with serving() as server:
        client, models = served(server, Warming(redis, key_prefix="ts"))
        with client:
            models.call(call())

    assert not list(redis.scan_iter("ts:*"))


def test_server_says_which_part_of_the_prefix_has_changed() -> None:
    with serving() as server:
        client, models = served(server, None)
        with client:
            first = models.call(agents_call(0, previous_message_id=""))
            same = models.call(agents_call(0, previous_message_id=first.message_id))
            tools = [{"name": "x", "input_schema": {"type": "object"}}]
            other = models.call(agents_call(0, previous_message_id=first.message_id, tools=tools))
            unknown = models.call(agents_call(0, previous_message_id="msg_nobody_knows"))

    assert (first.cache_miss, same.cache_miss) == ("", "")
    assert other.cache_miss.startswith("tools_changed: ")
    assert int(other.cache_miss.split()[1]) > 1_000
    assert unknown.cache_miss == "previous_message_not_found"


def test_diagnosis_that_is_pending_or_strange_is_no_miss() -> None:
    assert cache_miss_of(message(diagnostics={"cache_miss_reason": None})) == ""
    assert cache_miss_of(message(diagnostics="soon")) == ""
    assert cache_miss_of(message()) == ""


def test_prefix_kept_for_an_hour_is_asked_for_bounded_and_paid_as_such() -> None:
    with serving() as server:
        client, models = served(server, None)
        with client:
            asking = agents_call(0, cache_ttl="1h")
            quote = models.quote(asking)
            usage = models.call(asking).usage

    assert usage.cache_write_hour_tokens == usage.cache_write_tokens > 0
    assert quote.reserved_microusd > models.quote(agents_call(0)).reserved_microusd
    assert cost_microusd("claude-sonnet-5-5", usage) - cost_microusd(
        "claude-sonnet-5-5", usage.model_copy(update={"cache_write_hour_tokens": 0})
    ) == pytest.approx(usage.cache_write_tokens * 0.75 * 2, abs=1)
    short, long = (reserve_microusd("claude-opus-5-5", 10, 0, kept_for_an_hour=hour) for hour in (False, True))
    assert long > short


def test_usage_without_the_hours_counter_is_of_five_minutes() -> None:
    assert usage_of({"cache_creation_input_tokens": 9}).cache_write_hour_tokens == 0
    assert usage_of({"cache_creation": None}).cache_write_hour_tokens == 0

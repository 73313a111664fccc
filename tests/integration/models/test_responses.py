"""The very same question about a way is asked once; what is cut off or another tenant's, each time."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from wire import call, faults, models_over, serving

from chargehand.memory import keyspace
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelAnswer, ModelCall, ModelRefused
from chargehand.workers.models.responses import ResponseCache
from chargehand.workers.models.wire import open_client
from chargehand.workers.offline.server import OfflineServer


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    """Counts the calls that it gets."""
    with serving() as running:
        yield running


@pytest.fixture
def models(server: OfflineServer, redis_url: str) -> Iterator[AnthropicModels]:
    """Models that remember answers."""
    with (
        Redis.from_url(redis_url) as redis,
        open_client(threads=1, base_url=server.base_url, api_key="k") as client,
    ):
        redis.flushall()
        yield models_over(client, responses=ResponseCache(redis, key_prefix="r", ttl_seconds=60))


def turn(models: AnthropicModels, asking: ModelCall) -> ModelAnswer:
    """As a turn does it."""
    quote = models.quote(asking)
    return quote.answer or models.call(asking)


def test_second_equal_question_is_answered_without_a_call_and_for_nothing(
    models: AnthropicModels, server: OfflineServer
) -> None:
    first = turn(models, call(cache_scope="tenant"))
    quote = models.quote(call(cache_scope="tenant"))

    assert len(server.ledger.calls()) == 1
    assert quote.answer is not None
    assert (quote.answer.content, quote.answer.cost_microusd, quote.reserved_microusd) == (first.content, 0, 0)
    assert quote.routed_because.endswith("; answered before")


@pytest.mark.parametrize(
    "other",
    [
        {"cache_scope": "other tenant"},
        {"cache_scope": ""},
        {"model": "claude-haiku-5-5"},
        {"max_tokens": 4_000},
        {"system": [{"type": "text", "text": "Another."}]},
        {"tool_choice": {"type": "any"}},
    ],
    ids=str,
)
def test_whatever_differs_is_asked(models: AnthropicModels, server: OfflineServer, other: dict[str, Any]) -> None:
    turn(models, call(cache_scope="tenant"))

    turn(models, call(**{"cache_scope": "tenant", **other}))

    assert len(server.ledger.calls()) == 2


def test_answer_that_was_cut_off_or_refused_is_not_kept(models: AnthropicModels, server: OfflineServer) -> None:
    turn(models, call(cache_scope="t", max_tokens=8))
    turn(models, call(cache_scope="t", max_tokens=8))
    faults(server, kind="refusal")
    with pytest.raises(ModelRefused):
        turn(models, call(cache_scope="t"))
    turn(models, call(cache_scope="t", model="claude-haiku-5-5"))

    assert len(server.ledger.calls()) == 4


def test_without_redis_the_model_is_asked(server: OfflineServer) -> None:
    gone = keyspace.connect("redis://127.0.0.1:9", connect_timeout_seconds=0.1, socket_timeout_seconds=0.05, retries=0)
    with open_client(threads=1, base_url=server.base_url, api_key="k") as client:
        models = models_over(client, responses=ResponseCache(gone, key_prefix="r", ttl_seconds=60))
        turn(models, call(cache_scope="t"))
        turn(models, call(cache_scope="t"))

    assert len(server.ledger.calls()) == 2


def test_what_another_version_has_kept_is_no_answer(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        cache = ResponseCache(redis, key_prefix="v", ttl_seconds=60)
        redis.set(cache._key(call(cache_scope="t"), "m"), '{"words": "old"}')

        assert cache.find(call(cache_scope="t"), "m") is None

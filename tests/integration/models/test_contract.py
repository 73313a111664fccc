"""The SDK, our client and the offline server together over HTTP: what one side says the other must understand."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from redis import Redis
from wire import PLAN_TOOL, call, faults, foreign, message, models_over, serving

from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import reserve_microusd
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelBusy, ModelRefused, ModelUnavailable
from chargehand.workers.models.limits import FleetLimits, RateLimits
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.wire import open_client
from chargehand.workers.offline import MODEL, NOTICE
from chargehand.workers.offline.server import OfflineServer


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    """A server whose faults can be set; nothing else listens on its port."""
    with serving() as running:
        yield running


@pytest.fixture
def client(server: OfflineServer) -> Iterator[anthropic.Anthropic]:
    """The SDK as our workers open it."""
    with open_client(threads=4, base_url=server.base_url, api_key="test") as opened:
        yield opened


@pytest.fixture
def models(client: anthropic.Anthropic) -> AnthropicModels:
    """Our models over that client."""
    return models_over(client)


def test_plain_call_gives_a_tool_call_and_says_what_answered(models: AnthropicModels) -> None:
    answer = models.call(call())

    assert answer.model == MODEL
    assert answer.stop_reason == "tool_use"
    assert [block["type"] for block in answer.content] == ["text", "tool_use"]
    assert NOTICE in str(answer.content[0]["text"])
    assert answer.content[1]["name"] == "submit_plan"
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert answer.cost_microusd == 0


def test_watched_call_streams_and_gives_the_very_same_answer(models: AnthropicModels) -> None:
    heard: list[str] = []

    watched = models.call(call(on_delta=heard.append))
    plain = models.call(call())

    assert watched.content == plain.content
    assert watched.stop_reason == plain.stop_reason
    assert watched.usage == plain.usage
    assert "".join(heard) == plain.content[0]["text"]


def test_sdk_reads_our_stream_as_its_own(client: anthropic.Anthropic) -> None:
    asked = call()

    with client.messages.stream(
        model="claude-opus-5-5",
        max_tokens=4096,
        tools=list(asked.tools),
        messages=list(asked.messages),  # type: ignore[arg-type]
    ) as stream:
        message = stream.get_final_message()

    assert message.stop_reason == "tool_use"
    assert message.content[1].type == "tool_use"
    assert message.content[1].input["steps"]  # type: ignore[index]


def test_tokens_are_counted_as_they_are_billed(client: anthropic.Anthropic, models: AnthropicModels) -> None:
    asked = call()

    counted = client.messages.count_tokens(
        model="claude-opus-5-5",
        system=list(asked.system),  # type: ignore[arg-type]
        tools=list(asked.tools),  # type: ignore[arg-type]
        messages=list(asked.messages),  # type: ignore[arg-type]
    )

    assert counted.input_tokens == models.call(asked).usage.input_tokens


def test_model_information_names_the_stand_in(client: anthropic.Anthropic) -> None:
    information = client.models.retrieve("claude-opus-5-5")

    assert information.id == MODEL
    assert NOTICE in information.display_name
    assert information.max_input_tokens


def test_cache_is_written_by_the_first_call_and_read_by_the_second(models: AnthropicModels) -> None:
    first = models.call(call(padding=8_000))
    second = models.call(call(padding=8_000))

    assert (first.usage.cache_write_tokens > 0, first.usage.cache_read_tokens) == (True, 0)
    assert (second.usage.cache_write_tokens, second.usage.cache_read_tokens > 0) == (0, True)
    assert first.usage.cache_write_tokens == second.usage.cache_read_tokens
    assert first.usage.input_tokens == second.usage.input_tokens


def test_short_prefix_is_silently_not_cached(models: AnthropicModels) -> None:
    models.call(call())

    usage = models.call(call()).usage

    assert (usage.cache_write_tokens, usage.cache_read_tokens) == (0, 0)


def test_rate_limit_is_busy_until_the_server_says(server: OfflineServer, models: AnthropicModels) -> None:
    faults(server, kind="rate_limited", retry_after_seconds=7)

    with pytest.raises(ModelBusy) as busy:
        models.call(call())

    assert busy.value.until_seconds == 7
    assert models.call(call()).stop_reason == "tool_use"


def test_endless_retry_after_is_capped(server: OfflineServer, models: AnthropicModels) -> None:
    faults(server, kind="rate_limited", retry_after_seconds=86_400)

    with pytest.raises(ModelBusy) as busy:
        models.call(call())

    assert busy.value.until_seconds == 300


def test_overloaded_model_is_left_for_another_one(server: OfflineServer, models: AnthropicModels) -> None:
    asked = call(tier="medium", model=None)
    faults(server, kind="overloaded", retry_after_seconds=30)

    with pytest.raises(ModelBusy):
        models.call(asked)
    quote = models.quote(asked)

    assert quote.model == "claude-opus-5-5"
    assert "fell back from claude-sonnet-5-5 (overloaded)" in quote.routed_because


def test_refusal_costs_what_it_used_and_sends_the_same_prompt_elsewhere(
    server: OfflineServer, models: AnthropicModels
) -> None:
    asked = call(tier="medium", model=None)
    faults(server, kind="refusal")

    with pytest.raises(ModelRefused):
        models.call(asked)

    assert "refused this prompt" in models.quote(asked).routed_because
    assert models.quote(call(tier="medium", model=None, padding=900)).model == "claude-sonnet-5-5"


def test_server_error_may_be_tried_again_and_cost_nothing(server: OfflineServer, models: AnthropicModels) -> None:
    faults(server, kind="server_error")

    with pytest.raises(ModelUnavailable) as failure:
        models.call(call())

    assert (failure.value.retryable, failure.value.cost_microusd) == (True, 0)


def test_sdk_never_tries_again_by_itself(server: OfflineServer, models: AnthropicModels) -> None:
    faults(server, kind="server_error", times=5)

    with pytest.raises(ModelUnavailable):
        models.call(call())

    assert len(server.ledger.calls()) == 1


def test_invalid_request_is_not_tried_again(models: AnthropicModels) -> None:
    with pytest.raises(ModelUnavailable, match="tool_use") as failure:
        models.call(
            call(
                messages=[
                    {"role": "user", "content": "Begin."},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "x", "input": {}}]},
                    {"role": "user", "content": "No result here."},
                ]
            )
        )

    assert (failure.value.retryable, failure.value.cost_microusd) == (False, 0)


@pytest.mark.parametrize("watched", [True, False], ids=["stream", "plain"])
def test_cut_answer_stays_charged_at_its_reservation(
    server: OfflineServer, models: AnthropicModels, watched: bool
) -> None:
    faults(server, kind="cut_stream")
    asked = call(on_delta=(lambda text: None) if watched else None)
    reserved = models.quote(asked).reserved_microusd

    with pytest.raises(ModelUnavailable) as failure:
        models.call(asked)

    assert failure.value.retryable
    assert failure.value.cost_microusd == reserved > 0


def test_answer_that_never_comes_stays_charged(server: OfflineServer, client: anthropic.Anthropic) -> None:
    faults(server, kind="lost_after_billing", seconds=2)
    models = models_over(client, total_seconds=0.3)

    with pytest.raises(ModelUnavailable, match="in time") as failure:
        models.call(call())

    assert failure.value.cost_microusd > 0
    assert [one["billed"] for one in server.ledger.calls()] == [True]


def test_pings_do_not_outlast_the_total_deadline(server: OfflineServer, client: anthropic.Anthropic) -> None:
    faults(server, kind="pings", seconds=20)
    models = models_over(client, total_seconds=0.5)
    started = time.monotonic()

    with pytest.raises(ModelUnavailable) as failure:
        models.call(call(on_delta=lambda text: None))

    assert time.monotonic() - started < 15
    assert failure.value.cost_microusd > 0


def test_server_that_is_not_there_costs_nothing() -> None:
    with (
        open_client(threads=1, base_url="http://127.0.0.1:9", api_key="test") as client,
        pytest.raises(ModelUnavailable, match="cannot be reached") as failure,
    ):
        models_over(client).call(call())

    assert (failure.value.retryable, failure.value.cost_microusd) == (True, 0)


def test_watcher_that_stops_ends_the_call(server: OfflineServer, models: AnthropicModels) -> None:
    class LeaseGoneError(Exception):
        """The lease is gone."""

    def stop(text: str) -> None:
        raise LeaseGoneError

    with pytest.raises(LeaseGoneError):
        models.call(call(on_delta=stop))


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    with serving(delay_seconds=1.0) as slow, open_client(threads=20, base_url=slow.base_url, api_key="test") as client:
        models = models_over(client)
        threads = [threading.Thread(target=models.call, args=(call(),)) for _ in range(20)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)

    # One after the other they would take twenty seconds.
    assert time.monotonic() - started < 15
    assert len(slow.ledger.calls()) == 20


# --- servers that are not ours ---------------------------------------------------------------------------------------


def test_unknown_fields_and_blocks_are_passed_on_untouched() -> None:
    body = message(
        content=[{"type": "text", "text": "Yes.", "mood": "calm"}, {"type": "omen", "bird": "crow"}],
        weather="rain",
        stop_reason="pause_turn",
    )
    models = models_over(foreign(lambda request: httpx2.Response(200, json=body)))

    answer = models.call(call(model="claude-sonnet-5-5"))

    assert answer.stop_reason == "pause_turn"
    assert answer.content == ({"type": "text", "text": "Yes.", "mood": "calm"}, {"type": "omen", "bird": "crow"})


def test_unknown_events_blocks_and_deltas_of_a_stream_are_no_obstacle() -> None:
    start = message(content=[], stop_reason=None)
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "weather", "rain": True},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "omen", "bird": "crow"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "feather_delta", "feather": "black"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "t", "name": "x", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    headers = {"content-type": "text/event-stream"}
    models = models_over(foreign(lambda request: httpx2.Response(200, content=body, headers=headers)))

    answer = models.call(call(on_delta=lambda text: None))

    assert answer.stop_reason == "max_tokens"
    # The tool call was cut in the middle of its arguments: it is no call.
    assert answer.content == (
        {"type": "omen", "bird": "crow"},
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    )
    assert answer.usage == Usage(input_tokens=1_000, output_tokens=7)


def test_limits_of_the_fleet_are_asked_before_the_model(redis_url: str, client: anthropic.Anthropic) -> None:
    limits = FleetLimits(Redis.from_url(redis_url), key_prefix="t", limits={"*": RateLimits(requests=1)})
    models = models_over(client, limits=limits)
    models.quote(call())

    with pytest.raises(ModelBusy, match="limit") as busy:
        models.quote(call())

    assert 0 < busy.value.until_seconds <= 60


def test_rate_limit_of_one_worker_slows_all(redis_url: str, server: OfflineServer, client: anthropic.Anthropic) -> None:
    limits = FleetLimits(Redis.from_url(redis_url), key_prefix="t", limits={})
    one, other = models_over(client, limits=limits), models_over(client, limits=limits)
    faults(server, kind="rate_limited", retry_after_seconds=30)

    with pytest.raises(ModelBusy):
        one.call(call())
    with pytest.raises(ModelBusy) as busy:
        other.quote(call())

    assert 25 < busy.value.until_seconds <= 30


def test_dated_model_name_is_charged_at_its_price() -> None:
    models = models_over(foreign(lambda request: httpx2.Response(200, json=message())))

    answer = models.call(call(model="claude-sonnet-5-5"))

    assert answer.model == "claude-sonnet-5-5-20260901"
    assert answer.cost_microusd == 3_000


def test_tokens_of_server_side_steps_are_charged_too() -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "iterations": [
            {"type": "compaction", "input_tokens": 1_000, "output_tokens": 100},
            {"type": "message", "input_tokens": 10, "output_tokens": 5},
        ],
    }
    models = models_over(foreign(lambda request: httpx2.Response(200, json=message(usage=usage))))

    assert models.call(call(model="claude-sonnet-5-5")).usage == Usage(input_tokens=1_010, output_tokens=105)


def test_spent_account_is_no_rate_limit() -> None:
    body = {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "limit",
            "details": {"error_code": "contract_spend_limit_reached"},
        },
    }
    models = models_over(foreign(lambda request: httpx2.Response(429, json=body)))

    with pytest.raises(ModelUnavailable, match="spend limit") as failure:
        models.call(call())

    assert not failure.value.retryable


def test_error_event_inside_a_stream_stays_charged() -> None:
    events = (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
        '"model":"claude-opus-5-5","content":[],"stop_reason":null,"usage":{"input_tokens":5,"output_tokens":1}}}\n\n'
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    headers = {"content-type": "text/event-stream"}
    models = models_over(foreign(lambda request: httpx2.Response(200, content=events.encode(), headers=headers)))
    asked = call(on_delta=lambda text: None)

    with pytest.raises(ModelUnavailable) as failure:
        models.call(asked)

    assert failure.value.retryable
    assert failure.value.cost_microusd == models.quote(asked).reserved_microusd


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (401, False), (404, False), (409, True), (500, True)])
def test_statuses_are_told_apart(status: int, retryable: bool) -> None:
    body = {"type": "error", "error": {"type": "api_error", "message": "no"}}
    models = models_over(foreign(lambda request: httpx2.Response(status, json=body)))

    with pytest.raises(ModelUnavailable) as failure:
        models.call(call())

    assert (failure.value.retryable, failure.value.cost_microusd) == (retryable, 0)


def test_features_that_a_server_lacks_are_not_sent() -> None:
    sent: list[bytes] = []

    def remember(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(200, json=message())

    asked = call(tools=[{**PLAN_TOOL, "strict": True}], tool_choice={"type": "any"})
    models_over(foreign(remember), profile=PROFILES["ollama"]).call(asked)
    models_over(foreign(remember), profile=PROFILES["anthropic"]).call(asked)

    for feature in (b"cache_control", b"strict", b"tool_choice"):
        assert feature not in sent[0]
        assert feature in sent[1]
    assert b"temperature" in sent[0]
    assert b"temperature" not in sent[1]


def test_server_is_told_which_call_of_the_journal_a_request_is() -> None:
    sent: list[httpx2.Headers] = []

    def remember(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers)
        return httpx2.Response(200, json=message())

    models = models_over(foreign(remember))
    models.call(call(request_id="run/step/call"))
    models.call(call())

    assert sent[0]["x-client-request-id"] == "run/step/call"
    assert "x-client-request-id" not in sent[1]


def test_reservation_covers_what_claude_would_charge() -> None:
    asked = call(padding=8_000)
    models = models_over(foreign(lambda request: httpx2.Response(200, json=message())))

    quote = models.quote(asked)

    assert quote.reserved_microusd >= reserve_microusd("claude-opus-5-5", 8_000, 4_096)
    assert quote.max_tokens == 4_096

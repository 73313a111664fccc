"""Each profile against a server with the quirks of its kind: what it lacks is not sent, the rest is answered."""

import json
from typing import Any

import anthropic
import httpx2
import pytest
from pydantic import BaseModel
from wire import PLAN_TOOL, TIERS, call, message, serving

from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelAnswer, ModelCall, ModelUnavailable
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.structured import MAX_REPAIRS, ask
from chargehand.workers.models.wire import open_client
from chargehand.workers.offline.imitation import IMITATIONS

LOOK_TOOL: dict[str, Any] = {"name": "look", "input_schema": {"type": "object", "properties": {}}, "strict": True}


class Colour(BaseModel):
    """A typed answer."""

    name: str
    is_warm: bool


def models_for(name: str, client: anthropic.Anthropic) -> AnthropicModels:
    """Models of that profile."""
    return AnthropicModels(client, tiers=TIERS, profile=PROFILES[name])


def by_quote(models: AnthropicModels, asking: ModelCall) -> ModelAnswer:
    """One attempt as a turn makes it."""
    quote = models.quote(asking)
    answer = models.call(asking)
    assert answer.cost_microusd <= quote.reserved_microusd
    return answer


def test_every_profile_has_an_imitation() -> None:
    assert PROFILES.keys() == IMITATIONS.keys()


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("name", PROFILES)
def test_the_last_turn_ends_with_the_finish_tool_on_every_server(name: str, streamed: bool) -> None:
    with (
        serving(imitation=IMITATIONS[name]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        models = models_for(name, sdk)
        asking = call(
            tools=[LOOK_TOOL, PLAN_TOOL],
            tool_choice={"type": "tool", "name": "submit_plan"},
            on_delta=(lambda piece: None) if streamed else None,
        )

        answer = by_quote(models, asking)

    assert [block["name"] for block in answer.content if block["type"] == "tool_use"] == ["submit_plan"]


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.writes_calls])
def test_submission_written_as_prose_is_understood_where_models_do_so(name: str) -> None:
    with (
        serving(imitation=IMITATIONS[name]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        schema = {**PLAN_TOOL["input_schema"], "required": ["steps"]}
        asking = call(
            tools=[{**PLAN_TOOL, "input_schema": schema}], tool_choice={"type": "tool", "name": "submit_plan"}
        )
        server.faults.replace([{"kind": "prose"}])

        answer = models_for(name, sdk).call(asking)

    assert [(block["type"], block.get("name")) for block in answer.content] == [("tool_use", "submit_plan")]
    assert answer.content[0]["input"]["steps"]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.structured != "text"])
def test_typed_answer_comes_back_valid(name: str) -> None:
    with (
        serving(imitation=IMITATIONS[name]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        models = models_for(name, sdk)

        colour = ask(call(tools=[]), Colour, lambda asking: by_quote(models, asking))

    assert not colour.is_warm
    assert colour.name


def test_server_that_only_talks_is_repaired_so_often_and_no_more() -> None:
    # The offline rules never follow words, which is what this server is asked with.
    with (
        serving(imitation=IMITATIONS["ollama"]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        models = models_for("ollama", sdk)
        with pytest.raises(ModelUnavailable, match="no Colour"):
            ask(call(tools=[]), Colour, lambda asking: by_quote(models, asking))

        assert len(server.ledger.calls()) == MAX_REPAIRS + 1


@pytest.mark.parametrize("name", PROFILES)
def test_cache_is_read_where_the_server_has_one(name: str) -> None:
    with (
        serving(imitation=IMITATIONS[name]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        models = models_for(name, sdk)
        models.call(call(padding=8_000))

        usage = models.call(call(padding=8_000)).usage

    assert (usage.cache_read_tokens > 0) == ("cache_control" in PROFILES[name].features)


@pytest.mark.parametrize("name", PROFILES)
def test_imitation_lacks_what_the_profile_says_it_lacks(name: str) -> None:
    features = PROFILES[name].features
    messages: Any = [{"role": "user", "content": "Warm."}]
    with (
        serving(imitation=IMITATIONS[name]) as server,
        open_client(threads=1, base_url=server.base_url, api_key="k") as sdk,
    ):
        if "count_tokens" in features:
            assert sdk.messages.count_tokens(model="m", messages=messages).input_tokens > 0
        else:
            with pytest.raises(anthropic.NotFoundError):
                sdk.messages.count_tokens(model="m", messages=messages)
        if IMITATIONS[name].prewarms:
            assert sdk.messages.create(model="m", max_tokens=0, messages=messages).usage.output_tokens == 0
        else:
            assert "prewarm" not in features
            with pytest.raises(anthropic.BadRequestError):
                sdk.messages.create(model="m", max_tokens=0, messages=messages)


@pytest.mark.parametrize("name", PROFILES)
def test_only_what_the_profile_names_is_sent(name: str) -> None:
    sent: list[dict[str, Any]] = []

    def remember(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json=message())

    client = anthropic.Anthropic(
        base_url="http://server.test",
        api_key="k",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(remember)),
    )
    profile = PROFILES[name]
    models = models_for(name, client)
    models.call(call(tools=[LOOK_TOOL, PLAN_TOOL], tool_choice={"type": "tool", "name": "submit_plan"}))
    models.call(call(tools=[], output_schema={"type": "object"}))

    forced, typed = sent
    assert ("tool_choice" in forced) == ("tool_choice" in profile.features)
    assert ("cache_control" in json.dumps(forced)) == ("cache_control" in profile.features)
    assert ("strict" in json.dumps(forced["tools"])) == ("strict_tools" in profile.features)
    assert ("temperature" in forced) == bool(profile.extra_body)
    assert ("output_config" in typed) == (profile.structured == "schema")
    assert ("tools" in typed) == (profile.structured == "tool")

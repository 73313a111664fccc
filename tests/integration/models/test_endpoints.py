"""Tiers on several servers: each model is asked where it lives, with what that server understands, at its price."""

import pytest
from wire import PLAN_TOOL, call, serving

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.settings import Endpoint, Settings
from chargehand.workers.models.client import open_models
from chargehand.workers.models.interface import ModelBusy
from chargehand.workers.offline.imitation import IMITATIONS


def test_small_tier_on_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("CHARGEHAND_MODEL_PRICES", '{"local/qwen3:8b": [0, 0]}')
    with serving() as usual, serving(imitation=IMITATIONS["ollama"]) as local:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", usual.base_url)
        models = open_models(
            Settings(small_model="local/qwen3:8b", endpoints={"local": Endpoint(url=local.base_url, profile="ollama")}),
            threads=2,
        )
        try:
            forced = {"tool_choice": {"type": "tool", "name": "submit_plan"}, "tools": [PLAN_TOOL]}
            small = models.quote(call(tier="small", model=None, **forced))
            answer = models.call(call(tier="small", model=small.model, max_tokens=small.max_tokens, **forced))
            large = models.quote(call(tier="large", model=None))
            models.call(call(tier="large", model=large.model))
        finally:
            models.close()

    assert (small.model, small.reserved_microusd, small.max_tokens) == ("local/qwen3:8b", 0, 4_096)
    assert [one["model"] for one in local.ledger.calls()] == ["qwen3:8b"]
    assert [one["model"] for one in usual.ledger.calls()] == ["claude-opus-5-5"]
    assert answer.content[-1]["name"] == "submit_plan"
    assert large.reserved_microusd > 0


def test_local_server_that_has_too_much_to_do_is_left_for_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    with serving() as usual, serving(imitation=IMITATIONS["llama.cpp"]) as local:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", usual.base_url)
        models = open_models(
            Settings(small_model="local/q", endpoints={"local": Endpoint(url=local.base_url, profile="llama.cpp")}),
            threads=1,
        )
        try:
            local.faults.replace([{"kind": "overloaded", "retry_after_seconds": 30}])
            with pytest.raises(ModelBusy):
                models.call(call(tier="small", model="local/q"))
            other = models.quote(call(tier="small", model=None))
        finally:
            models.close()

    assert other.model == "claude-sonnet-5-5"
    assert other.routed_because == "medium: fell back from local/q (overloaded)"


def test_unknown_profile_of_an_endpoint_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    with pytest.raises(InvalidSettings, match="'local'"):
        open_models(Settings(endpoints={"local": Endpoint(url="http://x", profile="olama")}), threads=1)

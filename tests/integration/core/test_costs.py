"""Where the money of a run and of the fleet went, read from journals in Postgres."""

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from chargehand.orchestrator import charges, views
from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.costing import Misses
from chargehand.orchestrator.facts import CallAbandoned, ModelRequested, ModelResponded, Usage
from chargehand.orchestrator.prices import PRICES_AS_OF
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.turns import StepRecorder
from tests.integration.core.agents import agent, start

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House


def turn(recorder: StepRecorder, model: str, tier: str, usage: Usage, cost: int, cache_miss: str = "") -> None:
    asked = requested(model, tier)
    recorder.request([], asked)
    recorder.respond(
        ModelResponded(
            call_id=asked.call_id,
            model=model,
            content=({"type": "text", "text": "x"},),
            stop_reason="end_turn",
            usage=usage,
            cost_microusd=cost,
            cache_miss=cache_miss,
        )
    )


def requested(model: str, tier: str) -> ModelRequested:
    return ModelRequested(
        call_id=uuid4(),
        turn=1,
        model=model,
        tier=tier,
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=50_000,
    )


def worked(house: "House") -> "UUID":
    """A run of two agents; one of their calls is of unknown outcome."""
    run_id = start(house, agent("a"), agent("b"), tools={}, budget_microusd=10_000_000)
    first = StepRecorder(house.connections, house.claim(run_id, "a"), lease_seconds=60)
    turn(first, "claude-opus-5-5", "large", Usage(cache_write_tokens=1_000, output_tokens=100), 7_000)
    second = StepRecorder(house.connections, house.claim(run_id, "b"), lease_seconds=60)
    turn(
        second,
        "claude-haiku-5-5",
        "small",
        Usage(cache_read_tokens=9_000, input_tokens=1_000),
        190,
        cache_miss="tools_changed: 700 tokens",
    )
    lost = requested("claude-haiku-5-5", "small")
    second.request([], lost)
    second.abandon(CallAbandoned(call_id=lost.call_id, charged_microusd=50_000))
    return run_id


def test_a_runs_costs_are_those_of_its_account_by_step_and_model(house: "House") -> None:
    run_id = worked(house)

    with house.as_tenant() as session:
        found = charges.of_run(session, run_id, house.settings)
        account = views.account(session, run_id)

    assert found.costs.total.cost_microusd == account.cost_microusd == 57_190
    assert {key: one.cost_microusd for key, one in found.costs.by_step.items()} == {"b": 50_190, "a": 7_000}
    assert found.costs.by_tier["small"].hit_rate == 0.9
    assert found.costs.compared.large_model == house.settings.large_model
    # 10,000 tokens of the small model uncached: a tenth of a dollar for a million.
    assert found.costs.compared.routed_microusd == 1_000 + (4_000 + 2_000)
    assert found.costs.cache_misses == {"tools_changed": Misses(calls=1, tokens=700, steps=("b",))}
    assert found.unpriced == ()


def test_the_command_prints_every_part_of_a_runs_money_and_of_the_fleets(
    house: "House", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = worked(house)
    for name in list(os.environ):
        if name.startswith(("CHARGEHAND_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    given = {"DATABASE_URL": house.database_url, "TENANT": str(house.tenant), "HOME": str(house.settings.home)}
    # Nobody listens there: where money went is asked of Postgres alone.
    for name, value in {**given, "REDIS_URL": "redis://127.0.0.1:1/0"}.items():
        monkeypatch.setenv(f"CHARGEHAND_{name}", value)
    monkeypatch.setenv("COLUMNS", "200")

    def said(*arguments: str) -> str:
        load_settings.cache_clear()
        assert invoke(["cost", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    of_run, of_fleet = said(str(run_id)), said("--since", "7d")
    told = json.loads(said(str(run_id), "--json"))
    rules = start(house, agent("c"), tools={})
    turn(
        StepRecorder(house.connections, house.claim(rules, "c"), lease_seconds=60),
        "offline-rules-1",
        "small",
        Usage(input_tokens=9),
        0,
    )
    of_rules, as_claude = said(str(rules)), said(str(rules), "--as-claude")
    load_settings.cache_clear()

    for text in (of_run, of_fleet):
        assert "2 answered, 1 failed or of unknown outcome, $0.0500 of the cost" in text
        assert "prompt cache 9,000 read, 1,000 written; 82% of the prompts' tokens were read" in text
        assert "saved by caching $-0.0002 (-3% of $0.0070 without it)" in text
        assert "saved by routing $0.0056 (44% of $0.0128 with all by claude-opus-5-5)" in text
        assert f"prices of {PRICES_AS_OF}" in text
        for row in ("asker 3", "claude-opus-5-5 1 0 100 1,000 0 0% $0.0070", "large 1 0 100 1,000 0 0% $0.0070"):
            assert row in text
    assert "tools_changed: 1 call, 700 tokens (b)" in of_run
    assert "b 2 1,000 0 0 9,000 90% $0.0502" in of_run
    assert "tools_changed: 1 call, 700 tokens" in of_fleet
    assert f"{str(run_id)[-8:]} $0.0572" in of_fleet
    nobody = "No language model answered"
    assert [nobody in text for text in (of_run, of_rules, as_claude)] == [False, True, False]
    assert told["cache_misses"] == {"tools_changed": {"calls": 1, "tokens": 700, "steps": ["b"]}}


def test_the_fleets_costs_are_of_this_tenant_and_this_stretch_of_time(house: "House") -> None:
    run_id = worked(house)
    with house.as_tenant() as session:
        before = charges.of_fleet(session, timedelta(days=7), house.settings)
    worked(house)

    with house.as_tenant() as session:
        week = charges.of_fleet(session, timedelta(days=7), house.settings)
        instant = charges.of_fleet(session, timedelta(microseconds=1), house.settings)
    with house.as_tenant(uuid4()) as session:
        strangers = charges.of_fleet(session, timedelta(days=7), house.settings)

    assert week.costs.total.cost_microusd - before.costs.total.cost_microusd == 57_190
    assert week.by_run[str(run_id)] == 57_190
    assert week.costs.by_role["asker"].calls >= 4
    assert instant.costs.total.cost_microusd == 0
    assert (strangers.runs, strangers.costs.total.cost_microusd) == (0, 0)


def test_prices_of_ones_own_are_used_for_the_comparison(house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = worked(house)
    monkeypatch.setenv("CHARGEHAND_MODEL_PRICES", '{"claude-haiku-5-5": [1, 1]}')

    with house.as_tenant() as session:
        found = charges.of_run(session, run_id, house.settings)

    assert found.costs.compared.routed_microusd == 10_000 + (4_000 + 2_000)
    assert "CHARGEHAND_MODEL_PRICES" in found.costs.prices_as_of

"""Where the money of a journal went, on facts made by hand and prices that one can do in one's head."""

from uuid import UUID, uuid4

import pytest

from chargehand.orchestrator.costing import (
    Misses,
    Totals,
    charges_of,
    compare,
    costs_of,
    misses_of,
    served_by,
    unpriced,
)
from chargehand.orchestrator.facts import (
    AnyFact,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    ReservationsCharged,
    ReservationsReturned,
    Usage,
)
from chargehand.orchestrator.prices import Band, Price

A, B = UUID(int=1), UUID(int=2)
STEPS = {A: ("plan", "planner"), B: ("read", "researcher")}
# A dollar, and four, for a million tokens in; ten times as much out; a read costs a tenth.
PRICES = {
    "cheap": Price(
        bands=(Band(up_to_tokens=None, input_microusd=1_000_000, output_microusd=10_000_000),), cache_read_permille=100
    ),
    "dear": Price(
        bands=(Band(up_to_tokens=None, input_microusd=4_000_000, output_microusd=40_000_000),), cache_read_permille=100
    ),
}


def call(model: str, tier: str, usage: Usage, cost: int) -> list[AnyFact]:
    asked = ModelRequested(
        call_id=uuid4(),
        turn=1,
        model=model,
        tier=tier,
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=9_999,
    )
    answer = ModelResponded(
        call_id=asked.call_id, model=model, content=(), stop_reason="end_turn", usage=usage, cost_microusd=cost
    )
    return [asked, answer]


def journal() -> list[tuple[UUID | None, AnyFact]]:
    written = Usage(cache_write_tokens=1_000, output_tokens=100)
    read = Usage(input_tokens=200, cache_read_tokens=800, output_tokens=10)
    lost = call("cheap", "small", Usage(), 0)[0]
    refused = call("cheap", "small", Usage(), 0)[0]
    return [
        *((A, fact) for fact in call("dear", "large", written, 9_000)),
        *((B, fact) for fact in call("cheap", "small", read, 380)),
        (B, lost),
        (B, CallAbandoned(call_id=lost.call_id, charged_microusd=500)),  # type: ignore[union-attr]
        (B, refused),
        (B, ModelFailed(call_id=refused.call_id, error="529", retryable=True, cost_microusd=0)),  # type: ignore[union-attr]
        (None, ReservationsCharged(charged_microusd={A: 70})),
        (None, ReservationsReturned(returned_microusd={A: 30}, calls=(uuid4(),))),
    ]


def test_every_micro_dollar_is_somebodys_and_the_groups_have_the_same_sum() -> None:
    costs = costs_of(charges_of(journal(), STEPS), large_model="dear", prices=PRICES)

    assert costs.total.cost_microusd == 9_000 + 380 + 500 + 70 - 30
    assert costs.total.without_answer_microusd == 500 + 70 - 30
    assert (costs.total.calls, costs.total.calls_without_answer) == (2, 2)
    for group in (costs.by_step, costs.by_role, costs.by_model, costs.by_tier):
        assert sum(one.cost_microusd for one in group.values()) == costs.total.cost_microusd
        assert sum(one.calls for one in group.values()) == 2
    assert list(costs.by_step) == ["plan", "read"]
    assert costs.by_role["researcher"].cost_microusd == 880
    assert costs.by_tier["small"].cache_read_tokens == 800
    assert costs.by_model["cheap"].calls_without_answer == 2


def test_the_comparison_prices_the_same_tokens_without_caching_and_without_routing() -> None:
    compared = compare(charges_of(journal(), STEPS), large_model="dear", prices=PRICES)

    # dear wrote 1,000 at 5 $ and said 100 at 40 $; cheap read 800 at .1 $, 200 at 1 $ and said 10 at 10 $.
    assert compared.routed_and_cached_microusd == (5_000 + 4_000) + (80 + 200 + 100)
    assert compared.routed_microusd == (4_000 + 4_000) + (1_000 + 100)
    assert compared.cached_microusd == (5_000 + 4_000) + (320 + 800 + 400)
    assert compared.neither_microusd == (4_000 + 4_000) + (4_000 + 400)
    # One write that nobody read twice: caching has cost more than it saved, and says so.
    assert compared.saved_by_caching_microusd == 9_100 - 9_380
    assert compared.saved_by_routing_microusd == 10_520 - 9_380
    assert compared.saved_microusd == 12_400 - 9_380


def test_a_run_of_a_model_that_costs_nothing_can_be_priced_as_another() -> None:
    free = [(B, fact) for fact in call("offline-rules-1", "small", Usage(input_tokens=1_000), 0)]

    priced = served_by(charges_of(free, STEPS), {"small": "cheap"}, PRICES)

    assert [(one.model, one.cost_microusd) for one in priced] == [("cheap", 1_000)]


def test_what_the_offline_rules_answered_is_told_from_what_a_model_did() -> None:
    free = charges_of([(B, fact) for fact in call("offline-rules-1", "small", Usage(input_tokens=1_000), 0)], STEPS)
    paid = served_by(free, {"small": "cheap"}, PRICES)

    found = [costs_of(some, large_model="dear", prices=PRICES).by_rules_alone for some in (free, paid, free + paid, [])]

    assert found == [True, False, False, False]


def test_models_without_a_price_are_named() -> None:
    charges = charges_of([(A, fact) for fact in call("who-knows", "large", Usage(input_tokens=1), 1)], STEPS)

    assert unpriced(charges, PRICES) == ("who-knows",)
    assert compare(charges, large_model="dear", prices=PRICES).routed_microusd == 4


@pytest.mark.parametrize(("read", "rate"), [(0, 0.0), (300, 0.75)])
def test_the_hit_rate_is_the_share_of_prompt_tokens_read(read: int, rate: float) -> None:
    assert Totals(input_tokens=60, cache_write_tokens=40, cache_read_tokens=read).hit_rate == rate
    assert Totals().hit_rate == 0.0


def test_misses_of_the_cache_are_told_by_reason_with_their_tokens_and_steps() -> None:
    facts: list[tuple[UUID | None, AnyFact]] = []
    for step, miss in (
        (A, "tools_changed: 8120 tokens"),
        (B, "tools_changed: 880 tokens"),
        (B, "previous_message_not_found"),
        (B, ""),
    ):
        asked, answer = call("cheap", "small", Usage(input_tokens=1), 1)
        facts += [(step, asked), (step, answer.model_copy(update={"cache_miss": miss}))]
    charges = charges_of(facts, STEPS)

    assert misses_of(charges) == {
        "tools_changed": Misses(calls=2, tokens=9_000, steps=("plan", "read")),
        "previous_message_not_found": Misses(calls=1, tokens=0, steps=("read",)),
    }
    assert costs_of(charges, large_model="dear", prices=PRICES).cache_misses == misses_of(charges)

"""Money: integers, rounded up, and a reservation that is never too small."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import (
    HIDDEN_PROMPT_TOKENS,
    PRICES,
    cost_microusd,
    is_language_model,
    price_of,
    reserve_microusd,
    saved_microusd,
    with_overrides,
)

MODELS = [*PRICES, "claude-sonnet-5-5-20260901", "a-model-of-next-year"]


@pytest.mark.parametrize(
    ("model", "usage", "microusd"),
    [
        ("claude-sonnet-5-5", Usage(input_tokens=1_000_000), 2_000_000),
        ("claude-sonnet-5-5", Usage(output_tokens=1_000_000), 10_000_000),
        ("claude-sonnet-5-5", Usage(cache_write_tokens=1_000_000), 2_500_000),
        ("claude-sonnet-5-5", Usage(cache_read_tokens=1_000_000), 100_000),
        ("claude-opus-5-5", Usage(cache_read_tokens=1_000_000), 200_000),
        ("claude-fable-5-2", Usage(cache_read_tokens=1_000_000), 200_000),
        ("claude-haiku-5-5", Usage(input_tokens=100_000), 10_000),
        ("claude-haiku-5-5", Usage(input_tokens=100_001), 50_001),
        ("claude-haiku-5-5", Usage(input_tokens=60_000, cache_read_tokens=60_000, output_tokens=1_000), 35_500),
        ("offline-rules-1", Usage(input_tokens=9_999_999, output_tokens=9_999_999), 0),
        ("claude-sonnet-5-5", Usage(), 0),
        ("claude-haiku-5-5", Usage(input_tokens=1), 1),
    ],
)
def test_cost_is_the_list_price_rounded_up(model: str, usage: Usage, microusd: int) -> None:
    assert cost_microusd(model, usage) == microusd


def test_unknown_model_is_charged_like_the_dearest_and_says_so() -> None:
    found = price_of("qwen-99")

    assert not found.known
    assert found.price == PRICES["claude-fable-5-2"]
    assert "qwen-99" in found.reason
    assert "CHARGEHAND_MODEL_PRICES" in found.reason


def test_dated_name_is_known_and_a_lookalike_is_not() -> None:
    assert price_of("claude-opus-5-5-20260901").price == PRICES["claude-opus-5-5"]
    assert price_of("claude-opus-5-5@20260901").known
    assert not price_of("claude-opus-5-55").known


def test_stand_in_is_known_to_be_no_language_model() -> None:
    assert [is_language_model(model) for model in ("claude-opus-5-5", "qwen-99", "offline-rules-1")] == [
        True,
        True,
        False,
    ]


@given(
    model=st.sampled_from(MODELS),
    request_bytes=st.integers(0, 3_000_000),
    max_tokens=st.integers(0, 128_000),
    data=st.data(),
)
def test_reservation_covers_every_usage_of_the_request(
    model: str, request_bytes: int, max_tokens: int, data: st.DataObject
) -> None:
    # Whatever a tokenizer makes of the prompt, and however the cache splits it.
    prompt = data.draw(st.integers(0, request_bytes + HIDDEN_PROMPT_TOKENS))
    written = data.draw(st.integers(0, prompt))
    read = data.draw(st.integers(0, prompt - written))
    usage = Usage(
        input_tokens=prompt - written - read,
        cache_write_tokens=written,
        cache_read_tokens=read,
        output_tokens=data.draw(st.integers(0, max_tokens)),
    )

    assert reserve_microusd(model, request_bytes, max_tokens) >= cost_microusd(model, usage)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_reservation_grows_with_the_request(fewer: int, more: int) -> None:
    smaller = reserve_microusd("claude-sonnet-5-5", fewer, 100)

    assert reserve_microusd("claude-sonnet-5-5", fewer + more, 100) >= smaller


def test_cache_saves_when_it_is_read_and_costs_when_it_is_only_written() -> None:
    assert saved_microusd("claude-sonnet-5-5", Usage(cache_read_tokens=10_000)) == 19_000
    assert saved_microusd("claude-sonnet-5-5", Usage(cache_write_tokens=10_000)) == -5_000


def test_prices_of_a_server_of_ones_own_are_settings() -> None:
    prices = with_overrides('{"qwen": [0, 0], "other": [0.5, 1.5]}')

    assert cost_microusd("qwen", Usage(input_tokens=10**6, output_tokens=10**6), prices) == 0
    assert cost_microusd("other", Usage(input_tokens=10**6, output_tokens=10**6), prices) == 2_000_000
    assert prices.keys() > PRICES.keys()
    assert with_overrides("") == PRICES


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"m": 1}', '{"m": [1]}', '{"m": ["a", 2]}', '{"m": [-1, 2]}', '{"m": [NaN, 1]}']
)
def test_unusable_prices_are_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InvalidSettings, match="CHARGEHAND_MODEL_PRICES"):
        with_overrides(text)


def test_interface_does_not_import_the_sdk() -> None:
    # It takes a second and 66 MB, which supervisor, CLI and API must not pay.
    folder = Path(__file__).parents[3] / "workers"
    importing = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if any(word in path.read_text() for word in ("import anthropic", "models.client import", "models.wire import"))
    }
    ours = {"models/batches.py", "models/client.py", "models/wire.py"}

    assert ours < importing
    assert not {name for name in importing if name.startswith(("models/", "offline/", "tools/"))} - ours


def test_prices_are_whole_numbers() -> None:
    def numbers(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [number for inner in value.values() for number in numbers(inner)]
        return [number for inner in value for number in numbers(inner)] if isinstance(value, list | tuple) else [value]

    table = json.dumps(
        {name: [[b.input_microusd, b.output_microusd] for b in price.bands] for name, price in PRICES.items()}
    )
    assert all(isinstance(number, int) for number in numbers(json.loads(table)))

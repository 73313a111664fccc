"""What a call costs, in whole micro-dollars.

Every figure is an integer: micro-dollars for a million tokens, and factors in thousandths of the input price. A cost is
rounded up once, at the end, so that many small calls never look free.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.facts import Usage

MILLION = 1_000_000
# A prefix written to the five-minute cache costs a quarter more than plain input.
CACHE_WRITE_PERMILLE = 1_250
# One that is kept for an hour costs twice the plain input.
CACHE_WRITE_HOUR_PERMILLE = 2_000
# Servers put tool instructions of their own before ours: a few hundred tokens on every model so far.
HIDDEN_PROMPT_TOKENS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Prices of a request whose prompt is at most this long; every token of it is billed at them."""

    up_to_tokens: int | None
    """None: any length."""
    input_microusd: int
    """For a million input tokens."""
    output_microusd: int
    """For a million output tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Prices of one model."""

    bands: tuple[Band, ...]
    """From short prompts to long ones; the last has no limit."""
    cache_read_permille: int
    """Of the input price; it is not the same for all models."""
    language_model: bool = True
    """False for a stand-in that answers by rules."""

    def band_of(self, prompt_tokens: int) -> Band:
        """The band of a prompt of this length."""
        for band in self.bands:
            if band.up_to_tokens is None or prompt_tokens <= band.up_to_tokens:
                return band
        return self.bands[-1]


def _flat(input_microusd: int, output_microusd: int, cache_read_permille: int) -> Price:
    band = Band(up_to_tokens=None, input_microusd=input_microusd, output_microusd=output_microusd)
    return Price(bands=(band,), cache_read_permille=cache_read_permille)


# Of the table below; shown wherever a sum rests on it.
PRICES_AS_OF = "2026-11 (genai-prices 0.2.3)"
# Claude's list prices, keyed by the name without its date.
PRICES: Mapping[str, Price] = {
    "claude-haiku-5-5": Price(
        bands=(
            Band(up_to_tokens=100_000, input_microusd=100_000, output_microusd=500_000),
            Band(up_to_tokens=None, input_microusd=500_000, output_microusd=2_500_000),
        ),
        cache_read_permille=100,
    ),
    "claude-sonnet-5-5": _flat(2_000_000, 10_000_000, 50),
    "claude-opus-5-5": _flat(4_000_000, 20_000_000, 50),
    "claude-fable-5-2": _flat(8_000_000, 40_000_000, 25),
    "claude-mythos-5-2": _flat(8_000_000, 40_000_000, 25),
    "offline-rules-1": Price(
        bands=(Band(up_to_tokens=None, input_microusd=0, output_microusd=0),),
        cache_read_permille=0,
        language_model=False,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceFound:
    """A model's price, and why it is that one."""

    price: Price
    reason: str
    """Empty for a known model."""

    @property
    def known(self) -> bool:
        """Whether the table has the model."""
        return not self.reason


def price_of(model: str, prices: Mapping[str, Price] = PRICES) -> PriceFound:
    """The price of a model; an unknown one is charged like the dearest known, never like nothing."""
    found = prices.get(model)
    if found is None:
        # Servers answer with a dated name (`claude-sonnet-5-5-20260901`) for an undated request.
        found = next((price for name, price in prices.items() if model.startswith((f"{name}-", f"{name}@"))), None)
    if found is not None:
        return PriceFound(price=found, reason="")
    name, dearest = max(prices.items(), key=lambda item: _dearness(item[1]))
    return PriceFound(
        price=dearest,
        reason=f"Model {model!r} has no known price, so it is charged like {name}; set CHARGEHAND_MODEL_PRICES.",
    )


def cost_microusd(model: str, usage: Usage, prices: Mapping[str, Price] = PRICES) -> int:
    """What a call has cost, rounded up."""
    price = price_of(model, prices).price
    band = price.band_of(usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens)
    input_permille = (
        usage.input_tokens * 1_000
        + usage.cache_write_tokens * CACHE_WRITE_PERMILLE
        + usage.cache_write_hour_tokens * (CACHE_WRITE_HOUR_PERMILLE - CACHE_WRITE_PERMILLE)
        + usage.cache_read_tokens * price.cache_read_permille
    )
    total = input_permille * band.input_microusd + usage.output_tokens * 1_000 * band.output_microusd
    return -(-total // (MILLION * 1_000))


def reserve_microusd(
    model: str,
    request_bytes: int,
    max_tokens: int,
    prices: Mapping[str, Price] = PRICES,
    *,
    kept_for_an_hour: bool = False,
) -> int:
    """Upper bound of what a request can cost, before it is sent.

    A token is at least one byte of UTF-8; every one is taken as written to the cache, in the dearest band. Holds for
    text: an image or a server-side tool is not bounded by its bytes, and nothing here sends one.
    """
    price = price_of(model, prices).price
    dearest_input = max(band.input_microusd for band in price.bands)
    dearest_output = max(band.output_microusd for band in price.bands)
    written_permille = CACHE_WRITE_HOUR_PERMILLE if kept_for_an_hour else CACHE_WRITE_PERMILLE
    permille = max(written_permille, price.cache_read_permille)
    total = (request_bytes + HIDDEN_PROMPT_TOKENS) * permille * dearest_input + max_tokens * 1_000 * dearest_output
    return -(-total // (MILLION * 1_000))


def batched_microusd(cost: int) -> int:
    """What a call costs through the batch API: half, rounded up; of a cost or of a reservation, in micro-dollars."""
    return -(-cost // 2)


def saved_microusd(model: str, usage: Usage, prices: Mapping[str, Price] = PRICES) -> int:
    """What the prompt cache saved against full price; negative when writing cost more than reading saved."""
    whole = Usage(
        input_tokens=usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )
    return cost_microusd(model, whole, prices) - cost_microusd(model, usage, prices)


def is_language_model(model: str) -> bool:
    """Whether answers of this name come from a language model; False only for a stand-in known to be none."""
    return price_of(model).price.language_model


def with_overrides(text: str, prices: Mapping[str, Price] = PRICES) -> dict[str, Price]:
    """The table with a user's prices: JSON `{"model": [input, output]}` in dollars for a million tokens.

    Raises `InvalidSettings`. A server of one's own is usually `[0, 0]`.
    """
    if not text.strip():
        return dict(prices)
    remedy = 'CHARGEHAND_MODEL_PRICES must be like {"my-model": [0.5, 1.5]}, dollars for a million tokens'
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise InvalidSettings(f"{remedy}; it is not JSON: {error}.") from error
    if not isinstance(listed, dict):
        raise InvalidSettings(f"{remedy}; it is {text[:80]!r}.")
    table = dict(prices)
    for model, pair in listed.items():
        valid = isinstance(pair, list) and len(pair) == 2
        if not valid or not all(isinstance(one, int | float) and 0 <= one < MILLION for one in pair):
            raise InvalidSettings(f"{remedy}; {model!r} has {pair!r}.")
        table[model] = _flat(round(pair[0] * MILLION), round(pair[1] * MILLION), 1_000)
    return table


def _dearness(price: Price) -> tuple[int, int]:
    return max(band.output_microusd for band in price.bands), max(band.input_microusd for band in price.bands)

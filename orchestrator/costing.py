"""Where the money of a journal went, and what it would have cost without routing and caching; pure.

Every figure comes from recorded facts: which step asked, of which role, in which tier, which model answered, and the
tokens that its server counted. What would have been is the same tokens at other prices:

- without caching: every prompt token as plain input of the model that answered;
- without routing: the same calls, cached as they were, all by the large model;
- without both: all by the large model, and nothing cached.

Not covered: a large model might have needed fewer turns or answered at other lengths, its cache may begin at another
length, and a call whose outcome nobody knows has no tokens. These are charged, and counted, but not compared.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

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
from chargehand.orchestrator.prices import (
    PRICES,
    PRICES_AS_OF,
    Price,
    batched_microusd,
    cost_microusd,
    is_language_model,
    price_of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """One call, or a correction of what some were charged, as the journal has it."""

    step: str
    """Its key."""
    role: str
    model: str
    tier: str
    cost_microusd: int
    """As it was charged; negative: given back."""
    usage: Usage | None
    """None: nobody knows, or nothing was answered."""
    is_call: bool = True
    batched: bool = False
    """At half price, whatever else would have been: the batch's saving is neither routing's nor caching's."""
    cache_miss: str = ""
    """Why the server could not read what it had cached of the prompt before, as `model.responded` has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Calls, tokens and money of some charges."""

    calls: int = 0
    """That were answered."""
    calls_without_answer: int = 0
    """Refused, broken off, or of unknown outcome."""
    input_tokens: int = 0
    """Neither written to nor read from the cache."""
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cost_microusd: int = 0
    without_answer_microusd: int = 0
    """The part of the cost that no usable answer was given for, or that nobody knows."""

    @property
    def hit_rate(self) -> float:
        """Share of the prompt's tokens that were read from the cache; 0 without any."""
        prompt = self.input_tokens + self.cache_write_tokens + self.cache_read_tokens
        return self.cache_read_tokens / prompt if prompt else 0.0

    def plus(self, charge: Charge) -> "Totals":
        """These and one more."""
        usage = charge.usage or Usage()
        answered = charge.usage is not None
        return replace(
            self,
            calls=self.calls + answered,
            calls_without_answer=self.calls_without_answer + (charge.is_call and not answered),
            input_tokens=self.input_tokens + usage.input_tokens,
            output_tokens=self.output_tokens + usage.output_tokens,
            cache_write_tokens=self.cache_write_tokens + usage.cache_write_tokens,
            cache_read_tokens=self.cache_read_tokens + usage.cache_read_tokens,
            cost_microusd=self.cost_microusd + charge.cost_microusd,
            without_answer_microusd=self.without_answer_microusd + (0 if answered else charge.cost_microusd),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Misses:
    """Calls whose cached prefix the server could not read, for one reason of its own words."""

    calls: int = 0
    tokens: int = 0
    """That had been cached and were not read, as far as the server said how many."""
    steps: tuple[str, ...] = ()
    """Whose calls, each once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The answered calls at the prices of one table, in four ways."""

    large_model: str
    """What all would have been sent to without routing."""
    routed_and_cached_microusd: int
    routed_microusd: int
    """Without caching."""
    cached_microusd: int
    """Without routing."""
    neither_microusd: int

    @property
    def saved_by_caching_microusd(self) -> int:
        """Negative when writing cost more than reading saved."""
        return self.routed_microusd - self.routed_and_cached_microusd

    @property
    def saved_by_routing_microusd(self) -> int:
        """Negative when a model dearer than the large one answered."""
        return self.cached_microusd - self.routed_and_cached_microusd

    @property
    def saved_microusd(self) -> int:
        """By both; not the sum of the two, because a cached token saves more where tokens are dearer."""
        return self.neither_microusd - self.routed_and_cached_microusd


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Where the money went."""

    total: Totals
    by_step: Mapping[str, Totals] = field(default_factory=dict)
    by_role: Mapping[str, Totals] = field(default_factory=dict)
    by_model: Mapping[str, Totals] = field(default_factory=dict)
    by_tier: Mapping[str, Totals] = field(default_factory=dict)
    compared: Compared
    cache_misses: Mapping[str, Misses] = field(default_factory=dict)
    """By reason; only servers with `diagnostics` give one."""
    prices_as_of: str = PRICES_AS_OF

    @property
    def by_rules_alone(self) -> bool:
        """Whether calls were answered, none of them by a language model, and nothing was charged: nothing was saved."""
        answered = [model for model, one in self.by_model.items() if one.calls]
        return bool(answered) and not self.total.cost_microusd and not any(map(is_language_model, answered))


def charges_of(facts: Iterable[tuple[UUID | None, AnyFact]], steps: Mapping[UUID, tuple[str, str]]) -> list[Charge]:
    """What a journal's facts were charged for, in their order; `steps`: id → key and role."""
    asked: dict[UUID, ModelRequested] = {}
    charges: list[Charge] = []
    for step, fact in facts:
        key, role = steps.get(step, ("", "")) if step is not None else ("", "")
        match fact:
            case ModelRequested():
                asked[fact.call_id] = fact
            case ModelResponded():
                request = asked.get(fact.call_id)
                tier = request.tier if request is not None else ""
                charge = _charge(key, role, fact.model, tier, fact.cost_microusd, fact.usage)
                batched = request is not None and request.batched
                charges.append(replace(charge, batched=batched, cache_miss=fact.cache_miss))
            case ModelFailed() | CallAbandoned():
                call = asked.get(fact.call_id)
                cost = fact.cost_microusd if isinstance(fact, ModelFailed) else fact.charged_microusd
                charges.append(_charge(key, role, call.model if call else "", call.tier if call else "", cost, None))
            case ReservationsCharged():
                charges += [_correction(steps, one, cost) for one, cost in fact.charged_microusd.items()]
            case ReservationsReturned():
                charges += [_correction(steps, one, -cost) for one, cost in fact.returned_microusd.items()]
            case _:
                pass
    return charges


def costs_of(
    charges: Iterable[Charge], *, large_model: str, prices: Mapping[str, Price] = PRICES, as_of: str = PRICES_AS_OF
) -> Costs:
    """Sums by step, role, model and tier, and the comparison; `large_model`: what would serve without routing."""
    listed = list(charges)
    return Costs(
        total=_totals(listed),
        by_step=_grouped(listed, lambda one: one.step),
        by_role=_grouped(listed, lambda one: one.role),
        by_model=_grouped(listed, lambda one: one.model),
        by_tier=_grouped(listed, lambda one: one.tier),
        compared=compare(listed, large_model=large_model, prices=prices),
        cache_misses=misses_of(listed),
        prices_as_of=as_of,
    )


def compare(charges: Iterable[Charge], *, large_model: str, prices: Mapping[str, Price] = PRICES) -> Compared:
    """The answered calls, priced four ways by one table."""
    answered = [(one, one.usage) for one in charges if one.usage is not None]
    return Compared(
        large_model=large_model,
        routed_and_cached_microusd=sum(_price(one, one.model, usage, prices) for one, usage in answered),
        routed_microusd=sum(_price(one, one.model, uncached(usage), prices) for one, usage in answered),
        cached_microusd=sum(_price(one, large_model, usage, prices) for one, usage in answered),
        neither_microusd=sum(_price(one, large_model, uncached(usage), prices) for one, usage in answered),
    )


def misses_of(charges: Iterable[Charge]) -> dict[str, Misses]:
    """Why prompts were not read from the cache, by the server's reason, the most tokens first."""
    found: dict[str, Misses] = {}
    for one in charges:
        if not one.cache_miss:
            continue
        # "tools_changed: 8120 tokens", or the reason alone.
        reason, _, missed = one.cache_miss.partition(": ")
        tokens, _, _ = missed.partition(" ")
        before = found.get(reason, Misses())
        found[reason] = Misses(
            calls=before.calls + 1,
            tokens=before.tokens + (int(tokens) if tokens.isdecimal() else 0),
            steps=tuple(dict.fromkeys((*before.steps, *filter(None, (one.step,))))),
        )
    return dict(sorted(found.items(), key=lambda item: (-item[1].tokens, -item[1].calls, item[0])))


def served_by(charges: Iterable[Charge], models: Mapping[str, str], prices: Mapping[str, Price]) -> list[Charge]:
    """The same calls as if another model had answered in each tier (tier → model), at its price.

    For a run of the offline model, which costs nothing: what its tokens would cost at Claude's prices.
    """
    priced = []
    for one in charges:
        model = models.get(one.tier, one.model)
        cost = _price(one, model, one.usage, prices) if one.usage is not None else one.cost_microusd
        priced.append(replace(one, model=model, cost_microusd=cost))
    return priced


def uncached(usage: Usage) -> Usage:
    """The same tokens, all of them plain input."""
    return Usage(
        input_tokens=usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )


def unpriced(charges: Iterable[Charge], prices: Mapping[str, Price] = PRICES) -> tuple[str, ...]:
    """Models that the table does not know, and whose calls are compared at the dearest price."""
    models = {one.model for one in charges if one.usage is not None}
    return tuple(sorted(model for model in models if not price_of(model, prices).known))


def _price(charge: Charge, model: str, usage: Usage, prices: Mapping[str, Price]) -> int:
    cost = cost_microusd(model, usage, prices)
    return batched_microusd(cost) if charge.batched else cost


def _charge(step: str, role: str, model: str, tier: str, cost: int, usage: Usage | None) -> Charge:
    return Charge(step=step, role=role, model=model, tier=tier, cost_microusd=cost, usage=usage)


def _correction(steps: Mapping[UUID, tuple[str, str]], step: UUID, cost: int) -> Charge:
    key, role = steps.get(step, ("", ""))
    return Charge(step=key, role=role, model="", tier="", cost_microusd=cost, usage=None, is_call=False)


def _totals(charges: Iterable[Charge]) -> Totals:
    total = Totals()
    for one in charges:
        total = total.plus(one)
    return total


def _grouped(charges: Iterable[Charge], name: Callable[[Charge], str]) -> dict[str, Totals]:
    """By name, the dearest first; what belongs to no name is under the empty one."""
    groups: dict[str, Totals] = {}
    for one in charges:
        groups[name(one)] = groups.get(name(one), Totals()).plus(one)
    return dict(sorted(groups.items(), key=lambda item: (-item[1].cost_microusd, -item[1].calls, item[0])))

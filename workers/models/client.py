"""The models of this process: chosen by the router, bounded by prices and limits, asked over the wire of their server.

Importing this module costs about a second and 66 MB (the SDK): only the worker's composition root does it.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import anthropic
from redis import Redis

from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import (
    PRICES,
    Price,
    batched_microusd,
    cost_microusd,
    price_of,
    reserve_microusd,
    with_overrides,
)
from chargehand.orchestrator.settings import Settings
from chargehand.workers.held import Held
from chargehand.workers.holds import NOTHING_HELD, Holds
from chargehand.workers.models.batches import MOST_IN_BATCH, MessageBatches
from chargehand.workers.models.interface import (
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelHeld,
    ModelRefused,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.models.limits import FleetLimits, Need, Wait, endpoint_of, parse_limits
from chargehand.workers.models.prefix import (
    TTL_SECONDS,
    USUAL_MIN_PREFIX_TOKENS,
    CacheWatch,
    has_breakpoint,
    shared_prefix,
)
from chargehand.workers.models.profiles import Profile, profile_for
from chargehand.workers.models.responses import ResponseCache
from chargehand.workers.models.router import Choice, Tiers, choose, problems_in
from chargehand.workers.models.structured import asked, understood
from chargehand.workers.models.warming import Warming
from chargehand.workers.models.wire import (
    IDLE_SECONDS,
    TOTAL_SECONDS,
    Wire,
    blocks_of,
    cache_miss_of,
    open_client,
    usage_of,
)

log = logging.getLogger(__name__)

# The server may ask for any pause; longer ones are asked for again.
MAX_BUSY_SECONDS = 300.0
# Prompts whose refusal is remembered, so that the next attempt goes to another model.
MAX_REFUSALS = 512
# Bytes of a token, to guess what a prompt takes from the fleet's limits.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Shunned:
    """A model that is not asked for a while."""

    until: float
    reason: str


class AnthropicModels:
    """`Models` over the Messages API, for Claude and for every server that speaks it.

    Safe to use from many threads. One attempt a call: waiting and trying again are the caller's, because each attempt
    has a reservation of its own.
    """

    def __init__(
        self,
        client: anthropic.Anthropic,
        *,
        tiers: Tiers,
        profile: Profile,
        prices: Mapping[str, Price] = PRICES,
        limits: FleetLimits | None = None,
        holds: Holds = NOTHING_HELD,
        endpoints: Mapping[str, Wire] = MappingProxyType({}),
        warming: Warming | None = None,
        responses: ResponseCache | None = None,
        min_prefix_tokens: Mapping[str, int] = MappingProxyType({}),
        total_seconds: float = TOTAL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._wire = Wire(client, profile, total_seconds=total_seconds, idle_seconds=idle_seconds)
        self._endpoints = dict(endpoints)
        self._tiers = tiers
        self._prices = prices
        self._limits = limits
        self._holds = holds
        self._warming = warming
        self._responses = responses
        self._min_prefix_tokens = min_prefix_tokens
        self._watch = CacheWatch(min_prefix_tokens)
        self._overloaded: dict[str, Shunned] = {}
        self._refusals: OrderedDict[str, set[str]] = OrderedDict()
        self._priced: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        for wire in (self._wire, *self._endpoints.values()):
            wire.close()

    def batches(self, *, gather_seconds: float = 0.0, most_in_batch: int = MOST_IN_BATCH) -> MessageBatches:
        """The batch APIs of the same servers; so long a call waits for others to share its batch."""
        return MessageBatches(
            at=self._at,
            understood=lambda message, model: self._answer(message, model, 0.0),
            gather_seconds=gather_seconds,
            most_in_batch=most_in_batch,
        )

    def quote(self, call: ModelCall) -> Quote:
        """Choose the model and bound the cost; takes the call's share of the fleet's limits.

        Raises `ModelBusy` when the limits say so, `ModelUnavailable` when no model is left, `ModelHeld` when those left
        are paused or behind open circuits.
        """
        choice = self._choose_free(call)
        known = self._responses.find(call, choice.model) if self._responses is not None else None
        if known is not None:
            return Quote(
                model=choice.model,
                tier=choice.tier,
                reserved_microusd=0,
                max_tokens=call.max_tokens,
                routed_because=f"{choice.reason}; answered before",
                answer=known,
            )
        profile = self._at(choice.model)[0].profile
        batched = not call.urgent and "batches" in profile.features
        body_bytes = len(_body(asked(call, profile)))
        max_tokens = min(call.max_tokens, profile.max_output_tokens)
        # A batch has limits of its own, far from a minute's.
        if self._limits is not None and not batched:
            need = Need(input_tokens=body_bytes // BYTES_PER_TOKEN, output_tokens=max_tokens)
            admission = self._limits.admit(choice.model, need)
            if isinstance(admission, Wait):
                reason = f"The fleet's limit of {choice.model} is used up for {admission.seconds:.1f} s."
                raise ModelBusy(min(admission.seconds, MAX_BUSY_SECONDS), reason)
        bound = self._bound(call, choice.model, body_bytes, max_tokens)
        way = "" if call.urgent else "; batched" if batched else f"; not urgent, but {profile.name} has no batches"
        return Quote(
            model=choice.model,
            tier=choice.tier,
            reserved_microusd=batched_microusd(bound) if batched else bound,
            max_tokens=max_tokens,
            routed_because=choice.reason + way + self._price_note(choice.model),
            batched=batched,
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        """Send the request once, give the whole answer, and let the fleet know whether the server works.

        Raises as `_call` does.
        """
        model = call.model or self._choose(call).model
        call = replace(call, model=model)
        try:
            answer = self._call(call, model)
        except ModelUnavailable as error:
            # What the server would refuse from everybody, or from us alone, is not an outage.
            if error.retryable:
                self._holds.model_failed(model, str(error))
            raise
        except ModelBusy as busy:
            if busy.overloaded:
                self._holds.model_failed(model, str(busy))
            raise
        except ModelRefused:
            self._holds.model_passed(model)
            raise
        self._holds.model_passed(model)
        return answer

    def _call(self, call: ModelCall, model: str) -> ModelAnswer:
        """Send the request once and give the whole answer.

        Raises `ModelBusy` (cost nothing), `ModelRefused`, or `ModelUnavailable`, whose cost is the whole reservation
        when nobody can know what the server did.
        """
        wire, bare = self._at(model)
        sent = asked(call, wire.profile)
        body_bytes = len(_body(sent))
        reserved = self._bound(call, model, body_bytes, call.max_tokens)
        started = time.monotonic()
        try:
            with self._warmed(call, model, wire.profile) as begun:
                message = wire.send(sent, bare, reserved_microusd=reserved, begun=begun)
        except ModelBusy as busy:
            self._busy(model, busy, body_bytes, call.max_tokens)
            raise
        answer = self._answer(message, model, started)
        answer = replace(answer, content=understood(answer.content, call, wire.profile))
        self._settle_limits(model, body_bytes, call.max_tokens, answer.usage)
        if call.messages and has_breakpoint(call) and "cache_control" in wire.profile.features:
            self._watch.saw(model, answer.usage)
        if answer.stop_reason == "refusal":
            self._remember_refusal(call, model)
            raise ModelRefused(f"{answer.model} refused to answer.", cost_microusd=answer.cost_microusd)
        if self._responses is not None:
            self._responses.keep(call, model, answer)
        return answer

    def _bound(self, call: ModelCall, model: str, body_bytes: int, max_tokens: int) -> int:
        lasting = call.cache_ttl == "1h"
        name = self._priced_as(model, self._at(model)[1])
        return reserve_microusd(name, body_bytes, max_tokens, self._prices, kept_for_an_hour=lasting)

    def _warmed(
        self, call: ModelCall, model: str, profile: Profile
    ) -> AbstractContextManager[Callable[[], None] | None]:
        """Waits for whoever warms the prefix of an agent's first call, or leads; its later turns have a warm one."""
        if self._warming is None or len(call.messages) != 1 or "cache_control" not in profile.features:
            return nullcontext()
        prefix, tokens = shared_prefix(call)
        if tokens < self._min_prefix_tokens.get(model, USUAL_MIN_PREFIX_TOKENS):
            return nullcontext()
        return self._warming.turn(f"{model}:{prefix}", ttl_seconds=TTL_SECONDS[call.cache_ttl])

    def _busy(self, model: str, busy: ModelBusy, body_bytes: int, max_tokens: int) -> None:
        """Leave an overloaded model alone in this process, and slow the whole fleet down for a rate limit."""
        if busy.overloaded:
            with self._lock:
                self._overloaded[model] = Shunned(until=time.monotonic() + busy.until_seconds, reason="overloaded")
        elif self._limits is not None:
            self._limits.slow_down(model, busy.until_seconds)
            # The server has counted nothing of it.
            self._settle_limits(model, body_bytes, max_tokens, Usage())

    def _choose_free(self, call: ModelCall) -> Choice:
        """The model that the router finds among those that may be asked now."""
        held: dict[str, Held] = {}
        while True:
            try:
                choice = self._choose(call, {name: one.why for name, one in held.items()})
            except ModelUnavailable:
                if not held:
                    raise
                # The first that comes back; a pause is a person's to end.
                raise ModelHeld(min(held.values(), key=lambda one: one.seconds)) from None
            reason = self._holds.model(choice.model)
            if reason is None:
                return choice
            if choice.model in held:
                # Asked for by name: there is no other.
                raise ModelHeld(reason)
            held[choice.model] = reason

    def _choose(self, call: ModelCall, held: Mapping[str, str] = MappingProxyType({})) -> Choice:
        finish_tools = {str(tool["name"]) for tool in call.tools if str(tool.get("name", "")).startswith("submit_")}
        problems = problems_in(call.messages, finish_tools)
        return choose(
            self._tiers,
            call.tier,
            wished=call.model,
            by=call.routed_by,
            problems=[*call.problems, *problems],
            shunned={**self._shunned(call), **held},
            used_percent=call.used_percent,
        )

    def _at(self, model: str) -> tuple[Wire, str]:
        """The server of a model, and the model's name there: `ENDPOINT/NAME`, or a name at the usual server."""
        endpoint, _, bare = model.partition("/")
        wire = self._endpoints.get(endpoint)
        return (wire, bare) if wire is not None and bare else (self._wire, model)

    def _priced_as(self, *names: str) -> str:
        """The first of a model's names that has a price; without any the first."""
        return next((name for name in names if price_of(name, self._prices).known), names[0])

    def _shunned(self, call: ModelCall) -> dict[str, str]:
        with self._lock:
            if not self._overloaded and not self._refusals:
                return {}
            now = time.monotonic()
            self._overloaded = {name: one for name, one in self._overloaded.items() if one.until > now}
            names = {name: one.reason for name, one in self._overloaded.items()}
            if self._refusals:
                names |= dict.fromkeys(self._refusals.get(_fingerprint(call), ()), "refused this prompt")
        return names

    def _remember_refusal(self, call: ModelCall, model: str) -> None:
        with self._lock:
            self._refusals.setdefault(fingerprint := _fingerprint(call), set()).add(model)
            self._refusals.move_to_end(fingerprint)
            while len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)

    def _price_note(self, model: str) -> str:
        found = price_of(self._priced_as(model, self._at(model)[1]), self._prices)
        if found.known:
            return ""
        with self._lock:
            first = model not in self._priced
            self._priced.add(model)
        if first:
            log.warning("price unknown", extra={"model": model, "reason": found.reason})
        return f" ({found.reason})"

    def _answer(self, message: Mapping[str, Any], model: str, started: float) -> ModelAnswer:
        usage = usage_of(message.get("usage") or {})
        named = str(message.get("model") or model)
        bare = self._at(model)[1]
        # A server that renames its model is charged for what it says it is, if that has a price.
        charged = self._priced_as(f"{model.removesuffix(bare)}{named}", named, model, bare)
        return ModelAnswer(
            model=named if charged == named else f"{model.removesuffix(bare)}{named}",
            content=tuple(blocks_of(message.get("content"))),
            stop_reason=str(message.get("stop_reason") or "end_turn"),
            usage=usage,
            cost_microusd=cost_microusd(charged, usage, self._prices),
            duration_ms=round((time.monotonic() - started) * 1_000),
            message_id=str(message.get("id") or ""),
            cache_miss=cache_miss_of(message),
        )

    def _settle_limits(self, model: str, body_bytes: int, max_tokens: int, usage: Usage) -> None:
        if self._limits is None:
            return
        needed = Need(input_tokens=body_bytes // BYTES_PER_TOKEN, output_tokens=max_tokens)
        # Tokens read from the cache do not count against a minute's input.
        used = Need(input_tokens=usage.input_tokens + usage.cache_write_tokens, output_tokens=usage.output_tokens)
        self._limits.give_back(model, needed=needed, used=used)


def open_models(
    settings: Settings,
    *,
    threads: int,
    redis: "Redis | None" = None,
    hasty: "Redis | None" = None,
    holds: Holds = NOTHING_HELD,
) -> AnthropicModels:
    """The models of a worker process with this many threads, from settings and environment.

    Reads `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL` (through the SDK), and `CHARGEHAND_MODEL_PRICES`,
    `CHARGEHAND_MODEL_LIMITS` and `CHARGEHAND_MODEL_PROFILE`. `hasty`: a Redis with short time-outs, for what only saves
    money. Raises `InvalidSettings`.
    """
    client = open_client(threads=threads)
    limits = None
    if redis is not None:
        configured = parse_limits(os.environ.get("CHARGEHAND_MODEL_LIMITS", ""))
        endpoint = endpoint_of(str(client.base_url))
        limits = FleetLimits(redis, key_prefix=settings.key_prefix, limits=configured, endpoint=endpoint)
    return AnthropicModels(
        client,
        tiers=Tiers.of(settings),
        profile=profile_for(str(client.base_url), os.environ.get("CHARGEHAND_MODEL_PROFILE", "")),
        prices=with_overrides(os.environ.get("CHARGEHAND_MODEL_PRICES", "")),
        limits=limits,
        holds=holds,
        endpoints=_endpoints(settings, threads=threads),
        warming=Warming(hasty, key_prefix=settings.key_prefix) if hasty is not None else None,
        responses=_responses(settings, hasty),
        min_prefix_tokens=settings.cache_min_tokens,
        total_seconds=settings.model_timeout_seconds,
    )


def _responses(settings: Settings, hasty: "Redis | None") -> ResponseCache | None:
    if hasty is None or not settings.response_cache_seconds:
        return None
    return ResponseCache(hasty, key_prefix=settings.key_prefix, ttl_seconds=settings.response_cache_seconds)


def _endpoints(settings: Settings, *, threads: int) -> dict[str, Wire]:
    wires = {}
    for name, endpoint in settings.endpoints.items():
        key = os.environ.get(endpoint.key_variable, "") if endpoint.key_variable else ""
        setting = f"CHARGEHAND_ENDPOINTS: profile of {name!r}"
        client = open_client(threads=threads, base_url=endpoint.url, api_key=key or "none")
        profile = profile_for(endpoint.url, endpoint.profile, setting=setting)
        wires[name] = Wire(client, profile, total_seconds=settings.model_timeout_seconds)
    return wires


def _body(call: ModelCall) -> bytes:
    """The prompt as it is billed: everything that becomes tokens."""
    parts = [list(call.tools), list(call.system), list(call.messages), call.tool_choice, call.output_schema]
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def _fingerprint(call: ModelCall) -> str:
    return hashlib.sha256(_body(call)).hexdigest()

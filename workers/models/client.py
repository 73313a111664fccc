"""The models of this process, over one `anthropic` client.

Importing this module costs about a second and 66 MB (the SDK): only the worker's composition root does it.
"""

import contextvars
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, cast

import anthropic
import httpx2
from pydantic import JsonValue
from redis import Redis

from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.prices import PRICES, Price, cost_microusd, price_of, reserve_microusd, with_overrides
from chargehand.orchestrator.settings import Settings
from chargehand.workers.held import Held
from chargehand.workers.holds import NOTHING_HELD, Holds
from chargehand.workers.models.accumulator import Accumulator, StreamCut
from chargehand.workers.models.interface import (
    Block,
    DeltaHook,
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelHeld,
    ModelRefused,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.models.limits import FleetLimits, Need, Wait, parse_limits
from chargehand.workers.models.prefix import CacheWatch, Profile, adapted, profile_for
from chargehand.workers.models.router import Choice, Tiers, choose, problems_in

log = logging.getLogger(__name__)

# A call that takes longer than this is not worth waiting for; the lease is renewed meanwhile.
TOTAL_SECONDS = 600.0
CONNECT_SECONDS = 5.0
WRITE_SECONDS = 60.0
# Servers ping an open stream every few seconds: this much silence is a dead peer. A total deadline overshoots by it.
IDLE_SECONDS = 60.0
# The server may ask for any pause; longer ones are asked for again.
MAX_BUSY_SECONDS = 300.0
# A pause when the server names none.
DEFAULT_BUSY_SECONDS = 5.0
# Above this the SDK refuses a call that is not streamed.
MAX_PLAIN_TOKENS = 16_000
# Prompts whose refusal is remembered, so that the next attempt goes to another model.
MAX_REFUSALS = 512
# Bytes of a token, to guess what a prompt takes from the fleet's limits.
BYTES_PER_TOKEN = 3
# These 429s do not pass by waiting.
SPENT_CODES = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})

# Names the call to the server, for its logs and for whoever compares them with the journal; no server has to know it.
REQUEST_ID_HEADER = "X-Client-Request-Id"

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("model_call_deadline")


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
        total_seconds: float = TOTAL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._client = client
        self._tiers = tiers
        self._profile = profile
        self._prices = prices
        self._limits = limits
        self._holds = holds
        self._total_seconds = total_seconds
        self._idle_seconds = idle_seconds
        self._watch = CacheWatch()
        self._overloaded: dict[str, Shunned] = {}
        self._refusals: OrderedDict[str, set[str]] = OrderedDict()
        self._priced: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def quote(self, call: ModelCall) -> Quote:
        """Choose the model and bound the cost; takes the call's share of the fleet's limits.

        Raises `ModelBusy` when the limits say so, `ModelUnavailable` when no model is left, `ModelHeld` when those left
        are paused or behind open circuits.
        """
        body = _body_bytes(call)
        choice = self._choose_free(call, _fingerprint(body))
        max_tokens = min(call.max_tokens, self._profile.max_output_tokens)
        if self._limits is not None:
            need = Need(input_tokens=len(body) // BYTES_PER_TOKEN, output_tokens=max_tokens)
            admission = self._limits.admit(choice.model, need)
            if isinstance(admission, Wait):
                reason = f"The fleet's limit of {choice.model} is used up for {admission.seconds:.1f} s."
                raise ModelBusy(min(admission.seconds, MAX_BUSY_SECONDS), reason)
        return Quote(
            model=choice.model,
            tier=choice.tier,
            reserved_microusd=reserve_microusd(choice.model, len(body), max_tokens, self._prices),
            max_tokens=max_tokens,
            routed_because=choice.reason + self._price_note(choice.model),
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        """Send the request once, give the whole answer, and let the fleet know whether the server works.

        Raises as `_call` does.
        """
        model = call.model or self._choose(call, _fingerprint(_body_bytes(call))).model
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
        body = _body_bytes(call)
        fingerprint = _fingerprint(body)
        reserved = reserve_microusd(model, len(body), call.max_tokens, self._prices)
        started = time.monotonic()
        token = _deadline.set(started + self._total_seconds)
        try:
            message = self._send(call, model)
        except anthropic.APIStatusError as error:
            raise self._mapped(error, model, reserved) from error
        except anthropic.APIConnectionError as error:
            raise _connection_failure(error, reserved) from error
        except (httpx2.HTTPError, anthropic.APIError, StreamCut, json.JSONDecodeError) as error:
            # The request was sent and the answer broke off: it is paid for, as far as anybody knows.
            reason = f"The answer broke off: {_said(error)}"
            raise ModelUnavailable(reason, retryable=True, cost_microusd=reserved) from error
        except TypeError as error:
            # The SDK's way to say that no credential was found.
            raise ModelUnavailable(f"The request cannot be made: {error}", retryable=False) from error
        finally:
            _deadline.reset(token)
        answer = self._answer(message, model, started)
        self._settle_limits(model, len(body), call.max_tokens, answer.usage)
        if call.messages and _has_breakpoint(call) and "cache_control" in self._profile.features:
            self._watch.saw(model, answer.usage)
        if answer.stop_reason == "refusal":
            self._remember_refusal(fingerprint, model)
            raise ModelRefused(f"{answer.model} refused to answer.", cost_microusd=answer.cost_microusd)
        return answer

    def _choose_free(self, call: ModelCall, fingerprint: str) -> Choice:
        """The model that the router finds among those that may be asked now."""
        held: dict[str, Held] = {}
        while True:
            try:
                choice = self._choose(call, fingerprint, {name: one.why for name, one in held.items()})
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

    def _choose(self, call: ModelCall, fingerprint: str, held: Mapping[str, str] = MappingProxyType({})) -> Choice:
        finish_tools = {str(tool["name"]) for tool in call.tools if str(tool.get("name", "")).startswith("submit_")}
        problems = problems_in(call.messages, finish_tools)
        return choose(
            self._tiers, call.tier, wished=call.model, problems=problems, shunned={**self._shunned(fingerprint), **held}
        )

    def _shunned(self, fingerprint: str) -> dict[str, str]:
        now = time.monotonic()
        with self._lock:
            self._overloaded = {name: one for name, one in self._overloaded.items() if one.until > now}
            names = {name: one.reason for name, one in self._overloaded.items()}
            names |= dict.fromkeys(self._refusals.get(fingerprint, ()), "refused this prompt")
        return names

    def _remember_refusal(self, fingerprint: str, model: str) -> None:
        with self._lock:
            self._refusals.setdefault(fingerprint, set()).add(model)
            self._refusals.move_to_end(fingerprint)
            while len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)

    def _price_note(self, model: str) -> str:
        found = price_of(model, self._prices)
        if found.known:
            return ""
        with self._lock:
            first = model not in self._priced
            self._priced.add(model)
        if first:
            log.warning("price unknown", extra={"model": model, "reason": found.reason})
        return f" ({found.reason})"

    def _send(self, call: ModelCall, model: str) -> dict[str, Any]:
        request = self._request(call, model)
        if call.on_delta is not None or call.max_tokens > MAX_PLAIN_TOKENS:
            return self._streamed(request, call.on_delta)
        timeout = httpx2.Timeout(
            connect=CONNECT_SECONDS, read=self._total_seconds, write=WRITE_SECONDS, pool=self._total_seconds
        )
        # The raw JSON, not the SDK's objects: fields and blocks of a later day come through as they are.
        response = self._client.messages.with_raw_response.create(**request, timeout=timeout)
        message = response.http_response.json()
        if not isinstance(message, dict):
            raise StreamCut("The answer is not a message.")
        return message

    def _streamed(self, request: dict[str, Any], on_delta: DeltaHook | None) -> dict[str, Any]:
        timeout = httpx2.Timeout(
            connect=CONNECT_SECONDS,
            read=min(self._idle_seconds, self._total_seconds),
            write=WRITE_SECONDS,
            pool=self._total_seconds,
        )
        accumulator = Accumulator()
        with self._client.messages.create(**request, stream=True, timeout=timeout) as stream:
            for event in stream:
                text = accumulator.add(event)
                if text and on_delta is not None:
                    on_delta(text)
        return accumulator.message()

    def _request(self, call: ModelCall, model: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": model,
            "max_tokens": call.max_tokens,
            "messages": adapted(call.messages, self._profile),
        }
        if call.system:
            request["system"] = adapted(call.system, self._profile)
        if call.tools:
            request["tools"] = adapted(call.tools, self._profile)
            if call.tool_choice is not None and "tool_choice" in self._profile.features:
                request["tool_choice"] = dict(call.tool_choice)
        if call.request_id:
            request["extra_headers"] = {REQUEST_ID_HEADER: call.request_id}
        if self._profile.extra_body:
            request["extra_body"] = dict(self._profile.extra_body)
        return request

    def _answer(self, message: Mapping[str, Any], model: str, started: float) -> ModelAnswer:
        usage = usage_of(message.get("usage") or {})
        named = str(message.get("model") or model)
        # A server that renames its model is charged for what it says it is, if that has a price.
        charged = named if price_of(named, self._prices).known else model
        return ModelAnswer(
            model=named,
            content=tuple(_blocks(message.get("content"))),
            stop_reason=str(message.get("stop_reason") or "end_turn"),
            usage=usage,
            cost_microusd=cost_microusd(charged, usage, self._prices),
            duration_ms=round((time.monotonic() - started) * 1_000),
        )

    def _settle_limits(self, model: str, body_bytes: int, max_tokens: int, usage: Usage) -> None:
        if self._limits is None:
            return
        needed = Need(input_tokens=body_bytes // BYTES_PER_TOKEN, output_tokens=max_tokens)
        # Tokens read from the cache do not count against a minute's input.
        used = Need(input_tokens=usage.input_tokens + usage.cache_write_tokens, output_tokens=usage.output_tokens)
        self._limits.give_back(model, needed=needed, used=used)

    def _mapped(self, error: anthropic.APIStatusError, model: str, reserved: int) -> Exception:
        """Our error for a status that the server gave."""
        status, said = error.status_code, _said(error)
        if status < 400:
            # An `error` event in a stream that had begun: some of it may be billed.
            return ModelUnavailable(f"The stream failed: {said}", retryable=True, cost_microusd=reserved)
        if status == 429 and error.error_code in SPENT_CODES:
            return ModelUnavailable(f"The account's spend limit is reached: {said}", retryable=False)
        if status in (429, 503, 529):
            seconds = busy_seconds(error.response.headers)
            if status == 429 and self._limits is not None:
                self._limits.slow_down(model, seconds)
            if status != 429:
                with self._lock:
                    self._overloaded[model] = Shunned(until=time.monotonic() + seconds, reason="overloaded")
            said_busy = f"{model} is busy (HTTP {status}); try again in {seconds:.0f} s."
            return ModelBusy(seconds, said_busy, overloaded=status != 429)
        if status == 504:
            # A gateway gave up waiting; the model behind it may have answered.
            return ModelUnavailable(f"HTTP 504: {said}", retryable=True, cost_microusd=reserved)
        retryable = status in (408, 409) or status >= 500
        return ModelUnavailable(f"HTTP {status}: {said}", retryable=retryable)


def open_models(
    settings: Settings, *, threads: int, redis: "Redis | None" = None, holds: Holds = NOTHING_HELD
) -> AnthropicModels:
    """The models of a worker process with this many threads, from settings and environment.

    Reads `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL` (through the SDK), and `CHARGEHAND_MODEL_PRICES`,
    `CHARGEHAND_MODEL_LIMITS` and `CHARGEHAND_MODEL_PROFILE`. Raises `InvalidSettings`.
    """
    client = open_client(threads=threads)
    limits = None
    if redis is not None:
        configured = parse_limits(os.environ.get("CHARGEHAND_MODEL_LIMITS", ""))
        limits = FleetLimits(redis, key_prefix=settings.key_prefix, limits=configured)
    return AnthropicModels(
        client,
        tiers=Tiers.of(settings),
        profile=profile_for(str(client.base_url), os.environ.get("CHARGEHAND_MODEL_PROFILE", "")),
        prices=with_overrides(os.environ.get("CHARGEHAND_MODEL_PRICES", "")),
        limits=limits,
        holds=holds,
        total_seconds=settings.model_timeout_seconds,
    )


def open_client(*, threads: int, base_url: str | None = None, api_key: str | None = None) -> anthropic.Anthropic:
    """An SDK client that never retries, has a connection a thread, and keeps the total deadline of a call."""
    http_client = anthropic.DefaultHttpxClient(
        # With fewer connections than threads, calls wait for each other (2 s at 100 threads and 20 connections).
        limits=httpx2.Limits(max_connections=threads, max_keepalive_connections=threads, keepalive_expiry=60.0),
        event_hooks={"response": [_bound_by_deadline]},
    )
    return anthropic.Anthropic(base_url=base_url, api_key=api_key, max_retries=0, http_client=http_client)


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Tokens as we count them; counters that a server leaves out are 0.

    `iterations` holds tokens of server-side steps that the top-level numbers leave out; they are paid for too.
    """
    totals = {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    extra = [one for one in usage.get("iterations") or () if isinstance(one, dict) and one.get("type") != "message"]
    for part in (usage, *extra):
        for name in totals:
            value = part.get(name)
            totals[name] += value if isinstance(value, int) and value > 0 else 0
    return Usage(
        input_tokens=totals["input_tokens"],
        output_tokens=totals["output_tokens"],
        cache_write_tokens=totals["cache_creation_input_tokens"],
        cache_read_tokens=totals["cache_read_input_tokens"],
    )


def busy_seconds(headers: Mapping[str, str]) -> float:
    """How long the server asks to wait, within our bounds, whatever it says."""
    milliseconds, seconds = headers.get("retry-after-ms"), headers.get("retry-after")
    wanted = DEFAULT_BUSY_SECONDS
    try:
        if milliseconds is not None:
            wanted = float(milliseconds) / 1_000
        elif seconds is not None:
            wanted = float(seconds)
    except ValueError:
        wanted = _seconds_until(seconds or "", told_at=headers.get("date", ""))
    if not math.isfinite(wanted):
        wanted = MAX_BUSY_SECONDS
    return min(max(wanted, 0.0), MAX_BUSY_SECONDS)


def _seconds_until(date: str, *, told_at: str) -> float:
    # By the server's own clock: ours may be a day ahead.
    moment, now = _moment(date), _moment(told_at)
    return DEFAULT_BUSY_SECONDS if moment is None or now is None else (moment - now).total_seconds()


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class _Deadlined(httpx2.SyncByteStream):
    """A response's body that ends in a time-out when the call's total deadline has passed, pings or not."""

    def __init__(self, body: httpx2.SyncByteStream, deadline: float, request: httpx2.Request) -> None:
        self._body = body
        self._deadline = deadline
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("The call's total deadline has passed.", request=self._request)
            yield chunk

    def close(self) -> None:
        """Close the body."""
        self._body.close()


def _bound_by_deadline(response: httpx2.Response) -> None:
    deadline = _deadline.get(None)
    if deadline is not None and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Deadlined(response.stream, deadline, response.request)


def _connection_failure(error: anthropic.APIConnectionError, reserved: int) -> ModelUnavailable:
    """Nothing was sent, or nobody knows what became of it."""
    cause = error.__cause__
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return ModelUnavailable(f"The model's server cannot be reached: {_said(cause)}", retryable=True)
    reason = "did not answer in time" if isinstance(error, anthropic.APITimeoutError) else "broke the connection"
    return ModelUnavailable(
        f"The model's server {reason}: {_said(cause or error)}", retryable=True, cost_microusd=reserved
    )


def _said(error: BaseException) -> str:
    message = getattr(error, "api_message", None) or str(error) or type(error).__name__
    return str(message)[:300]


def _body_bytes(call: ModelCall) -> bytes:
    """The prompt as it is billed: everything that becomes tokens."""
    parts = [list(call.tools), list(call.system), list(call.messages), call.tool_choice]
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def _fingerprint(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _has_breakpoint(call: ModelCall) -> bool:
    blocks = [*call.tools, *call.system]
    for message in call.messages:
        content = message.get("content")
        blocks += [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return any(block.get("cache_control") for block in blocks)


def _blocks(content: Any) -> list[Block]:
    """Blocks without their nulls, which a server gives and does not take back."""
    return [
        cast("dict[str, JsonValue]", {name: value for name, value in block.items() if value is not None})
        for block in content or ()
        if isinstance(block, dict)
    ]

"""The wire: the only module beside `batches` that talks through the SDK, and says what came of it in our words.

Three kinds of trouble are kept apart: *try later* (`ModelBusy`), *tell the model or a person* (`ModelRefused`, which is
an answer), and *no answer* (`ModelUnavailable`, which says what it cost as far as one can know). Importing this module
costs about a second and 66 MB (the SDK): only the worker's composition root does it.
"""

import contextvars
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import anthropic
import httpx2
from anthropic.resources.messages import Batches as SdkBatches
from pydantic import JsonValue

from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.accumulator import Accumulator, StreamCut
from chargehand.workers.models.interface import Block, DeltaHook, ModelBusy, ModelCall, ModelUnavailable
from chargehand.workers.models.profiles import Profile, adapted

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
# These 429s do not pass by waiting.
SPENT_CODES = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})

# Names the call to the server, for its logs and for whoever compares them with the journal; no server has to know it.
REQUEST_ID_HEADER = "X-Client-Request-Id"

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("model_call_deadline")


class Wire:
    """One server behind one SDK client; safe to use from many threads."""

    def __init__(
        self,
        client: anthropic.Anthropic,
        profile: Profile,
        *,
        total_seconds: float = TOTAL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.profile = profile
        self._client = client
        self._total_seconds = total_seconds
        self._idle_seconds = idle_seconds

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @property
    def batches(self) -> SdkBatches:
        """The SDK's side of the batch API, for `batches`."""
        return self._client.messages.batches

    def send(
        self, call: ModelCall, model: str, *, reserved_microusd: int, begun: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The server's message to this one request; `begun` is called when it begins to arrive.

        Raises `ModelBusy`, which cost nothing, or `ModelUnavailable`, which costs the whole reservation when nobody can
        know what the server did.
        """
        token = _deadline.set(time.monotonic() + self._total_seconds)
        try:
            return self._send(call, model, begun)
        except anthropic.APIStatusError as error:
            raise status_failure(error, model, reserved_microusd) from error
        except anthropic.APIConnectionError as error:
            raise connection_failure(error, reserved_microusd) from error
        except (httpx2.HTTPError, anthropic.APIError, StreamCut, json.JSONDecodeError) as error:
            # The request was sent and the answer broke off: it is paid for, as far as anybody knows.
            reason = f"The answer broke off: {_said(error)}"
            raise ModelUnavailable(reason, retryable=True, cost_microusd=reserved_microusd) from error
        except TypeError as error:
            # The SDK's way to say that no credential was found.
            raise ModelUnavailable(f"The request cannot be made: {error}", retryable=False) from error
        finally:
            _deadline.reset(token)

    def _send(self, call: ModelCall, model: str, begun: Callable[[], None] | None) -> dict[str, Any]:
        request = request_of(call, model, self.profile)
        if call.on_delta is not None or begun is not None or call.max_tokens > MAX_PLAIN_TOKENS:
            return self._streamed(request, call.on_delta, begun)
        timeout = httpx2.Timeout(
            connect=CONNECT_SECONDS, read=self._total_seconds, write=WRITE_SECONDS, pool=self._total_seconds
        )
        # The raw JSON, not the SDK's objects: fields and blocks of a later day come through as they are.
        response = self._client.messages.with_raw_response.create(**request, timeout=timeout)
        message = response.http_response.json()
        if not isinstance(message, dict):
            raise StreamCut("The answer is not a message.")
        return message

    def _streamed(
        self, request: dict[str, Any], on_delta: DeltaHook | None, begun: Callable[[], None] | None
    ) -> dict[str, Any]:
        timeout = httpx2.Timeout(
            connect=CONNECT_SECONDS,
            read=min(self._idle_seconds, self._total_seconds),
            write=WRITE_SECONDS,
            pool=self._total_seconds,
        )
        accumulator = Accumulator()
        with self._client.messages.create(**request, stream=True, timeout=timeout) as stream:
            for event in stream:
                if begun is not None:
                    begun()
                    begun = None
                text = accumulator.add(event)
                if text and on_delta is not None:
                    on_delta(text)
        return accumulator.message()


def request_of(call: ModelCall, model: str, profile: Profile) -> dict[str, Any]:
    """The arguments of `messages.create` for a server of this kind."""
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": call.max_tokens,
        "messages": adapted(call.messages, profile, cache_ttl=call.cache_ttl),
    }
    if call.system:
        request["system"] = adapted(call.system, profile, cache_ttl=call.cache_ttl)
    if call.tools:
        request["tools"] = adapted(call.tools, profile, cache_ttl=call.cache_ttl)
        if call.tool_choice is not None and "tool_choice" in profile.features:
            request["tool_choice"] = dict(call.tool_choice)
    if call.output_schema is not None:
        request["output_config"] = {"format": {"type": "json_schema", "schema": call.output_schema}}
    if call.previous_message_id is not None and "diagnostics" in profile.features:
        request["diagnostics"] = {"previous_message_id": call.previous_message_id or None}
    if call.request_id:
        request["extra_headers"] = {REQUEST_ID_HEADER: call.request_id}
    if profile.extra_body:
        request["extra_body"] = dict(profile.extra_body)
    return request


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
    kept = usage.get("cache_creation")
    hour = kept.get("ephemeral_1h_input_tokens") if isinstance(kept, dict) else 0
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
        cache_write_hour_tokens=hour if isinstance(hour, int) and hour > 0 else 0,
    )


def cache_miss_of(message: Mapping[str, Any]) -> str:
    """Why the server's cache could not be read, in words; empty when it could, or when nobody says."""
    told = message.get("diagnostics")
    reason = told.get("cache_miss_reason") if isinstance(told, dict) else None
    if not isinstance(reason, dict) or not reason.get("type"):
        return ""
    missed = reason.get("cache_missed_input_tokens")
    return f"{reason['type']}: {missed} tokens" if isinstance(missed, int) else str(reason["type"])


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


def status_failure(error: anthropic.APIStatusError, model: str, reserved: int) -> ModelBusy | ModelUnavailable:
    """Our error for a status that the server gave."""
    status, said = error.status_code, _said(error)
    if status < 400:
        # An `error` event in a stream that had begun: some of it may be billed.
        return ModelUnavailable(f"The stream failed: {said}", retryable=True, cost_microusd=reserved)
    if status == 429 and error.error_code in SPENT_CODES:
        return ModelUnavailable(f"The account's spend limit is reached: {said}", retryable=False)
    if status in (429, 503, 529):
        seconds = busy_seconds(error.response.headers)
        said_busy = f"{model} is busy (HTTP {status}); try again in {seconds:.0f} s."
        return ModelBusy(seconds, said_busy, overloaded=status != 429)
    if status == 504:
        # A gateway gave up waiting; the model behind it may have answered.
        return ModelUnavailable(f"HTTP 504: {said}", retryable=True, cost_microusd=reserved)
    retryable = status in (408, 409) or status >= 500
    return ModelUnavailable(f"HTTP {status}: {said}", retryable=retryable)


def connection_failure(error: anthropic.APIConnectionError, reserved: int) -> ModelUnavailable:
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


def blocks_of(content: Any) -> list[Block]:
    """Blocks without their nulls, which a server gives and does not take back."""
    return [
        cast("dict[str, JsonValue]", {name: value for name, value in block.items() if value is not None})
        for block in content or ()
        if isinstance(block, dict)
    ]

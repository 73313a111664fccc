"""The batch API of Messages: calls of a short window share a batch, each under its id in the journal, at half price.

The list of batches does not name their custom ids; only the answers of those that have ended do.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import anthropic
import httpx2

from chargehand.orchestrator.prices import batched_microusd
from chargehand.workers.models.gathering import Gathering
from chargehand.workers.models.interface import (
    BatchFailed,
    BatchUnknown,
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelUnavailable,
)
from chargehand.workers.models.structured import asked
from chargehand.workers.models.wire import Wire, connection_failure, request_of, status_failure

# A fan-out's calls come within this time; the thread of the first one waits for it.
GATHER_SECONDS = 0.5
# The API takes 100,000 and 256 MB; so many of a full window's size fit.
MOST_IN_BATCH = 200
# Batches that are searched for a lost call: the newest page.
RECENT_BATCHES = 100
# What is asked for here is small, or a file.
TIMEOUT_SECONDS = 60.0
# Only says that the server may have done something; what that costs is the caller's to say.
_MAY_BE_DONE = 1
# These belong to one request over one connection, and have no place in a batch.
_NOT_IN_BATCH = ("extra_headers", "extra_body")


class MessageBatches:
    """`Batches` over the servers of this process; safe to use from many threads."""

    def __init__(
        self,
        *,
        at: Callable[[str], tuple[Wire, str]],
        understood: Callable[[Mapping[str, Any], str], ModelAnswer],
        gather_seconds: float = 0.0,
        most_in_batch: int = MOST_IN_BATCH,
    ) -> None:
        """`at`: the server of a model and the model's name there; `understood`: a server's message as an answer.

        `gather_seconds`: so long a call waits for others of the same server, to share their batch.
        """
        self._gathering = Gathering(self._make, window_seconds=gather_seconds, most=most_in_batch)
        self._at = at
        self._understood = understood

    def submit(self, call: ModelCall, call_id: UUID) -> str:
        """Put the call into a batch and give that one's id; see `Batches`."""
        model = call.model or ""
        wire, bare = self._at(model)
        request = request_of(asked(call, wire.profile), bare, wire.profile)
        # An answer that comes within a day cannot say what the cache of now has missed.
        parameters = {name: value for name, value in request.items() if name not in (*_NOT_IN_BATCH, "diagnostics")}
        parameters |= request.get("extra_body", {})
        entry: Any = {"custom_id": str(call_id), "params": parameters}
        return self._gathering.add(wire, (model, entry), alone_after=_may_be_about_one)

    def _make(self, wire: Wire, entries: Sequence[tuple[str, Any]]) -> str:
        """One batch of these requests, each with its model."""
        with _errors(entries[0][0], making=True):
            requests = [entry for _, entry in entries]
            made = wire.batches.with_raw_response.create(requests=requests, timeout=TIMEOUT_SECONDS)
            return str(made.http_response.json()["id"])

    def find(self, model: str, call_id: UUID) -> str | None:
        """The newest batch with an answer to the call; see `Batches`."""
        wire, _ = self._at(model)
        try:
            return self._found(wire, model, call_id)
        except _Gone as gone:
            raise BatchUnknown(f"The server's batches cannot be searched: {gone}") from gone

    def _found(self, wire: Wire, model: str, call_id: UUID) -> str | None:
        with _errors(model):
            recent = wire.batches.list(limit=RECENT_BATCHES, timeout=TIMEOUT_SECONDS).data
            for batch in recent:
                # Answers that were thrown away are older than any call that is still open.
                if batch.results_url and _line_of(wire, batch.id, call_id) is not None:
                    return batch.id
        under_way = sum(batch.processing_status != "ended" for batch in recent)
        if under_way:
            raise BatchUnknown(f"Whether the call was sent is not known before {under_way} batches have ended.")
        return None

    def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
        """The answer, at the price of a batch; see `Batches`."""
        wire, _ = self._at(model)
        try:
            with _errors(model):
                batch = wire.batches.retrieve(batch_id, timeout=TIMEOUT_SECONDS)
                if batch.processing_status != "ended":
                    return None
                line = _line_of(wire, batch_id, call_id) if batch.results_url else None
        except _Gone as gone:
            raise BatchFailed(f"Batch {batch_id} is not there any more: {gone}", may_be_charged=True) from gone
        if line is None:
            raise BatchFailed(f"Batch {batch_id} has no answer to the call.", may_be_charged=True)
        result = line.get("result") or {}
        if result.get("type") != "succeeded":
            # Not billed: expired, cancelled, or refused as a request.
            said = json.dumps(result.get("error"))[:300] if result.get("error") else "no reason given"
            raise BatchFailed(f"The call in batch {batch_id} is {result.get('type')}: {said}.")
        answer = self._understood(result["message"], model)
        took = _seconds_between(batch.created_at, batch.ended_at)
        return replace(answer, cost_microusd=batched_microusd(answer.cost_microusd), duration_ms=round(took * 1_000))

    def cancel(self, model: str, batch_id: str) -> None:
        """Ask for its end; see `Batches`."""
        wire, _ = self._at(model)
        try:
            with _errors(model):
                wire.batches.cancel(batch_id, timeout=TIMEOUT_SECONDS)
        except _Gone as gone:
            raise BatchFailed(f"Batch {batch_id} is not there any more: {gone}", may_be_charged=True) from gone


class _Gone(Exception):
    """The server does not know the batch, or has thrown its answers away."""


def _line_of(wire: Wire, batch_id: str, call_id: UUID) -> dict[str, Any] | None:
    """The raw line of a call in the answers of a batch that has ended."""
    with wire.batches.with_streaming_response.results(batch_id, timeout=TIMEOUT_SECONDS) as response:
        for text in response.iter_lines():
            # The raw JSON, as of a call: fields and blocks of a later day come through as they are.
            line = json.loads(text) if str(call_id) in text else {}
            if line.get("custom_id") == str(call_id):
                return dict(line)
    return None


def _may_be_about_one(error: BaseException) -> bool:
    """A request that the server refuses spoils the batch of all; a server that is away is no request's fault."""
    return isinstance(error, ModelUnavailable) and not error.retryable


@contextmanager
def _errors(model: str, *, making: bool = False) -> Iterator[None]:
    """Our errors for the SDK's; `making`: a batch may have been made though no reply came."""
    try:
        yield
    except anthropic.NotFoundError as error:
        if making:
            raise ModelUnavailable(f"There is no batch API: {error}", retryable=False) from error
        raise _Gone(str(error)) from error
    except anthropic.APIStatusError as error:
        _raise(status_failure(error, model, _MAY_BE_DONE), error, making=making)
    except anthropic.APIConnectionError as error:
        _raise(connection_failure(error, _MAY_BE_DONE), error, making=making)
    except (httpx2.HTTPError, anthropic.AnthropicError, ValueError, KeyError) as error:
        _raise(ModelUnavailable(str(error), retryable=True, cost_microusd=_MAY_BE_DONE), error, making=making)


def _raise(failure: ModelBusy | ModelUnavailable, cause: Exception, *, making: bool) -> None:
    if making and isinstance(failure, ModelUnavailable) and failure.cost_microusd:
        raise BatchUnknown(f"Whether the batch was made is not known: {failure}") from cause
    raise failure from cause


def _seconds_between(begun: datetime, ended: datetime | None) -> float:
    return max((ended - begun).total_seconds(), 0.0) if ended is not None else 0.0

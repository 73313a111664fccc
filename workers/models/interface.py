"""What the agent loop asks of a model, and what it gets back: values, errors and the protocol between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.errors import ChargehandError
from chargehand.orchestrator.facts import Usage
from chargehand.workers.held import Held

Tier = Literal["small", "medium", "large"]
Block = dict[str, JsonValue]
"""A content block, a message or a tool definition in the Messages format."""
DeltaHook = Callable[[str], None]
"""Gets the text of the answer piece by piece while it streams."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """One request to a model, in the Messages format, before a model was chosen."""

    tier: str
    system: Sequence[Block]
    tools: Sequence[Block]
    messages: Sequence[Block]
    tool_choice: Block | None = None
    """None lets the server decide (`auto`)."""
    max_tokens: int = 4096
    """Most tokens the caller wants; the quote may allow fewer."""
    on_delta: DeltaHook | None = None
    """Set where somebody watches: the call is then streamed. It changes nothing in the answer."""
    model: str | None = None
    """The model that the quote chose, or one that is asked for by name; None: the router decides."""
    output_schema: Block | None = None
    """JSON schema of an answer that is one JSON text; None: the answer is free, or given by a tool."""
    cache_ttl: Literal["5m", "1h"] = "5m"
    """How long the server keeps what it caches of this call, from its last use; the longer one costs more to write."""
    previous_message_id: str | None = None
    """The server's id of the answer before, so that it can say why its cache was not read; empty: there is none."""
    routed_by: str = ""
    """Who named the tier or the model; empty: the role."""
    problems: Sequence[Literal["unsure", "invalid", "refuted"]] = ()
    """Why earlier attempts at the same task did not do, beside what the messages show."""
    used_percent: int = 0
    """How much of the run's budget is known to be spent."""
    urgent: bool = True
    """False: it may go through the batch API of the model's server."""
    cache_scope: str = ""
    """Whose equal requests may share one answer: a tenant's id; empty: the model is asked each time."""
    request_id: str = ""
    """`run/step/call` of the journal, told to the server in a header, so that its logs can be laid beside ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswer:
    """A complete answer of a model."""

    model: str
    """The model that answered, as the server names it."""
    content: tuple[Block, ...]
    stop_reason: str
    """`end_turn`, `tool_use`, `max_tokens`, `refusal`, … as the server says."""
    usage: Usage
    cost_microusd: int
    duration_ms: int
    message_id: str = ""
    """The server's id of the answer."""
    cache_miss: str = ""
    """Why the server could not read all of the prompt that it might have; empty: it could, or does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """Which model would serve a call and what it can cost at most; nothing was sent yet."""

    model: str
    tier: str
    """The tier that was chosen; it differs from the asked one after an escalation or a fall-back."""
    reserved_microusd: int
    """Upper bound of the cost with `max_tokens`; 0 for a model that costs nothing."""
    max_tokens: int
    """What the call may ask for: the caller's wish within the model's limit."""
    routed_because: str
    """Reason of the choice, for the journal."""
    batched: bool = False
    """The call is to go through the batch API; the reservation is at its price."""
    answer: ModelAnswer | None = None
    """What the very same request was answered before; nobody is asked then, and nothing is reserved."""


class ModelBusy(ChargehandError):
    """Rate limit or overload: the same call may be made again after `until_seconds`; it cost nothing."""

    def __init__(self, until_seconds: float, reason: str = "", *, overloaded: bool = False) -> None:
        super().__init__(reason or f"The model is busy; try again in {until_seconds:.0f} s.")
        self.until_seconds = until_seconds
        self.overloaded = overloaded
        """The server has too much to do, and not: this account asks too often."""


class ModelRefused(ChargehandError):
    """The model or its server declines this request for its content; asking again does not help."""

    def __init__(self, reason: str, cost_microusd: int = 0) -> None:
        super().__init__(reason)
        self.cost_microusd = cost_microusd


class ModelUnavailable(ChargehandError):
    """No usable answer: connection, server error, time-out, a bad key, a request that the server rejects."""

    def __init__(self, reason: str, *, retryable: bool, cost_microusd: int = 0) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.cost_microusd = cost_microusd
        """What was certainly spent; a caller that cannot know passes the reservation."""


class ModelHeld(ChargehandError):
    """No model of the tier may be asked now: paused by a person, or left alone after failures of the whole fleet."""

    def __init__(self, held: Held) -> None:
        super().__init__(held.why)
        self.held = held


class BatchUnknown(ChargehandError):
    """Nobody knows whether the batch was made: the connection broke, or its list cannot tell yet."""


class BatchFailed(ChargehandError):
    """The batch has no answer for the call, and will have none; the call is made at once instead."""

    def __init__(self, reason: str, *, may_be_charged: bool = False) -> None:
        super().__init__(reason)
        self.may_be_charged = may_be_charged
        """The server may have answered, and the answer cannot be read any more."""


class Batches(Protocol):
    """The batch APIs of the models' servers. The custom id of a call is its id in the journal."""

    def submit(self, call: ModelCall, call_id: UUID) -> str:
        """Make a batch of this one call and give its id.

        Raises `BatchUnknown`, or `ModelBusy` or `ModelUnavailable` when it was certainly not made.
        """
        ...

    def find(self, model: str, call_id: UUID) -> str | None:
        """The newest batch with an answer to the call; None: none of the recent ones has it, and all have ended.

        Raises `BatchUnknown` while some have not ended, `ModelBusy` or `ModelUnavailable` when it cannot be asked.
        """
        ...

    def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
        """The answer, at the price of a batch; None: it is not there yet.

        Raises `BatchFailed` when there will be none, `ModelBusy` or `ModelUnavailable` when it cannot be asked now.
        """
        ...

    def cancel(self, model: str, batch_id: str) -> None:
        """Ask for an end of the whole batch, once or many times; what had begun is answered and charged all the same.

        Raises `BatchFailed` when there is no such batch, `ModelBusy` or `ModelUnavailable` when it cannot be asked now.
        """
        ...


class Models(Protocol):
    """The models of this process."""

    def quote(self, call: ModelCall) -> Quote:
        """Choose the model and bound the cost, without I/O to the model.

        May raise `ModelBusy` when the fleet's limits say that now is not the time, and `ModelUnavailable`
        when no model of the tier can be used, and `ModelHeld` when none of them may be.
        """
        ...

    def call(self, call: ModelCall) -> ModelAnswer:
        """Send the request once and give the whole answer.

        The caller sets `model` and `max_tokens` to those of the quote. Raises `ModelBusy`, `ModelRefused` or
        `ModelUnavailable`; never retries by itself, because each attempt has a reservation of its own.
        """
        ...


def tool_definition(
    *, name: str, description: str, input_schema: Mapping[str, JsonValue], strict: bool = False
) -> Block:
    """A tool as the Messages format wants it.

    `strict` asks the server to check arguments; only for schemas whose objects are all closed.
    """
    definition: Block = {"name": name, "description": description, "input_schema": dict(input_schema)}
    return {**definition, "strict": True} if strict else definition

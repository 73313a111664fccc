"""The conversation that a step's recorded facts amount to; a pure fold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.copying import changed
from chargehand.orchestrator.facts import (
    BatchSubmitted,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    SignalReceived,
    StateRefreshed,
    StepFact,
    StepForked,
    StepTold,
    StepWaiting,
    ToolFinished,
    ToolStarted,
)
from chargehand.workers.models.interface import Block
from chargehand.workers.tools.taint import to_json

# Before key and version, in what a tool's result rests on.
READS_STATE = "state:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a person answered to a waiting step."""

    choice: str
    body: JsonValue
    about_tool: str | None
    """The tool call whose outcome was unknown; None when the step as a whole waited."""
    position: int
    """Index of the fact."""
    by: str = ""


# Without slots: see `copying`.
@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One answered call to the model and what its tool calls gave."""

    answer: ModelResponded
    started: Mapping[str, ToolStarted] = field(default_factory=dict)
    results: Mapping[str, ToolFinished] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What persons said after it."""
    refreshed: tuple[StateRefreshed, ...] = ()
    """What others replaced in shared state after it."""
    evicted: frozenset[str] = frozenset()
    """Tool calls whose results are shown as references, to make room."""
    view: Mapping[str, int] = field(default_factory=dict)
    """The versions of shared state that the model had been shown when it gave this answer."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Index of the newest fact of a tool call."""

    @property
    def tool_uses(self) -> list[Block]:
        """The tool calls of the answer, in order."""
        return [block for block in self.answer.content if block.get("type") == "tool_use"]

    @property
    def cut_off(self) -> bool:
        """Whether the answer ended at its token limit: a last tool call is then incomplete."""
        return self.answer.stop_reason == "max_tokens"

    @property
    def unresolved(self) -> list[Block]:
        """Tool calls without a recorded result, in order."""
        return [block for block in self.tool_uses if str(block.get("id")) not in self.results]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What stands for the oldest turns of a conversation."""

    turns: int
    """How many."""
    text: str


# Without slots: see `copying`.
@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A step's stream, folded."""

    exchanges: tuple[Exchange, ...] = ()
    open_calls: tuple[ModelRequested, ...] = ()
    """Requested, and neither answered, failed nor abandoned."""
    batches: Mapping[UUID, str] = field(default_factory=dict)
    """Calls that the batch API has taken, with its ids of the batches."""
    opening_notes: tuple[str, ...] = ()
    """What persons said before the first answer."""
    evicted: frozenset[str] = frozenset()
    """Tool calls of any turn whose results are shown as references."""
    evicted_after: int = 0
    """How many answers there were when that was decided last."""
    last_evicted: frozenset[str] = frozenset()
    """Those of them that were decided on last."""
    summary: Summary | None = None
    """What the model is shown instead of the oldest turns."""
    summarised_after: int = 0
    """How many answers there were when a summary was given last, or could not be."""
    view: Mapping[str, int] = field(default_factory=dict)
    """The versions of shared state that the conversation has, by key."""
    decisions: tuple[Decision, ...] = ()
    failures: tuple[ModelFailed, ...] = ()
    """Failed calls since the newest answer, decision or success."""
    waits: tuple[StepWaiting, ...] = ()
    """Waits since the newest answer or tool fact."""
    trip: tuple[int, BreakerTripped] | None = None
    """A trip that nobody has answered yet, with its index."""
    waiting: StepWaiting | None = None
    """The newest wait, until its answer is folded in."""

    @property
    def turns(self) -> int:
        """Answered calls, without those for a summary."""
        return len(self.exchanges)

    @property
    def summarised(self) -> int:
        """How many of the oldest turns are not shown themselves."""
        return self.summary.turns if self.summary is not None else 0

    @property
    def has_left_out(self) -> bool:
        """Whether results of tools are not shown that were."""
        return bool(self.evicted) or self.summary is not None

    @property
    def tool_facts(self) -> tuple[ToolFinished, ...]:
        """Results of all tool calls, in the order of the calls."""
        return tuple(
            exchange.results[str(block.get("id"))]
            for exchange in self.exchanges
            for block in exchange.tool_uses
            if str(block.get("id")) in exchange.results
        )

    @property
    def commit(self) -> str | None:
        """Where the newest editing tool left the workspace."""
        return next((fact.commit for fact in reversed(self.tool_facts) if fact.commit), None)


def as_said(history: Sequence[StepFact]) -> list[StepFact]:
    """The facts of a step; what a fork took over from another run stands in its place."""
    return [one for fact in history for one in (fact.facts if isinstance(fact, StepForked) else (fact,))]


def last_commit(history: Sequence[StepFact]) -> str | None:
    """The commit that a resumed attempt starts from, or None when no tool of the step has edited anything."""
    return fold(as_said(history)).commit


def fold(facts: Iterable[StepFact], *, onto: Conversation | None = None, from_position: int = 0) -> Conversation:
    """The conversation that a step's facts, in order, amount to.

    `onto`: what the facts before `from_position` amounted to, so that not every turn reads the step's beginning anew.
    """
    folded = onto or Conversation()
    for position, fact in enumerate(facts, start=from_position):
        match fact:
            case ModelRequested():
                folded = changed(folded, open_calls=(*folded.open_calls, fact))
            case ModelResponded() if fact.summarises:
                folded = _with_summary(folded, fact)
            case ModelResponded():
                folded = changed(
                    folded,
                    open_calls=_without_call(folded, fact.call_id),
                    exchanges=(*folded.exchanges, Exchange(answer=fact, view=folded.view)),
                    failures=(),
                    waits=(),
                )
            case ModelFailed():
                folded = _with_failure(folded, fact)
            case BatchSubmitted():
                folded = changed(folded, batches={**folded.batches, fact.call_id: fact.batch_id})
            case CallAbandoned():
                folded = changed(folded, open_calls=_without_call(folded, fact.call_id))
            case ToolStarted() | ToolFinished():
                folded = _with_tool_fact(folded, fact, position)
            case StepTold():
                for message in fact.messages:
                    folded = _with_note(folded, f"A person told the run: {message}")
            case StateRefreshed():
                folded = _with_newer_state(folded, fact)
            case OutputsEvicted():
                folded = _with_evicted(folded, frozenset(fact.tool_use_ids))
            case BreakerTripped():
                folded = changed(folded, trip=(position, fact))
            case StepWaiting():
                folded = changed(folded, waits=(*folded.waits, fact), waiting=fact)
            case SignalReceived():
                if folded.waiting is not None and folded.waiting.wait_id == fact.wait_id:
                    folded = _with_signal(folded, folded.waiting, fact, position)
            case _:
                pass  # claims and releases do not change what was said
    return folded


def versions_read(reads: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Keys of shared state and their versions, of what a tool says that its answer rests on."""
    for read in reads:
        if read.startswith(READS_STATE):
            key, _, version = read.removeprefix(READS_STATE).rpartition("@")
            yield key, int(version)


def unknown_outcome(exchange: Exchange) -> ToolStarted | None:
    """The first effectful call that was started and never finished."""
    for block in exchange.unresolved:
        started = exchange.started.get(str(block.get("id")))
        if started is not None and started.effect == "effectful":
            return started
    return None


def _without_call(folded: Conversation, call_id: object) -> tuple[ModelRequested, ...]:
    return tuple(call for call in folded.open_calls if call.call_id != call_id)


def _with_tool_fact(folded: Conversation, fact: ToolStarted | ToolFinished, position: int) -> Conversation:
    if not folded.exchanges:
        return changed(folded, waits=())
    last = folded.exchanges[-1]
    positions = {**last.positions, fact.tool_use_id: position}
    if isinstance(fact, ToolStarted):
        last = changed(last, started={**last.started, fact.tool_use_id: fact}, positions=positions)
    else:
        last = changed(last, results={**last.results, fact.tool_use_id: fact}, positions=positions)
        read = dict(versions_read(fact.reads))
        if read:
            folded = changed(folded, view={**folded.view, **read})
    return changed(folded, exchanges=(*folded.exchanges[:-1], last), waits=())


def _with_failure(folded: Conversation, fact: ModelFailed) -> Conversation:
    asked = next((call for call in folded.open_calls if call.call_id == fact.call_id), None)
    open_calls = _without_call(folded, fact.call_id)
    if asked is not None and asked.summarises and not fact.retryable:
        # The turn is asked for without a summary, and has done nothing wrong.
        return changed(folded, open_calls=open_calls, summarised_after=len(folded.exchanges))
    return changed(folded, open_calls=open_calls, failures=(*folded.failures, fact))


def _with_summary(folded: Conversation, fact: ModelResponded) -> Conversation:
    text = _summary_text(fact.content)
    return changed(
        folded,
        open_calls=_without_call(folded, fact.call_id),
        summary=Summary(turns=fact.summarises, text=text) if text else folded.summary,
        summarised_after=len(folded.exchanges),
        failures=(),
        waits=(),
    )


def _summary_text(content: Sequence[Block]) -> str:
    """What the summary's tool was called with, or else what was written instead of calling it."""
    given = [block.get("input") for block in content if block.get("type") == "tool_use"]
    called = [str(one.get("summary") or "") for one in given if isinstance(one, dict)]
    written = [str(block.get("text") or "") for block in content if block.get("type") == "text"]
    return next((text.strip() for text in (*called, "\n".join(written)) if text.strip()), "")


def _with_evicted(folded: Conversation, gone: frozenset[str]) -> Conversation:
    exchanges = tuple(
        changed(exchange, evicted=exchange.evicted | (gone & exchange.results.keys()))
        if gone & exchange.results.keys()
        else exchange
        for exchange in folded.exchanges
    )
    return changed(
        folded,
        exchanges=exchanges,
        evicted=folded.evicted | gone,
        evicted_after=len(exchanges),
        last_evicted=gone,
    )


def _with_newer_state(folded: Conversation, fact: StateRefreshed) -> Conversation:
    folded = changed(folded, view={**folded.view, **{one.key: one.version for one in fact.values}})
    # Nothing of shared state is read before there is an answer that asks for it.
    if not folded.exchanges:
        return folded
    last = folded.exchanges[-1]
    last = changed(last, refreshed=(*last.refreshed, fact))
    return changed(folded, exchanges=(*folded.exchanges[:-1], last))


def _with_signal(folded: Conversation, waiting: StepWaiting, signal: SignalReceived, position: int) -> Conversation:
    unknown = unknown_outcome(folded.exchanges[-1]) if folded.exchanges else None
    about_tool = unknown.tool_use_id if unknown is not None and waiting.reason == "human" else waiting.tool_use_id
    decision = Decision(choice=signal.choice, body=signal.body, about_tool=about_tool, position=position, by=signal.by)
    folded = changed(folded, decisions=(*folded.decisions, decision), failures=(), trip=None, waiting=None)
    if signal.choice != "answer" or about_tool is not None:
        return folded
    return _with_note(folded, signal.body if isinstance(signal.body, str) else to_json(signal.body))


def _with_note(folded: Conversation, note: str) -> Conversation:
    if not folded.exchanges:
        return changed(folded, opening_notes=(*folded.opening_notes, note))
    last = folded.exchanges[-1]
    return changed(folded, exchanges=(*folded.exchanges[:-1], changed(last, notes=(*last.notes, note))))

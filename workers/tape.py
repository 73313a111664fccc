"""The facts of one attempt: what the journal holds, and the results of pure tools that no commit holds yet."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.facts import (
    BatchSubmitted,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    StateRefreshed,
    StepFact,
    StepForked,
    StepTold,
    ToolFinished,
    ToolStarted,
)
from chargehand.orchestrator.spending import Peers
from chargehand.workers.conversation import Conversation, as_said, fold

# The journal numbers the rows of a step from here.
FIRST_SEQ = 1
# Any fact of a step that the loop writes.
F = TypeVar("F", bound=StepFact)


class Recorder(Protocol):
    """The step's journal; each method is one commit, and raises `Fenced` when the step is not ours any more."""

    @property
    def history(self) -> Sequence[StepFact]:
        """The step's whole stream as it is at the claim."""
        ...

    def request(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        """Commit results of pure tools and reserve for a call; raises `BudgetExceeded` or `BudgetBusy`."""
        ...

    def respond(self, fact: ModelResponded | ModelFailed) -> None:
        """Commit what came back, and settle."""
        ...

    def submitted(self, fact: BatchSubmitted) -> None:
        """Commit that the batch API has taken a call."""
        ...

    def abandon(self, fact: CallAbandoned) -> None:
        """Close a call of an earlier attempt whose outcome is unknown."""
        ...

    def tool_started(self, fact: ToolStarted) -> None:
        """Commit that an effect is about to happen."""
        ...

    def tool_finished(self, fact: ToolFinished) -> None:
        """Commit a result at once."""
        ...

    def trip(self, fact: BreakerTripped) -> None:
        """Commit that the breaker tripped."""
        ...

    def hear(self) -> StepTold | None:
        """What people have told the run since the step last heard."""
        ...

    def told(self, fact: StepTold) -> None:
        """Commit that it has heard."""
        ...

    def replaced(self, view: Mapping[str, int]) -> StateRefreshed | None:
        """What of the run's shared state is not at the version that the agent was shown (key → version)."""
        ...

    def refreshed(self, fact: StateRefreshed) -> None:
        """Commit that it is shown what is there now."""
        ...

    def evicted(self, fact: OutputsEvicted) -> None:
        """Commit that big results of earlier turns are not shown any more."""
        ...

    def recent_failures(self) -> Sequence[Observed]:
        """Failed tool results of the other steps of this run, in order."""
        ...

    def hand_offs(self) -> Sequence[Observed]:
        """What the agents of this run have handed to each other, in order."""
        ...

    def peers(self) -> Peers:
        """What the run's other steps of this role have cost."""
        ...


class Tape:
    """What has happened, in order; its position in the stream is a fact's place in the journal."""

    def __init__(self, recorder: Recorder, step_id: UUID) -> None:
        self.recorder = recorder
        self._step_id = step_id
        self._recorded: list[StepFact] = as_said(recorder.history)
        self._taken_over = sum(len(fact.facts) for fact in recorder.history if isinstance(fact, StepForked))
        self._pending: list[ToolFinished] = []
        self._committed: tuple[int, Conversation] = (0, Conversation())
        self._folded: tuple[int, Conversation] = (0, Conversation())

    @property
    def conversation(self) -> Conversation:
        """All facts folded, also those that are not committed yet."""
        count = len(self._recorded) + len(self._pending)
        # A flush moves results from one list to the other in their order: the same number means the same facts.
        if count != self._folded[0]:
            done, committed = self._committed
            committed = fold(self._recorded[done:], onto=committed, from_position=done)
            self._committed = (len(self._recorded), committed)
            self._folded = (count, fold(self._pending, onto=committed, from_position=len(self._recorded)))
        return self._folded[1]

    @property
    def recorded(self) -> Sequence[StepFact]:
        """The committed facts."""
        return self._recorded

    @property
    def newest(self) -> int:
        """Position of the newest committed fact."""
        return len(self._recorded) - 1

    def place(self, position: int) -> str:
        """`step:seq` of a fact, as evidence names it."""
        # What a fork took over from another run stands in one row, the first.
        own = position - self._taken_over + bool(self._taken_over)
        return f"{self._step_id}:{max(own, 0) + FIRST_SEQ}"

    def commit(self, fact: F, write: Callable[[F], None]) -> None:
        """Write the fact; it counts from here on."""
        write(fact)
        self._recorded.append(fact)

    def hold(self, fact: ToolFinished) -> None:
        """Keep a result until the next request commits it; a crash before that runs its pure tool again."""
        self._pending.append(fact)

    def request(self, requested: ModelRequested) -> None:
        """Commit the held results and the request as one."""
        self.recorder.request(tuple(self._pending), requested)
        self._recorded += [*self._pending, requested]
        self._pending.clear()

    def flush(self) -> None:
        """Commit held results that no request will take along."""
        while self._pending:
            self.recorder.tool_finished(self._pending[0])
            self._recorded.append(self._pending.pop(0))

    def turn_of(self, call_id: UUID) -> int:
        """Number of an answered call, from 1."""
        answered = [exchange.answer.call_id for exchange in self.conversation.exchanges]
        return answered.index(call_id) + 1

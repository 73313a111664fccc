"""A call that is not urgent: sent as a batch, waited for without a worker, and folded in by whoever claims next.

The order is `model.requested` (the reservation), the batch, `batch.submitted`, a wait. The call outlives its claim: a
later claimant finds it open and asks the batch API for its answer, which settles it once, under its call id. A crash
between the batch and its `batch.submitted` leaves a call of which nobody knows whether it was sent: the answers of
recent batches are searched for its custom id, and only if none has it the call stays charged and is made again.
"""

from uuid import UUID

from chargehand.orchestrator.facts import (
    BatchSubmitted,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
)
from chargehand.workers.answers import responded
from chargehand.workers.conversation import Conversation
from chargehand.workers.models.interface import (
    Batches,
    BatchFailed,
    BatchUnknown,
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelUnavailable,
)
from chargehand.workers.outcomes import Wait
from chargehand.workers.tape import Tape

# Most batches end within the hour, all within a day.
FIRST_LOOK_SECONDS = 5.0
LONGEST_LOOK_SECONDS = 300.0
# A lost call is looked for while other batches have not ended, about as long as most take (5 + 10 + … + 300 s …).
MOST_SEARCHES = 18


class BatchTurn:
    """The batched calls of one attempt."""

    def __init__(self, tape: Tape, batches: Batches | None) -> None:
        """`batches` None: this process sends none, and leaves open ones to a process that does."""
        self._tape = tape
        self._batches = batches

    def is_open(self, conversation: Conversation) -> bool:
        """Whether the next call may be a batch; after one that failed it is made at once."""
        failed = any(fact.error.startswith(f"{BatchFailed.__name__}:") for fact in conversation.failures)
        return self._batches is not None and not failed

    def submit(self, call: ModelCall, call_id: UUID) -> Wait | None:
        """Send the call that was just requested; None: it could not be sent so, and is made at once instead.

        Raises `ModelBusy`, which the caller records.
        """
        assert self._batches is not None, "A quote is only batched for a call that is not urgent."
        try:
            batch_id = self._batches.submit(call, call_id)
        except BatchUnknown as unknown:
            return self._wait(str(unknown))
        except ModelUnavailable as error:
            self._fail(call_id, BatchFailed(str(error)), cost_microusd=0)
            return None
        self._tape.commit(BatchSubmitted(call_id=call_id, batch_id=batch_id), self._tape.recorder.submitted)
        return self._wait(f"The call is in batch {batch_id}.")

    def look(self, call: ModelRequested) -> Wait | None:
        """What became of a call of an earlier claim; None: it is settled, and the step goes on."""
        if self._batches is None:
            return self._wait("This worker has no batch API to ask.")
        batch_id = self._tape.conversation.batches.get(call.call_id)
        try:
            if batch_id is None:
                batch_id = self._batches.find(call.model, call.call_id)
                if batch_id is None:
                    self._abandon(call)
                    return None
                self._tape.commit(
                    BatchSubmitted(call_id=call.call_id, batch_id=batch_id), self._tape.recorder.submitted
                )
            answer = self._batches.answer(call.model, batch_id, call.call_id)
        except BatchUnknown as unknown:
            if self._looks() < MOST_SEARCHES:
                return self._wait(str(unknown))
            self._abandon(call)
            return None
        except (ModelBusy, ModelUnavailable) as error:
            # The batch is there and paid for, whatever its server says now.
            return self._wait(f"The batch cannot be looked at: {error}")
        except BatchFailed as failed:
            self._fail(call.call_id, failed, cost_microusd=call.reserved_microusd if failed.may_be_charged else 0)
            return None
        if answer is None:
            return self._wait(f"The call is in batch {batch_id}, which has not ended.")
        self._settle(call, answer)
        return None

    def _settle(self, call: ModelRequested, answer: ModelAnswer) -> None:
        if answer.stop_reason == "refusal":
            # Asked at once, the router may find another model.
            refused = BatchFailed(f"{answer.model} refused to answer.")
            self._fail(call.call_id, refused, cost_microusd=answer.cost_microusd)
            return
        self._tape.commit(responded(call.call_id, answer), self._tape.recorder.respond)

    def _fail(self, call_id: UUID, failed: BatchFailed, *, cost_microusd: int) -> None:
        error = f"{BatchFailed.__name__}: {failed}"[:2_000]
        fact = ModelFailed(call_id=call_id, error=error, retryable=True, cost_microusd=cost_microusd)
        self._tape.commit(fact, self._tape.recorder.respond)

    def _abandon(self, call: ModelRequested) -> None:
        abandoned = CallAbandoned(call_id=call.call_id, charged_microusd=call.reserved_microusd)
        self._tape.commit(abandoned, self._tape.recorder.abandon)

    def _looks(self) -> int:
        return sum(wait.reason == "batch" for wait in self._tape.conversation.waits)

    def _wait(self, why: str) -> Wait:
        seconds = min(FIRST_LOOK_SECONDS * 2.0 ** min(self._looks(), 10), LONGEST_LOOK_SECONDS)
        return Wait(reason="batch", question=why, run_after_seconds=seconds)

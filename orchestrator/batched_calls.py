"""The rows of calls that went through a batch API: written before the batch is made, gone when the call is settled.

A row outlives its claim and its step. It is no truth about a call, which the journal holds; it says which calls
somebody has to look after when their step does not any more (`supervisor/closing.py`), and who else is in a batch.
"""

from uuid import UUID

from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.facts import ModelRequested
from chargehand.orchestrator.steps import Claim

# The step is locked: whoever cancels it waits for this row, or has been before it and there is none.
_OPEN = """
INSERT INTO batched_calls (tenant, call, run, step, model, max_tokens, counted)
SELECT tenant, %(call)s, run, id, %(model)s, %(max_tokens)s, %(counted)s FROM steps
WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' FOR NO KEY UPDATE
"""
# Not fenced: the batch is there, whoever has the step.
PLACE = "UPDATE batched_calls SET batch_id = %(batch_id)s WHERE call = %(call)s"
_FORGET = "DELETE FROM batched_calls WHERE call = %(call)s"


class BatchedCalls:
    """The rows of one claim's calls."""

    def __init__(self, connections: Connections, claim: Claim) -> None:
        """Nothing is read."""
        self._connections = connections
        self._claim = claim

    def open(self, requested: ModelRequested, *, counted: bool) -> None:
        """A call is about to be requested; no row is made when the step is not this claim's any more.

        `counted`: its tenant's caps have counted it.
        """
        self._run(
            _OPEN,
            requested.call_id,
            step=self._claim.step_id,
            epoch=self._claim.epoch,
            model=requested.model,
            max_tokens=requested.max_tokens,
            counted=counted,
        )

    def place(self, call_id: UUID, batch_id: str) -> None:
        """The call is in this batch."""
        self._run(PLACE, call_id, batch_id=batch_id)

    def forget(self, call_id: UUID) -> None:
        """The call is settled, or was not made."""
        self._run(_FORGET, call_id)

    def _run(self, statement: str, call_id: UUID, **values: object) -> None:
        self._connections.run(self._claim.tenant, statement, {"call": call_id, **values})

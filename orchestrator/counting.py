"""Counts the calls and tokens of a run that has a cap of them, on its budget's row; other runs are not counted.

Every call of such a run writes to one row, twice: who caps calls or tokens has few enough of them. The output is
counted at its upper bound before the call and as it was after it, the prompt after it: racing agents may pass a cap of
tokens by the prompts of the calls that are in flight, a cap of calls by none. A call cut off stays counted.
"""

from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.errors import BudgetExceeded
from chargehand.orchestrator.facts import ModelFailed, ModelRequested, ModelResponded
from chargehand.orchestrator.steps import Claim

COUNT = """
UPDATE budgets SET calls = calls + 1, tokens = tokens + %(tokens)s
WHERE run = %(run)s AND (max_calls IS NULL OR calls < max_calls)
    AND (max_tokens IS NULL OR tokens + %(tokens)s <= max_tokens)
RETURNING calls
"""
CORRECT = "UPDATE budgets SET calls = calls + %(calls)s, tokens = tokens + %(tokens)s WHERE run = %(run)s"
STANDING = "SELECT calls, max_calls, tokens, max_tokens FROM budgets WHERE run = %(run)s"


class Counter:
    """Of the calls of one claim."""

    def __init__(self, connections: Connections, claim: Claim) -> None:
        """Nothing is counted yet."""
        self._connections = connections
        self._claim = claim
        self._open: ModelRequested | None = None

    def count(self, requested: ModelRequested) -> None:
        """Count a call that is about to be made; raises `BudgetExceeded` when it is one too many."""
        run = self._claim.run_id
        if self._run(COUNT, tokens=requested.max_tokens) is not None:
            self._open = requested
            return
        standing = self._connections.run(self._claim.tenant, STANDING, {"run": run})
        if standing is None or (standing["max_calls"] is not None and standing["calls"] >= standing["max_calls"]):
            used = "" if standing is None else f" {standing['calls']} of {standing['max_calls']}"
            raise BudgetExceeded(f"The run's calls of models are used up:{used}; fork it with more (--max-calls).")
        raise BudgetExceeded(
            f"A call of up to {requested.max_tokens} tokens does not fit: {standing['tokens']} of "
            f"{standing['max_tokens']} are used; fork the run with more (--max-tokens)."
        )

    def resume(self, requested: ModelRequested) -> None:
        """An earlier claim has counted this call, which is still open: it went through the batch API."""
        self._open = requested

    def forget(self, requested: ModelRequested) -> None:
        """The call was not made after all."""
        self._open = None
        self._run(CORRECT, calls=-1, tokens=-requested.max_tokens)

    def settle(self, fact: ModelResponded | ModelFailed) -> None:
        """Count what the call took; one that cost something and gave nothing stays counted at its bound."""
        asked, self._open = self._open, None
        if asked is None or asked.call_id != fact.call_id:
            return
        if isinstance(fact, ModelResponded):
            one = fact.usage
            used = one.input_tokens + one.output_tokens + one.cache_write_tokens + one.cache_read_tokens
        else:
            used = asked.max_tokens if fact.cost_microusd else 0
        self._run(CORRECT, calls=0, tokens=used - asked.max_tokens)

    def _run(self, statement: str, **values: int) -> object:
        return self._connections.run(self._claim.tenant, statement, {"run": self._claim.run_id, **values})

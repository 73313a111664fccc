"""Counts calls and tokens where they have a cap: on the row of the run's budget, and on that of the tenant's usage.

Others are not counted. Every call that is writes to one row, or two, and twice: who caps calls or tokens has few enough
of them. The output is counted at its upper bound before the call and as it was after it, the prompt after it: racing
agents may pass a cap of tokens by the prompts of the calls that are in flight, a cap of calls by none. A call cut off
stays counted, and so does one whose worker died between two of these writes.

The day is the database's, in UTC; what a call took is counted to the day on which it was asked for.
"""

from dataclasses import dataclass
from datetime import date
from typing import NoReturn

from chargehand.orchestrator.connections import Connections, Row
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded
from chargehand.orchestrator.facts import ModelFailed, ModelRequested, ModelResponded
from chargehand.orchestrator.steps import Claim

COUNT = """
UPDATE budgets SET calls = calls + 1, tokens = tokens + %(tokens)s
WHERE run = %(run)s AND (max_calls IS NULL OR calls < max_calls)
    AND (max_tokens IS NULL OR tokens + %(tokens)s <= max_tokens)
RETURNING calls
"""
CORRECT = "UPDATE budgets SET calls = calls + %(calls)s, tokens = tokens + %(tokens)s WHERE run = %(run)s"
# Others of the run that may have calls in flight, which are counted at their upper bounds.
STANDING = """
SELECT calls, max_calls, tokens, max_tokens, (
    SELECT count(*) FROM steps s WHERE s.run = b.run AND s.id <> %(step)s AND s.status = 'running'
        AND s.spec->>'kind' = 'agent') AS others
FROM budgets b WHERE run = %(run)s
"""
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_OF_DAY = f"CASE WHEN day = {_TODAY} THEN %s ELSE 0 END"
_DAY_CALLS, _DAY_TOKENS = _OF_DAY % "day_calls", _OF_DAY % "day_tokens"
# Every cap is a column of the row that is locked.
COUNT_TENANT = f"""
UPDATE tenant_usage SET calls = calls + 1, tokens = tokens + %(tokens)s, day = {_TODAY},
    day_calls = {_DAY_CALLS} + 1, day_tokens = {_DAY_TOKENS} + %(tokens)s
WHERE tenant = %(tenant)s AND (max_calls IS NULL OR calls < max_calls)
    AND (max_tokens IS NULL OR tokens + %(tokens)s <= max_tokens)
    AND (day_max_calls IS NULL OR {_DAY_CALLS} < day_max_calls)
    AND (day_max_tokens IS NULL OR {_DAY_TOKENS} + %(tokens)s <= day_max_tokens)
RETURNING day
"""
CORRECT_TENANT = """
UPDATE tenant_usage SET calls = calls + %(calls)s, tokens = tokens + %(tokens)s,
    day_calls = day_calls + CASE WHEN day = %(day)s THEN %(calls)s ELSE 0 END,
    day_tokens = day_tokens + CASE WHEN day = %(day)s THEN %(tokens)s ELSE 0 END
WHERE tenant = %(tenant)s
"""
# A batched call of an earlier claim, which had been made before anybody counted unless its row says otherwise.
CORRECT_TENANT_OF_BATCH = f"{CORRECT_TENANT} AND EXISTS (SELECT FROM batched_calls WHERE call = %(call)s AND counted)"
STANDING_OF_TENANT = f"""
SELECT calls, max_calls, tokens, max_tokens, {_DAY_CALLS} AS day_calls, day_max_calls, {_DAY_TOKENS} AS day_tokens,
    day_max_tokens, (
    SELECT count(*) FROM steps s WHERE s.tenant = u.tenant AND s.id <> %(step)s AND s.status = 'running'
        AND s.spec->>'kind' = 'agent') AS others
FROM tenant_usage u WHERE tenant = %(tenant)s
"""
ASKED_ON = f"SELECT {_TODAY} AS day"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Whose calls and tokens have a cap."""

    of_run: bool = False
    of_tenant: bool = False


NOT_COUNTED = Counted()


class Counter:
    """Of the calls of one claim."""

    def __init__(self, connections: Connections, claim: Claim, counted: Counted) -> None:
        """Nothing is counted yet."""
        self._connections = connections
        self._claim = claim
        self._counted = counted
        self._open: ModelRequested | None = None
        self._resumed: ModelRequested | None = None
        self._day: date | None = None

    def count(self, requested: ModelRequested) -> None:
        """Count a call that is about to be made.

        Raises `BudgetExceeded` when it is one too many, `BudgetBusy` when only the bounds of answers that others wait
        for are in its way.
        """
        if self._counted.of_run and self._run(COUNT, tokens=requested.max_tokens) is None:
            _refuse_in_run(self._run(STANDING), requested)
        if self._counted.of_tenant:
            row = self._run(COUNT_TENANT, tokens=requested.max_tokens)
            if row is None:
                if self._counted.of_run:
                    self._run(CORRECT, calls=-1, tokens=-requested.max_tokens)
                _refuse_of_tenant(self._run(STANDING_OF_TENANT), requested)
            self._day = row["day"]
        self._open = requested

    def resume(self, requested: ModelRequested) -> None:
        """A call of an earlier claim is still open: it went through the batch API."""
        self._open = self._resumed = requested

    def forget(self, requested: ModelRequested) -> None:
        """The call was not made after all."""
        self._open = None
        self._correct(calls=-1, tokens=-requested.max_tokens)

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
        self._correct(calls=0, tokens=used - asked.max_tokens)

    def _correct(self, *, calls: int, tokens: int) -> None:
        if self._counted.of_run:
            self._run(CORRECT, calls=calls, tokens=tokens)
        if self._counted.of_tenant:
            # A batch that an earlier claim has asked for, maybe yesterday, is counted to the day of its answer.
            if self._day is None:
                today = self._run(ASKED_ON)
                self._day = today["day"] if today is not None else None
            resumed, self._resumed = self._resumed, None
            if resumed is None:
                self._run(CORRECT_TENANT, calls=calls, tokens=tokens, day=self._day)
            else:
                self._run(CORRECT_TENANT_OF_BATCH, calls=calls, tokens=tokens, day=self._day, call=resumed.call_id)
            self._day = None

    def _run(self, statement: str, **values: object) -> Row | None:
        ids = {"run": self._claim.run_id, "tenant": self._claim.tenant, "step": self._claim.step_id}
        return self._connections.run(self._claim.tenant, statement, {**ids, **values})


def _refuse_in_run(standing: Row | None, requested: ModelRequested) -> NoReturn:
    if standing is None:
        raise BudgetExceeded("The run has no budget row; it was removed.")
    if standing["max_calls"] is not None and standing["calls"] >= standing["max_calls"]:
        raise BudgetExceeded(
            f"The run's calls of models are used up: {standing['calls']} of {standing['max_calls']}; fork it with more "
            "(--max-calls)."
        )
    _refuse_tokens(
        standing["tokens"],
        standing["max_tokens"],
        standing["others"],
        requested,
        "fork the run with more (--max-tokens)",
    )


def _refuse_of_tenant(standing: Row | None, requested: ModelRequested) -> NoReturn:
    """Raise; what was refused is not counted, so that it must never be made."""
    if standing is None:
        raise BudgetExceeded("The tenant has no usage row; it was removed.")
    for used, cap, whose, option in (
        (standing["calls"], standing["max_calls"], "tenant", "--total-calls"),
        (standing["day_calls"], standing["day_max_calls"], "tenant's day", "--day-calls"),
    ):
        if cap is not None and used >= cap:
            raise BudgetExceeded(
                f"The {whose} has used up its calls of models: {used} of {cap}; `chargehand caps {option}` gives more."
            )
    for used, cap, option in (
        (standing["tokens"], standing["max_tokens"], "--total-tokens"),
        (standing["day_tokens"], standing["day_max_tokens"], "--day-tokens"),
    ):
        if cap is not None and used + requested.max_tokens > cap:
            _refuse_tokens(
                used, cap, standing["others"], requested, f"`chargehand caps {option}` gives the tenant more"
            )
    # Another call has ended since, a day has, or somebody has raised a cap.
    raise BudgetBusy("What was in the way of this call is gone by now; it is asked again.")


def _refuse_tokens(used: int, cap: int | None, others: int, requested: ModelRequested, remedy: str) -> NoReturn:
    """Raise; each other agent at work may have as large an answer open, of which nothing may come."""
    need = requested.max_tokens
    if cap is None or used - others * need + need <= cap:
        raise BudgetBusy(f"A call of up to {need} tokens waits: answers that others wait for may take the rest.")
    raise BudgetExceeded(f"A call of up to {need} tokens does not fit: {used} of {cap} are used; {remedy}.")

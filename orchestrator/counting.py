"""Counts calls, tokens and time where they have a cap: on the row of the run's budget, and of the tenant's usage.

Others are not counted. Every call that is writes to one row, or two, and twice: who caps calls or tokens has few enough
of them. The output is counted at its upper bound before the call and as it was after it, the prompt after it: racing
agents may pass a cap of tokens by the prompts of the calls that are in flight, a cap of calls by none. A call cut off
stays counted, and so does one whose worker died between two of these writes.

The day is the database's, in UTC; what a call took is counted to the day on which it was asked for.

Only a tenant's time has a cap: for how long its agents hold workers, from a claim to its end, by the database's clock.
It is added by the same statements, from the one before it of the same claim, and once more when the agent lets go. An
attempt that is not the step's any more adds nothing, so that no moment of a step counts twice; of one that died, what
came after its last call counts not at all. Racing agents may pass the cap by the turns that are under way.
"""

from dataclasses import dataclass
from datetime import date, datetime
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
_DAY_CALLS, _DAY_TOKENS, _DAY_AGENT_MS = _OF_DAY % "day_calls", _OF_DAY % "day_tokens", _OF_DAY % "day_agent_ms"
# Time of this claim that is not counted yet, and its part of today; the claim is the row of the journal that it left.
_HELD = """
WITH uncounted AS (
    SELECT clock_timestamp() AS held_to, coalesce(%(since)s::timestamptz, (
        SELECT at FROM journal WHERE run = %(run)s AND step = %(step)s AND seq = %(claimed)s)) AS since
    WHERE EXISTS (SELECT FROM steps WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running')
), held AS (
    SELECT max(held_to) AS held_to,
        coalesce(max(greatest(1000 * extract(epoch FROM held_to - since), 0)), 0)::bigint AS held_ms,
        coalesce(max(greatest(1000 * extract(epoch FROM
            held_to - greatest(since, date_trunc('day', held_to, 'UTC'))), 0)), 0)::bigint AS day_held_ms
    FROM uncounted
)"""
_ADD_HELD = f"agent_ms = agent_ms + held_ms, day_agent_ms = {_DAY_AGENT_MS} + day_held_ms"
# Every cap is a column of the row that is locked.
COUNT_TENANT = f"""{_HELD}
UPDATE tenant_usage SET calls = calls + 1, tokens = tokens + %(tokens)s, day = {_TODAY},
    day_calls = {_DAY_CALLS} + 1, day_tokens = {_DAY_TOKENS} + %(tokens)s, {_ADD_HELD}
FROM held
WHERE tenant = %(tenant)s AND (max_calls IS NULL OR calls < max_calls)
    AND (max_tokens IS NULL OR tokens + %(tokens)s <= max_tokens)
    AND (day_max_calls IS NULL OR {_DAY_CALLS} < day_max_calls)
    AND (day_max_tokens IS NULL OR {_DAY_TOKENS} + %(tokens)s <= day_max_tokens)
    AND (max_agent_ms IS NULL OR agent_ms + held_ms < max_agent_ms)
    AND (day_max_agent_ms IS NULL OR {_DAY_AGENT_MS} + day_held_ms < day_max_agent_ms)
RETURNING day, held_to
"""
_IS_OF_DAY = f"day = %(day)s::date AND day = {_TODAY}"
_CORRECT_TENANT = f"""{_HELD}
UPDATE tenant_usage SET calls = calls + %(calls)s, tokens = tokens + %(tokens)s, day = {_TODAY},
    day_calls = {_DAY_CALLS} + CASE WHEN {_IS_OF_DAY} THEN %(calls)s ELSE 0 END,
    day_tokens = {_DAY_TOKENS} + CASE WHEN {_IS_OF_DAY} THEN %(tokens)s ELSE 0 END, {_ADD_HELD}
FROM held
WHERE tenant = %(tenant)s {{guard}}
RETURNING held_to
"""
CORRECT_TENANT = _CORRECT_TENANT.format(guard="")
# A batched call of an earlier claim, which had been made before anybody counted unless its row says otherwise.
CORRECT_TENANT_OF_BATCH = _CORRECT_TENANT.format(
    guard="AND EXISTS (SELECT FROM batched_calls WHERE call = %(call)s AND counted)"
)
STANDING_OF_TENANT = f"""{_HELD}
SELECT calls, max_calls, tokens, max_tokens, {_DAY_CALLS} AS day_calls, day_max_calls, {_DAY_TOKENS} AS day_tokens,
    day_max_tokens, agent_ms + held_ms AS agent_ms, max_agent_ms, {_DAY_AGENT_MS} + day_held_ms AS day_agent_ms,
    day_max_agent_ms, (
    SELECT count(*) FROM steps s WHERE s.tenant = u.tenant AND s.id <> %(step)s AND s.status = 'running'
        AND s.spec->>'kind' = 'agent') AS others
FROM tenant_usage u CROSS JOIN held WHERE tenant = %(tenant)s
"""
ASKED_ON = f"SELECT {_TODAY} AS day"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Whose calls, tokens or time have a cap."""

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
        self._held_to: datetime | None = None

    def count(self, requested: ModelRequested) -> None:
        """Count a call that is about to be made.

        Raises `BudgetExceeded` when it is one too many, `BudgetBusy` when only the bounds of answers that others wait
        for are in its way.
        """
        if self._counted.of_run and self._run(COUNT, tokens=requested.max_tokens) is None:
            _refuse_in_run(self._run(STANDING), requested)
        if self._counted.of_tenant:
            row = self._count_of_tenant(COUNT_TENANT, tokens=requested.max_tokens)
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

    def let_go(self) -> None:
        """Count the time since the last call: the agent is about to let go of its step."""
        if self._counted.of_tenant:
            self._count_of_tenant(CORRECT_TENANT, calls=0, tokens=0, day=None)

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
                self._count_of_tenant(CORRECT_TENANT, calls=calls, tokens=tokens, day=self._day)
            else:
                self._count_of_tenant(
                    CORRECT_TENANT_OF_BATCH, calls=calls, tokens=tokens, day=self._day, call=resumed.call_id
                )
            self._day = None

    def _count_of_tenant(self, statement: str, **values: object) -> Row | None:
        row = self._run(statement, **values)
        if row is not None and row["held_to"] is not None:
            self._held_to = row["held_to"]
        return row

    def _run(self, statement: str, **values: object) -> Row | None:
        claim = self._claim
        ids = {"run": claim.run_id, "tenant": claim.tenant, "step": claim.step_id, "epoch": claim.epoch}
        time = {"claimed": claim.seq, "since": self._held_to}
        return self._connections.run(claim.tenant, statement, {**ids, **time, **values})


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
    for used, cap, whose, option in (
        (standing["agent_ms"], standing["max_agent_ms"], "tenant", "--total-seconds"),
        (standing["day_agent_ms"], standing["day_max_agent_ms"], "tenant's day", "--day-seconds"),
    ):
        if cap is not None and used >= cap:
            raise BudgetExceeded(
                f"The {whose} has used up its time of agents: {used / 1000:.1f} of {cap / 1000:.1f} seconds; "
                f"`chargehand caps {option}` gives more."
            )
    # Another call has ended since, a day has, or somebody has raised a cap.
    raise BudgetBusy("What was in the way of this call is gone by now; it is asked again.")


def _refuse_tokens(used: int, cap: int | None, others: int, requested: ModelRequested, remedy: str) -> NoReturn:
    """Raise; each other agent at work may have as large an answer open, of which nothing may come."""
    need = requested.max_tokens
    if cap is None or used - others * need + need <= cap:
        raise BudgetBusy(f"A call of up to {need} tokens waits: answers that others wait for may take the rest.")
    raise BudgetExceeded(f"A call of up to {need} tokens does not fit: {used} of {cap} are used; {remedy}.")

"""How many calls, tokens and seconds of workers all agents of a tenant together may take; set by supervisors."""

from dataclasses import asdict, dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.orchestrator.tables import TenantUsageRow


@dataclass(frozen=True, kw_only=True, slots=True)
class CountCaps:
    """How many calls a tenant may make, with how many tokens, for how long agents may hold workers; None: no cap."""

    max_calls: int | None = None
    """Since one of these caps was first set."""
    max_tokens: int | None = None
    day_max_calls: int | None = None
    """Of a day in UTC."""
    day_max_tokens: int | None = None
    max_agent_ms: int | None = None
    """Milliseconds for which steps of agents hold a worker, added up over all workers."""
    day_max_agent_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantCounts(CountCaps):
    """The caps, and what was counted under them."""

    calls: int = 0
    tokens: int = 0
    """Those of answered calls, and the upper bounds of the others."""
    day: date | None = None
    """The last one on which anything was counted."""
    day_calls: int = 0
    day_tokens: int = 0
    agent_ms: int = 0
    day_agent_ms: int = 0


NOTHING_COUNTED = TenantCounts()
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_OF_DAY = f"CASE WHEN u.day = {_TODAY} THEN u.%s ELSE 0 END"
# Whoever settles them gives back what they did not use.
_COUNT_BATCHES = f"""
WITH sent AS (
    UPDATE batched_calls SET counted = true WHERE tenant = :tenant AND NOT counted RETURNING max_tokens
), found AS (
    SELECT count(*) AS calls, coalesce(sum(max_tokens), 0)::bigint AS tokens FROM sent
)
UPDATE tenant_usage u SET calls = u.calls + found.calls, tokens = u.tokens + found.tokens, day = {_TODAY},
    day_calls = {_OF_DAY % "day_calls"} + found.calls, day_tokens = {_OF_DAY % "day_tokens"} + found.tokens,
    day_agent_ms = {_OF_DAY % "day_agent_ms"}
FROM found WHERE u.tenant = :tenant AND found.calls > 0
"""
# What the journal knows of today: from each fact of an attempt to its next one. Between two attempts nobody held the
# step, and what a crashed one did after its last fact nobody knows. The part that was counted already is part of it.
_COUNT_HELD = f"""
WITH midnight AS (
    SELECT date_trunc('day', clock_timestamp(), 'UTC') AS at
), facts AS (
    SELECT j.kind, j.epoch, j.at, lag(j.kind) OVER own AS before_kind, lag(j.epoch) OVER own AS before_epoch,
        greatest(lag(j.at) OVER own, midnight.at) AS since
    FROM midnight CROSS JOIN steps s JOIN journal j ON j.run = s.run AND j.step = s.id
    WHERE s.tenant = :tenant AND s.spec->>'kind' = 'agent' AND s.started_at IS NOT NULL
        AND (s.finished_at IS NULL OR s.finished_at >= midnight.at)
    WINDOW own AS (PARTITION BY j.run, j.step ORDER BY j.seq)
), held AS (
    SELECT coalesce(sum(1000 * extract(epoch FROM at - since)), 0)::bigint AS ms FROM facts
    WHERE at > since AND epoch = before_epoch AND kind NOT IN ('step.claimed', 'step.recovered')
        AND before_kind NOT IN ('step.released', 'step.waiting', 'step.finished', 'step.recovered', 'step.forked')
)
UPDATE tenant_usage u SET day = {_TODAY}, day_calls = {_OF_DAY % "day_calls"}, day_tokens = {_OF_DAY % "day_tokens"},
    agent_ms = u.agent_ms + greatest(held.ms - {_OF_DAY % "day_agent_ms"}, 0),
    day_agent_ms = greatest(held.ms, {_OF_DAY % "day_agent_ms"})
FROM held WHERE u.tenant = :tenant AND held.ms > 0
"""


def set_count_caps(session: Session, tenant: UUID, caps: CountCaps) -> None:
    """Cap the tenant's calls, tokens and time of agents from now on; what was counted goes on.

    The session acts as the supervisor, and its caller commits. Counting begins with the first such cap: with calls of
    steps that are claimed after it, with those that are in a batch now, at their upper bounds, and with the time that
    the journal says agents have held workers today.
    """
    was_counting = has_count_caps(session, tenant)
    values = asdict(caps)
    made = insert(TenantUsageRow).values(tenant=tenant, **values)
    session.execute(made.on_conflict_do_update(index_elements=["tenant"], set_=values))
    if not was_counting and has_count_caps(session, tenant):
        for statement in (_COUNT_BATCHES, _COUNT_HELD):
            session.execute(text(statement), {"tenant": tenant})


def has_count_caps(session: Session, tenant: UUID) -> bool:
    """Whether the tenant's calls, tokens or time of agents have a cap."""
    row = TenantUsageRow
    capped = [getattr(row, name).is_not(None) for name in CountCaps.__dataclass_fields__]
    return session.scalar(select(row.tenant).where(row.tenant == tenant, or_(*capped))) is not None


def counts_of(session: Session, tenant: UUID) -> TenantCounts:
    """Its caps now, and what was counted."""
    row = session.get(TenantUsageRow, tenant, populate_existing=True)
    if row is None:
        return NOTHING_COUNTED
    return TenantCounts(**{name: getattr(row, name) for name in TenantCounts.__dataclass_fields__})

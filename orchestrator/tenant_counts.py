"""How many calls of models all runs of a tenant together may make with how many tokens; set by supervisors."""

from dataclasses import asdict, dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.orchestrator.tables import TenantUsageRow


@dataclass(frozen=True, kw_only=True, slots=True)
class CountCaps:
    """How many calls a tenant may make and how many tokens they may take; None: no cap."""

    max_calls: int | None = None
    """Since one of these caps was first set."""
    max_tokens: int | None = None
    day_max_calls: int | None = None
    """Of a day in UTC."""
    day_max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantCounts(CountCaps):
    """The caps, and what was counted under them."""

    calls: int = 0
    tokens: int = 0
    """Those of answered calls, and the upper bounds of the others."""
    day: date | None = None
    """The last one on which a call was counted."""
    day_calls: int = 0
    day_tokens: int = 0


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
    day_calls = {_OF_DAY % "day_calls"} + found.calls, day_tokens = {_OF_DAY % "day_tokens"} + found.tokens
FROM found WHERE u.tenant = :tenant AND found.calls > 0
"""


def set_count_caps(session: Session, tenant: UUID, caps: CountCaps) -> None:
    """Cap the tenant's calls and tokens from now on; what was counted goes on.

    The session acts as the supervisor, and its caller commits. Counting begins with the first such cap: with calls of
    steps that are claimed after it, and with those that are in a batch now, at their upper bounds.
    """
    was_counting = has_count_caps(session, tenant)
    values = asdict(caps)
    made = insert(TenantUsageRow).values(tenant=tenant, **values)
    session.execute(made.on_conflict_do_update(index_elements=["tenant"], set_=values))
    if not was_counting and has_count_caps(session, tenant):
        session.execute(text(_COUNT_BATCHES), {"tenant": tenant})


def has_count_caps(session: Session, tenant: UUID) -> bool:
    """Whether the tenant's calls or tokens have a cap."""
    row = TenantUsageRow
    capped = row.max_calls.is_not(None) | row.max_tokens.is_not(None)
    of_day = row.day_max_calls.is_not(None) | row.day_max_tokens.is_not(None)
    return session.scalar(select(row.tenant).where(row.tenant == tenant, capped | of_day)) is not None


def counts_of(session: Session, tenant: UUID) -> TenantCounts:
    """Its caps now, and what was counted."""
    row = session.get(TenantUsageRow, tenant, populate_existing=True)
    if row is None:
        return NOTHING_COUNTED
    return TenantCounts(**{name: getattr(row, name) for name in TenantCounts.__dataclass_fields__})

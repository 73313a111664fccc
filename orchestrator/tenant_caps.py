"""What all runs of a tenant together may spend, in all and in a day; set by whoever may act as the supervisor."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.orchestrator.tables import TenantBudgetRow
from chargehand.orchestrator.tenant_counts import NOTHING_COUNTED, TenantCounts, counts_of

_MAKE = "INSERT INTO tenant_budgets (tenant) VALUES (:tenant) ON CONFLICT DO NOTHING RETURNING tenant"
# Runs under way have spent without asking: what they hold counts from now on, and they borrow what comes after it.
_GOVERN = """
WITH held AS (
    SELECT b.run, b.drawn_microusd FROM budgets b JOIN runs r ON r.id = b.run
    WHERE b.tenant = :tenant AND b.allotted_microusd IS NULL AND r.finished_at IS NULL
    ORDER BY b.run FOR NO KEY UPDATE OF b
), governed AS (
    UPDATE budgets b SET allotted_microusd = b.drawn_microusd, allotted_of_day_microusd = b.drawn_microusd,
        allotted_day = (clock_timestamp() AT TIME ZONE 'UTC')::date
    FROM held WHERE b.run = held.run RETURNING b.drawn_microusd
)
UPDATE tenant_budgets SET drawn_microusd = drawn_microusd + held.sum,
    day_drawn_microusd = day_drawn_microusd + held.sum,
    day = (clock_timestamp() AT TIME ZONE 'UTC')::date
FROM (SELECT coalesce(sum(drawn_microusd), 0)::bigint AS sum FROM governed) held WHERE tenant = :tenant
"""
_SET = "UPDATE tenant_budgets SET cap_microusd = :cap, day_cap_microusd = :day_cap WHERE tenant = :tenant"


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantCaps:
    """What a tenant may spend, and what its runs have borrowed of it."""

    cap_microusd: int | None
    """In all since it first had a cap; None: no cap."""
    day_cap_microusd: int | None
    """Of a day in UTC; None: no cap."""
    drawn_microusd: int = 0
    """Lent to runs, which includes what they spent."""
    day: date | None = None
    """The last one on which a run borrowed."""
    day_drawn_microusd: int = 0
    counts: TenantCounts = NOTHING_COUNTED


def set_caps(session: Session, tenant: UUID, *, cap_microusd: int | None, day_cap_microusd: int | None) -> None:
    """Cap the tenant from now on; the session acts as the supervisor, and its caller commits.

    What its runs under way have drawn counts. A cap below what is spent lets nothing further be drawn. A run that is
    being accepted in this very moment may stay outside.
    """
    is_new = session.execute(text(_MAKE), {"tenant": tenant}).scalar_one_or_none() is not None
    if is_new:
        session.execute(text(_GOVERN), {"tenant": tenant})
    session.execute(text(_SET), {"tenant": tenant, "cap": cap_microusd, "day_cap": day_cap_microusd})


def caps_of(session: Session, tenant: UUID) -> TenantCaps:
    """Its caps now, how much of them is lent, and what was counted."""
    row = session.get(TenantBudgetRow, tenant, populate_existing=True)
    counts = counts_of(session, tenant)
    if row is None:
        return TenantCaps(cap_microusd=None, day_cap_microusd=None, counts=counts)
    return TenantCaps(
        cap_microusd=row.cap_microusd,
        day_cap_microusd=row.day_cap_microusd,
        drawn_microusd=row.drawn_microusd,
        day=row.day,
        day_drawn_microusd=row.day_drawn_microusd,
        counts=counts,
    )

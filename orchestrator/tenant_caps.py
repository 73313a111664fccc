"""What all runs of a tenant together may spend, and how often and how much of models they may use, in all and in a day.

Set by whoever may act as the supervisor.
"""

from dataclasses import asdict, dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.orchestrator.tables import TenantBudgetRow, TenantUsageRow

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
class TenantCounts:
    """How many calls of models a tenant may make and how many tokens they may take, and how many there were."""

    max_calls: int | None = None
    """Since one of these caps was first set; None: no cap."""
    max_tokens: int | None = None
    day_max_calls: int | None = None
    """Of a day in UTC; None: no cap."""
    day_max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0
    """Those of answered calls, and the upper bounds of the others."""
    day: date | None = None
    """The last one on which a call was counted."""
    day_calls: int = 0
    day_tokens: int = 0


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
    counts: TenantCounts = TenantCounts()


def set_caps(session: Session, tenant: UUID, *, cap_microusd: int | None, day_cap_microusd: int | None) -> None:
    """Cap the tenant from now on; the session acts as the supervisor, and its caller commits.

    What its runs under way have drawn counts. A cap below what is spent lets nothing further be drawn. A run that is
    being accepted in this very moment may stay outside.
    """
    is_new = session.execute(text(_MAKE), {"tenant": tenant}).scalar_one_or_none() is not None
    if is_new:
        session.execute(text(_GOVERN), {"tenant": tenant})
    session.execute(text(_SET), {"tenant": tenant, "cap": cap_microusd, "day_cap": day_cap_microusd})


def set_counts(session: Session, tenant: UUID, counts: TenantCounts) -> None:
    """Cap the tenant's calls and tokens; of `counts` only the caps are taken, what was counted goes on.

    The session acts as the supervisor, and its caller commits. Counting begins with the first such cap: with calls of
    steps that are claimed after it.
    """
    caps = {name: value for name, value in asdict(counts).items() if name.startswith(("max_", "day_max_"))}
    made = insert(TenantUsageRow).values(tenant=tenant, **caps)
    session.execute(made.on_conflict_do_update(index_elements=["tenant"], set_=caps))


def has_counts(session: Session, tenant: UUID) -> bool:
    """Whether the tenant's calls or tokens have a cap."""
    row = TenantUsageRow
    capped = row.max_calls.is_not(None) | row.max_tokens.is_not(None)
    of_day = row.day_max_calls.is_not(None) | row.day_max_tokens.is_not(None)
    return session.scalar(select(row.tenant).where(row.tenant == tenant, capped | of_day)) is not None


def caps_of(session: Session, tenant: UUID) -> TenantCaps:
    """Its caps now, how much of them is lent, and what was counted."""
    row = session.get(TenantBudgetRow, tenant, populate_existing=True)
    counts = _counts_of(session, tenant)
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


def _counts_of(session: Session, tenant: UUID) -> TenantCounts:
    row = session.get(TenantUsageRow, tenant, populate_existing=True)
    if row is None:
        return TenantCounts()
    return TenantCounts(**{name: getattr(row, name) for name in TenantCounts.__dataclass_fields__})

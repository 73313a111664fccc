"""Warnings that a run's budget is being used up: at 50, 80 and 95 percent, each told once of a budget."""

from uuid import UUID

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import SCHEMA_VERSION, BudgetWarned
from chargehand.orchestrator.tables import BudgetRow, RunRow, StepRow
from chargehand.orchestrator.transitions import RUN_ENDINGS

PERCENTAGES = (50, 80, 95)
BATCH = 100

# What is drawn is never less than what is spent: only of runs that have drawn enough is it added up. A step of a newer
# version is somebody else's.
_NEAR = """
SELECT r.id, r.tenant FROM runs r JOIN budgets b ON b.run = r.id
WHERE r.finished_at IS NULL AND r.schema_version <= :version AND b.warned_percent < :last
  AND b.drawn_microusd * 100 >= b.cap_microusd * CASE
      WHEN b.warned_percent < :first THEN :first WHEN b.warned_percent < :second THEN :second ELSE :last END
ORDER BY r.id LIMIT :most
"""


def warn(engine: Engine) -> int:
    """Tell of runs that have passed a mark since the last look; gives how many."""
    first, second, last = PERCENTAGES
    values = {"version": SCHEMA_VERSION, "first": first, "second": second, "last": last, "most": BATCH}
    with Session(engine) as session, session.begin():
        near = session.execute(text(_NEAR), values).all()
    return sum(_look(engine, tenant, run_id) for run_id, tenant in near)


def _look(engine: Engine, tenant: UUID, run_id: UUID) -> bool:
    with Session(engine) as session, session.begin():
        run = session.scalars(
            select(RunRow).where(RunRow.id == run_id).with_for_update(skip_locked=True, key_share=True)
        ).one_or_none()
        if run is None or run.status in RUN_ENDINGS:
            return False
        return record_passed(session, tenant, run_id)


def record_passed(session: Session, tenant: UUID, run_id: UUID) -> bool:
    """Tell which marks the run has passed, whose row the caller has locked; whether it was any."""
    spent = session.execute(select(func.sum(StepRow.spent_microusd)).where(StepRow.run == run_id)).scalar_one() or 0
    budget = session.scalars(select(BudgetRow).where(BudgetRow.run == run_id)).one()
    percentages = passed(int(spent), budget.cap_microusd, budget.warned_percent)
    if not percentages:
        return False
    budget = session.scalars(
        select(BudgetRow).where(BudgetRow.run == run_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    budget.warned_percent = percentages[-1]
    facts = [
        BudgetWarned(percent=percent, spent_microusd=int(spent), budget_microusd=budget.cap_microusd)
        for percent in percentages
    ]
    runs.record(session, tenant, run_id, facts)
    return True


def passed(spent_microusd: int, cap_microusd: int, warned_percent: int) -> list[int]:
    """The marks that have been passed and not told of; pure."""
    return [one for one in PERCENTAGES if one > warned_percent and spent_microusd * 100 >= cap_microusd * one]

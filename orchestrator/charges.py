"""What runs were charged for, read from their journals: of one run, or of a tenant's since a moment."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chargehand.memory.tables import RUN_STREAM, JournalRow
from chargehand.orchestrator import costing
from chargehand.orchestrator.costing import Charge, Costs
from chargehand.orchestrator.facts import AnyFact, parse_fact
from chargehand.orchestrator.prices import PRICES_AS_OF, Price, with_overrides
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.tables import RunRow, StepRow

ABOUT_MONEY = (
    "model.requested",
    "model.responded",
    "model.failed",
    "call.abandoned",
    "reservations.charged",
    "reservations.returned",
)
# Claude's model of each tier: what a run of the offline model is priced as, when asked.
CLAUDE = {"small": "claude-haiku-5-5", "medium": "claude-sonnet-5-5", "large": "claude-opus-5-5"}
# Answers are long; so many are in memory at once.
ROWS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetCosts:
    """Where the money of a tenant's runs went since a moment."""

    since: datetime
    runs: int
    """That were charged for anything, or asked a model for nothing."""
    costs: Costs
    by_run: dict[str, int]
    """Run id → micro-dollars, the dearest first."""
    unpriced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCosts:
    """Where the money of one run went."""

    costs: Costs
    unpriced: tuple[str, ...]
    """Models of no known price: compared at the dearest."""


def of_run(session: Session, run_id: UUID, settings: Settings, *, as_claude: bool = False) -> RunCosts:
    """Where the run's money went, by its journal and the price table of this process (`CHARGEHAND_MODEL_PRICES`).

    `as_claude`: every call as if Claude's model of its tier had answered it.
    """
    charges = calls_of_run(session, run_id)
    priced, unpriced = _priced(charges, settings, as_claude=as_claude)
    return RunCosts(costs=priced, unpriced=unpriced)


def calls_of_run(session: Session, run_id: UUID) -> list[Charge]:
    """What each call of the run used and was charged, in the order of its streams."""
    facts = ((step, fact) for _, step, fact in _facts(session, run_id=run_id))
    return costing.charges_of(facts, _steps(session, {run_id}))


def of_fleet(session: Session, within: timedelta, settings: Settings, *, as_claude: bool = False) -> FleetCosts:
    """Where the money of the tenant's runs went in this last stretch of time, by the database's clock.

    What was answered in it counts. Steps of different runs are different steps: `by_step` has them by role only.
    """
    since: datetime = session.execute(select(func.clock_timestamp() - within)).scalar_one()
    by_run: dict[UUID, list[tuple[UUID | None, AnyFact]]] = {}
    for run, step, fact in _facts(session, since=since):
        by_run.setdefault(run, []).append((step, fact))
    steps = _steps(session, set(by_run))
    charges: list[Charge] = []
    spent: dict[str, int] = {}
    for run, facts in by_run.items():
        of_one = [replace(one, step="") for one in costing.charges_of(facts, steps)]
        if as_claude:
            of_one = costing.served_by(of_one, CLAUDE, _prices())
        spent[str(run)] = sum(one.cost_microusd for one in of_one)
        charges += of_one
    priced, unpriced = _priced(charges, settings, as_claude=as_claude)
    dearest_first = dict(sorted(spent.items(), key=lambda item: -item[1]))
    return FleetCosts(since=since, runs=len(spent), costs=priced, by_run=dearest_first, unpriced=unpriced)


def _priced(charges: list[Charge], settings: Settings, *, as_claude: bool) -> tuple[Costs, tuple[str, ...]]:
    prices = _prices()
    large = settings.large_model
    if as_claude:
        charges, large = costing.served_by(charges, CLAUDE, prices), CLAUDE["large"]
    own = " with CHARGEHAND_MODEL_PRICES" if os.environ.get("CHARGEHAND_MODEL_PRICES", "").strip() else ""
    priced = costing.costs_of(charges, large_model=large, prices=prices, as_of=PRICES_AS_OF + own)
    return priced, costing.unpriced(charges, prices)


def _prices() -> dict[str, Price]:
    return with_overrides(os.environ.get("CHARGEHAND_MODEL_PRICES", ""))


def _facts(
    session: Session, *, run_id: UUID | None = None, since: datetime | None = None
) -> Iterator[tuple[UUID, UUID | None, AnyFact]]:
    query = select(JournalRow.run, JournalRow.step, JournalRow.schema_version, JournalRow.body).where(
        JournalRow.kind.in_(ABOUT_MONEY), JournalRow.body.is_not(None)
    )
    if run_id is not None:
        query = query.where(JournalRow.run == run_id)
    if since is not None:
        # By run first, which the journal's key leads with: only runs that had not ended before are read.
        alive = select(RunRow.id).where(RunRow.finished_at.is_(None) | (RunRow.finished_at >= since))
        # A request says the tier of an answer that came later.
        is_new = (JournalRow.at >= since) | (JournalRow.kind == "model.requested")
        query = query.where(JournalRow.run.in_(alive), is_new)
    query = query.order_by(JournalRow.run, JournalRow.step, JournalRow.seq)
    for run, step, version, body in session.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        yield run, None if step == RUN_STREAM else step, parse_fact(body or "", schema_version=version)


def _steps(session: Session, run_ids: set[UUID]) -> dict[UUID, tuple[str, str]]:
    rows = session.execute(select(StepRow.id, StepRow.key, StepRow.spec["role"].astext).where(StepRow.run.in_(run_ids)))
    return {identity: (key, role or "") for identity, key, role in rows}

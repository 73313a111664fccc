"""Runs page by page, the newest first: in one query, and without counting what was shown before."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, Text, cast, func, select, tuple_
from sqlalchemy.orm import Session

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.tables import RUN_STATUSES, BudgetRow, RunRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS
from chargehand.orchestrator.views import RunView


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFilter:
    """Which runs are wanted; all of them when nothing is said."""

    status: tuple[str, ...] = ()
    """Any of these."""
    named: str | None = None
    """The id is, or begins or ends with, this."""
    goal: str | None = None
    """Words that the goal contains, as they stand; letters may be large or small."""
    conversation_id: str | None = None
    forked_from: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPage:
    """Some runs, and where the next ones begin."""

    runs: tuple[RunView, ...]
    next_cursor: str | None
    """None: these were the last."""


def page_of_runs(session: Session, wanted: RunFilter, *, limit: int, cursor: str | None = None) -> RunPage:
    """Up to `limit` runs of the tenant that pass the filter, the newest first.

    A cursor names the last run that was shown: runs that are made meanwhile neither shift nor double anything. Raises
    `UserError` for a cursor or a status that there is none of.
    """
    unknown = [status for status in wanted.status if status not in RUN_STATUSES]
    if unknown:
        raise UserError(f"No run is {unknown[0]!r}; runs are: {', '.join(RUN_STATUSES)}.")
    query = _filtered(select(RunRow), wanted)
    if cursor is not None:
        query = query.where(tuple_(RunRow.created_at, RunRow.id) < tuple_(*_parse(cursor)))
    # One more tells whether there is a next page.
    rows = session.scalars(query.order_by(RunRow.created_at.desc(), RunRow.id.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    more = len(rows) > limit
    return RunPage(runs=tuple(_views(session, shown)), next_cursor=_cursor(shown[-1]) if more else None)


def _filtered(query: Select[RunRow], wanted: RunFilter) -> Select[RunRow]:
    if wanted.status:
        query = query.where(RunRow.status.in_(wanted.status))
    if wanted.named is not None:
        digits = func.replace(cast(RunRow.id, Text), "-", "")
        name = wanted.named.lower().replace("-", "")
        query = query.where(digits.startswith(name, autoescape=True) | digits.endswith(name, autoescape=True))
    if wanted.goal is not None:
        query = query.where(RunRow.goal.icontains(wanted.goal, autoescape=True))
    if wanted.conversation_id is not None:
        query = query.where(RunRow.conversation_id == wanted.conversation_id)
    if wanted.forked_from is not None:
        query = query.where(RunRow.forked_from == wanted.forked_from)
    if wanted.created_after is not None:
        query = query.where(RunRow.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(RunRow.created_at < wanted.created_before)
    return query


def _views(session: Session, rows: Sequence[RunRow]) -> list[RunView]:
    """The rows as people look at them, with what their steps and budgets say."""
    ids = [row.id for row in rows]
    counted = {
        run: (total, ended, int(spent))
        for run, total, ended, spent in session.execute(
            select(
                StepRow.run,
                func.count(),
                func.count().filter(StepRow.status.in_(STEP_ENDINGS)),
                func.coalesce(func.sum(StepRow.spent_microusd), 0),
            )
            .where(StepRow.run.in_(ids))
            .group_by(StepRow.run)
        )
    }
    capped = session.execute(select(BudgetRow.run, BudgetRow.cap_microusd).where(BudgetRow.run.in_(ids)))
    caps: dict[UUID, int] = {run: cap for run, cap in capped}  # noqa: C416 - typed rows
    views = []
    for row in rows:
        total, ended, spent = counted.get(row.id, (0, 0, 0))
        views.append(
            RunView(
                run_id=row.id,
                status=row.status,
                goal=row.goal,
                priority=row.priority,
                steps=total,
                steps_ended=ended,
                spent_microusd=spent,
                cap_microusd=caps.get(row.id, 0),
                created_at=row.created_at,
                finished_at=row.finished_at,
                reason=row.reason,
                forked_from=row.forked_from,
                conversation_id=row.conversation_id,
            )
        )
    return views


def _cursor(row: RunRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()}/{row.id}".encode()).decode().rstrip("=")


def _parse(cursor: str) -> tuple[datetime, UUID]:
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        at, _, run = base64.urlsafe_b64decode(padded).decode().partition("/")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError(at)
        return moment, UUID(run)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"Cursor {cursor[:80]!r} is none of ours; leave it out to see the newest.") from error

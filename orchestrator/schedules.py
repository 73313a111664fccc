"""Schedules: runs that are asked for again and again; their writers, and how people see them.

A schedule keeps what to ask for. Its runs are made by supervisors (`supervisor/firing.py`), each tick's once: whoever
has locked the schedule's row accepts the run and moves `next_at` in one transaction.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Boolean, CheckConstraint, DateTime, Index, SmallInteger, Text, func, insert, select
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, Session, mapped_column

from chargehand.memory.database import Base
from chargehand.orchestrator.cron import Cron, Missed
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import SCHEMA_VERSION, OnBudget, OnConflict, WorkspaceRef
from chargehand.orchestrator.plan import Plan, Tier
from chargehand.orchestrator.requests import MAX_REPLANS, RunRequest


class ScheduleRow(Base):
    """A schedule, and when it is due."""

    __tablename__ = "schedules"
    __table_args__ = (
        CheckConstraint("missed IN ('skip', 'once', 'all')", name="missed"),
        Index("uq_schedules_name", "tenant", "name", unique=True),
        Index("ix_schedules_next_at", "next_at", postgresql_where=sql("NOT paused")),
    )

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    name: Mapped[str] = mapped_column(Text)
    cron: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str] = mapped_column(Text)
    missed: Mapped[str] = mapped_column(Text)
    """What becomes of ticks that nobody was there for."""
    request: Mapped[str] = mapped_column(Text)
    """A `ScheduledRequest`."""
    paused: Mapped[bool] = mapped_column(Boolean, server_default=sql("false"))
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    held_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then one supervisor copies the workspace, or nobody tries after a failure."""
    last_tick: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_run: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    problem: Mapped[str] = mapped_column(Text, server_default="")
    """Why the newest tick has no run; empty when it has one."""
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class ScheduledRequest(BaseModel):
    """What each run of a schedule is asked for with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    goal: str
    plan: Plan
    workspace: str | None = None
    """Path or URL, copied at its HEAD at each tick, by the supervisor that makes the run."""
    budget_microusd: int = Field(gt=0)
    priority: int = 0
    deadline_seconds: float | None = Field(default=None, gt=0)
    concurrency_key: str | None = None
    on_conflict: OnConflict = "queue"
    role_texts: dict[str, str] = Field(default_factory=dict)
    conversation_id: str | None = None
    replans: int = Field(default=0, ge=0, le=MAX_REPLANS)
    on_budget: OnBudget = "fail"
    max_calls: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    consolidate_microusd: int | None = Field(default=None, gt=0)
    tier: Tier | None = None
    model: str | None = None

    def of_run(self, *, run_id: UUID, workspace: WorkspaceRef | None, idempotency_key: str | None) -> RunRequest:
        """The request of one run."""
        own = self.model_dump(exclude={"workspace", "plan"})
        return RunRequest(run_id=run_id, plan=self.plan, workspace=workspace, idempotency_key=idempotency_key, **own)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A schedule as people look at it."""

    schedule_id: UUID
    name: str
    cron: str
    timezone: str
    missed: str
    goal: str
    workspace: str | None
    paused: bool
    next_at: datetime
    last_tick: datetime | None
    last_run: UUID | None
    problem: str


def add(
    session: Session, tenant: UUID, *, name: str, cron: Cron, missed: Missed, request: ScheduledRequest
) -> Schedule:
    """Keep a schedule; its first tick is the next one from now. Raises `UserError` when the name is taken."""
    now = session.execute(select(func.clock_timestamp())).scalar_one()
    if session.scalar(select(ScheduleRow.id).where(ScheduleRow.name == name, ScheduleRow.tenant == tenant)) is not None:
        raise UserError(f"There is a schedule {name!r} already; remove it, or give this one another name.")
    identity = uuid.uuid4()
    session.execute(
        insert(ScheduleRow).values(
            id=identity,
            tenant=tenant,
            name=name,
            cron=cron.expression,
            timezone=cron.timezone,
            missed=missed,
            # A supervisor of an older version reads what names nothing new.
            request=request.model_dump_json(exclude_defaults=True),
            next_at=cron.after(now),
            schema_version=SCHEMA_VERSION,
        )
    )
    return _view(session.get_one(ScheduleRow, identity))


def listed(session: Session, tenant: UUID) -> list[Schedule]:
    """The tenant's schedules by name."""
    rows = session.scalars(select(ScheduleRow).where(ScheduleRow.tenant == tenant).order_by(ScheduleRow.name))
    return [_view(row) for row in rows]


def request_of(session: Session, tenant: UUID, name: str) -> ScheduledRequest:
    """What the schedule asks for; raises `NotFound`."""
    return ScheduledRequest.model_validate_json(_row(session, tenant, name).request)


def remove(session: Session, tenant: UUID, name: str) -> None:
    """Forget a schedule; its runs go on. Raises `NotFound`."""
    session.delete(_row(session, tenant, name))


def pause(session: Session, tenant: UUID, name: str) -> bool:
    """Make no more runs; False when it is paused already. Raises `NotFound`."""
    row = _row(session, tenant, name)
    changed, row.paused = not row.paused, True
    return changed


def resume(session: Session, tenant: UUID, name: str) -> bool:
    """Go on with the next tick from now: those of the pause were not wanted. False when it is not paused."""
    row = _row(session, tenant, name)
    if not row.paused:
        return False
    now = session.execute(select(func.clock_timestamp())).scalar_one()
    row.paused, row.held_until, row.problem = False, None, ""
    row.next_at = Cron(expression=row.cron, timezone=row.timezone).after(now)
    return True


def idempotency_key(schedule_id: UUID, tick: datetime) -> str:
    """Under which the run of a tick is accepted once."""
    return f"schedule/{schedule_id}/{tick.isoformat()}"


def run_id_of(schedule_id: UUID, tick: datetime) -> UUID:
    """The id of the run of a tick: whoever copies a workspace for it, copies it to the same place. A uuidv7."""
    chance = hashlib.sha256(idempotency_key(schedule_id, tick).encode()).digest()
    value = (int(tick.timestamp() * 1_000) & (2**48 - 1)) << 80 | int.from_bytes(chance[:10], "big")
    value &= ~(0xF << 76) & ~(0b11 << 62)
    return UUID(int=value | 0x7 << 76 | 0b10 << 62)


def _row(session: Session, tenant: UUID, name: str) -> ScheduleRow:
    row = session.scalars(
        select(ScheduleRow).where(ScheduleRow.name == name, ScheduleRow.tenant == tenant).with_for_update()
    ).one_or_none()
    if row is None:
        known: Sequence[str] = session.scalars(
            select(ScheduleRow.name).where(ScheduleRow.tenant == tenant).order_by(ScheduleRow.name)
        ).all()
        raise NotFound(f"There is no schedule {name!r}; there are: {', '.join(known) or 'none'}.")
    return row


def _view(row: ScheduleRow) -> Schedule:
    request = ScheduledRequest.model_validate_json(row.request)
    return Schedule(
        schedule_id=row.id,
        name=row.name,
        cron=row.cron,
        timezone=row.timezone,
        missed=row.missed,
        goal=request.goal or ", ".join(step.key for step in request.plan.steps)[:200],
        workspace=request.workspace,
        paused=row.paused,
        next_at=row.next_at,
        last_tick=row.last_tick,
        last_run=row.last_run,
        problem=row.problem,
    )

"""Tables of runs and steps as they are now; how they came to be so is the journal's."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import Base

RUN_STATUSES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
STEP_STATUSES = (
    "pending",
    "ready",
    "queued",
    "chained",
    "running",
    "waiting",
    "succeeded",
    "failed",
    "cancelled",
    "skipped",
    "superseded",
)

# Rewritten often: room on the page keeps the updates off the indexes.
HOT = {"postgresql_with": {"fillfactor": "70"}}


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    # One constant, not `IN (…)` of many: Postgres reads a table's checks anew in every statement that writes to it.
    return CheckConstraint(f"{column} = ANY ('{{{','.join(values)}}}'::text[])", name=column)


class RunRow(Base):
    """A run as it is now."""

    __tablename__ = "runs"
    __table_args__ = (
        _one_of("status", RUN_STATUSES),
        Index("uq_runs_idempotency_key", "tenant", "idempotency_key", unique=True),
        Index("ix_runs_created_at", "tenant", "created_at", "id"),
        Index("ix_runs_deadline_at", "deadline_at", postgresql_where=sql("finished_at IS NULL")),
        # Whatever else goes wrong, two runs of one key are never under way.
        Index(
            "uq_runs_concurrency_key",
            "tenant",
            "concurrency_key",
            unique=True,
            postgresql_where=sql("status IN ('running', 'paused')"),
        ),
        # What left a run, so that erasing it reaches them.
        Index("ix_runs_forked_from", "forked_from", postgresql_where=sql("forked_from IS NOT NULL")),
        Index("ix_runs_queued", "tenant", "concurrency_key", "created_at", postgresql_where=sql("status = 'queued'")),
        Index(
            "ix_runs_conversation_id",
            "tenant",
            "conversation_id",
            "finished_at",
            postgresql_where=sql("conversation_id IS NOT NULL"),
        ),
        HOT,
    )

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    status: Mapped[str] = mapped_column(Text, server_default="running")
    goal: Mapped[str] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(Integer, server_default="0")
    """Higher goes first."""
    plan_version: Mapped[int] = mapped_column(Integer, server_default="1")
    head_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Of the run's own stream."""
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    concurrency_key: Mapped[str | None] = mapped_column(Text)
    """At most one run of its tenant under way has it."""
    workspace: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    """A `WorkspaceRef`."""
    role_versions: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=sql("'{}'::jsonb"))
    forked_from: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    """The run that it left."""
    conversation_id: Mapped[str | None] = mapped_column(Text)
    """The conversation that it is part of."""
    consolidate_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """What the run may spend that keeps what this one has taught; NULL: nothing is kept."""
    tier: Mapped[str | None] = mapped_column(Text)
    """Size of model for agents whose steps name none; None: as their roles say."""
    model: Mapped[str | None] = mapped_column(Text)
    """A model by its name, likewise."""
    reason: Mapped[str] = mapped_column(Text, server_default="")
    """Why it ended as it did."""
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    """The newest version of the code that has written to it; older processes leave it alone."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    erased_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Since then its journal has no bodies; nothing is copied from it any more."""
    erased_artifacts: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Hashes of those of its artifacts that are still to be removed."""
    deadline_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class StepRow(Base):
    """A step as it is now: its place, its fence and its purse."""

    __tablename__ = "steps"
    __table_args__ = (
        _one_of("status", STEP_STATUSES),
        # Also finds the steps of a run; to sort at most 2,000 by ordinal costs less than an index that turns maintain.
        Index("uq_steps_key", "run", "key", unique=True),
        # Not on `lease_until`, though expired leases are looked for: every turn renews its lease, and an update that
        # changes an indexed column writes to all indexes.
        Index("ix_steps_live", "status", "pool", postgresql_where=sql("status IN ('ready', 'queued', 'running')")),
        Index("ix_steps_waiting", "run_after", postgresql_where=sql("status = 'waiting'")),
        HOT,
    )

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    """`plan.step_id(run, key)`."""
    run: Mapped[UUID] = mapped_column(ForeignKey("chargehand.runs.id"))
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    key: Mapped[str] = mapped_column(Text)
    ordinal: Mapped[int] = mapped_column(Integer)
    """Topological: every lock of several steps is taken in this order."""
    pool: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The `Step`."""
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    epoch: Mapped[int] = mapped_column(Integer, server_default="0")
    """Counts claims: the fence."""
    crashes: Mapped[int] = mapped_column(Integer, server_default="0")
    """Take-overs of an expired lease without progress since."""
    solo: Mapped[bool] = mapped_column(server_default=sql("false"))
    """Crashed too often: only a pool of one thread may claim it."""
    taken_over: Mapped[bool] = mapped_column(server_default=sql("false"))
    """An attempt was cut off: whether its effect happened is not known."""
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    """The newest version of the code that has written its spec or its stream; older workers do not claim it."""
    lease_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    holder: Mapped[str | None] = mapped_column(Text)
    halt: Mapped[str | None] = mapped_column(Text)
    """`pause`: the worker hands it back at its next commit."""
    head_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    chain: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    """The emitted chain it is a link of."""
    next_in_chain: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    emissions: Mapped[int] = mapped_column(Integer, server_default="0")
    """Messages sent since it was last claimed: the next one waits twice as long."""
    queued_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    run_after: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    wait_id: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    wait_reason: Mapped[str | None] = mapped_column(Text)
    wait_cause: Mapped[str | None] = mapped_column(Text)
    """Equal for questions of the run that one answer settles."""
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When its question to a person is answered by nobody."""
    retries: Mapped[int] = mapped_column(Integer, server_default="0")
    turns: Mapped[int] = mapped_column(Integer, server_default="0")
    allotment_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Drawn from the run's budget and not returned."""
    reserved_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    spent_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    returned_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """What the last finish or wait gave back; written by the statement that gives it. Negative: what an answer cost
    beyond all that was drawn."""
    label: Mapped[str | None] = mapped_column(Text)
    """The way that a branch took."""
    anchored: Mapped[bool] = mapped_column(server_default=sql("false"))
    patched: Mapped[bool] = mapped_column(server_default=sql("false"))
    """The patch it ended with was applied."""
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    deadline_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class EdgeRow(Base):
    """`successor` waits for `predecessor`."""

    __tablename__ = "edges"
    __table_args__ = (Index("ix_edges_successor", "successor"), Index("ix_edges_run", "run"))

    predecessor: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    successor: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))


class RingRow(Base):
    """Something changed in a run; inserted by the change's own transaction, deleted by `advance`."""

    __tablename__ = "rings"
    __table_args__ = (Index("ix_rings_run", "run"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    rung_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class SignalRow(Base):
    """An outsider's answer to a waiting step; the first one of the step's own tenant wins."""

    __tablename__ = "signals"
    __table_args__ = (Index("ix_signals_run", "run"),)

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    wait_id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    choice: Mapped[str] = mapped_column(Text)
    body: Mapped[Any] = mapped_column(JSONB, nullable=True)
    sent_by: Mapped[str] = mapped_column(Text, server_default="")
    """Who says they answered: a name; `expiry`; `colleague`, of a child's result."""
    sent_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class BudgetRow(Base):
    """What a run may spend; apart from `runs`, so that money never waits for a plan."""

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint("drawn_microusd <= cap_microusd + overrun_microusd", name="cap"),
        _one_of("on_exceeded", ("fail", "ask")),
        HOT,
    )

    run: Mapped[UUID] = mapped_column(ForeignKey("chargehand.runs.id"), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    cap_microusd: Mapped[int] = mapped_column(BigInteger)
    drawn_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Allotted to steps and not returned, which includes what they spent."""
    granted_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The last grant; written by the statement that makes it."""
    overrun_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The most that was ever drawn above the cap: a server charged more than the upper bound of a call."""
    warned_percent: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    """How much of this cap people were told is spent."""
    allotted_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """Borrowed from its tenant's budget and not returned; NULL: its tenant has no caps."""
    allotted_day: Mapped[date | None] = mapped_column(Date)
    """When it last borrowed."""
    allotted_of_day_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Borrowed on that day, as far as it was not returned."""
    on_exceeded: Mapped[str] = mapped_column(Text, server_default="fail")
    """What a step does whose call does not fit: it fails, or asks a person for more."""
    max_calls: Mapped[int | None] = mapped_column(BigInteger)
    max_tokens: Mapped[int | None] = mapped_column(BigInteger)
    calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Counted only where one of the two caps is set."""
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Those of answered calls, and the upper bounds of the others."""


class TenantBudgetRow(Base):
    """What all runs of a tenant together may spend; only of tenants that have caps."""

    __tablename__ = "tenant_budgets"
    __table_args__ = (HOT,)

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    cap_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """Since it was first set; NULL: none."""
    day_cap_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """Of each day in UTC; NULL: none."""
    drawn_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Lent to runs and not returned, which includes what they spent."""
    day: Mapped[date | None] = mapped_column(Date)
    """That the next sum is of."""
    day_drawn_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    granted_microusd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The last loan; written by the statement that makes it."""


class TenantUsageRow(Base):
    """How many calls, tokens and seconds of workers all runs of a tenant may take; only where one is capped."""

    __tablename__ = "tenant_usage"
    __table_args__ = (HOT,)

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    max_calls: Mapped[int | None] = mapped_column(BigInteger)
    """Since one of these caps was first set; NULL: none."""
    max_tokens: Mapped[int | None] = mapped_column(BigInteger)
    day_max_calls: Mapped[int | None] = mapped_column(BigInteger)
    """Of each day in UTC; NULL: none."""
    day_max_tokens: Mapped[int | None] = mapped_column(BigInteger)
    max_agent_ms: Mapped[int | None] = mapped_column(BigInteger)
    day_max_agent_ms: Mapped[int | None] = mapped_column(BigInteger)
    calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Those of answered calls, and the upper bounds of the others."""
    day: Mapped[date | None] = mapped_column(Date)
    """That the next three are of."""
    day_calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    day_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    day_agent_ms: Mapped[int] = mapped_column(BigInteger, server_default="0")
    agent_ms: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """For how long agents have held workers."""


class BatchedCallRow(Base):
    """A call that is about to go through a batch API, or has, and is not settled."""

    __tablename__ = "batched_calls"
    __table_args__ = (Index("ix_batched_calls_run", "run"), Index("ix_batched_calls_batch", "batch_id"))

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    call: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    model: Mapped[str] = mapped_column(Text)
    max_tokens: Mapped[int] = mapped_column(BigInteger)
    counted: Mapped[bool] = mapped_column(server_default=sql("false"))
    """Its tenant's caps have counted it, at its upper bound."""
    batch_id: Mapped[str | None] = mapped_column(Text)
    """NULL: not made yet, or nobody knows."""
    may_cancel: Mapped[bool] = mapped_column(server_default=sql("false"))
    """Nobody waits for anything in its batch."""
    looks: Mapped[int] = mapped_column(Integer, server_default="0")
    """How often a worker was asked to look after it, when its step had ended."""
    look_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    """When the next one is."""
    asked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class SettlementRow(Base):
    """What a call cost whose answer came after its step had let go of it; the first one wins, from whoever."""

    __tablename__ = "settlements"
    __table_args__ = (
        _one_of("booked", ("run", "nowhere")),
        CheckConstraint("cost_microusd >= 0", name="cost"),
        Index("ix_settlements_open", "run", postgresql_where=sql("booked IS NULL")),
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    call: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    cost_microusd: Mapped[int] = mapped_column(BigInteger)
    booked: Mapped[str | None] = mapped_column(Text)
    """Where it is accounted for. `nowhere`: it came after its run was sealed, which stays charged as reserved."""
    settled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class PoolRow(Base):
    """A worker process that is alive, and how many steps it can run at once."""

    __tablename__ = "pools"

    holder: Mapped[str] = mapped_column(Text, primary_key=True)
    pool: Mapped[str] = mapped_column(Text)
    slots: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    """Its heartbeat's connection has not been broken since, but by its own standing still."""
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class SubmissionRow(Base):
    """A run that somebody's own transaction asked for; a supervisor turns it into a run."""

    __tablename__ = "submissions"

    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    request: Mapped[str] = mapped_column(Text)
    """A `RunRequest`."""
    schema_version: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    """The version of the code that wrote it; an older supervisor leaves it to a newer one."""
    submitted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())

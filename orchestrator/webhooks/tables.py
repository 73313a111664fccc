"""Tables of webhooks and of what is to be delivered to them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Integer, Text, func
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import Base


class WebhookRow(Base):
    """Where a tenant wants to be told of what; the application's role cannot read its secret."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_tenant", "tenant"),)

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    secret: Mapped[str] = mapped_column(Text, deferred=True)
    """`whsec_…`"""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class DeliveryRow(Base):
    """A fact that a webhook has to hear of; the journal's own trigger writes it, in the fact's transaction."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        Index("ix_deliveries_due", "due_at", postgresql_where=sql("status = 'pending'")),
        Index("ix_deliveries_webhook", "webhook", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True, server_default=func.gen_random_uuid())
    """The same in every attempt: the receiver tells repetitions by it."""
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    webhook: Mapped[UUID] = mapped_column(ForeignKey("chargehand.webhooks.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(Text)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    seq: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    """When it is tried next; while somebody tries, when somebody else may."""
    tried_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    outcome: Mapped[str] = mapped_column(Text, server_default="")
    """Of the last attempt: `200`, `503`, `TimeoutError`."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())

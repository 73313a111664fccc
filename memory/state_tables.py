"""Tables of shared state: the values, and who replaced them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, Index, Integer, PrimaryKeyConstraint, Text, func
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import Base


class SharedState(Base):
    """A value that several agents read and replace."""

    __tablename__ = "shared_state"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "scope", "key"),
        # Rewritten often: room on the page keeps the updates off the index.
        {"postgresql_with": {"fillfactor": "70"}},
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    scope: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    value: Mapped[Any] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column(BigInteger)
    """Grows with each value; 0 is a row that only a lease has touched."""
    fence: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    """Grows with each lease; a holder whose number is older may not commit."""
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SharedStateChange(Base):
    """Who replaced a value of shared state; written in the commit that replaced it, and never changed."""

    __tablename__ = "shared_state_changes"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "id"),
        Index("uq_shared_state_changes_version", "tenant", "scope", "key", "new_version", unique=True),
        Index(
            "uq_shared_state_changes_call",
            "tenant",
            "call_key",
            "scope",
            "key",
            unique=True,
            postgresql_where=sql("call_key IS NOT NULL"),
        ),
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    id: Mapped[int] = mapped_column(BigInteger, Identity())
    scope: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    old_version: Mapped[int] = mapped_column(BigInteger)
    new_version: Mapped[int] = mapped_column(BigInteger)
    fence: Mapped[int | None] = mapped_column(BigInteger)
    """Of the lease under which it was replaced, if there was one."""
    run: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    step: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    step_key: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    epoch: Mapped[int | None] = mapped_column(Integer)
    call_key: Mapped[str | None] = mapped_column(Text)
    """Idempotency key of the call that replaced it."""
    database_user: Mapped[str] = mapped_column(Text, server_default=sql("session_user"))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())

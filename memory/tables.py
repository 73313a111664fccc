"""Tables of the audit log: the journal of every stream, and the chain of ended runs."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Integer, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import Base

# The step of a row in a run's own stream.
RUN_STREAM = UUID(int=0)


class JournalRow(Base):
    """One fact of one stream; appended, never changed. Time, salt and hashes are the database's (a trigger's)."""

    __tablename__ = "journal"

    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    """uuidv7: a later partitioning by range of runs keeps the primary key, one by time would not."""
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    """`RUN_STREAM` for the run's own stream."""
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """1, 2, 3, … without a gap: the trigger refuses a row whose predecessor is not there."""
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    kind: Mapped[str] = mapped_column(Text)
    schema_version: Mapped[int] = mapped_column(SmallInteger)
    epoch: Mapped[int] = mapped_column(Integer)
    """The claim under which it was written; 0 in a run's stream."""
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    body: Mapped[str | None] = mapped_column(Text)
    """JSON as it was hashed; NULL once erased."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Goes with the body: an erased body cannot be guessed from its hash."""
    body_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """sha256 over the hash before, the body's hash and every other column."""


class RunAnchor(Base):
    """Head of an ended run in its tenant's chain."""

    __tablename__ = "run_anchors"

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), unique=True)
    run_seq: Mapped[int] = mapped_column(BigInteger)
    run_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """sha256 over the hash before and the run's head."""
    seal: Mapped[bytes] = mapped_column(LargeBinary)
    """HMAC of `hash` with a key that the database does not know."""

"""Browsers that signed in with a key: a secret of their own in a cookie, good for a while and while the key is."""

import hashlib
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import DateTime, Engine, ForeignKey, Index, LargeBinary, delete, func, insert, text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, Session, mapped_column

from chargehand.memory.database import SCHEMA, Base
from chargehand.orchestrator.keys import Holder
from chargehand.orchestrator.sessions import unless_away

SECRET_BYTES = 32
# A working day; whoever stays longer shows the key again.
GOOD_FOR = timedelta(hours=12)


class SignInRow(Base):
    """A browser that signed in; nobody can read its secret here."""

    __tablename__ = "sign_ins"
    __table_args__ = (Index("ix_sign_ins_tenant", "tenant", "expires_at"),)

    hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """SHA-256 of the secret."""
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    key: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), ForeignKey(f"{SCHEMA}.api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def begin(session: Session, holder: Holder) -> str:
    """Let a browser in that has shown its key, and give its secret; forgets the tenant's sign-ins that are over."""
    session.execute(
        delete(SignInRow).where(SignInRow.tenant == holder.tenant, SignInRow.expires_at < func.clock_timestamp())
    )
    secret = secrets.token_urlsafe(SECRET_BYTES)
    session.execute(
        insert(SignInRow).values(
            hash=_hash(secret),
            tenant=holder.tenant,
            key=holder.key_id,
            expires_at=func.clock_timestamp() + GOOD_FOR,
        )
    )
    return secret


def end(session: Session, holder: Holder, secret: str) -> None:
    """Sign out."""
    session.execute(delete(SignInRow).where(SignInRow.tenant == holder.tenant, SignInRow.hash == _hash(secret)))


def holder_of(engine: Engine, secret: str) -> Holder | None:
    """Whose browser this is; None when its time is over or its key was revoked. No tenant needs to be bound.

    Raises `Unavailable` when Postgres does not answer.
    """
    with unless_away(), engine.begin() as connection:
        row = connection.execute(
            text("SELECT id, tenant, name, scopes FROM chargehand.sign_in_holder(:hash)"), {"hash": _hash(secret)}
        ).one_or_none()
    if row is None:
        return None
    return Holder(key_id=row.id, tenant=row.tenant, name=row.name, scopes=frozenset(row.scopes))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()

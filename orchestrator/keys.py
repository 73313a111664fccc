"""Keys of the HTTP API: made once, kept as a hash, for one tenant and some scopes, until somebody revokes them."""

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import DateTime, Engine, Index, LargeBinary, Text, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, Session, mapped_column

from chargehand.memory.database import Base
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.requests import MAX_KEY_CHARACTERS
from chargehand.orchestrator.sessions import unless_away

SCOPES = ("read", "submit", "operate", "admin")
"""See; ask for runs; steer them and answer; keys, webhooks and everything else."""
DEFAULT_SCOPES = ("read", "submit", "operate")
# Of 256 random bits: what can be guessed from a hash is nothing, so that one round of SHA-256 is enough.
SECRET_BYTES = 32
PREFIX_BYTES = 6
# Named by `chargehand keys list`, found by people who search a repository for secrets.
MARK = "chk"
_FORM = re.compile(rf"{MARK}_([0-9a-f]{{{2 * PREFIX_BYTES}}})_[A-Za-z0-9_-]{{43}}")


class KeyRow(Base):
    """A key; the application's role cannot read its hash."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("uq_api_keys_prefix", "prefix", unique=True),
        Index("ix_api_keys_tenant", "tenant"),
    )

    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text)
    """The part of the key that is no secret."""
    hash: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    """SHA-256 of the whole key."""
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key as people look at it."""

    key_id: UUID
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    secret: str | None = None
    """The key itself; only of one that was just made: it is not shown again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Whoever presents a key: for which tenant, and what it may do."""

    key_id: UUID
    tenant: UUID
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has the scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes


def add(session: Session, tenant: UUID, name: str, scopes: Collection[str] = DEFAULT_SCOPES) -> Key:
    """Make a key; its secret is in what this gives, and nowhere else. Raises `UserError`."""
    name = name.strip()
    if not name or len(name) > MAX_KEY_CHARACTERS or not name.isprintable():
        raise UserError(f"Key name {name[:80]!r} cannot be used; give 1 to {MAX_KEY_CHARACTERS} printable characters.")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        named = repr(unknown[0]) if unknown else "nothing"
        raise UserError(f"A key cannot be good for {named}; scopes are: {', '.join(SCOPES)}.")
    prefix = secrets.token_hex(PREFIX_BYTES)
    secret = f"{MARK}_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
    row = session.execute(
        insert(KeyRow)
        .values(
            id=uuid4(),
            tenant=tenant,
            name=name,
            prefix=prefix,
            hash=_hash(secret),
            scopes=[scope for scope in SCOPES if scope in scopes],
        )
        .returning(KeyRow.id, KeyRow.scopes, KeyRow.created_at)
    ).one()
    return Key(
        key_id=row.id,
        name=name,
        prefix=prefix,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        last_used_at=None,
        revoked_at=None,
        secret=secret,
    )


def listed(session: Session, tenant: UUID) -> list[Key]:
    """The tenant's keys, oldest first, those that were revoked too."""
    rows = session.scalars(select(KeyRow).where(KeyRow.tenant == tenant).order_by(KeyRow.created_at, KeyRow.id))
    return [_view(row) for row in rows]


def revoke(session: Session, tenant: UUID, name: str) -> Key:
    """Make a key worthless, by its prefix, its id or its name; processes that know it forget it within seconds.

    One that was revoked before stays so. Raises `NotFound`, also where several have the name.
    """
    known = listed(session, tenant)
    wanted = name.removeprefix(f"{MARK}_").partition("_")[0] if name.startswith(f"{MARK}_") else name
    found = [one for one in known if wanted in (one.prefix, str(one.key_id))]
    found = found or [one for one in known if one.name == wanted and one.revoked_at is None]
    if len(found) != 1:
        raise NotFound(f"{wanted!r} names {len(found) or 'no'} keys; `chargehand keys list` shows their prefixes.")
    revoked_at = session.execute(
        update(KeyRow)
        .where(KeyRow.id == found[0].key_id, KeyRow.tenant == tenant)
        .values(revoked_at=func.coalesce(KeyRow.revoked_at, func.clock_timestamp()))
        .returning(KeyRow)
    ).scalar_one()
    return _view(revoked_at)


def holder_of(engine: Engine, secret: str) -> Holder | None:
    """Whose key this is; None for what is none, or was revoked. No tenant needs to be bound.

    Raises `Unavailable` when Postgres does not answer.
    """
    form = _FORM.fullmatch(secret)
    if form is None:
        return None
    with unless_away(), engine.begin() as connection:
        row = connection.execute(
            text("SELECT id, tenant, name, scopes FROM chargehand.api_key_holder(:prefix, :hash)"),
            {"prefix": form.group(1), "hash": _hash(secret)},
        ).one_or_none()
    if row is None:
        return None
    return Holder(key_id=row.id, tenant=row.tenant, name=row.name, scopes=frozenset(row.scopes))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _view(row: KeyRow) -> Key:
    return Key(
        key_id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )

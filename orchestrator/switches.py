"""The fleet's switches: roles, tools and models that people have paused, or everything; durable, and obeyed by all.

They belong to no tenant. Supervisors do not admit steps of a paused role; running ones are handed back between two
turns; a paused tool makes its step wait, and a paused model is passed over by the router.
"""

import getpass
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Identity,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Mapped, Session, mapped_column

from chargehand.memory.database import Base
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.tables import StepRow

Kind = Literal["all", "role", "tool", "model"]
KINDS: tuple[Kind, ...] = ("all", "role", "tool", "model")
_ANY_KIND = "kind IN ('all', 'role', 'tool', 'model')"

# How old a worker's knowledge may be.
FRESH_SECONDS = 1.0
# Before a worker acts on a pause it makes sure that it still holds: a step handed back for nothing would come again.
SURE_SECONDS = 0.1

READ = "SELECT kind, name, by, reason, since FROM switches"


class SwitchRow(Base):
    """Something that is paused."""

    __tablename__ = "switches"
    __table_args__ = (CheckConstraint(_ANY_KIND, name="kind"),)

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    """Empty for `all`."""
    by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text, server_default="")
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


class SwitchChangeRow(Base):
    """Who paused or resumed what, and when; never changed."""

    __tablename__ = "switch_changes"
    __table_args__ = (
        CheckConstraint(_ANY_KIND, name="kind"),
        CheckConstraint("change IN ('pause', 'resume')", name="change"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    change: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(Text)
    """What the caller says."""
    database_user: Mapped[str] = mapped_column(Text, server_default=sql("session_user"))
    """What Postgres knows."""
    reason: Mapped[str] = mapped_column(Text, server_default="")
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """Something that is paused, as people look at it."""

    kind: Kind
    name: str
    by: str
    reason: str
    since: datetime

    @property
    def why(self) -> str:
        """In words, with what lets it go on."""
        what = "the whole fleet" if self.kind == "all" else f"{self.kind} {self.name!r}"
        option = "--all" if self.kind == "all" else f"--{self.kind} {self.name}"
        because = f" ({self.reason})" if self.reason else ""
        since = f"{self.since:%Y-%m-%d %H:%M} UTC"
        return f"{what} is paused by {self.by} since {since}{because}; `chargehand resume {option}` lets it go on"


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchChange:
    """Who paused or resumed what."""

    kind: str
    name: str
    change: str
    by: str
    database_user: str
    reason: str
    at: datetime


def whoever_asks() -> str:
    """`user@host` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user without a name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def check(kind: Kind, name: str) -> str:
    """The name as it is kept; raises `UserError`."""
    name = name.strip()
    if (kind == "all") == bool(name):
        raise UserError(f"Name the {kind} to pause." if kind != "all" else "The whole fleet has no name.")
    return name


def pause(session: Session, kind: Kind, name: str, *, by: str, reason: str = "") -> bool:
    """Pause it for all tenants; False when it is paused already. The session is a supervisor's."""
    set_now = session.execute(
        upsert(SwitchRow)
        .values(kind=kind, name=check(kind, name), by=by, reason=reason)
        .on_conflict_do_nothing()
        .returning(SwitchRow.kind)
    ).scalar_one_or_none()
    if set_now is None:
        return False
    _note(session, kind, name, "pause", by=by, reason=reason)
    return True


def resume(session: Session, kind: Kind, name: str, *, by: str, reason: str = "") -> bool:
    """Let it go on, and wake the steps that wait; False when it is not paused. The session is a supervisor's."""
    gone = session.execute(
        delete(SwitchRow)
        .where(SwitchRow.kind == kind, SwitchRow.name == check(kind, name))
        .returning(SwitchRow.kind)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if gone is None:
        return False
    _note(session, kind, name, "resume", by=by, reason=reason)
    waiting = (
        select(StepRow.id)
        .where(StepRow.status == "waiting", StepRow.wait_reason == "paused")
        .order_by(StepRow.run, StepRow.ordinal)
        .with_for_update(skip_locked=True, key_share=True)
    )
    session.execute(
        update(StepRow)
        .where(StepRow.id.in_(session.scalars(waiting).all()))
        .values(run_after=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    return True


def _note(session: Session, kind: Kind, name: str, change: str, *, by: str, reason: str) -> None:
    session.execute(insert(SwitchChangeRow).values(kind=kind, name=name.strip(), change=change, by=by, reason=reason))


def is_everything_paused() -> ColumnElement[bool]:
    """In a query: whether the whole fleet is paused."""
    return select(SwitchRow.kind).where(SwitchRow.kind == "all").exists()


def listed(session: Session) -> list[Switch]:
    """What is paused, the longest first."""
    rows = session.scalars(select(SwitchRow).order_by(SwitchRow.since))
    return [
        Switch(kind=row.kind, name=row.name, by=row.by, reason=row.reason, since=row.since)  # type: ignore[arg-type]
        for row in rows
    ]


def changes(session: Session, *, limit: int = 50) -> list[SwitchChange]:
    """Who paused and resumed what, the newest first."""
    rows = session.scalars(select(SwitchChangeRow).order_by(SwitchChangeRow.id.desc()).limit(limit))
    return [
        SwitchChange(
            kind=row.kind,
            name=row.name,
            change=row.change,
            by=row.by,
            database_user=row.database_user,
            reason=row.reason,
            at=row.at,
        )
        for row in rows
    ]


class Switches:
    """What is paused, as a worker process knows it: at most about a second old; any thread may ask.

    While Postgres is away what was known last holds.
    """

    def __init__(self, read: Callable[[], Sequence[Switch]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`read` asks Postgres; nothing is read before the first question."""
        self._read, self._clock = read, clock
        self._known: dict[tuple[str, str], Switch] = {}
        self._read_at = float("-inf")
        self._reading = threading.Lock()

    def find(self, kind: Kind, name: str) -> Switch | None:
        """The switch that stops this, its own or the whole fleet's."""
        self._refresh(FRESH_SECONDS)
        if self._lookup(kind, name) is None:
            return None
        self._refresh(SURE_SECONDS)
        return self._lookup(kind, name)

    def _lookup(self, kind: Kind, name: str) -> Switch | None:
        return self._known.get(("all", "")) or self._known.get((kind, name))

    def _refresh(self, seconds: float) -> None:
        # Whoever finds another thread reading goes on with what is known.
        if self._clock() - self._read_at < seconds or not self._reading.acquire(blocking=False):
            return
        try:
            self._known = {(one.kind, one.name): one for one in self._read()}
        except Unavailable:
            pass
        finally:
            self._read_at = self._clock()
            self._reading.release()

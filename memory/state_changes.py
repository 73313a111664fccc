"""What was replaced in shared state, by whom: the audit rows, and the notice that each commit gives.

The notice is a hint: it is part of the commit, says only that there is a new row, and may be missed by whoever is not
connected. Nobody may conclude from silence that nothing has changed; versions are asked of Postgres.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory.database import APP_ROLE, KEEPALIVE, session_options
from chargehand.memory.state_tables import SharedStateChange

CHANNEL_PREFIX = "chargehand_state_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who replaces a value; all of it is written down."""

    run: UUID | None = None
    step: UUID | None = None
    step_key: str = ""
    epoch: int | None = None
    call_key: str | None = None
    """Idempotency key: what was replaced under it is not replaced again."""


NOBODY = Author()


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One value was replaced."""

    scope: str
    key: str
    old_version: int
    new_version: int
    fence: int | None
    run: UUID | None
    step: UUID | None
    step_key: str
    epoch: int | None
    at: datetime


def changes(session: Session, *, tenant: UUID, scope: str, key: str, since_version: int = 0) -> list[Change]:
    """Who has replaced the value after that version, oldest first."""
    rows = session.scalars(
        select(SharedStateChange)
        .where(
            SharedStateChange.tenant == tenant,
            SharedStateChange.scope == scope,
            SharedStateChange.key == key,
            SharedStateChange.new_version > since_version,
        )
        .order_by(SharedStateChange.new_version)
    )
    return [_change(row) for row in rows]


def newest_changes(session: Session, *, tenant: UUID, scope: str, versions: Mapping[str, int]) -> dict[str, Change]:
    """Of each key, who made it what it is at that version; a key that nobody has written is left out."""
    rows = session.scalars(
        select(SharedStateChange).where(
            SharedStateChange.tenant == tenant,
            SharedStateChange.scope == scope,
            SharedStateChange.key.in_(sorted(versions)),
            SharedStateChange.new_version.in_(sorted({*versions.values()})),
        )
    )
    return {row.key: _change(row) for row in rows if versions[row.key] == row.new_version}


def _change(row: SharedStateChange) -> Change:
    return Change(
        scope=row.scope,
        key=row.key,
        old_version=row.old_version,
        new_version=row.new_version,
        fence=row.fence,
        run=row.run,
        step=row.step,
        step_key=row.step_key,
        epoch=row.epoch,
        at=row.at,
    )


_CHANGE = """
SELECT scope, key, old_version, new_version, fence, run, step, step_key, epoch, at
FROM shared_state_changes WHERE tenant = %s AND id = %s
"""


class Listener:
    """Hears of a tenant's changes from the moment it is made, on a connection of its own; not for several threads.

    What happens before that, or while its connection is broken, it does not hear: read versions after connecting.
    """

    def __init__(self, database_url: str, tenant: UUID) -> None:
        """Connect; raises `psycopg.OperationalError` when Postgres is away."""
        self._tenant = tenant
        options: dict[str, Any] = {"options": session_options(role=APP_ROLE), **KEEPALIVE}
        self._connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row, **options)
        self._connection.execute("SELECT set_config('chargehand.tenant', %s, false)", [str(tenant)])
        self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"{CHANNEL_PREFIX}{tenant.hex}")))

    def wait(self, timeout_seconds: float) -> list[Change]:
        """The changes that were committed meanwhile, at least one; empty when there was none in that time."""
        heard = [notice.payload for notice in self._connection.notifies(timeout=timeout_seconds, stop_after=1)]
        found = []
        for change_id in heard:
            # Whoever may connect may send a notice; only the row says that something has changed.
            row = change_id.isdecimal() and self._connection.execute(_CHANGE, [self._tenant, change_id]).fetchone()
            if row:
                found.append(Change(**row))
        return found

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._connection.close()

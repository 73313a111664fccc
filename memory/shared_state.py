"""Values that several agents read and replace: *B must never act on a view that A has replaced.*

Every value has a version and every lease a fence, both in the row, and a commit is conditional on them: correctness
is Postgres's. The Redlock of a lease only saves the work of those who would lose. Who replaced what is written down in
the same commit, and those who listen are told by it (see `state_changes`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import TextClause, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import Guard
from chargehand.memory.redlock import Lock, Redlock
from chargehand.memory.state_changes import CHANNEL_PREFIX, NOBODY, Author, newest_changes
from chargehand.memory.state_tables import SharedState, SharedStateChange

# Of n writers one wins each round, so that n rounds serve n writers; more contention wants a lease.
CAS_ATTEMPTS = 20

# All that stands between a holder that was stopped, or a reader that is late, and the value.
FENCE = "AND version = :version AND (CAST(:fence AS bigint) IS NULL OR fence = :fence)"
UPDATE = f"""
UPDATE shared_state SET value = CAST(:value AS jsonb), version = version + 1, updated_at = clock_timestamp()
WHERE tenant = :tenant AND scope = :scope AND key = :key {FENCE}
RETURNING tenant, scope, key, version
"""
# A lease may have made the row without writing a value: then version 0 is still there to be replaced.
INSERT = """
INSERT INTO shared_state (tenant, scope, key, value, version)
VALUES (:tenant, :scope, :key, CAST(:value AS jsonb), 1)
ON CONFLICT (tenant, scope, key) DO UPDATE
SET value = excluded.value, version = 1, updated_at = clock_timestamp() WHERE shared_state.version = 0
RETURNING tenant, scope, key, version
"""
_WRITTEN_DOWN = f"""
WITH changed AS ({{change}}), noted AS (
    INSERT INTO shared_state_changes
        (tenant, scope, key, old_version, new_version, fence, run, step, step_key, epoch, call_key)
    SELECT tenant, scope, key, CAST(:version AS bigint), version, CAST(:fence AS bigint), CAST(:run AS uuid),
        CAST(:step AS uuid), :step_key, CAST(:epoch AS integer), CAST(:call_key AS text)
    FROM changed RETURNING id, new_version
)
SELECT new_version, pg_notify('{CHANNEL_PREFIX}' || :channel, id::text) FROM noted
"""


class StaleState(RuntimeError):
    """The value was replaced, or leased by another, since it was read; read it again and decide anew."""

    def __init__(self, message: str, *, replaced: Sequence["Replaced"] = ()) -> None:
        super().__init__(message)
        self.replaced = tuple(replaced)
        """Which views are not what they were, where that was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Versioned:
    """A value as it was when it was read."""

    key: str
    value: JsonValue
    """None where nobody has written yet."""
    version: int
    """0 where nobody has written yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A view that is not what it was."""

    key: str
    seen_version: int
    version: int
    by: str
    """Key of the step that replaced it; empty where it was no step's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to replace one value, until somebody else takes it."""

    tenant: UUID
    scope: str
    view: Versioned
    """The value when the lease was taken."""
    fence: int
    lock: Lock
    redlock: Redlock
    author: Author = NOBODY

    def commit(self, session: Session, value: JsonValue, *, guard: Guard | None = None) -> Versioned:
        """Replace the value in the caller's transaction, or raise `StaleState`: then let it roll back.

        A holder that was stopped for longer than its lock is valid is refused by its fence as soon as another took
        the lease, and by the version as soon as another wrote.
        """
        if guard is not None:
            guard(session)
        version = replace_value(
            session,
            tenant=self.tenant,
            scope=self.scope,
            seen=self.view,
            value=value,
            fence=self.fence,
            author=self.author,
        )
        if version is None:
            raise StaleState(
                f"Shared state {self.view.key!r} has moved on from version {self.view.version}, fence {self.fence}; "
                "take the lease again and decide on what it holds now."
            )
        return Versioned(key=self.view.key, value=value, version=version)

    def extended(self) -> "Lease":
        """The same lease with its full time again; raises `LockBusy` when it was lost."""
        return replace(self, lock=self.redlock.extend(self.lock))


def read(session: Session, *, tenant: UUID, scope: str, key: str) -> Versioned:
    """The value and its version; None at version 0 where nobody has written."""
    return read_many(session, tenant=tenant, scope=scope, keys=[key])[key]


def read_many(session: Session, *, tenant: UUID, scope: str, keys: Sequence[str]) -> dict[str, Versioned]:
    """The values of these keys as they were at one moment, in the order given."""
    rows = session.execute(
        select(SharedState.key, SharedState.value, SharedState.version).where(
            SharedState.tenant == tenant, SharedState.scope == scope, SharedState.key.in_(sorted({*keys}))
        )
    )
    found = {row.key: Versioned(key=row.key, value=row.value, version=row.version) for row in rows}
    return {key: found.get(key, Versioned(key=key, value=None, version=0)) for key in keys}


def update(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    key: str,
    change: Callable[[JsonValue], JsonValue],
    author: Author = NOBODY,
    guard: Guard | None = None,
    attempts: int = CAS_ATTEMPTS,
) -> Versioned:
    """Replace the value by `change(value)`; asks `change` again, with the newer value, whenever another was faster.

    `change` must have no effects. It needs READ COMMITTED (the default). Raises `StaleState` after `attempts` rounds.
    """
    if guard is not None:
        guard(session)
    for _ in range(attempts):
        seen = read(session, tenant=tenant, scope=scope, key=key)
        value = change(seen.value)
        version = replace_value(session, tenant=tenant, scope=scope, seen=seen, value=value, author=author)
        if version is not None:
            return Versioned(key=key, value=value, version=version)
    raise StaleState(f"Shared state {key!r} was replaced by others {attempts} times in a row; use a lease.")


def transact(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    keys: Sequence[str],
    change: Callable[[Mapping[str, JsonValue]], Mapping[str, JsonValue]],
    author: Author = NOBODY,
    guard: Guard | None = None,
) -> dict[str, Versioned]:
    """Replace several values by what `change(values)` gives of them, all or none, if none of them changed meanwhile.

    `change` is asked once more, with the newer values, when another was faster; it must have no effects, and gives
    values for some of `keys`, or `ValueError` is raised. Gives all of `keys` as they are then. Needs READ COMMITTED.
    """
    if guard is not None:
        guard(session)
    seen = read_many(session, tenant=tenant, scope=scope, keys=keys)
    wanted = change({key: one.value for key, one in seen.items()})
    locked = _lock(session, tenant=tenant, scope=scope, keys=keys)
    if any(locked[key].version != seen[key].version for key in keys):
        # Nobody can be faster now: the rows are locked until the caller's transaction ends.
        wanted = change({key: one.value for key, one in locked.items()})
    unknown = sorted(wanted.keys() - {*keys})
    if unknown:
        raise ValueError(f"Shared state {unknown[0]!r} was not asked for; name it in keys.")
    return {**locked, **_write_all(session, tenant=tenant, scope=scope, seen=locked, values=wanted, author=author)}


def commit_on_view(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    view: Mapping[str, int],
    values: Mapping[str, JsonValue],
    author: Author,
    guard: Guard | None = None,
) -> dict[str, Versioned]:
    """Replace `values` if all of `view` (key → version) is still as it was seen; else `StaleState` says what is not.

    Every key of `values` has to be in `view`. Under one `author.call_key` it happens once: whoever asks again is given
    the versions of the first time.
    """
    if guard is not None:
        guard(session)
    blind = sorted(values.keys() - view.keys())
    if blind:
        raise ValueError(f"Shared state {blind[0]!r} was not read; read it before you replace it.")
    locked = _lock(session, tenant=tenant, scope=scope, keys=[*view])
    done = _done_before(session, tenant=tenant, scope=scope, call_key=author.call_key)
    if done:
        return {key: Versioned(key=key, value=values[key], version=done[key]) for key in values if key in done}
    _refuse_stale(session, tenant=tenant, scope=scope, view=view, current=locked)
    return _write_all(session, tenant=tenant, scope=scope, seen=locked, values=values, author=author)


def require_fresh(session: Session, *, tenant: UUID, scope: str, versions: Mapping[str, int]) -> None:
    """Raise `StaleState` if a value has another version than the view at hand; hold the views until the commit.

    Call it in the transaction that acts on the views: until it ends, nobody replaces them.
    """
    locked = _lock(session, tenant=tenant, scope=scope, keys=[*versions])
    _refuse_stale(session, tenant=tenant, scope=scope, view=versions, current=locked)


def replaced_since(session: Session, *, tenant: UUID, scope: str, view: Mapping[str, int]) -> list[Versioned]:
    """What is not what it was, as it is now, by key; holds nothing."""
    now = read_many(session, tenant=tenant, scope=scope, keys=sorted(view))
    return [one for key, one in now.items() if one.version != view[key]]


@contextmanager
def lease(
    open_session: Callable[[], AbstractContextManager[Session]],
    redlock: Redlock,
    *,
    tenant: UUID,
    scope: str,
    key: str,
    author: Author = NOBODY,
    wait_seconds: float = 0.0,
) -> Iterator[Lease]:
    """The sole right to replace a value while the block runs; `LockBusy` when another has it.

    The block decides outside any transaction and ends with `lease.commit(session, value)`. A step that waits for a
    human or a child holds no lease: leave the block first.
    """
    with redlock.held(f"{tenant}:{scope}:{key}", wait_seconds=wait_seconds) as lock:
        with open_session() as session:
            row = session.execute(
                insert(SharedState)
                .values(tenant=tenant, scope=scope, key=key, value=None, version=0, fence=1)
                .on_conflict_do_update(index_elements=["tenant", "scope", "key"], set_={"fence": SharedState.fence + 1})
                .returning(SharedState.value, SharedState.version, SharedState.fence)
            ).one()
        yield Lease(
            tenant=tenant,
            scope=scope,
            view=Versioned(key=key, value=row.value, version=row.version),
            fence=row.fence,
            lock=lock,
            redlock=redlock,
            author=author,
        )


def replace_value(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    seen: Versioned,
    value: JsonValue,
    fence: int | None = None,
    author: Author = NOBODY,
) -> int | None:
    """Write the value over the version that was seen and give the new version; None if that is no longer there."""
    change = INSERT if seen.version == 0 and fence is None else UPDATE
    row = session.execute(
        _statement(change),
        {
            "tenant": tenant,
            "channel": tenant.hex,
            "scope": scope,
            "key": seen.key,
            "value": json.dumps(value, ensure_ascii=False),
            "version": seen.version,
            "fence": fence,
            "run": author.run,
            "step": author.step,
            "step_key": author.step_key,
            "epoch": author.epoch,
            "call_key": author.call_key,
        },
    ).one_or_none()
    return None if row is None else int(row.new_version)


@cache
def _statement(change: str) -> TextClause:
    return text(_WRITTEN_DOWN.format(change=change))


def _lock(session: Session, *, tenant: UUID, scope: str, keys: Sequence[str]) -> dict[str, Versioned]:
    """The values of these keys, which nobody replaces before the transaction ends."""
    if not keys:
        return {}
    # One statement takes the locks in one order for everybody, also of rows that it has to make, so that two do not
    # wait for each other. A row that conflicts is locked though nothing of it is changed.
    rows = [
        {"tenant": tenant, "scope": scope, "key": key, "value": None, "version": 0, "fence": 0}
        for key in sorted({*keys})
    ]
    made = insert(SharedState).values(rows)
    session.execute(
        made.on_conflict_do_update(
            index_elements=["tenant", "scope", "key"], set_={"version": SharedState.version}, where=text("false")
        )
    )
    # A second statement, because the first one's snapshot is from before it waited.
    return read_many(session, tenant=tenant, scope=scope, keys=keys)


def _write_all(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    seen: Mapping[str, Versioned],
    values: Mapping[str, JsonValue],
    author: Author,
) -> dict[str, Versioned]:
    written = {}
    for key, value in sorted(values.items()):
        version = replace_value(session, tenant=tenant, scope=scope, seen=seen[key], value=value, author=author)
        if version is None:
            raise StaleState(f"Shared state {key!r} has moved on from version {seen[key].version}; read it again.")
        written[key] = Versioned(key=key, value=value, version=version)
    return written


def _refuse_stale(
    session: Session, *, tenant: UUID, scope: str, view: Mapping[str, int], current: Mapping[str, Versioned]
) -> None:
    stale = {key: current[key].version for key in sorted(view) if current[key].version != view[key]}
    if not stale:
        return
    by = newest_changes(session, tenant=tenant, scope=scope, versions=stale)
    replaced = [
        Replaced(key=key, seen_version=view[key], version=version, by=by[key].step_key if key in by else "")
        for key, version in stale.items()
    ]
    named = ", ".join(f"{one.key!r} ({one.seen_version} → {one.version})" for one in replaced)
    raise StaleState(f"Shared state {named} was replaced since it was read; read it again.", replaced=replaced)


def _done_before(session: Session, *, tenant: UUID, scope: str, call_key: str | None) -> dict[str, int]:
    if call_key is None:
        return {}
    rows = session.execute(
        select(SharedStateChange.key, SharedStateChange.new_version).where(
            SharedStateChange.tenant == tenant,
            SharedStateChange.call_key == call_key,
            SharedStateChange.scope == scope,
        )
    )
    return {row.key: row.new_version for row in rows}

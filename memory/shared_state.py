"""Values that several agents read and replace: *B must never act on a view that A has replaced.*

Every value has a version and every lease a fence, both in the row, and a commit is conditional on them: correctness
is Postgres's. The Redlock of a lease only saves the work of those who would lose.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import Guard
from chargehand.memory.redlock import Lock, Redlock
from chargehand.memory.semantic_tables import SharedState

# Of n writers one wins each round, so that n rounds serve n writers; more contention wants a lease.
CAS_ATTEMPTS = 20


class StaleState(RuntimeError):
    """The value was replaced, or leased by another, since it was read; read it again and decide anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Versioned:
    """A value as it was when it was read."""

    key: str
    value: JsonValue
    """None where nobody has written yet."""
    version: int
    """0 where nobody has written yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to replace one value, until somebody else takes it."""

    tenant: UUID
    scope: str
    view: Versioned
    """The value when the lease was taken."""
    fence: int
    lock: Lock

    def commit(self, session: Session, value: JsonValue, *, guard: Guard | None = None) -> Versioned:
        """Replace the value in the caller's transaction, or raise `StaleState`: then let it roll back.

        A holder that was stopped for longer than its lock is valid is refused by its fence as soon as another took
        the lease, and by the version as soon as another wrote.
        """
        if guard is not None:
            guard(session)
        version = replace(session, tenant=self.tenant, scope=self.scope, seen=self.view, value=value, fence=self.fence)
        if version is None:
            raise StaleState(
                f"Shared state {self.view.key!r} has moved on from version {self.view.version}, fence {self.fence}; "
                "take the lease again and decide on what it holds now."
            )
        return Versioned(key=self.view.key, value=value, version=version)


def read(session: Session, *, tenant: UUID, scope: str, key: str) -> Versioned:
    """The value and its version; None at version 0 where nobody has written."""
    row = session.execute(
        select(SharedState.value, SharedState.version).where(
            SharedState.tenant == tenant, SharedState.scope == scope, SharedState.key == key
        )
    ).one_or_none()
    if row is None:
        return Versioned(key=key, value=None, version=0)
    return Versioned(key=key, value=row.value, version=row.version)


def update_value(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    key: str,
    change: Callable[[JsonValue], JsonValue],
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
        version = replace(session, tenant=tenant, scope=scope, seen=seen, value=value)
        if version is not None:
            return Versioned(key=key, value=value, version=version)
    raise StaleState(f"Shared state {key!r} was replaced by others {attempts} times in a row; use a lease.")


def write_value(
    session: Session, *, tenant: UUID, scope: str, seen: Versioned, value: JsonValue, guard: Guard | None = None
) -> Versioned:
    """Replace exactly the value that was seen, or raise `StaleState`."""
    if guard is not None:
        guard(session)
    version = replace(session, tenant=tenant, scope=scope, seen=seen, value=value)
    if version is None:
        raise StaleState(f"Shared state {seen.key!r} has moved on from version {seen.version}; read it again.")
    return Versioned(key=seen.key, value=value, version=version)


def require_fresh(session: Session, *, tenant: UUID, scope: str, versions: Mapping[str, int]) -> None:
    """Raise `StaleState` if a value has another version than the view at hand; hold the views until the commit.

    Call it in the transaction that acts on the views: until it ends, nobody replaces them.
    """
    rows = session.execute(
        select(SharedState.key, SharedState.version)
        .where(SharedState.tenant == tenant, SharedState.scope == scope, SharedState.key.in_(sorted(versions)))
        # One order for everybody, so that two do not wait for each other.
        .order_by(SharedState.key)
        .with_for_update(read=True)
    )
    current = {row.key: row.version for row in rows}
    stale = sorted(key for key, version in versions.items() if current.get(key, 0) != version)
    if stale:
        raise StaleState(f"Shared state {', '.join(map(repr, stale))} was replaced since it was read; read it again.")


@contextmanager
def lease(
    open_session: Callable[[], AbstractContextManager[Session]],
    redlock: Redlock,
    *,
    tenant: UUID,
    scope: str,
    key: str,
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
        )


def replace(
    session: Session, *, tenant: UUID, scope: str, seen: Versioned, value: JsonValue, fence: int | None = None
) -> int | None:
    """Write the value over the version that was seen and give the new version; None if that is no longer there."""
    if seen.version == 0 and fence is None:
        inserted = session.execute(
            insert(SharedState)
            .values(tenant=tenant, scope=scope, key=seen.key, value=value, version=1)
            .on_conflict_do_nothing(index_elements=["tenant", "scope", "key"])
            .returning(SharedState.version)
        ).scalar_one_or_none()
        if inserted is not None:
            return inserted
        # A lease may have made the row without writing a value: then version 0 is still there to be replaced.
    statement = (
        update(SharedState)
        .where(
            SharedState.tenant == tenant,
            SharedState.scope == scope,
            SharedState.key == seen.key,
            SharedState.version == seen.version,
        )
        .values(value=value, version=SharedState.version + 1, updated_at=func.clock_timestamp())
        .returning(SharedState.version)
        .execution_options(synchronize_session=False)
    )
    if fence is not None:
        statement = statement.where(SharedState.fence == fence)
    return session.execute(statement).scalar_one_or_none()

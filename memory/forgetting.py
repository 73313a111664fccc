"""What is forgotten, with all that came of it: on request, with a run that is erased, or because its time is over."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, text, update
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import Guard, believe_again
from chargehand.memory.semantic_tables import Embedding, Memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """What `forget` did; ids in order."""

    memories: tuple[UUID, ...]
    """Those that are gone."""
    believed_again: tuple[UUID, ...]
    """Those that one of them had superseded, and nothing else has."""


def forget(
    session: Session,
    *,
    tenant: UUID,
    source: str | None = None,
    scope: str | None = None,
    memories: Collection[UUID] = (),
    runs: Collection[UUID] = (),
    guard: Guard | None = None,
) -> Forgotten:
    """Delete memories and everything concluded from them, however far down; what they superseded is believed again.

    `source`: what was read there, or rests on it, in any scope or in `scope` alone; only `scope`: all of it;
    `memories`: these (a poisoned lesson); `runs`: what came of these runs. Nobody can conclude anything from them
    meanwhile: who is at it commits first and is found, or finds them gone (`MemoryNotFound`). What another transaction
    reads in the source itself and has not committed yet counts as read after it was forgotten.
    """
    if guard is not None:
        guard(session)
    roots: list[ColumnElement[bool]] = []
    if source is not None:
        read = or_(Memory.source == source, Memory.rests_on.contains([source]))
        roots.append(read if scope is None else read & (Memory.scope == scope))
    elif scope is not None:
        roots.append(Memory.scope == scope)
    if memories:
        roots.append(Memory.id.in_(memories))
    if runs:
        roots.append(Memory.run.in_(runs))
    if not roots:
        raise ValueError("Nothing was named; give a source, a scope, memories or runs.")
    locked = _lock_closure(session, tenant, or_(*roots))
    if not locked:
        return Forgotten(memories=(), believed_again=())
    again = _bequeath(session, tenant, locked)
    session.execute(
        delete(Memory)
        .where(Memory.tenant == tenant, Memory.id.in_(locked))
        .execution_options(synchronize_session=False)
    )
    return Forgotten(memories=tuple(sorted(locked)), believed_again=again)


def forget_source(
    session: Session, *, tenant: UUID, source: str, scope: str | None = None, guard: Guard | None = None
) -> tuple[UUID, ...]:
    """Delete what was read in `source` and everything concluded from it, and give the ids that went; see `forget`."""
    return forget(session, tenant=tenant, source=source, scope=scope, guard=guard).memories


def forget_scope(session: Session, *, tenant: UUID, scope: str, guard: Guard | None = None) -> int:
    """Delete every memory of `scope` and everything concluded from it, and give their number; see `forget`."""
    return len(forget(session, tenant=tenant, scope=scope, guard=guard).memories)


def _lock_closure(session: Session, tenant: UUID, roots: ColumnElement[bool]) -> dict[UUID, UUID | None]:
    """Lock the roots and all that was concluded from them; gives what has superseded each.

    Level by level: one scan finds the children of all. Locking waits for whoever concludes something from a row, so a
    level is looked for again until it stays empty; then nobody can add to it any more.
    """
    own = Memory.tenant == tenant
    locked = _lock(session, own & roots)
    while True:
        children = session.scalars(
            select(Memory.id).where(own, Memory.derived_from.overlap(list(locked)), Memory.id.not_in(list(locked)))
        ).all()
        if not children:
            return locked
        locked |= _lock(session, own & Memory.id.in_(children))


def _lock(session: Session, which: ColumnElement[bool]) -> dict[UUID, UUID | None]:
    rows = session.execute(select(Memory.id, Memory.superseded_by).where(which).order_by(Memory.id).with_for_update())
    return {row.id: row.superseded_by for row in rows}


def _bequeath(session: Session, tenant: UUID, gone: dict[UUID, UUID | None]) -> tuple[UUID, ...]:
    """Let what those superseded be superseded by who superseded them; without such a one it is believed again."""
    rows = session.execute(
        select(Memory.id, Memory.superseded_by)
        .where(Memory.tenant == tenant, Memory.superseded_by.in_(list(gone)), Memory.id.not_in(list(gone)))
        .order_by(Memory.id)
        .with_for_update(key_share=True)
    ).all()
    heirs: dict[UUID | None, list[UUID]] = defaultdict(list)
    for row in rows:
        heir: UUID | None = row.superseded_by
        seen: set[UUID] = set()
        while heir is not None and heir in gone and heir not in seen:
            seen.add(heir)
            heir = gone[heir]
        heirs[None if heir in gone else heir].append(row.id)
    again = tuple(heirs.pop(None, ()))
    believe_again(session, tenant=tenant, memories=again)
    for heir, left in heirs.items():
        session.execute(
            update(Memory)
            .where(Memory.tenant == tenant, Memory.id.in_(left))
            .values(superseded_by=heir)
            .execution_options(synchronize_session=False)
        )
    return again


def sweep(session: Session, *, most: int) -> int:
    """Delete at most `most` memories of any tenant whose time is over, the longest over first; gives how many.

    For a session that sees all tenants. One from which something was concluded loses its text and its vectors, and is
    kept as the link between its source and that: else the source could not be forgotten any more.
    """
    expired = session.execute(
        select(Memory.tenant, Memory.id)
        .where(Memory.expires_at <= func.clock_timestamp())
        .order_by(Memory.expires_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    by_tenant: dict[UUID, list[UUID]] = defaultdict(list)
    for row in expired:
        by_tenant[row.tenant].append(row.id)
    for tenant, ids in by_tenant.items():
        _end(session, tenant, ids)
    return len(expired)


def _end(session: Session, tenant: UUID, ids: Sequence[UUID]) -> None:
    # Their rows are locked: whoever concludes something from them has committed, or will find them gone.
    parents = set(
        session.scalars(
            text(
                "SELECT DISTINCT parent FROM chargehand.memories m, unnest(m.derived_from) parent "
                "WHERE m.tenant = :tenant AND m.derived_from && CAST(:ids AS uuid[]) AND parent = ANY (:ids)"
            ),
            {"tenant": tenant, "ids": list(ids)},
        )
    )
    kept = [one for one in ids if one in parents]
    ended = [one for one in ids if one not in parents]
    if ended:
        session.execute(
            delete(Memory)
            .where(Memory.tenant == tenant, Memory.id.in_(ended))
            .execution_options(synchronize_session=False)
        )
    if kept:
        session.execute(delete(Embedding).where(Embedding.tenant == tenant, Embedding.memory.in_(kept)))
        # Superseded by itself: believed at no moment, and not looked at again.
        session.execute(
            update(Memory)
            .where(Memory.tenant == tenant, Memory.id.in_(kept))
            .values(text="", words=0, details={}, expires_at=None, believed=text("'{}'"), superseded_by=Memory.id)
            .execution_options(synchronize_session=False)
        )

"""What is believed, since when and on whose word: the writers of semantic memory.

A memory is never overwritten. A newer one supersedes it, and each keeps the periods in which it was believed, so that
what was believed at any moment can be recalled. (Two axes of time as in Snodgrass, "Developing Time-Oriented Database
Applications in SQL", 1999: `created_at` says when a memory was written, `believed` when it counted.)
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.embedder import Embedder
from chargehand.memory.semantic_tables import TRUST, Embedding, Memory

# Called in the writing transaction before the write; raises when the writer has lost its lease.
Guard = Callable[[Session], None]

Trust = Literal["content", "conclusion", "person"]
"""Whose word it is, least trusted first: text of a file or a page, an agent's own conclusion, a person."""

# The scope of what outlives runs.
LIBRARY = "library"

# The period that begins now, by the database's clock.
_FROM_NOW = "tstzmultirange(tstzrange(clock_timestamp(), NULL))"


def believed(row: str, *, as_of: datetime | None) -> str:
    """The condition in SQL that the memory `row` is believed now, or was at the moment bound as `:as_of`.

    Every search asks this and nothing else; `lexical_recall` and `lexical_recall_at` (migration 0013) have the same.
    """
    if as_of is not None:
        return (
            f"{row}.believed @> CAST(:as_of AS timestamptz) AND ({row}.expires_at IS NULL OR {row}.expires_at > :as_of)"
        )
    return f"{row}.superseded_by IS NULL AND ({row}.expires_at IS NULL OR {row}.expires_at > statement_timestamp())"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Who came to a memory."""

    run_id: UUID | None = None
    step_id: UUID | None = None
    tool: str | None = None
    """What gave it: `submit_answer`, a script, `tell` for a person's words."""
    role_version: str | None = None
    """Blob hash of the role's text; `role_versions` has the text and its commit."""


UNKNOWN = Provenance()


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryItem:
    """Something to remember, with the place where it was read."""

    source: str
    line_start: int
    line_end: int
    text: str
    kind: str = "passage"
    derived_from: tuple[UUID, ...] = ()
    """The memories it was concluded from; if one of them turns out poisoned, this goes with it."""
    rests_on: tuple[str, ...] = ()
    """Further sources that it was concluded from, of which nothing is remembered: files and pages that were read."""
    trust: Trust = "content"
    """At most; a memory is trusted no more than those it was concluded from."""
    importance: float | None = None
    """0 … 1, and fading with time; None for what does not age, as a passage of a repository."""
    expires_after_seconds: float | None = None
    """None: never."""
    provenance: Provenance = UNKNOWN
    details: Mapping[str, JsonValue] = field(default_factory=dict)


class MemoryNotFound(LookupError):
    """No such memory for this tenant."""


class AlreadySuperseded(RuntimeError):
    """Somebody else has replaced this memory; read the newer one first."""


def remember(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    items: Sequence[MemoryItem],
    embedder: Embedder | None,
    guard: Guard | None = None,
) -> tuple[UUID, ...]:
    """Keep the items and give their ids, in order; what is known already is neither embedded nor written again.

    A text that this tenant has embedded before, in whatever scope, keeps its vector. Without an embedder the items are
    found by their words only. Any number may remember the same thing at once: one row comes of it.
    Embedding takes up to 50 ms an item and the transaction is open meanwhile: give at most some dozens.
    A memory that was superseded stays superseded when it is remembered again; one that has expired or would expire
    earlier is renewed. Raises `MemoryNotFound` when one of those that an item was concluded from was forgotten.
    """
    return write(session, tenant=tenant, scope=scope, items=items, embedder=embedder, guard=guard)


def supersede(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    memory_id: UUID,
    item: MemoryItem,
    embedder: Embedder | None,
    guard: Guard | None = None,
) -> UUID:
    """Replace a memory by a newer one and give the newer one's id; the old text is kept, and recalled only `as_of`.

    The older one was believed until the newer one is. Of two that replace the same memory the second raises
    `AlreadySuperseded`: it had read what no longer holds.
    """
    (newer,) = write(session, tenant=tenant, scope=scope, items=[item], embedder=embedder, guard=guard, revive=True)
    if newer == memory_id:
        return newer
    since = "(SELECT max(lower(period)) FROM chargehand.memories n, unnest(n.believed) period"
    replaced = session.execute(
        text(
            "UPDATE chargehand.memories SET superseded_by = :newer, believed = believed * tstzmultirange(tstzrange("
            f"NULL, {since} WHERE n.tenant = :tenant AND n.id = :newer))) "
            "WHERE tenant = :tenant AND id = :memory AND superseded_by IS NULL RETURNING id"
        ),
        {"tenant": tenant, "memory": memory_id, "newer": newer},
    ).scalar_one_or_none()
    if replaced is None:
        by = session.execute(
            select(Memory.superseded_by).where(Memory.tenant == tenant, Memory.id == memory_id)
        ).one_or_none()
        if by is None:
            raise MemoryNotFound(f"Memory {memory_id} does not exist; recall it again.")
        if by.superseded_by != newer:
            raise AlreadySuperseded(f"Memory {memory_id} was superseded by {by.superseded_by}; read that one first.")
    return newer


def believe_again(session: Session, *, tenant: UUID, memories: Sequence[UUID]) -> None:
    """Let these superseded memories be believed from now on; in the period between they were not."""
    session.execute(
        text(
            f"UPDATE chargehand.memories SET superseded_by = NULL, believed = believed + {_FROM_NOW} "
            "WHERE tenant = :tenant AND id = ANY (:memories) AND superseded_by IS NOT NULL"
        ),
        {"tenant": tenant, "memories": sorted(memories)},
    )


def write(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    items: Sequence[MemoryItem],
    embedder: Embedder | None,
    guard: Guard | None,
    revive: bool = False,
) -> tuple[UUID, ...]:
    """Embed what is new, ask the guard, write in the order of the ids (so that two writers do not deadlock)."""
    ids = tuple(memory_id(tenant=tenant, scope=scope, item=item) for item in items)
    if not ids:
        return ()
    new, older = _unknown(session, tenant=tenant, ids=ids, items=items, embedder=embedder)
    vectors = _vectors(session, tenant=tenant, items=new, embedder=embedder) if embedder is not None else {}
    if guard is not None:
        guard(session)
    trusted = _hold_parents(session, tenant=tenant, items=items)
    expiries = _expiries(session, dict(zip(ids, items, strict=True)))
    if new:
        session.execute(
            insert(Memory).on_conflict_do_nothing(index_elements=["tenant", "id"]),
            [
                {
                    "tenant": tenant,
                    "id": key,
                    "scope": scope,
                    "source": item.source,
                    "line_start": item.line_start,
                    "line_end": item.line_end,
                    "kind": item.kind,
                    "text": item.text,
                    "words": len(re.findall(r"\w+", item.text)),
                    "derived_from": list(item.derived_from),
                    "rests_on": sorted(set(item.rests_on)),
                    "trust": least(item.trust, *(trusted[parent] for parent in item.derived_from)),
                    "importance": item.importance,
                    "expires_at": expiries.get(key),
                    "run": item.provenance.run_id,
                    "step": item.provenance.step_id,
                    "tool": item.provenance.tool,
                    "role_version": item.provenance.role_version,
                    "details": dict(item.details),
                }
                for key, item in new.items()
            ],
        )
    if vectors and embedder is not None:
        session.execute(
            insert(Embedding).on_conflict_do_nothing(index_elements=["tenant", "memory", "model_id"]),
            [
                {"tenant": tenant, "memory": key, "model_id": embedder.model_id, "scope": scope, "vector": vector}
                for key, vector in vectors.items()
            ],
        )
    for key in sorted(key for key, expiry in older.items() if key in ids and expiry is not None):
        _renew(session, tenant=tenant, memory=key, until=expiries.get(key))
    if revive:
        believe_again(session, tenant=tenant, memories=ids)
    return ids


def least(*trusts: Trust) -> Trust:
    """The least trusted of them: what poison or error there is in one of them is in the whole."""
    return min(trusts, key=TRUST.index)


def is_less_trusted(one: Trust, other: Trust) -> bool:
    """Whether the word of `one` is worth less than that of `other`."""
    return TRUST.index(one) < TRUST.index(other)


def _unknown(
    session: Session, *, tenant: UUID, ids: Sequence[UUID], items: Sequence[MemoryItem], embedder: Embedder | None
) -> tuple[dict[UUID, MemoryItem], dict[UUID, datetime | None]]:
    """The items that are not kept yet (or not with this model's vector), in the order of their ids.

    And of those that are kept when they expire.
    """
    model = embedder.model_id if embedder is not None else ""
    of_model = (Embedding.tenant == Memory.tenant) & (Embedding.memory == Memory.id) & (Embedding.model_id == model)
    rows = session.execute(
        select(Memory.id, Memory.expires_at, Embedding.memory.is_not(None).label("embedded"))
        .outerjoin(Embedding, of_model)
        .where(Memory.tenant == tenant, Memory.id.in_(ids))
    ).all()
    known = {row.id for row in rows if embedder is None or row.embedded}
    new = {key: item for key, item in sorted(zip(ids, items, strict=True), key=lambda one: one[0]) if key not in known}
    return new, {row.id: row.expires_at for row in rows}


def _hold_parents(session: Session, *, tenant: UUID, items: Sequence[MemoryItem]) -> dict[UUID, Trust]:
    """Keep those that the items were concluded from until this commits, and give how far each is trusted.

    `forget` locks what it removes: either it waits for this transaction, and then sees what was concluded here, or this
    one waits for it, and then finds a parent gone.
    """
    parents = {parent for item in items for parent in item.derived_from}
    if not parents:
        return {}
    rows = session.execute(
        select(Memory.id, Memory.trust)
        .where(Memory.tenant == tenant, Memory.id.in_(parents))
        .order_by(Memory.id)
        .with_for_update(read=True, key_share=True)
    )
    trusted: dict[UUID, Trust] = {row.id: row.trust for row in rows}
    if missing := sorted(parents - trusted.keys()):
        raise MemoryNotFound(f"Memory {missing[0]} was forgotten; nothing is concluded from it any more.")
    return trusted


def _expiries(session: Session, items: Mapping[UUID, MemoryItem]) -> dict[UUID, datetime]:
    lives = {key: item.expires_after_seconds for key, item in items.items() if item.expires_after_seconds is not None}
    if not lives:
        return {}
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return {key: now + timedelta(seconds=seconds) for key, seconds in lives.items()}


def _renew(session: Session, *, tenant: UUID, memory: UUID, until: datetime | None) -> None:
    """Let a memory live until then (None: for ever) if that is longer; one that has expired is believed again."""
    session.execute(
        text(
            "UPDATE chargehand.memories SET expires_at = :until, believed = CASE "
            "WHEN superseded_by IS NOT NULL OR expires_at > clock_timestamp() THEN believed "
            "ELSE believed * tstzmultirange(tstzrange(NULL, expires_at)) + "
            f"{_FROM_NOW} END WHERE tenant = :tenant AND id = :memory AND expires_at IS NOT NULL "
            "AND (CAST(:until AS timestamptz) IS NULL OR expires_at < :until)"
        ),
        {"tenant": tenant, "memory": memory, "until": until},
    )


def _vectors(
    session: Session, *, tenant: UUID, items: Mapping[UUID, MemoryItem], embedder: Embedder
) -> dict[UUID, list[float]]:
    """A vector for each item: an earlier scope's where the very same text has one, otherwise a new one.

    A second audit of a repository embeds only what has changed, which is most of its time.
    """
    if not items:
        return {}
    rows = session.execute(
        select(Memory.source, Memory.text, Embedding.vector)
        .join(Embedding, (Embedding.tenant == Memory.tenant) & (Embedding.memory == Memory.id))
        .where(
            Memory.tenant == tenant,
            Memory.source.in_({item.source for item in items.values()}),
            Memory.text.in_({item.text for item in items.values()}),
            Embedding.model_id == embedder.model_id,
        )
    )
    earlier = {(source, passage): vector for source, passage, vector in rows}
    unseen = {key: item for key, item in items.items() if (item.source, item.text) not in earlier}
    fresh = embedder.embed([embedded_text(item) for item in unseen.values()])
    made = {key: vector.tolist() for key, vector in zip(unseen, fresh, strict=True)}
    return {key: made[key] if key in made else earlier[item.source, item.text] for key, item in items.items()}


def memory_id(*, tenant: UUID, scope: str, item: MemoryItem) -> UUID:
    """The id of an item: a hash of what it says and where that was read."""
    parts = [str(tenant), scope, item.kind, item.source, item.line_start, item.line_end, item.text]
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return UUID(bytes=digest[:16])


def embedded_text(item: MemoryItem) -> str:
    """What the model reads: the path says what a passage is about (`shop/labels.py`), so it leads.

    Where a fact comes from says nothing of what it is about.
    """
    if item.kind in {"fact", "episode"}:
        return item.text
    return f"{re.sub(r'[/_.-]+', ' ', item.source)}\n{item.text}"

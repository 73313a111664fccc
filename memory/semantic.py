"""Semantic memory: passages and notes that are found again by their words and their meaning."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.embedder import Embedder, Vector
from chargehand.memory.ranking import fuse, spread
from chargehand.memory.semantic_tables import Embedding, Memory

# Called in the writing transaction before the write; raises when the writer has lost its lease.
Guard = Callable[[Session], None]

# Up to here an exact search takes < 10 ms and misses nothing; beyond, HNSW is faster (75 ms against 5 at 34k).
EXACT_UP_TO = 6_000
# With relaxed_order and 16 partitions this reaches .96-.99 of the exact answer.
HNSW_EF_SEARCH = 100
# Deep enough that a passage which only one of the two rankings likes can still win.
CANDIDATES = 60
# Share of the words' score in the fused one. Between .4 and .6 neither SciFact nor LoCoMo cares (docs/benchmarks.md).
LEXICAL_WEIGHT = 0.5
# Of its score a passage lends this to the one before and the one after it.
CONTEXT_SHARE = 0.2


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
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    """A memory that answers a question, and how well."""

    memory_id: UUID
    source: str
    line_start: int
    line_end: int
    text: str
    kind: str
    score: float
    """0 … 1 among the candidates of this question; says nothing across questions."""
    similarity: float | None
    """Cosine to the question; None if the passage has no vector of the model that asks."""
    lexical_score: float
    """BM25; 0 if none of the question's words occur."""


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
    found by their words only.
    Embedding takes up to 50 ms an item and the transaction is open meanwhile: give at most some dozens.
    A memory that was superseded stays superseded when it is remembered again.
    """
    return write(session, tenant=tenant, scope=scope, items=items, embedder=embedder, guard=guard)


def recall(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    query: str,
    embedder: Embedder,
    limit: int = 8,
    kinds: Sequence[str] | None = None,
    lexical_weight: float = LEXICAL_WEIGHT,
    context_share: float = CONTEXT_SHARE,
) -> tuple[Recalled, ...]:
    """The memories of `scope` that answer `query` best, best first, by words and by meaning together.

    What stands just before and after a passage in its source lends it `context_share` of its score.
    It always gives the nearest, however far: look at `similarity` and `lexical_score` before believing that
    something was found. The session must be bound to `tenant`.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; ask for at least one memory.")
    question = query.replace("\0", " ").strip()
    if not question:
        return ()
    scored = candidates(
        session,
        tenant=tenant,
        scope=scope,
        question=question,
        vector=embedder.embed([question])[0],
        embedder=embedder,
        kinds=kinds,
        limit=max(CANDIDATES, 2 * limit),
    )
    ranked = spread(
        fuse(scored.lexical, scored.similarity, lexical_weight=lexical_weight), scored.neighbours, share=context_share
    )[:limit]
    rows = session.execute(
        select(Memory.id, Memory.source, Memory.line_start, Memory.line_end, Memory.text, Memory.kind).where(
            Memory.tenant == tenant, Memory.id.in_([memory for memory, _ in ranked])
        )
    )
    found = {row.id: row for row in rows}
    return tuple(
        Recalled(
            memory_id=memory,
            source=found[memory].source,
            line_start=found[memory].line_start,
            line_end=found[memory].line_end,
            text=found[memory].text,
            kind=found[memory].kind,
            score=score,
            similarity=scored.similarity.get(memory),
            lexical_score=scored.lexical[memory],
        )
        for memory, score in ranked
        if memory in found
    )


def supersede(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    memory_id: UUID,
    item: MemoryItem,
    embedder: Embedder,
    guard: Guard | None = None,
) -> UUID:
    """Replace a memory by a newer one and give the newer one's id; the old text is kept, but not recalled.

    Of two that replace the same memory the second raises `AlreadySuperseded`: it had read what no longer holds.
    """
    (newer,) = write(session, tenant=tenant, scope=scope, items=[item], embedder=embedder, guard=guard, revive=True)
    if newer == memory_id:
        return newer
    replaced = session.execute(
        update(Memory)
        .where(Memory.tenant == tenant, Memory.id == memory_id, Memory.superseded_by.is_(None))
        .values(superseded_by=newer)
        .returning(Memory.id)
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


def forget_source(
    session: Session, *, tenant: UUID, source: str, scope: str | None = None, guard: Guard | None = None
) -> tuple[UUID, ...]:
    """Delete what was read in `source` and everything concluded from it, and give the ids that went.

    A good memory that a poisoned one had superseded is valid again. What another transaction concludes from the
    source and has not committed yet is not seen: fence or stop its writers first, or forget twice.
    """
    if guard is not None:
        guard(session)
    forgotten = tuple(
        session.scalars(
            text(
                """
                WITH RECURSIVE poisoned (id) AS (
                    SELECT id FROM chargehand.memories
                    WHERE tenant = :tenant AND source = :source AND (CAST(:scope AS text) IS NULL OR scope = :scope)
                    UNION
                    SELECT m.id FROM poisoned p
                    JOIN chargehand.memories m ON m.tenant = :tenant AND m.derived_from @> ARRAY[p.id]
                )
                DELETE FROM chargehand.memories m USING poisoned p
                WHERE m.tenant = :tenant AND m.id = p.id RETURNING m.id
                """
            ),
            {"tenant": tenant, "source": source, "scope": scope},
        )
    )
    if forgotten:
        session.execute(
            update(Memory)
            .where(Memory.tenant == tenant, Memory.superseded_by.in_(forgotten))
            .values(superseded_by=None)
            .execution_options(synchronize_session=False)
        )
    return tuple(sorted(forgotten))


def is_known(session: Session, *, tenant: UUID, scope: str) -> bool:
    """Whether anything is remembered under `scope`."""
    found = select(Memory.id).where(Memory.tenant == tenant, Memory.scope == scope, Memory.superseded_by.is_(None))
    return session.scalar(select(found.exists())) is True


def forget_scope(session: Session, *, tenant: UUID, scope: str, guard: Guard | None = None) -> int:
    """Delete every memory of `scope` (a run that was erased) and give their number."""
    if guard is not None:
        guard(session)
    gone = session.scalars(
        delete(Memory).where(Memory.tenant == tenant, Memory.scope == scope).returning(Memory.id),
        execution_options={"synchronize_session": False},
    )
    return len(gone.all())


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
    new = _unknown(session, tenant=tenant, ids=ids, items=items, embedder=embedder)
    vectors = _vectors(session, tenant=tenant, items=new, embedder=embedder) if embedder is not None else {}
    if guard is not None:
        guard(session)
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
    if revive:
        session.execute(
            update(Memory)
            .where(Memory.tenant == tenant, Memory.id.in_(ids), Memory.superseded_by.is_not(None))
            .values(superseded_by=None)
            .execution_options(synchronize_session=False)
        )
    return ids


def _unknown(
    session: Session, *, tenant: UUID, ids: Sequence[UUID], items: Sequence[MemoryItem], embedder: Embedder | None
) -> dict[UUID, MemoryItem]:
    """The items that are not kept yet (or not with this model's vector), in the order of their ids."""
    query = select(Memory.id).where(Memory.tenant == tenant, Memory.id.in_(ids))
    if embedder is not None:
        query = select(Embedding.memory).where(
            Embedding.tenant == tenant, Embedding.model_id == embedder.model_id, Embedding.memory.in_(ids)
        )
    known = set(session.scalars(query))
    return {key: item for key, item in sorted(zip(ids, items, strict=True)) if key not in known}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """What either ranking likes, and the passages beside it; both scores of each."""

    lexical: Mapping[UUID, float]
    similarity: Mapping[UUID, float]
    """Without those that have no vector of this model."""
    neighbours: Sequence[tuple[UUID, UUID]]
    """Passages that follow each other in a source, earlier one first."""


def candidates(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    question: str,
    vector: Vector,
    embedder: Embedder,
    kinds: Sequence[str] | None,
    limit: int,
) -> Candidates:
    """The best `limit` by words and by meaning and what stands beside them, in one statement."""
    statement = f"""
        WITH near AS MATERIALIZED ({_route(session, tenant=tenant, scope=scope, embedder=embedder)})
        SELECT w.memory, w.score, w.previous, w.next, {_distance(embedder)} AS distance
        FROM chargehand.lexical_recall(
            :question, :scope, CAST(:kinds AS text[]), :limit, ARRAY(SELECT memory FROM near)
        ) w
        LEFT JOIN chargehand.embeddings e
          ON e.tenant = :tenant AND e.memory = w.memory AND e.model_id = '{embedder.model_id}'
    """
    rows = session.execute(
        text(statement),
        {
            "tenant": tenant,
            "scope": scope,
            "question": question,
            "kinds": as_array(kinds),
            "vector": as_literal(vector),
            "limit": limit,
        },
    ).all()
    before = {(row.previous, row.memory) for row in rows if row.previous is not None}
    after = {(row.memory, row.next) for row in rows if row.next is not None}
    return Candidates(
        lexical={row.memory: float(row.score) for row in rows},
        similarity={row.memory: 1.0 - float(row.distance) for row in rows if row.distance is not None},
        neighbours=sorted(before | after),
    )


def nearest(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    vector: Vector,
    embedder: Embedder,
    kinds: Sequence[str] | None,
    limit: int,
    exact_up_to: int = EXACT_UP_TO,
) -> dict[UUID, float]:
    """Cosine of the memories nearest to `vector`: exact in a small scope, by HNSW in a large one."""
    rows = session.execute(
        text(_route(session, tenant=tenant, scope=scope, embedder=embedder, exact_up_to=exact_up_to)),
        {
            "tenant": tenant,
            "scope": scope,
            "kinds": as_array(kinds),
            "vector": as_literal(vector),
            "limit": limit,
        },
    )
    return {row.memory: 1.0 - float(row.distance) for row in rows}


def _route(session: Session, *, tenant: UUID, scope: str, embedder: Embedder, exact_up_to: int = EXACT_UP_TO) -> str:
    """The query of the nearest that suits the size of the scope.

    The planner would pick HNSW where the exact search is eight times faster, so the size decides here.
    """
    # Inlined, because a bound model would keep a generic plan from the partial index.
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", embedder.model_id):
        raise ValueError(f"The embedder's model id {embedder.model_id!r} may hold letters, digits, '.', '_' and '-'.")
    size = session.scalar(
        text(
            "SELECT count(*) FROM (SELECT 1 FROM chargehand.memories WHERE tenant = :tenant AND scope = :scope "
            "AND superseded_by IS NULL LIMIT :most) counted"
        ),
        {"tenant": tenant, "scope": scope, "most": exact_up_to + 1},
    )
    distance = _distance(embedder)
    embedded = f"e.tenant = :tenant AND e.scope = :scope AND e.model_id = '{embedder.model_id}'"
    valid = "m.superseded_by IS NULL AND (CAST(:kinds AS text[]) IS NULL OR m.kind = ANY (CAST(:kinds AS text[])))"
    if (size or 0) <= exact_up_to:
        # OFFSET 0 keeps the planner from walking the HNSW index.
        return f"""
            SELECT memory, distance FROM (
                SELECT e.memory, {distance} AS distance
                FROM chargehand.embeddings e
                JOIN chargehand.memories m ON m.tenant = e.tenant AND m.id = e.memory
                WHERE {embedded} AND {valid} OFFSET 0
            ) measured ORDER BY distance, memory LIMIT :limit
        """
    session.execute(
        text(
            "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', :ef, true)"
        ),
        {"ef": str(HNSW_EF_SEARCH)},
    )
    return f"""
        WITH closest AS MATERIALIZED (
            SELECT e.tenant, e.memory, {distance} AS distance
            FROM chargehand.embeddings e WHERE {embedded} ORDER BY {distance} LIMIT 2 * :limit
        )
        SELECT c.memory, c.distance FROM closest c
        JOIN chargehand.memories m ON m.tenant = c.tenant AND m.id = c.memory
        WHERE {valid} ORDER BY c.distance, c.memory LIMIT :limit
    """


def _distance(embedder: Embedder) -> str:
    return f"e.vector::halfvec({embedder.dimensions}) <=> CAST(:vector AS halfvec({embedder.dimensions}))"


def as_literal(vector: Vector) -> str:
    """A vector as pgvector reads it."""
    return json.dumps([round(float(value), 6) for value in vector])


def memory_id(*, tenant: UUID, scope: str, item: MemoryItem) -> UUID:
    """The id of an item: a hash of what it says and where that was read."""
    parts = [str(tenant), scope, item.kind, item.source, item.line_start, item.line_end, item.text]
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return UUID(bytes=digest[:16])


def embedded_text(item: MemoryItem) -> str:
    """What the model reads: the path says what a passage is about (`shop/labels.py`), so it leads."""
    return f"{re.sub(r'[/_.-]+', ' ', item.source)}\n{item.text}"


def as_array(values: Sequence[str] | None) -> list[str] | None:
    """A list, which psycopg binds as an array."""
    return None if values is None else list(values)

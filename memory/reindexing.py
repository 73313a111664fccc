"""A change of the embedding model: new vectors for what is remembered, batch by batch, and the old ones go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, text

from chargehand.memory.beliefs import MemoryItem, embedded_text
from chargehand.memory.database import tenant_session
from chargehand.memory.embedder import Embedder
from chargehand.memory.semantic import as_literal

# Embedded between two transactions: some seconds of work are lost at most when the process dies.
BATCH = 64
# Rows of another model that one transaction deletes.
DROP_BATCH = 2_000
NIL = UUID(int=0)
MISSING = (
    "NOT EXISTS (SELECT FROM chargehand.embeddings e "
    "WHERE e.tenant = m.tenant AND e.memory = m.id AND e.model_id = :model)"
)
OF_OTHERS = (
    f"{MISSING} AND EXISTS (SELECT FROM chargehand.embeddings other "
    "WHERE other.tenant = m.tenant AND other.memory = m.id AND other.model_id <> :model)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reindexed:
    """How far a tenant's memories have come to another model."""

    total: int
    """Memories that had no vector of this model when it began."""
    embedded: int
    dropped: int = 0
    """Vectors of other models that were deleted, because this model has its own of the same memory."""


def reindex(
    engine: Engine,
    *,
    tenant: UUID,
    embedder: Embedder,
    batch: int = BATCH,
    keep_others: bool = False,
    told: Callable[[Reindexed], None] | None = None,
) -> Reindexed:
    """Give every memory of `tenant` a vector of `embedder`'s model, then delete the vectors of other models.

    Also embeds what was remembered by its words only. Work is committed after each `batch`, no transaction is open
    while the model works, and what has a vector is not embedded again: run it beside the workers, stop it whenever,
    and start it again where it was. `told` hears of each batch. Until the end the vectors of the former model stay,
    for workers that still ask with it; `keep_others` leaves them for good.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; embed at least one text at a time.")
    done = Reindexed(total=_count_missing(engine, tenant, embedder.model_id), embedded=0)
    after = NIL
    while made := embed_some(engine, tenant=tenant, embedder=embedder, after=after, limit=batch):
        after = made.last
        done = Reindexed(total=done.total, embedded=done.embedded + made.embedded)
        if told is not None:
            told(done)
    while not keep_others and (gone := _drop_others(engine, tenant, embedder.model_id)):
        done = Reindexed(total=done.total, embedded=done.embedded, dropped=done.dropped + gone)
        if told is not None:
            told(done)
    return done


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some memories that have a vector of the model now."""

    embedded: int
    """Those that were new; another process may have been faster."""
    last: UUID
    """Go on after this one."""


def embed_some(
    engine: Engine,
    *,
    tenant: UUID,
    embedder: Embedder,
    after: UUID = NIL,
    limit: int = BATCH,
    of_others_only: bool = False,
) -> Batch | None:
    """Give the next `limit` memories a vector of `embedder`'s model, in the order of their ids; None: none is left.

    `of_others_only`: leave out what was remembered by its words only, which keeps no search from being answered.
    No transaction is open while the model works.
    """
    some = _missing(
        engine, tenant, embedder.model_id, after=after, limit=limit, which=OF_OTHERS if of_others_only else MISSING
    )
    if not some:
        return None
    vectors = embedder.embed([embedded_text(item) for _, item in some])
    kept = _keep(
        engine,
        tenant,
        embedder.model_id,
        ids=[memory for memory, _ in some],
        vectors=[as_literal(vector) for vector in vectors],
    )
    return Batch(embedded=kept, last=some[-1][0])


def count_of_others(engine: Engine, *, tenant: UUID, model_id: str) -> int:
    """How many memories have a vector of another model and none of this one: their scopes refuse its searches."""
    return _count_missing(engine, tenant, model_id, which=OF_OTHERS)


def _count_missing(engine: Engine, tenant: UUID, model_id: str, *, which: str = MISSING) -> int:
    with tenant_session(engine, tenant) as session:
        found = session.scalar(
            text(f"SELECT count(*) FROM chargehand.memories m WHERE m.tenant = :tenant AND {which}"),
            {"tenant": tenant, "model": model_id},
        )
    return int(found or 0)


def _missing(
    engine: Engine, tenant: UUID, model_id: str, *, after: UUID, limit: int, which: str
) -> Sequence[tuple[UUID, MemoryItem]]:
    with tenant_session(engine, tenant) as session:
        rows = session.execute(
            text(
                f"""
                SELECT m.id, m.source, m.line_start, m.line_end, m.text, m.kind, m.metadata
                FROM chargehand.memories m
                WHERE m.tenant = :tenant AND m.id > :after AND {which}
                ORDER BY m.id LIMIT :limit
                """
            ),
            {"tenant": tenant, "after": after, "model": model_id, "limit": limit},
        ).all()
    return [
        (
            row.id,
            MemoryItem(
                source=row.source,
                line_start=row.line_start,
                line_end=row.line_end,
                text=row.text,
                kind=row.kind,
                details=row.metadata,
            ),
        )
        for row in rows
    ]


def _keep(engine: Engine, tenant: UUID, model_id: str, *, ids: Sequence[UUID], vectors: Sequence[str]) -> int:
    """Write the vectors of those that are still remembered; give how many were new."""
    with tenant_session(engine, tenant) as session:
        rows = session.execute(
            text(
                """
                WITH still AS (
                    SELECT m.tenant, m.id, m.scope FROM chargehand.memories m
                    WHERE m.tenant = :tenant AND m.id = ANY (CAST(:ids AS uuid[])) FOR KEY SHARE
                )
                INSERT INTO chargehand.embeddings (tenant, memory, model_id, scope, vector)
                SELECT still.tenant, still.id, :model, still.scope, made.vector::public.halfvec
                FROM unnest(CAST(:ids AS uuid[]), CAST(:vectors AS text[])) AS made (memory, vector)
                JOIN still ON still.id = made.memory
                ON CONFLICT DO NOTHING RETURNING memory
                """
            ),
            {"tenant": tenant, "model": model_id, "ids": list(ids), "vectors": list(vectors)},
        )
        return len(rows.all())


def _drop_others(engine: Engine, tenant: UUID, model_id: str) -> int:
    with tenant_session(engine, tenant) as session:
        rows = session.execute(
            text(
                """
                DELETE FROM chargehand.embeddings e USING (
                    SELECT other.memory, other.model_id FROM chargehand.embeddings other
                    WHERE other.tenant = :tenant AND other.model_id <> :model AND EXISTS (
                        SELECT FROM chargehand.embeddings mine
                        WHERE mine.tenant = other.tenant AND mine.memory = other.memory AND mine.model_id = :model
                    )
                    LIMIT :most
                ) old
                WHERE e.tenant = :tenant AND e.memory = old.memory AND e.model_id = old.model_id RETURNING 1
                """
            ),
            {"tenant": tenant, "model": model_id, "most": DROP_BATCH},
        )
        return len(rows.all())

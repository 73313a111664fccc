"""Semantic memory: passages and notes that are found again by their words and their meaning."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select, text
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import Trust, believed
from chargehand.memory.embedder import Embedder, Vector
from chargehand.memory.importance import WORTH_SHARE, weigh, worth
from chargehand.memory.model_check import FIRST_AND_LAST, require_own_vectors
from chargehand.memory.ranking import fuse, spread
from chargehand.memory.semantic_tables import Memory, RoleVersion
from chargehand.memory.vectors import question_vector

# Up to here an exact search takes no longer than HNSW, under a millisecond for each thousand, and misses nothing.
EXACT_UP_TO = 9_000
# As many times what is asked for are looked at, nearest first, before all are: some have been superseded, or are of
# another kind.
LOOKED_AT = 20
# In tenants of 11,000 and 34,000 memories this finds .96 and .99 of the exact ten; 300 finds .98 and all, and takes a
# third longer (docs/benchmarks.md).
HNSW_EF_SEARCH = 200
# Among some kinds the tenth lies further off: of one kind in four, in 17,000 memories, 200 finds .83, this .91, and
# 400, which takes two fifths longer, .94.
HNSW_EF_SEARCH_OF_KINDS = 300
# Deep enough that a passage which only one of the two rankings likes can still win.
CANDIDATES = 60
# Share of the words' score in the fused one. Between .4 and .5 no collection cares much (docs/benchmarks.md).
LEXICAL_WEIGHT = 0.45
# Of its score a passage lends this to the one before and the one after it.
CONTEXT_SHARE = 0.15
# That a memory came up is noted at most so often: readers must not write a row each time.
RECALL_NOTED_SECONDS = 3_600.0


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
    trust: Trust = "content"
    """Whose word it is."""
    importance: float | None = None
    """As it was given, before it faded; None: it does not age."""
    created_at: datetime | None = None
    superseded_by: UUID | None = None
    """Only in what was believed at an earlier moment."""
    run_id: UUID | None = None
    step_id: UUID | None = None
    tool: str | None = None
    role_version: str | None = None
    """Blob hash of the role of the step."""
    role_commit: str | None = None
    """Where that text was in git; None where it was in none."""


def recall(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    query: str,
    embedder: Embedder | None,
    limit: int = 8,
    kinds: Sequence[str] | None = None,
    lexical_weight: float = LEXICAL_WEIGHT,
    context_share: float = CONTEXT_SHARE,
    worth_share: float = WORTH_SHARE,
    as_of: datetime | None = None,
) -> tuple[Recalled, ...]:
    """The memories of `scope` that answer `query` best, best first, by words and by meaning together.

    What stands just before and after a passage in its source lends it `context_share` of its score. What has an
    importance is weighed by what is left of it (see `importance`), and fades anew from this recall on.
    `as_of`: what was believed at that moment, which an aware datetime names; what was forgotten since is not found.
    It always gives the nearest, however far: look at `similarity` and `lexical_score` before believing that
    something was found. The session must be bound to `tenant`. Without an `embedder` it looks for words only.
    Raises `MixedModels` while some memory of the scope has a vector of another model and none of `embedder`'s.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; ask for at least one memory.")
    if as_of is not None and as_of.tzinfo is None:
        raise ValueError(f"as_of is {as_of.isoformat()}, which is no moment; give it a time zone.")
    question = query.replace("\0", " ").strip()
    if not question:
        return ()
    scored = candidates(
        session,
        tenant=tenant,
        scope=scope,
        question=question,
        vector=question_vector(embedder, question) if embedder is not None else None,
        embedder=embedder,
        kinds=kinds,
        limit=max(CANDIDATES, 2 * limit),
        as_of=as_of,
    )
    ranked = spread(
        fuse(scored.lexical, scored.similarity, lexical_weight=lexical_weight), scored.neighbours, share=context_share
    )[: 2 * limit]
    found = _rows(session, tenant=tenant, memories=[memory for memory, _ in ranked], as_of=as_of)
    worths = {
        memory: worth(row.importance, age_seconds=float(row.age_seconds))
        for memory, row in found.items()
        if row.importance is not None
    }
    ranked = weigh(ranked, worths, share=worth_share)[:limit]
    if as_of is None:
        _note_recall(session, tenant=tenant, memories=worths.keys() & {memory for memory, _ in ranked})
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
            trust=found[memory].trust,
            importance=found[memory].importance,
            created_at=found[memory].created_at,
            superseded_by=found[memory].superseded_by,
            run_id=found[memory].run,
            step_id=found[memory].step,
            tool=found[memory].tool,
            role_version=found[memory].role_version,
            role_commit=found[memory].role_commit,
        )
        for memory, score in ranked
        if memory in found
    )


def _rows(session: Session, *, tenant: UUID, memories: Sequence[UUID], as_of: datetime | None) -> dict[UUID, Any]:
    moment = func.statement_timestamp() if as_of is None else literal(as_of)
    fresh = func.greatest(Memory.created_at, Memory.recalled_at) if as_of is None else Memory.created_at
    rows = session.execute(
        select(
            Memory.id,
            Memory.source,
            Memory.line_start,
            Memory.line_end,
            Memory.text,
            Memory.kind,
            Memory.trust,
            Memory.importance,
            Memory.created_at,
            Memory.superseded_by,
            Memory.run,
            Memory.step,
            Memory.tool,
            Memory.role_version,
            RoleVersion.commit.label("role_commit"),
            func.extract("epoch", moment - fresh).label("age_seconds"),
        )
        .outerjoin(RoleVersion, (RoleVersion.tenant == Memory.tenant) & (RoleVersion.hash == Memory.role_version))
        .where(Memory.tenant == tenant, Memory.id.in_(memories))
    )
    return {row.id: row for row in rows}


def _note_recall(session: Session, *, tenant: UUID, memories: Collection[UUID]) -> None:
    """Note that these came up, unless that was noted within the hour; what somebody else holds is left to them."""
    if not memories:
        return
    session.execute(
        text(
            "WITH due AS (SELECT tenant, id FROM chargehand.memories WHERE tenant = :tenant AND id = ANY (:memories) "
            "AND coalesce(recalled_at, created_at) < clock_timestamp() - make_interval(secs => :noted) "
            "ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) "
            "UPDATE chargehand.memories m SET recalled_at = clock_timestamp() FROM due "
            "WHERE m.tenant = due.tenant AND m.id = due.id"
        ),
        {"tenant": tenant, "memories": sorted(memories), "noted": RECALL_NOTED_SECONDS},
    )


def is_known(session: Session, *, tenant: UUID, scope: str) -> bool:
    """Whether anything is remembered under `scope`."""
    found = text(
        "SELECT EXISTS (SELECT FROM chargehand.memories m WHERE m.tenant = :tenant AND m.scope = :scope "
        f"AND {believed('m', as_of=None)})"
    )
    return session.scalar(found, {"tenant": tenant, "scope": scope}) is True


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
    vector: Vector | None,
    embedder: Embedder | None,
    kinds: Sequence[str] | None,
    limit: int,
    as_of: datetime | None = None,
) -> Candidates:
    """The best `limit` by words and by meaning and what stands beside them, in one statement.

    Without a vector and its model by words only.
    """
    by_words = (
        "chargehand.lexical_recall(:question, :scope, CAST(:kinds AS text[]), :limit, ARRAY(SELECT memory FROM near))"
        if as_of is None
        else "chargehand.lexical_recall_at("
        ":question, :scope, CAST(:kinds AS text[]), :limit, ARRAY(SELECT memory FROM near), :as_of)"
    )
    if embedder is None or vector is None:
        statement = f"""
            WITH near AS MATERIALIZED (SELECT NULL::uuid AS memory WHERE false)
            SELECT w.memory, w.score, w.previous, w.next, NULL AS distance FROM {by_words} w
        """
    else:
        route = _route(session, tenant=tenant, scope=scope, embedder=embedder, kinds=kinds, as_of=as_of)
        statement = f"""
            WITH near AS MATERIALIZED ({route})
            SELECT w.memory, w.score, w.previous, w.next, {_distance(embedder)} AS distance
            FROM {by_words} w
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
            "limit": limit,
            **({} if vector is None else {"vector": as_literal(vector)}),
            **_moment(as_of),
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
    as_of: datetime | None = None,
) -> dict[UUID, float]:
    """Cosine of the memories nearest to `vector`: exact in a small scope, by HNSW in a large one."""
    route = _route(
        session, tenant=tenant, scope=scope, embedder=embedder, kinds=kinds, exact_up_to=exact_up_to, as_of=as_of
    )
    rows = session.execute(
        text(route),
        {
            "tenant": tenant,
            "scope": scope,
            "kinds": as_array(kinds),
            "vector": as_literal(vector),
            "limit": limit,
            **_moment(as_of),
        },
    )
    return {row.memory: 1.0 - float(row.distance) for row in rows}


def _moment(as_of: datetime | None) -> dict[str, datetime]:
    return {} if as_of is None else {"as_of": as_of}


def _route(
    session: Session,
    *,
    tenant: UUID,
    scope: str,
    embedder: Embedder,
    kinds: Sequence[str] | None,
    exact_up_to: int = EXACT_UP_TO,
    as_of: datetime | None = None,
) -> str:
    """The query of the nearest that suits the size of the scope.

    The planner would pick HNSW where the exact search is eight times faster, so the size decides here.
    """
    # Inlined, because a bound model would keep a generic plan from the partial index.
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", embedder.model_id):
        raise ValueError(f"The embedder's model id {embedder.model_id!r} may hold letters, digits, '.', '_' and '-'.")
    embedded = f"e.tenant = :tenant AND e.scope = :scope AND e.model_id = '{embedder.model_id}'"
    ef_search = HNSW_EF_SEARCH if kinds is None else HNSW_EF_SEARCH_OF_KINDS
    known = session.execute(
        text(
            f"SELECT EXISTS (SELECT FROM chargehand.embeddings e WHERE {embedded} OFFSET :most) AS is_large, "
            f"{FIRST_AND_LAST}, "
            "set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', :ef, true)"
        ),
        {"tenant": tenant, "scope": scope, "most": exact_up_to, "ef": str(ef_search)},
    ).one()
    require_own_vectors(
        session, {known.first_model, known.last_model}, tenant=tenant, scope=scope, model_id=embedder.model_id
    )
    distance = _distance(embedder)
    valid = (
        f"{believed('m', as_of=as_of)} AND (CAST(:kinds AS text[]) IS NULL OR m.kind = ANY (CAST(:kinds AS text[])))"
    )
    if not known.is_large:
        # All are measured, and only the nearest looked up: to join all of them took most of the time. MATERIALIZED
        # keeps the planner from walking the HNSW index. The second part is not run where the first gives enough.
        kept = f"""
            CROSS JOIN LATERAL (
                SELECT FROM chargehand.memories m WHERE m.tenant = :tenant AND m.id = x.memory AND {valid} OFFSET 0
            ) kept
        """
        return f"""
            WITH measured AS MATERIALIZED (
                SELECT e.memory, {distance} AS distance FROM chargehand.embeddings e WHERE {embedded}
            ), first AS MATERIALIZED (
                SELECT memory, distance FROM (
                    SELECT memory, distance FROM measured ORDER BY distance, memory LIMIT {LOOKED_AT} * :limit
                ) x {kept} LIMIT :limit
            )
            SELECT memory, distance FROM first
            UNION ALL (
                SELECT memory, distance FROM (
                    SELECT memory, distance FROM measured ORDER BY distance, memory OFFSET {LOOKED_AT} * :limit
                ) x {kept} WHERE (SELECT count(*) FROM first) < :limit LIMIT :limit
            ) LIMIT :limit
        """
    # What is filtered is looked up while the index is walked, so that the walk goes on until enough are kept. It gives
    # them nearly in order, which the planner takes for exact: `+ 0` makes it sort all of them, or it would stop early.
    # The tenant is named, not joined: `m.tenant = e.tenant` would plan and open all sixteen partitions (1.8 ms).
    return f"""
        WITH closest AS MATERIALIZED (
            SELECT e.memory, {distance} AS distance
            FROM chargehand.embeddings e
            CROSS JOIN LATERAL (
                SELECT FROM chargehand.memories m WHERE m.tenant = :tenant AND m.id = e.memory AND {valid} OFFSET 0
            ) kept
            WHERE {embedded} ORDER BY {distance} LIMIT 2 * :limit
        )
        SELECT memory, distance FROM closest ORDER BY distance + 0, memory LIMIT :limit
    """


def _distance(embedder: Embedder) -> str:
    return f"e.vector::halfvec({embedder.dimensions}) <=> CAST(:vector AS halfvec({embedder.dimensions}))"


def as_literal(vector: Vector) -> str:
    """A vector as pgvector reads it."""
    # Python's own numbers: numpy's are three times as slow to write one by one.
    numbers = vector.tolist() if hasattr(vector, "tolist") else vector
    return f"[{','.join([f'{number:.6f}' for number in numbers])}]"


def as_array(values: Sequence[str] | None) -> list[str] | None:
    """A list, which psycopg binds as an array."""
    return None if values is None else list(values)

"""How many of the nearest a search finds, and how fast, where many tenants of unlike size share the tables.

The vectors are synthetic: clusters on the unit sphere, as texts on like matters have. Memories per tenant follow Zipf's
law. Searches run as the application's role, under row-level security, with and without a filter of kinds.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from uuid import UUID, uuid5

import psycopg
from pgvector.psycopg import register_vector
from sqlalchemy import text

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground
from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.memory.embedder import DIMENSIONS, MODEL_ID, Vector
from chargehand.memory.semantic import as_literal, nearest

# Small in tests: ROWS=2000.
ROWS = 200_000
TENANTS = 200
SCOPE = "library"
KINDS = ("passage", "note", "fact", "turn")
# A cluster is a matter that some memories speak about.
CLUSTER_SIZE = 50
# Length of a memory's way from the middle of its cluster: two of a cluster have a cosine of .6, as passages of a file.
NOISE = 0.8
DEPTH = 10
QUESTIONS = 400
CLIENTS = 32
TARGET_RECALL = 0.97
TARGET_P95_MS = 15.0
NAMES = UUID("6f0b8d5e-6a35-4d0a-9a0e-0d4f1a5f3c11")
HNSW = "ix_embeddings_minilm"


class Known:
    """Stands for the model whose vectors these are; the vector of a question is given."""

    model_id = MODEL_ID
    dimensions = DIMENSIONS

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Nothing is embedded here."""
        raise NotImplementedError("The vectors of this benchmark are made, not embedded.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One search: by whom, for what, and among which kinds."""

    tenant: UUID
    vector: Any
    kinds: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a search found, and what an exact one does."""

    seconds: float
    found: frozenset[UUID]
    exact: frozenset[UUID]

    @property
    def recall(self) -> float:
        """The share of the exact answer that was found."""
        return len(self.found & self.exact) / len(self.exact) if self.exact else 1.0


def measure(ground: Ground) -> Iterator[Figure]:
    """The figures for as many memories as the variable ROWS says."""
    yield from measure_rows(ground, rows=int(os.environ.get("ROWS", ROWS)), tenants=TENANTS, questions=QUESTIONS)


def measure_rows(
    ground: Ground, *, rows: int, tenants: int, questions: int, clients: int = CLIENTS
) -> Iterator[Figure]:
    """Fill the tables, ask one after the other, ask at once, look for what belongs to others."""
    np = import_module("numpy")
    random = np.random.default_rng(1)
    sizes = zipf(rows, tenants)
    names = [uuid5(NAMES, str(rank)) for rank in range(tenants)]
    vectors = clustered(random, sum(sizes))
    began = time.monotonic()
    fill(ground, names, sizes, vectors)
    yield Figure(name="tenants_rows", value=float(sum(sizes)), unit="rows", better="higher")
    yield Figure(name="tenants_fill_seconds", value=time.monotonic() - began, unit="s")
    asked = questions_about(random, names, sizes, vectors, questions)
    with psycopg.connect(ground.database_url) as owner:
        exact = [exact_answer(owner, one) for one in asked]
    answers = [answer(ground, one, known) for one, known in zip(asked, exact, strict=True)]
    for label, chosen in (
        ("", list(range(len(asked)))),
        ("_of_a_kind", [place for place, one in enumerate(asked) if one.kinds]),
        ("_of_any_kind", [place for place, one in enumerate(asked) if not one.kinds]),
        ("_of_the_largest", [place for place, one in enumerate(asked) if one.tenant == names[0]]),
    ):
        told = [answers[place] for place in chosen]
        if not told:
            continue
        overall = label == ""
        yield Figure(
            name=f"tenants_recall_at_10{label}",
            value=sum(one.recall for one in told) / len(told),
            unit="share",
            target=TARGET_RECALL if overall else None,
            better="higher",
        )
        for percent in (50, 95):
            yield Figure(
                name=f"tenants_nearest_p{percent}_ms{label}",
                value=percentile([one.seconds for one in told], percent) * 1000,
                unit="ms",
                target=TARGET_P95_MS if overall and percent == 95 else None,
            )
    yield from ask_at_once(ground, asked, clients)
    yield Figure(
        name="tenants_foreign_rows", value=float(foreign_rows(ground, asked)), unit="rows", target=0.0, better="lower"
    )


def zipf(rows: int, tenants: int) -> list[int]:
    """How many memories each tenant has: the tenant of rank r has 1/r of the first one's."""
    whole = sum(1 / rank for rank in range(1, tenants + 1))
    return [max(1, round(rows / whole / rank)) for rank in range(1, tenants + 1)]


def clustered(random: Any, count: int) -> Any:
    """Unit vectors that lie around some middles."""
    np = import_module("numpy")
    middles = random.normal(size=(max(1, count // CLUSTER_SIZE), DIMENSIONS)).astype(np.float32)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    ways = random.normal(size=(count, DIMENSIONS)).astype(np.float32) / math.sqrt(DIMENSIONS)
    made = middles[random.integers(0, len(middles), size=count)] + NOISE * ways
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def fill(ground: Ground, names: Sequence[UUID], sizes: Sequence[int], vectors: Any) -> None:
    """COPY the rows and make the index anew after them, as whoever loads much at once would."""
    np = import_module("numpy")
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        register_vector(connection)
        definition = _one(connection, f"SELECT pg_get_indexdef('chargehand.{HNSW}'::regclass)")
        connection.execute(f"DROP INDEX chargehand.{HNSW}")
        connection.execute("SET maintenance_work_mem = '1GB'")
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY chargehand.memories (tenant, id, scope, source, line_start, line_end, kind, text, words) "
                "FROM STDIN"
            ) as copy,
        ):
            for number, (tenant, _) in enumerate(_places(names, sizes)):
                kind = KINDS[number % len(KINDS)]
                copy.write_row((tenant, UUID(int=number), SCOPE, f"s/{number}", 1, 1, kind, f"memory {number}", 2))
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY chargehand.embeddings (tenant, memory, model_id, scope, vector) FROM STDIN WITH (FORMAT BINARY)"
            ) as copy,
        ):
            copy.set_types(["uuid", "uuid", "text", "text", "halfvec"])
            halves = import_module("pgvector").HalfVector
            for number, (tenant, _) in enumerate(_places(names, sizes)):
                copy.write_row((tenant, UUID(int=number), MODEL_ID, SCOPE, halves(vectors[number].astype(np.float16))))
        print(f"tenants: {sum(sizes)} rows copied, making the index", file=sys.stderr, flush=True)
        # As Postgres gives it back the name of the table has no ONLY where the index has partitions.
        connection.execute(definition.replace(" ON ONLY ", " ON "))
        connection.execute("VACUUM ANALYZE chargehand.memories, chargehand.embeddings")


def questions_about(random: Any, names: Sequence[UUID], sizes: Sequence[int], vectors: Any, count: int) -> list[Asked]:
    """Searches near a memory of the tenant's; half of them among one kind. Each tenant asks as often as any other."""
    np = import_module("numpy")
    begins = np.concatenate([[0], np.cumsum(sizes)])
    asked = []
    for number in range(count):
        # The largest ones ask in any case: they are the hard ones.
        rank = number // 2 % 10 if number % 2 else int(random.integers(len(names)))
        rank = min(rank, len(names) - 1)
        near = vectors[int(random.integers(begins[rank], begins[rank + 1]))]
        made = near + NOISE / 2 * random.normal(size=DIMENSIONS) / math.sqrt(DIMENSIONS)
        kinds = (KINDS[number % len(KINDS)],) if number % 4 >= 2 else None
        asked.append(Asked(tenant=names[rank], vector=made / np.linalg.norm(made), kinds=kinds))
    return asked


def exact_answer(owner: psycopg.Connection[Any], one: Asked) -> frozenset[UUID]:
    """The nearest by a scan of all that the tenant has, as the owner of the tables."""
    rows = owner.execute(
        "SELECT memory FROM (SELECT e.memory, e.vector::halfvec(384) <=> %(vector)s::halfvec(384) AS distance "
        "FROM chargehand.embeddings e JOIN chargehand.memories m ON m.tenant = e.tenant AND m.id = e.memory "
        "WHERE e.tenant = %(tenant)s AND (%(kinds)s::text[] IS NULL OR m.kind = ANY (%(kinds)s)) OFFSET 0) measured "
        "ORDER BY distance, memory LIMIT %(depth)s",
        {
            "tenant": one.tenant,
            "vector": as_literal(one.vector),
            "kinds": list(one.kinds) if one.kinds else None,
            "depth": DEPTH,
        },
    ).fetchall()
    return frozenset(row[0] for row in rows)


def answer(ground: Ground, one: Asked, exact: frozenset[UUID]) -> Answer:
    """What the product finds, as the application's role."""
    began = time.perf_counter()
    with tenant_session(ground.application, one.tenant) as session:
        found = nearest(
            session,
            tenant=one.tenant,
            scope=SCOPE,
            vector=one.vector,
            embedder=Known(),
            kinds=one.kinds,
            limit=DEPTH,
        )
    return Answer(seconds=time.perf_counter() - began, found=frozenset(found), exact=exact)


def ask_at_once(ground: Ground, asked: Sequence[Asked], clients: int) -> Iterator[Figure]:
    """Every search by as many clients at a time, each with a connection of its own."""
    engine = open_engine(ground.database_url, role=APP_ROLE, pool_size=clients)
    try:

        def ask(one: Asked) -> float:
            began = time.perf_counter()
            with tenant_session(engine, one.tenant) as session:
                nearest(
                    session,
                    tenant=one.tenant,
                    scope=SCOPE,
                    vector=one.vector,
                    embedder=Known(),
                    kinds=one.kinds,
                    limit=DEPTH,
                )
            return time.perf_counter() - began

        with ThreadPoolExecutor(clients) as pool:
            # Connections are made by the first round, which is not measured.
            list(pool.map(ask, asked[:clients]))
            began = time.perf_counter()
            seconds = list(pool.map(ask, asked))
            wall = time.perf_counter() - began
    finally:
        engine.dispose()
    yield Figure(
        name=f"tenants_queries_per_second_{clients}_clients", value=len(seconds) / wall, unit="1/s", better="higher"
    )
    for percent in (50, 95):
        yield Figure(
            name=f"tenants_nearest_p{percent}_ms_{clients}_clients",
            value=percentile(seconds, percent) * 1000,
            unit="ms",
        )


def foreign_rows(ground: Ground, asked: Sequence[Asked]) -> int:
    """Rows of others that a tenant saw: on one connection that every tenant uses in turn, without a filter."""
    engine = open_engine(ground.database_url, role=APP_ROLE, pool_size=1)
    seen = 0
    try:
        for one in asked:
            with tenant_session(engine, one.tenant) as session:
                # No condition on the tenant: only row-level security holds the others back.
                rows = session.execute(
                    text(
                        "SELECT tenant FROM chargehand.embeddings "
                        "ORDER BY vector::halfvec(384) <=> CAST(:vector AS halfvec(384)) LIMIT 20"
                    ),
                    {"vector": as_literal(one.vector)},
                ).all()
            seen += sum(row.tenant != one.tenant for row in rows)
    finally:
        engine.dispose()
    return seen


def _places(names: Sequence[UUID], sizes: Sequence[int]) -> Iterator[tuple[UUID, int]]:
    for tenant, size in zip(names, sizes, strict=True):
        for number in range(size):
            yield tenant, number


def _one(connection: psycopg.Connection[Any], statement: str) -> str:
    row = connection.execute(statement).fetchone()
    return str(row[0]) if row else ""

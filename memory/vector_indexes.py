"""The HNSW index of another embedding model, made while the tables are in use."""

import hashlib
import re
from collections.abc import Callable

import psycopg
from psycopg import sql

from chargehand.memory.database import SCHEMA
from chargehand.memory.embedder import MODEL_ID

PARTITIONS = 16
# pgvector's most for an HNSW index of halfvec.
MAX_DIMENSIONS = 4_000
# As the local model's index in `semantic_tables`.
M, EF_CONSTRUCTION = 16, 64
# Two would build one partition on every core of a small server.
MAINTENANCE_MEMORY = "256MB"


def index_name(model_id: str) -> str:
    """The name of a model's index on `embeddings`; that of a partition adds `_p07`."""
    return f"ix_embeddings_{hashlib.sha256(model_id.encode()).hexdigest()[:12]}"


def make_index(
    database_url: str, *, model_id: str, dimensions: int, told: Callable[[int, int], None] | None = None
) -> bool:
    """Make the index of a model unless it is there, partition by partition; False: it was there.

    Needs the owner of the tables. Neither readers nor writers wait: each partition's is built concurrently, and a
    half-built one of a run that died is dropped and built again. `told` hears (partitions done, of how many). Until the
    index is there, a search in a scope of any size is exact, and slow in a large one. Raises `ValueError` for a model
    id or a length that an index cannot have.
    """
    if model_id == MODEL_ID:
        return False
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", model_id):
        raise ValueError(f"The model id {model_id!r} may hold letters, digits, '.', '_' and '-'.")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"A vector of {dimensions} numbers has no index; pgvector indexes 1 to {MAX_DIMENSIONS}.")
    whole = index_name(model_id)
    what = sql.SQL(
        "USING hnsw ((vector::public.halfvec({dimensions})) public.halfvec_cosine_ops) "
        "WITH (m = {m}, ef_construction = {ef}) WHERE model_id = {model}"
    ).format(
        dimensions=sql.Literal(dimensions),
        m=sql.Literal(M),
        ef=sql.Literal(EF_CONSTRUCTION),
        model=sql.Literal(model_id),
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        if _is_valid(connection, whole):
            return False
        connection.execute(sql.SQL("SET maintenance_work_mem = {}").format(sql.Literal(MAINTENANCE_MEMORY)))
        connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON ONLY {} {}").format(
                sql.Identifier(whole), sql.Identifier(SCHEMA, "embeddings"), what
            )
        )
        for number in range(PARTITIONS):
            part = f"{whole}_p{number:02d}"
            if not _is_valid(connection, part):
                connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(SCHEMA, part)))
                connection.execute(
                    sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} {}").format(
                        sql.Identifier(part), sql.Identifier(SCHEMA, f"embeddings_p{number:02d}"), what
                    )
                )
            connection.execute(
                sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                    sql.Identifier(SCHEMA, whole), sql.Identifier(SCHEMA, part)
                )
            )
            if told is not None:
                told(number + 1, PARTITIONS)
    return True


def drop_index(database_url: str, *, model_id: str) -> None:
    """Drop the index of a model that is no longer used; searches wait for a moment."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(SCHEMA, index_name(model_id))))


def has_index(connection: psycopg.Connection[tuple[object, ...]], model_id: str) -> bool:
    """Whether searches for this model's vectors may walk an index."""
    return model_id == MODEL_ID or _is_valid(connection, index_name(model_id))


def _is_valid(connection: psycopg.Connection[tuple[object, ...]], name: str) -> bool:
    found = connection.execute(
        "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        (SCHEMA, name),
    ).fetchone()
    return found is not None and found[0] is True

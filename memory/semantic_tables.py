"""Tables of semantic and procedural memory and of shared state, with the DDL that metadata cannot express."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    BigInteger,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
    func,
    literal_column,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import APP_ROLE, SCHEMA, SUPERVISOR_ROLE, Base
from chargehand.memory.embedder import DIMENSIONS, MODEL_ID

# One partition holds few enough tenants that HNSW with a filter keeps its recall (.96-.99 at 200k vectors).
PARTITIONS = 16

# Words as a person would ask for them: `renderLabel`, `render_label` and `parcel.label` become separate words
# (the default parser keeps the first whole and takes the last for a host name).
WORDS_OF = (
    r"""regexp_replace(regexp_replace({text}, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{{-~]+', ' ', 'g')"""
)
PASSAGE_WORDS = WORDS_OF.format(text="source || ' ' || text")


class Memory(Base):
    """One remembered passage; a newer one supersedes it, nothing overwrites it."""

    __tablename__ = "memories"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "id"),
        # Size and mean length of a scope, for routing and for BM25, without touching the rows.
        Index(
            "ix_memories_scope",
            "tenant",
            "scope",
            postgresql_include=["words"],
            postgresql_where=sql("superseded_by IS NULL"),
        ),
        Index("ix_memories_source", "tenant", "source"),
        # Without fastupdate: a search would read the list of what is not sorted in yet, and the planner then avoids it.
        Index("ix_memories_tsv", "tsv", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
        Index("ix_memories_derived_from", "derived_from", postgresql_using="gin"),
        {"postgresql_partition_by": "HASH (tenant)"},
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    id: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    """A hash of scope, source, place and text: to remember a thing twice is to remember it once."""
    scope: Mapped[str] = mapped_column(Text)
    """Who may recall it: `run:<id>` or `library`."""
    source: Mapped[str] = mapped_column(Text)
    """Where it was read: a path or a URL."""
    line_start: Mapped[int] = mapped_column(Integer)
    line_end: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(Text)
    """`passage` of a file, `note` of an agent, ..."""
    text: Mapped[str] = mapped_column(Text)
    words: Mapped[int] = mapped_column(Integer)
    """Length for BM25."""
    superseded_by: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    derived_from: Mapped[list[UUID]] = mapped_column(ARRAY(PG_UUID(as_uuid=True)), server_default=sql("'{}'"))
    """The memories it was concluded from: poison spreads along these."""
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=sql("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    tsv: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed(f"to_tsvector('english'::regconfig, {PASSAGE_WORDS})", persisted=True),
    )


class Embedding(Base):
    """One model's vector of one memory; models of any dimension share the table, each has its own index."""

    __tablename__ = "embeddings"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "memory", "model_id"),
        ForeignKeyConstraint(
            ["tenant", "memory"], [f"{SCHEMA}.memories.tenant", f"{SCHEMA}.memories.id"], ondelete="CASCADE"
        ),
        Index("ix_embeddings_scope", "tenant", "scope", "model_id"),
        Index(
            "ix_embeddings_minilm",
            literal_column(f"(vector::halfvec({DIMENSIONS}))").label("sized"),
            postgresql_using="hnsw",
            postgresql_ops={"sized": "halfvec_cosine_ops"},
            postgresql_with={"m": 16, "ef_construction": 64},
            postgresql_where=sql(f"model_id = '{MODEL_ID}'"),
        ),
        {"postgresql_partition_by": "HASH (tenant)"},
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    memory: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    model_id: Mapped[str] = mapped_column(Text)
    scope: Mapped[str] = mapped_column(Text)
    """The memory's own, so that a search filters without a join."""
    vector: Mapped[Any] = mapped_column(HALFVEC())


class RoleVersion(Base):
    """The text of a role as some run used it."""

    __tablename__ = "role_versions"
    __table_args__ = (PrimaryKeyConstraint("tenant", "hash"),)

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    hash: Mapped[str] = mapped_column(Text)
    """git's blob hash of the text."""
    name: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    commit: Mapped[str | None] = mapped_column(Text)
    """The commit the file was at; an installed package has none."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SharedState(Base):
    """A value that several agents read and replace."""

    __tablename__ = "shared_state"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "scope", "key"),
        # Rewritten often: room on the page keeps the updates off the index.
        {"postgresql_with": {"fillfactor": "70"}},
    )

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    scope: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    value: Mapped[Any] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column(BigInteger)
    """Grows with each value; 0 is a row that only a lease has touched."""
    fence: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    """Grows with each lease; a holder whose number is older may not commit."""
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def partitions(table: str) -> tuple[str, ...]:
    """The statements that make the hash partitions of `table`."""
    return tuple(
        f"CREATE TABLE {SCHEMA}.{table}_p{number:02d} PARTITION OF {SCHEMA}.{table} "
        f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        for number in range(PARTITIONS)
    )


# `@@` is not leakproof, so under row-level security a GIN index is not used (.5 -> 19 ms). The function runs as the
# supervisor's role, which sees every row, and filters on the bound tenant itself; unbound, it finds nothing.
# Words in more than half of a scope's passages carry no information and would match them all; they are dropped
# unless the question has no other. Of the rest the rarest decide which passages are scored, until these may be some
# hundreds; the commoner ones only add to the score (a long question would otherwise score every passage).
# Sequential scans are off because the planner does not count what unpacking each row's words costs.
LEXICAL_RECALL = f"""
CREATE FUNCTION {SCHEMA}.lexical_recall(question text, in_scope text, in_kinds text[], max_rows integer)
RETURNS TABLE (memory uuid, score double precision)
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, {SCHEMA}, pg_temp
SET enable_seqscan = off
AS $$
WITH bound AS MATERIALIZED (
    SELECT nullif(current_setting('chargehand.tenant', true), '')::uuid AS tenant
), asked AS MATERIALIZED (
    SELECT DISTINCT lexeme FROM unnest(to_tsvector('english'::regconfig, {WORDS_OF.format(text="question")}))
), corpus AS MATERIALIZED (
    SELECT count(*)::double precision AS size, greatest(coalesce(avg(words), 1), 1)::double precision AS mean_words
    FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
      AND m.superseded_by IS NULL
), frequency AS MATERIALIZED (
    SELECT asked.lexeme, found.documents
    FROM asked CROSS JOIN LATERAL (
        SELECT count(*)::double precision AS documents
        FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
          AND m.superseded_by IS NULL AND m.tsv @@ quote_literal(asked.lexeme)::tsquery
    ) found
    WHERE found.documents > 0
), terms AS MATERIALIZED (
    SELECT lexeme, ln(1 + (size - documents + 0.5) / (documents + 0.5)) AS idf,
           sum(documents) OVER (ORDER BY documents, lexeme) - documents < 600 AS decides
    FROM frequency CROSS JOIN corpus
    WHERE documents <= size / 2 OR NOT EXISTS (SELECT FROM frequency f, corpus c WHERE f.documents <= c.size / 2)
), matched AS (
    SELECT m.id, m.tsv, m.words
    FROM memories m
    WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope AND m.superseded_by IS NULL
      AND (in_kinds IS NULL OR m.kind = ANY (in_kinds))
      AND m.tsv @@ (SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery FROM terms WHERE decides)
)
SELECT matched.id, sum(
    terms.idf * occurrences.tf * 2.2 / (occurrences.tf + 1.2 * (0.25 + 0.75 * matched.words / mean_words))
)
FROM matched CROSS JOIN corpus
CROSS JOIN LATERAL (
    SELECT lexeme, cardinality(positions)::double precision AS tf FROM unnest(matched.tsv)
) occurrences
JOIN terms USING (lexeme)
GROUP BY matched.id ORDER BY 2 DESC, 1 LIMIT max_rows
$$
"""

LEXICAL_RECALL_SIGNATURE = f"{SCHEMA}.lexical_recall(text, text, text[], integer)"

# Statements after `CREATE TABLE` of the metadata and after the roles; row-level security itself is the migration's,
# alike for every table with a tenant. Grants are on the parents only: a partition cannot be reached around its policy.
MEMORY_DDL: tuple[str, ...] = (
    *partitions("memories"),
    *partitions("embeddings"),
    LEXICAL_RECALL,
    f"REVOKE ALL ON FUNCTION {LEXICAL_RECALL_SIGNATURE} FROM PUBLIC",
    f"GRANT EXECUTE ON FUNCTION {LEXICAL_RECALL_SIGNATURE} TO {APP_ROLE}, {SUPERVISOR_ROLE}",
    f"ALTER FUNCTION {LEXICAL_RECALL_SIGNATURE} OWNER TO {SUPERVISOR_ROLE}",
    *(
        f"GRANT {privileges} ON {SCHEMA}.{table} TO {APP_ROLE}, {SUPERVISOR_ROLE}"
        for table, privileges in (
            ("memories", "SELECT, INSERT, UPDATE, DELETE"),
            ("embeddings", "SELECT, INSERT, DELETE"),
            ("role_versions", "SELECT, INSERT"),
            ("shared_state", "SELECT, INSERT, UPDATE"),
        )
    ),
)
# What takes `MEMORY_DDL` back before the tables are dropped (partitions go with their parent).
MEMORY_DDL_DOWN: tuple[str, ...] = (f"DROP FUNCTION IF EXISTS {LEXICAL_RECALL_SIGNATURE}",)


def made_by_ddl(kind: str, name: str | None) -> bool:
    """Whether Alembic finds an object in the database that `MEMORY_DDL` made and the metadata does not know.

    Partitions, and the copy of a foreign key that Postgres keeps for each partition it points to. For
    `include_object` of a comparison: leave these out.
    """
    if kind == "table":
        return re.fullmatch(r"(memories|embeddings)_p\d\d", name or "") is not None
    return kind == "foreign_key_constraint" and re.fullmatch(r"fk_embeddings_tenant_memory_\d+", name or "") is not None

"""Tables of semantic and procedural memory."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    REAL,
    CheckConstraint,
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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSTZMULTIRANGE, TSVECTOR
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import SCHEMA, Base
from chargehand.memory.embedder import DIMENSIONS, MODEL_ID

# Words as a person would ask for them: `renderLabel`, `render_label` and `parcel.label` become separate words
# (the default parser keeps the first whole and takes the last for a host name).
WORDS_OF = (
    r"""regexp_replace(regexp_replace({text}, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{{-~]+', ' ', 'g')"""
)
# Whose word a memory is, least trusted first.
TRUST = ("content", "conclusion", "person")
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
            postgresql_include=["words", "expires_at"],
            postgresql_where=sql("superseded_by IS NULL"),
        ),
        # What was read in a source, and what stands before and after a passage of it.
        Index("ix_memories_place", "tenant", "source", "scope", "line_start"),
        # Without fastupdate: a search would read the list of what is not sorted in yet, and the planner then avoids it.
        Index("ix_memories_tsv", "tsv", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
        Index("ix_memories_derived_from", "derived_from", postgresql_using="gin"),
        # What is to be swept, and what came of a run that is erased.
        Index("ix_memories_expires_at", "expires_at", postgresql_where=sql("expires_at IS NOT NULL")),
        Index("ix_memories_run", "tenant", "run", postgresql_where=sql("run IS NOT NULL")),
        CheckConstraint(f"trust IN ({', '.join(repr(one) for one in TRUST)})", name="trust"),
        CheckConstraint("importance BETWEEN 0 AND 1", name="importance"),
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
    rests_on: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=sql("'{}'"))
    """Further sources that it was concluded from, of which nothing is remembered."""
    trust: Mapped[str] = mapped_column(Text, server_default="content")
    """Whose word it is; one of `TRUST`."""
    importance: Mapped[float | None] = mapped_column(REAL)
    """When it was written, or last recalled; NULL: it does not age."""
    recalled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When it last came up, to within an hour; only of what ages."""
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    believed: Mapped[Any] = mapped_column(
        TSTZMULTIRANGE,
        server_default=sql("tstzmultirange(tstzrange(clock_timestamp(), NULL::timestamp with time zone))"),
    )
    """The periods in which it counted, as far as it had not expired."""
    run: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    """Where it comes from: run, step, what gave it, and the blob hash of the role."""
    step: Mapped[UUID | None] = mapped_column(PG_UUID(as_uuid=True))
    tool: Mapped[str | None] = mapped_column(Text)
    role_version: Mapped[str | None] = mapped_column(Text)
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


def made_by_ddl(kind: str, name: str | None) -> bool:
    """Whether Alembic finds an object in the database that a migration made and the metadata does not know.

    Partitions, and the copy of a foreign key that Postgres keeps for each partition it points to. For
    `include_object` of a comparison: leave these out.
    """
    if kind == "table":
        return re.fullmatch(r"(memories|embeddings)_p\d\d", name or "") is not None
    return kind == "foreign_key_constraint" and re.fullmatch(r"fk_embeddings_tenant_memory_\d+", name or "") is not None

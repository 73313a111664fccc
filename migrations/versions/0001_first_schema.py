"""The first schema: tables, roles, row-level security, the journal's triggers."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql

from chargehand.memory.database import APP_ROLE, SCHEMA, SUPERVISOR_ROLE
from chargehand.memory.semantic_tables import MEMORY_DDL, MEMORY_DDL_DOWN
from chargehand.memory.tables import JOURNAL_DDL, JOURNAL_DDL_DOWN
from chargehand.orchestrator.tables import ORCHESTRATOR_DDL, ORCHESTRATOR_DDL_DOWN

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANT_TABLES = (
    "journal",
    "run_anchors",
    "memories",
    "embeddings",
    "role_versions",
    "shared_state",
    "runs",
    "steps",
    "edges",
    "rings",
    "signals",
    "budgets",
    "submissions",
)


def _make_role(name: str) -> str:
    # Roles belong to the cluster: another database of it may have made them, even at this moment.
    return f"""
DO $$ BEGIN
    CREATE ROLE {name} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$"""


def upgrade() -> None:
    """Go to this revision."""
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    for role in (APP_ROLE, SUPERVISOR_ROLE):
        op.execute(_make_role(role))
        op.execute(f"GRANT {role} TO CURRENT_USER")
        op.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}")
    # A function may only be given to a role that may create in its schema; taken back below.
    op.execute(f"GRANT CREATE ON SCHEMA {SCHEMA} TO {SUPERVISOR_ROLE}")
    op.create_table(
        "edges",
        sa.Column("predecessor", sa.UUID(), nullable=False),
        sa.Column("successor", sa.UUID(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.PrimaryKeyConstraint("predecessor", "successor", name=op.f("pk_edges")),
        schema="chargehand",
    )
    op.create_index("ix_edges_run", "edges", ["run"], unique=False, schema="chargehand")
    op.create_index("ix_edges_successor", "edges", ["successor"], unique=False, schema="chargehand")
    op.create_table(
        "journal",
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("step", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.SmallInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run", "step", "seq", name=op.f("pk_journal")),
        schema="chargehand",
    )
    op.create_table(
        "memories",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("line_start", sa.Integer(), nullable=False),
        sa.Column("line_end", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.Column("superseded_by", sa.UUID(), nullable=True),
        sa.Column("derived_from", postgresql.ARRAY(sa.UUID()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "tsv",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('english'::regconfig, regexp_replace(regexp_replace(source || ' ' || text, '([a-z0-9])([A-Z])', '\\1 \\2', 'g'), '[!-/:-@\\[-`{-~]+', ' ', 'g'))",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_memories")),
        schema="chargehand",
        postgresql_partition_by="HASH (tenant)",
    )
    op.create_index(
        "ix_memories_derived_from",
        "memories",
        ["derived_from"],
        unique=False,
        schema="chargehand",
        postgresql_using="gin",
    )
    op.create_index(
        "ix_memories_scope",
        "memories",
        ["tenant", "scope"],
        unique=False,
        schema="chargehand",
        postgresql_include=["words"],
        postgresql_where=sa.text("superseded_by IS NULL"),
    )
    op.create_index("ix_memories_source", "memories", ["tenant", "source"], unique=False, schema="chargehand")
    op.create_index("ix_memories_tsv", "memories", ["tsv"], unique=False, schema="chargehand", postgresql_using="gin")
    op.create_table(
        "pools",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("holder", name=op.f("pk_pools")),
        schema="chargehand",
    )
    op.create_table(
        "rings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("rung_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rings")),
        schema="chargehand",
    )
    op.create_index("ix_rings_run", "rings", ["run"], unique=False, schema="chargehand")
    op.create_table(
        "role_versions",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "hash", name=op.f("pk_role_versions")),
        schema="chargehand",
    )
    op.create_table(
        "run_anchors",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("run_seq", sa.BigInteger(), nullable=False),
        sa.Column("run_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("seal", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "seq", name=op.f("pk_run_anchors")),
        sa.UniqueConstraint("run", name=op.f("uq_run_anchors_run")),
        schema="chargehand",
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("goal", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("plan_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("workspace", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "role_versions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'paused', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_runs_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_runs_deadline_at",
        "runs",
        ["deadline_at"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index("uq_runs_idempotency_key", "runs", ["tenant", "idempotency_key"], unique=True, schema="chargehand")
    op.create_table(
        "shared_state",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "scope", "key", name=op.f("pk_shared_state")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.create_table(
        "signals",
        sa.Column("step", sa.UUID(), nullable=False),
        sa.Column("wait_id", sa.UUID(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("step", "wait_id", name=op.f("pk_signals")),
        schema="chargehand",
    )
    op.create_table(
        "submissions",
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column(
            "submitted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_submissions")),
        schema="chargehand",
    )
    op.create_table(
        "budgets",
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("cap_microusd", sa.BigInteger(), nullable=False),
        sa.Column("drawn_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("granted_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("drawn_microusd <= cap_microusd", name=op.f("ck_budgets_cap")),
        sa.ForeignKeyConstraint(["run"], ["chargehand.runs.id"], name=op.f("fk_budgets_run")),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_budgets")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.create_table(
        "embeddings",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("memory", sa.UUID(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("vector", HALFVEC(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "memory"],
            ["chargehand.memories.tenant", "chargehand.memories.id"],
            name=op.f("fk_embeddings_tenant_memory"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "memory", "model_id", name=op.f("pk_embeddings")),
        schema="chargehand",
        postgresql_partition_by="HASH (tenant)",
    )
    op.execute(
        f"CREATE INDEX ix_embeddings_minilm ON {SCHEMA}.embeddings USING hnsw "
        "((vector::halfvec(384)) halfvec_cosine_ops) WITH (m = 16, ef_construction = 64) "
        "WHERE model_id = 'minilm-l6-v2-int8'"
    )
    op.create_index(
        "ix_embeddings_scope", "embeddings", ["tenant", "scope", "model_id"], unique=False, schema="chargehand"
    )
    op.create_table(
        "steps",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("solo", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("taken_over", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("halt", sa.Text(), nullable=True),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("chain", sa.UUID(), nullable=True),
        sa.Column("next_in_chain", sa.UUID(), nullable=True),
        sa.Column("emissions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wait_id", sa.UUID(), nullable=True),
        sa.Column("wait_reason", sa.Text(), nullable=True),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("turns", sa.Integer(), server_default="0", nullable=False),
        sa.Column("allotment_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spent_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("returned_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("anchored", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("patched", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'ready', 'queued', 'chained', 'running', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped')",
            name=op.f("ck_steps_status"),
        ),
        sa.ForeignKeyConstraint(["run"], ["chargehand.runs.id"], name=op.f("fk_steps_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_steps_live",
        "steps",
        ["status", "pool"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("status IN ('ready', 'queued', 'running')"),
    )
    op.create_index(
        "ix_steps_waiting",
        "steps",
        ["run_after"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("status = 'waiting'"),
    )
    op.create_index("uq_steps_key", "steps", ["run", "key"], unique=True, schema="chargehand")
    for statement in (*JOURNAL_DDL, *MEMORY_DDL, *ORCHESTRATOR_DDL):
        op.execute(sa.text(statement.replace(":", r"\:")))
    op.execute(f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {SUPERVISOR_ROLE}")
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {SCHEMA}.{table} FORCE ROW LEVEL SECURITY")
        bound = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
        op.execute(f"CREATE POLICY tenant ON {SCHEMA}.{table} TO {APP_ROLE} USING ({bound}) WITH CHECK ({bound})")
        op.execute(f"CREATE POLICY supervisor ON {SCHEMA}.{table} TO {SUPERVISOR_ROLE} USING (true) WITH CHECK (true)")


def downgrade() -> None:
    """Go back to the revision before; the roles stay, other databases of the cluster may use them."""
    for statement in (*ORCHESTRATOR_DDL_DOWN, *MEMORY_DDL_DOWN, *JOURNAL_DDL_DOWN):
        op.execute(statement)
    op.drop_table("steps", schema="chargehand")
    op.drop_table("embeddings", schema="chargehand")
    op.drop_table("budgets", schema="chargehand")
    op.drop_table("submissions", schema="chargehand")
    op.drop_table("signals", schema="chargehand")
    op.drop_table("shared_state", schema="chargehand")
    op.drop_table("runs", schema="chargehand")
    op.drop_table("run_anchors", schema="chargehand")
    op.drop_table("role_versions", schema="chargehand")
    op.drop_table("rings", schema="chargehand")
    op.drop_table("pools", schema="chargehand")
    op.drop_table("memories", schema="chargehand")
    op.drop_table("journal", schema="chargehand")
    op.drop_table("edges", schema="chargehand")

"""The first schema: tables, roles, row-level security, the journal's triggers.

Nothing of it is imported from the code: what a migration does must not change when the code does.
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql

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


SCHEMA = "chargehand"
APP_ROLE = "chargehand_app"
SUPERVISOR_ROLE = "chargehand_supervisor"
# One partition holds few enough tenants that HNSW with a filter keeps its recall (.96-.99 at 200k vectors).
PARTITIONS = 16

# The trigger, not the writer, links the chain: whoever may insert cannot insert a row that does not follow.
JOURNAL = (
    # It runs in both commits of every turn. A `SET search_path` would cost as much as all the rest of it, so every name
    # of it is qualified instead; operators are found in pg_catalog first, and nobody but the owner may make others.
    """
CREATE FUNCTION chargehand.journal_link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE previous bytea := ''::bytea;
BEGIN
    IF NEW.seq > 1 THEN
        SELECT j.hash INTO previous FROM chargehand.journal j
        WHERE j.run = NEW.run AND j.step = NEW.step AND j.seq = NEW.seq - 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'journal row % of run % step % has no predecessor', NEW.seq, NEW.run, NEW.step
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    NEW.at := pg_catalog.clock_timestamp();
    NEW.salt := pg_catalog.uuid_send(pg_catalog.gen_random_uuid());
    NEW.body_hash := pg_catalog.sha256(NEW.salt || pg_catalog.convert_to(NEW.body, 'UTF8'));
    NEW.hash := pg_catalog.sha256(previous || NEW.body_hash || pg_catalog.convert_to(pg_catalog.concat_ws('|',
        NEW.tenant, NEW.run, NEW.step, NEW.seq, NEW.kind, NEW.schema_version, NEW.epoch,
        (extract(epoch FROM NEW.at) * 1000000)::pg_catalog.int8), 'UTF8'));
    RETURN NEW;
END $$
""",
    """
CREATE FUNCTION chargehand.journal_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, chargehand AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.body IS NULL AND NEW.salt IS NULL THEN
        -- Erasure: everything but the body and its salt must stay as it is.
        NEW.body := OLD.body; NEW.salt := OLD.salt;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            NEW.body := NULL; NEW.salt := NULL;
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the journal is append-only (%)', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$
""",
    "CREATE TRIGGER link BEFORE INSERT ON chargehand.journal FOR EACH ROW EXECUTE FUNCTION chargehand.journal_link()",
    "CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON chargehand.journal FOR EACH ROW EXECUTE FUNCTION chargehand.journal_keep()",
    "CREATE TRIGGER keep_all BEFORE TRUNCATE ON chargehand.journal EXECUTE FUNCTION chargehand.journal_keep()",
    "GRANT SELECT, INSERT ON chargehand.journal TO chargehand_app, chargehand_supervisor",
    "GRANT UPDATE (body, salt) ON chargehand.journal TO chargehand_supervisor",
    "GRANT SELECT ON chargehand.run_anchors TO chargehand_app",
    "GRANT SELECT, INSERT ON chargehand.run_anchors TO chargehand_supervisor",
)

# `@@` is not leakproof, so under row-level security a GIN index is not used (.5 -> 19 ms). The function runs as the
# supervisor's role, which sees every row, and filters on the bound tenant itself; unbound, it finds nothing.
# Words in more than half of a scope's passages carry no information and would match them all; they are dropped
# unless the question has no other. Of the rest the rarest decide which passages are scored, until these may be some
# hundreds; the commoner ones only add to the score (a long question would otherwise score every passage).
# Sequential scans are off because the planner does not count what unpacking each row's words costs.
LEXICAL_RECALL = r"""
CREATE FUNCTION chargehand.lexical_recall(question text, in_scope text, in_kinds text[], max_rows integer)
RETURNS TABLE (memory uuid, score double precision)
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, chargehand, pg_temp
SET enable_seqscan = off
AS $$
WITH bound AS MATERIALIZED (
    SELECT nullif(current_setting('chargehand.tenant', true), '')::uuid AS tenant
), asked AS MATERIALIZED (
    SELECT DISTINCT lexeme FROM unnest(to_tsvector('english'::regconfig, regexp_replace(regexp_replace(question, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{-~]+', ' ', 'g')))
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

# Grants are on the parents only: a partition cannot be reached around its policy.
MEMORY = (
    *(
        f"CREATE TABLE chargehand.{table}_p{number:02d} PARTITION OF chargehand.{table} "
        f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        for table in ("memories", "embeddings")
        for number in range(PARTITIONS)
    ),
    LEXICAL_RECALL,
    "REVOKE ALL ON FUNCTION chargehand.lexical_recall(text, text, text[], integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chargehand.lexical_recall(text, text, text[], integer) TO chargehand_app, chargehand_supervisor",
    "ALTER FUNCTION chargehand.lexical_recall(text, text, text[], integer) OWNER TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.memories TO chargehand_app, chargehand_supervisor",
    "GRANT SELECT, INSERT, DELETE ON chargehand.embeddings TO chargehand_app, chargehand_supervisor",
    "GRANT SELECT, INSERT ON chargehand.role_versions TO chargehand_app, chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE ON chargehand.shared_state TO chargehand_app, chargehand_supervisor",
)

ORCHESTRATOR = (
    # One process renews all its leases across tenants in one statement, and learns which it still holds. It locks them
    # in the order in which a pause does.
    """
CREATE FUNCTION chargehand.renew_leases(step_ids uuid[], epochs integer[], lease_seconds double precision)
RETURNS SETOF uuid LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, chargehand, pg_temp AS $$
    WITH held AS (
        SELECT s.id FROM chargehand.steps s
        JOIN unnest(step_ids, epochs) AS mine(id, epoch) ON s.id = mine.id AND s.epoch = mine.epoch
        WHERE s.status = 'running' ORDER BY s.run, s.ordinal FOR NO KEY UPDATE OF s
    )
    UPDATE chargehand.steps s SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
    FROM held WHERE s.id = held.id RETURNING s.id
$$
""",
    "ALTER FUNCTION chargehand.renew_leases(uuid[], integer[], double precision) OWNER TO chargehand_supervisor",
    "REVOKE ALL ON FUNCTION chargehand.renew_leases(uuid[], integer[], double precision) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chargehand.renew_leases(uuid[], integer[], double precision) TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE ON chargehand.runs TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE ON chargehand.steps TO chargehand_app",
    "GRANT SELECT, INSERT ON chargehand.edges TO chargehand_app",
    "GRANT SELECT, INSERT ON chargehand.rings TO chargehand_app",
    "GRANT SELECT, INSERT ON chargehand.signals TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE ON chargehand.budgets TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.pools TO chargehand_app",
    "GRANT SELECT, INSERT ON chargehand.submissions TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.runs TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.steps TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.edges TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.rings TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.signals TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.budgets TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.pools TO chargehand_supervisor",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.submissions TO chargehand_supervisor",
)

DOWN = (
    "DROP FUNCTION IF EXISTS chargehand.renew_leases(uuid[], integer[], double precision)",
    "DROP FUNCTION IF EXISTS chargehand.lexical_recall(text, text, text[], integer)",
    "DROP TRIGGER IF EXISTS link ON chargehand.journal",
    "DROP TRIGGER IF EXISTS keep ON chargehand.journal",
    "DROP TRIGGER IF EXISTS keep_all ON chargehand.journal",
    "DROP FUNCTION IF EXISTS chargehand.journal_link()",
    "DROP FUNCTION IF EXISTS chargehand.journal_keep()",
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
    for statement in (*JOURNAL, *MEMORY, *ORCHESTRATOR):
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
    for statement in DOWN:
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

"""What was believed when: periods of belief, expiry, importance, trust, and where a memory comes from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NOW = "{row}.superseded_by IS NULL AND ({row}.expires_at IS NULL OR {row}.expires_at > statement_timestamp())"
THEN = "{row}.believed @> as_of AND ({row}.expires_at IS NULL OR {row}.expires_at > as_of)"
UNEXPIRING = "{row}.superseded_by IS NULL"

# As revision 0012 made it, but for what counts as believed (`m`, `p`).
LEXICAL_RECALL = r"""
CREATE OR REPLACE FUNCTION chargehand.{name}(
    question text, in_scope text, in_kinds text[], max_rows integer, also uuid[] DEFAULT NULL{more}
)
RETURNS TABLE (memory uuid, score double precision, previous uuid, next uuid)
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 150 SET search_path = pg_catalog, chargehand, pg_temp
SET enable_seqscan = off
AS $$
WITH bound AS MATERIALIZED (
    SELECT nullif(current_setting('chargehand.tenant', true), '')::uuid AS tenant
), asked AS MATERIALIZED (
    SELECT DISTINCT lexeme FROM unnest(to_tsvector('english'::regconfig, regexp_replace(regexp_replace(question, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{{-~]+', ' ', 'g')))
), corpus AS MATERIALIZED (
    SELECT count(*)::double precision AS size, greatest(coalesce(avg(words), 1), 1)::double precision AS mean_words
    FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
      AND {m}
), frequency AS MATERIALIZED (
    SELECT asked.lexeme, found.documents
    FROM asked CROSS JOIN LATERAL (
        SELECT count(*)::double precision AS documents
        FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
          AND {m} AND m.tsv @@ quote_literal(asked.lexeme)::tsquery
    ) found
    WHERE found.documents > 0
), terms AS MATERIALIZED (
    SELECT lexeme, ln(1 + (size - documents + 0.5) / (documents + 0.5)) AS idf,
           (documents <= size / 2 OR NOT EXISTS (SELECT FROM frequency f, corpus c WHERE f.documents <= c.size / 2))
           AND sum(documents) OVER (ORDER BY documents, lexeme) - documents < 600 AS decides
    FROM frequency CROSS JOIN corpus
), best AS MATERIALIZED (
    SELECT m.id, sum(
        terms.idf * occurrences.tf * 2.2 / (occurrences.tf + 1.2 * (0.6 + 0.4 * m.words / mean_words))
    ) AS score
    FROM memories m CROSS JOIN corpus
    CROSS JOIN LATERAL (
        SELECT lexeme, cardinality(positions)::double precision AS tf FROM unnest(m.tsv)
    ) occurrences
    JOIN terms USING (lexeme)
    WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope AND {m}
      AND (in_kinds IS NULL OR m.kind = ANY (in_kinds))
      AND m.tsv @@ (SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery FROM terms WHERE decides)
    GROUP BY m.id ORDER BY 2 DESC, 1 LIMIT max_rows
), candidates AS MATERIALIZED (
    SELECT m.id, before.id AS previous, after.id AS next
    FROM (SELECT id FROM best UNION SELECT unnest(also)) named
    CROSS JOIN LATERAL (
        SELECT m.id, m.tenant, m.source, m.scope, m.line_start, m.kind FROM memories m
        WHERE m.tenant = (SELECT tenant FROM bound) AND m.id = named.id AND m.scope = in_scope
          AND {m} AND (in_kinds IS NULL OR m.kind = ANY (in_kinds))
        OFFSET 0
    ) m
    LEFT JOIN LATERAL (
        SELECT p.id FROM memories p
        WHERE also IS NOT NULL AND p.tenant = m.tenant AND p.source = m.source AND p.scope = m.scope
          AND p.line_start < m.line_start AND p.kind = m.kind AND {p}
        ORDER BY p.line_start DESC LIMIT 1
    ) before ON true
    LEFT JOIN LATERAL (
        SELECT p.id FROM memories p
        WHERE also IS NOT NULL AND p.tenant = m.tenant AND p.source = m.source AND p.scope = m.scope
          AND p.line_start > m.line_start AND p.kind = m.kind AND {p}
        ORDER BY p.line_start LIMIT 1
    ) after ON true
), wanted AS MATERIALIZED (
    SELECT id FROM candidates
    UNION SELECT previous FROM candidates WHERE previous IS NOT NULL
    UNION SELECT next FROM candidates WHERE next IS NOT NULL
), others AS MATERIALIZED (
    SELECT wanted.id, (
        SELECT sum(
            terms.idf * occurrences.tf * 2.2
            / (occurrences.tf + 1.2 * (0.6 + 0.4 * m.words / (SELECT mean_words FROM corpus)))
        )
        FROM (SELECT lexeme, cardinality(positions)::double precision AS tf FROM unnest(m.tsv)) occurrences
        JOIN terms USING (lexeme)
    ) AS score
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT m.tsv, m.words FROM memories m
        WHERE m.tenant = (SELECT tenant FROM bound) AND m.id = wanted.id OFFSET 0
    ) m
    WHERE NOT EXISTS (SELECT FROM best WHERE best.id = wanted.id)
)
SELECT wanted.id, coalesce(best.score, others.score, 0), candidates.previous, candidates.next
FROM wanted
LEFT JOIN best ON best.id = wanted.id
LEFT JOIN others ON others.id = wanted.id
LEFT JOIN candidates ON candidates.id = wanted.id
ORDER BY 2 DESC, 1
$$
"""

SIGNATURE = "chargehand.lexical_recall(text, text, text[], integer, uuid[])"
SIGNATURE_AT = "chargehand.lexical_recall_at(text, text, text[], integer, uuid[], timestamptz)"
APP_ROLE = "chargehand_app"
SUPERVISOR_ROLE = "chargehand_supervisor"


def _function(name: str, believed: str, *, more: str = "") -> str:
    # Two functions: one with a condition for both would keep the planner from the index of what is believed now.
    return LEXICAL_RECALL.format(name=name, more=more, m=believed.format(row="m"), p=believed.format(row="p"))


def _scope_index(*included: str) -> None:
    op.drop_index("ix_memories_scope", "memories", schema="chargehand")
    op.create_index(
        "ix_memories_scope",
        "memories",
        ["tenant", "scope"],
        schema="chargehand",
        postgresql_include=list(included),
        postgresql_where=sa.text("superseded_by IS NULL"),
    )


def upgrade() -> None:
    """Go to this revision; what was superseded before counts as believed until now."""
    for column in (
        sa.Column("believed", postgresql.TSTZMULTIRANGE(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("importance", sa.REAL(), nullable=True),
        sa.Column("recalled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trust", sa.Text(), server_default="content", nullable=False),
        sa.Column("rests_on", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("run", sa.UUID(), nullable=True),
        sa.Column("step", sa.UUID(), nullable=True),
        sa.Column("tool", sa.Text(), nullable=True),
        sa.Column("role_version", sa.Text(), nullable=True),
    ):
        op.add_column("memories", column, schema="chargehand")
    # Not an UPDATE: that would see no row where the migrating user is bound to row-level security.
    op.execute(
        "ALTER TABLE chargehand.memories ALTER COLUMN believed TYPE tstzmultirange USING tstzmultirange(tstzrange("
        "created_at, CASE WHEN superseded_by IS NOT NULL THEN greatest(created_at, now()) END)), "
        "ALTER COLUMN believed SET DEFAULT tstzmultirange(tstzrange(clock_timestamp(), NULL)), "
        "ALTER COLUMN believed SET NOT NULL"
    )
    op.create_check_constraint(
        op.f("ck_memories_trust"), "memories", "trust IN ('content', 'conclusion', 'person')", schema="chargehand"
    )
    op.create_check_constraint(
        op.f("ck_memories_importance"), "memories", "importance BETWEEN 0 AND 1", schema="chargehand"
    )
    _scope_index("words", "expires_at")
    op.create_index(
        "ix_memories_expires_at",
        "memories",
        ["expires_at"],
        schema="chargehand",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_memories_run",
        "memories",
        ["tenant", "run"],
        schema="chargehand",
        postgresql_where=sa.text("run IS NOT NULL"),
    )
    op.execute(_function("lexical_recall", NOW))
    op.execute(_function("lexical_recall_at", THEN, more=", as_of timestamptz DEFAULT NULL"))
    # A function may only be given to a role that may create in its schema.
    op.execute(f"GRANT CREATE ON SCHEMA chargehand TO {SUPERVISOR_ROLE}")
    op.execute(f"REVOKE ALL ON FUNCTION {SIGNATURE_AT} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE_AT} TO {APP_ROLE}, {SUPERVISOR_ROLE}")
    op.execute(f"ALTER FUNCTION {SIGNATURE_AT} OWNER TO {SUPERVISOR_ROLE}")
    op.execute(f"REVOKE CREATE ON SCHEMA chargehand FROM {SUPERVISOR_ROLE}")


def downgrade() -> None:
    """Go back to the revision before; what was believed when is forgotten."""
    op.execute(f"DROP FUNCTION {SIGNATURE_AT}")
    op.execute(_function("lexical_recall", UNEXPIRING))
    op.drop_index("ix_memories_run", "memories", schema="chargehand")
    op.drop_index("ix_memories_expires_at", "memories", schema="chargehand")
    _scope_index("words")
    op.drop_constraint(op.f("ck_memories_importance"), "memories", schema="chargehand")
    op.drop_constraint(op.f("ck_memories_trust"), "memories", schema="chargehand")
    for column in (
        "role_version",
        "tool",
        "step",
        "run",
        "rests_on",
        "trust",
        "recalled_at",
        "importance",
        "expires_at",
        "believed",
    ):
        op.drop_column("memories", column, schema="chargehand")

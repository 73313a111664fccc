"""Words' scores for passages that only their meaning brought, and for what stands before and after a passage."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Of BM25. SciFact does not care (.737 and .738 with .75); the short turns of LoCoMo do (docs/benchmarks.md).
K1 = 1.2
B = 0.4

# The rarest words decide which passages are looked at, until these may be some hundreds; the commoner ones only add to
# the score (a long question would otherwise score every passage). Those in more than half of a scope's passages decide
# only where the question has no other. They still add: of two who talk, each speaks about half of the turns.
# Beside the best by their words come the passages named in `also`, and for all of these what stands before and after
# in the same source. Each is scored: a fused score needs both halves of everybody.
# The laterals end in OFFSET 0 so that rows are looked up by their keys: the planner takes the candidates for thousands,
# and would rather unpack the words of every row of the tenant.
# Sequential scans are off because the planner does not count what unpacking each row's words costs.
LEXICAL_RECALL = rf"""
CREATE FUNCTION chargehand.lexical_recall(
    question text, in_scope text, in_kinds text[], max_rows integer, also uuid[] DEFAULT NULL
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
           (documents <= size / 2 OR NOT EXISTS (SELECT FROM frequency f, corpus c WHERE f.documents <= c.size / 2))
           AND sum(documents) OVER (ORDER BY documents, lexeme) - documents < 600 AS decides
    FROM frequency CROSS JOIN corpus
), best AS MATERIALIZED (
    SELECT m.id, sum(
        terms.idf * occurrences.tf * {K1 + 1} / (occurrences.tf + {K1} * ({1 - B} + {B} * m.words / mean_words))
    ) AS score
    FROM memories m CROSS JOIN corpus
    CROSS JOIN LATERAL (
        SELECT lexeme, cardinality(positions)::double precision AS tf FROM unnest(m.tsv)
    ) occurrences
    JOIN terms USING (lexeme)
    WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope AND m.superseded_by IS NULL
      AND (in_kinds IS NULL OR m.kind = ANY (in_kinds))
      AND m.tsv @@ (SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery FROM terms WHERE decides)
    GROUP BY m.id ORDER BY 2 DESC, 1 LIMIT max_rows
), candidates AS MATERIALIZED (
    SELECT m.id, before.id AS previous, after.id AS next
    FROM (SELECT id FROM best UNION SELECT unnest(also)) named
    CROSS JOIN LATERAL (
        SELECT m.id, m.tenant, m.source, m.scope, m.line_start, m.kind FROM memories m
        WHERE m.tenant = (SELECT tenant FROM bound) AND m.id = named.id AND m.scope = in_scope
          AND m.superseded_by IS NULL AND (in_kinds IS NULL OR m.kind = ANY (in_kinds))
        OFFSET 0
    ) m
    LEFT JOIN LATERAL (
        SELECT p.id FROM memories p
        WHERE also IS NOT NULL AND p.tenant = m.tenant AND p.source = m.source AND p.scope = m.scope
          AND p.line_start < m.line_start AND p.kind = m.kind AND p.superseded_by IS NULL
        ORDER BY p.line_start DESC LIMIT 1
    ) before ON true
    LEFT JOIN LATERAL (
        SELECT p.id FROM memories p
        WHERE also IS NOT NULL AND p.tenant = m.tenant AND p.source = m.source AND p.scope = m.scope
          AND p.line_start > m.line_start AND p.kind = m.kind AND p.superseded_by IS NULL
        ORDER BY p.line_start LIMIT 1
    ) after ON true
), wanted AS MATERIALIZED (
    SELECT id FROM candidates
    UNION SELECT previous FROM candidates WHERE previous IS NOT NULL
    UNION SELECT next FROM candidates WHERE next IS NOT NULL
), others AS MATERIALIZED (
    SELECT wanted.id, (
        SELECT sum(
            terms.idf * occurrences.tf * {K1 + 1}
            / (occurrences.tf + {K1} * ({1 - B} + {B} * m.words / (SELECT mean_words FROM corpus)))
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
FORMER_SIGNATURE = "chargehand.lexical_recall(text, text, text[], integer)"
APP_ROLE = "chargehand_app"
SUPERVISOR_ROLE = "chargehand_supervisor"

# As revision 0001 made it.
FORMER_LEXICAL_RECALL = r"""
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


def _give(signature: str) -> None:
    # A function may only be given to a role that may create in its schema.
    op.execute(f"GRANT CREATE ON SCHEMA chargehand TO {SUPERVISOR_ROLE}")
    op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {APP_ROLE}, {SUPERVISOR_ROLE}")
    op.execute(f"ALTER FUNCTION {signature} OWNER TO {SUPERVISOR_ROLE}")
    op.execute(f"REVOKE CREATE ON SCHEMA chargehand FROM {SUPERVISOR_ROLE}")


def upgrade() -> None:
    """Go to this revision; whoever still calls the function with four arguments gets what it got."""
    op.drop_index("ix_memories_source", "memories", schema="chargehand")
    # What stands before and after a passage, and all that was read in a source.
    op.create_index(
        "ix_memories_place", "memories", ["tenant", "source", "scope", "line_start"], unique=False, schema="chargehand"
    )
    op.execute(f"DROP FUNCTION {FORMER_SIGNATURE}")
    op.execute(LEXICAL_RECALL)
    _give(SIGNATURE)


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute(f"DROP FUNCTION {SIGNATURE}")
    op.execute(FORMER_LEXICAL_RECALL)
    _give(FORMER_SIGNATURE)
    op.drop_index("ix_memories_place", "memories", schema="chargehand")
    op.create_index("ix_memories_source", "memories", ["tenant", "source"], unique=False, schema="chargehand")

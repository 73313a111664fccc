"""Of a passage only the words of the question are unpacked, once: the same scores in less than half the time."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

NOW = "{row}.superseded_by IS NULL AND ({row}.expires_at IS NULL OR {row}.expires_at > statement_timestamp())"
THEN = "{row}.believed @> as_of AND ({row}.expires_at IS NULL OR {row}.expires_at > as_of)"

# As revision 0019 made it, and:
# `unnest` of a passage's vector makes a row of each of its words (160 in 200 words of text), of which a question has
# some. `setweight` marks those, and `ts_filter` leaves the others out, both in one pass; no vector of ours has weights,
# and one that had them would only be unpacked in vain. `passages` is materialised, because the planner put the question's
# words outermost and unpacked each passage once for each word.
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
    SELECT size, mean_words, least(0.75, mean_words / (mean_words + 60)) AS b
    FROM (
        SELECT count(*)::double precision AS size, greatest(coalesce(avg(words), 1), 1)::double precision AS mean_words
        FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
          AND {m}
    ) counted
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
), sought AS MATERIALIZED (
    SELECT array_agg(lexeme) AS lexemes FROM terms
), best AS MATERIALIZED (
    SELECT m.id, sum(
        terms.idf * occurrences.tf * 2.2 / (occurrences.tf + 1.2 * (1 - corpus.b + corpus.b * m.words / mean_words))
    ) AS score
    FROM memories m CROSS JOIN corpus
    CROSS JOIN LATERAL (
        SELECT lexeme, cardinality(positions)::double precision AS tf
        FROM unnest(ts_filter(setweight(m.tsv, 'A', (SELECT lexemes FROM sought)), '{{a}}'))
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
), passages AS MATERIALIZED (
    SELECT wanted.id, m.words, ts_filter(setweight(m.tsv, 'A', (SELECT lexemes FROM sought)), '{{a}}') AS tsv
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT m.tsv, m.words FROM memories m
        WHERE m.tenant = (SELECT tenant FROM bound) AND m.id = wanted.id OFFSET 0
    ) m
), places AS MATERIALIZED (
    SELECT passages.id, occurrences.lexeme, occurrences.positions,
           1.2 * (1 - corpus.b + corpus.b * passages.words / corpus.mean_words) AS saturation
    FROM passages CROSS JOIN corpus
    CROSS JOIN LATERAL (SELECT lexeme, positions FROM unnest(passages.tsv)) occurrences
    WHERE occurrences.lexeme IN (SELECT lexeme FROM terms)
), counted AS MATERIALIZED (
    SELECT places.id, sum(terms.idf * tf * 2.2 / (tf + saturation)) AS score
    FROM places JOIN terms USING (lexeme) CROSS JOIN LATERAL (SELECT cardinality(positions)::double precision AS tf) n
    GROUP BY places.id
), said AS MATERIALIZED (
    SELECT lexeme, lead(lexeme) OVER (ORDER BY position) AS following
    FROM unnest(to_tsvector('english'::regconfig, regexp_replace(regexp_replace(question, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{{-~]+', ' ', 'g'))) word
    CROSS JOIN unnest(word.positions) AS position
), pairs AS MATERIALIZED (
    SELECT DISTINCT least(said.lexeme, following) AS one, greatest(said.lexeme, following) AS other,
           least(a.idf, b.idf) AS weight
    FROM said JOIN terms a ON a.lexeme = said.lexeme JOIN terms b ON b.lexeme = said.following
    WHERE said.lexeme <> following
), together AS MATERIALIZED (
    SELECT id, sum(weight * nearness * 2.2 / (nearness + saturation)) AS score
    FROM (
        SELECT a.id, a.saturation, pairs.one, pairs.other, pairs.weight,
               sum(1 / ((x - y) * (x - y))::double precision) AS nearness
        FROM pairs
        JOIN places a ON a.lexeme = pairs.one
        JOIN places b ON b.lexeme = pairs.other AND b.id = a.id
        CROSS JOIN unnest(a.positions) AS x CROSS JOIN unnest(b.positions) AS y
        WHERE x <> y AND abs(x - y) <= 5
        GROUP BY a.id, a.saturation, pairs.one, pairs.other, pairs.weight
    ) of_each
    GROUP BY id
)
SELECT wanted.id, coalesce(counted.score, 0) + coalesce(together.score, 0), candidates.previous, candidates.next
FROM wanted
LEFT JOIN counted ON counted.id = wanted.id
LEFT JOIN together ON together.id = wanted.id
LEFT JOIN candidates ON candidates.id = wanted.id
ORDER BY 2 DESC, 1
$$
"""

# As revision 0019 made it.
FORMER_LEXICAL_RECALL = r"""
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
    SELECT size, mean_words, least(0.75, mean_words / (mean_words + 60)) AS b
    FROM (
        SELECT count(*)::double precision AS size, greatest(coalesce(avg(words), 1), 1)::double precision AS mean_words
        FROM memories m WHERE m.tenant = (SELECT tenant FROM bound) AND m.scope = in_scope
          AND {m}
    ) counted
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
        terms.idf * occurrences.tf * 2.2 / (occurrences.tf + 1.2 * (1 - corpus.b + corpus.b * m.words / mean_words))
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
), places AS MATERIALIZED (
    SELECT wanted.id, occurrences.lexeme, occurrences.positions,
           1.2 * (1 - corpus.b + corpus.b * m.words / corpus.mean_words) AS saturation
    FROM wanted CROSS JOIN corpus
    CROSS JOIN LATERAL (
        SELECT m.tsv, m.words FROM memories m
        WHERE m.tenant = (SELECT tenant FROM bound) AND m.id = wanted.id OFFSET 0
    ) m
    CROSS JOIN LATERAL (SELECT lexeme, positions FROM unnest(m.tsv)) occurrences
    WHERE occurrences.lexeme IN (SELECT lexeme FROM terms)
), counted AS MATERIALIZED (
    SELECT places.id, sum(terms.idf * tf * 2.2 / (tf + saturation)) AS score
    FROM places JOIN terms USING (lexeme) CROSS JOIN LATERAL (SELECT cardinality(positions)::double precision AS tf) n
    GROUP BY places.id
), said AS MATERIALIZED (
    SELECT lexeme, lead(lexeme) OVER (ORDER BY position) AS following
    FROM unnest(to_tsvector('english'::regconfig, regexp_replace(regexp_replace(question, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[!-/:-@\[-`{{-~]+', ' ', 'g'))) word
    CROSS JOIN unnest(word.positions) AS position
), pairs AS MATERIALIZED (
    SELECT DISTINCT least(said.lexeme, following) AS one, greatest(said.lexeme, following) AS other,
           least(a.idf, b.idf) AS weight
    FROM said JOIN terms a ON a.lexeme = said.lexeme JOIN terms b ON b.lexeme = said.following
    WHERE said.lexeme <> following
), together AS MATERIALIZED (
    SELECT id, sum(weight * nearness * 2.2 / (nearness + saturation)) AS score
    FROM (
        SELECT a.id, a.saturation, pairs.one, pairs.other, pairs.weight,
               sum(1 / ((x - y) * (x - y))::double precision) AS nearness
        FROM pairs
        JOIN places a ON a.lexeme = pairs.one
        JOIN places b ON b.lexeme = pairs.other AND b.id = a.id
        CROSS JOIN unnest(a.positions) AS x CROSS JOIN unnest(b.positions) AS y
        WHERE x <> y AND abs(x - y) <= 5
        GROUP BY a.id, a.saturation, pairs.one, pairs.other, pairs.weight
    ) of_each
    GROUP BY id
)
SELECT wanted.id, coalesce(counted.score, 0) + coalesce(together.score, 0), candidates.previous, candidates.next
FROM wanted
LEFT JOIN counted ON counted.id = wanted.id
LEFT JOIN together ON together.id = wanted.id
LEFT JOIN candidates ON candidates.id = wanted.id
ORDER BY 2 DESC, 1
$$
"""


def _function(template: str, name: str, believed: str, *, more: str = "") -> str:
    return template.format(name=name, more=more, m=believed.format(row="m"), p=believed.format(row="p"))


def _both(template: str) -> None:
    op.execute(_function(template, "lexical_recall", NOW))
    op.execute(_function(template, "lexical_recall_at", THEN, more=", as_of timestamptz DEFAULT NULL"))


def upgrade() -> None:
    """Go to this revision; both functions keep their owner and their grants."""
    _both(LEXICAL_RECALL)


def downgrade() -> None:
    """Go back to the revision before."""
    _both(FORMER_LEXICAL_RECALL)

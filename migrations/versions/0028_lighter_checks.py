"""What every turn pays for costs less: a check of one constant, and a link of the journal with fewer statements.

Postgres reads a table's checks anew in every statement that writes to it, and plpgsql prepares each expression of a
trigger anew in every transaction.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

ONE_OF = {
    ("runs", "status"): ("queued", "running", "paused", "succeeded", "failed", "cancelled"),
    ("steps", "status"): (
        "pending",
        "ready",
        "queued",
        "chained",
        "running",
        "waiting",
        "succeeded",
        "failed",
        "cancelled",
        "skipped",
        "superseded",
    ),
    ("budgets", "on_exceeded"): ("fail", "ask"),
    ("settlements", "booked"): ("run", "nowhere"),
}

# No hash: the writer has brought none of the body, or there is no row before.
LIGHTER_LINK = """
CREATE OR REPLACE FUNCTION chargehand.journal_link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE previous bytea := ''::bytea;
BEGIN
    IF NEW.seq > 1 THEN
        SELECT j.hash INTO previous FROM chargehand.journal j
        WHERE j.run = NEW.run AND j.step = NEW.step AND j.seq = NEW.seq - 1;
    END IF;
    NEW.at := pg_catalog.clock_timestamp();
    NEW.hash := pg_catalog.sha256(previous || NEW.body_hash || pg_catalog.convert_to(pg_catalog.concat_ws('|',
        NEW.tenant, NEW.run, NEW.step, NEW.seq, NEW.kind, NEW.schema_version, NEW.epoch,
        (extract(epoch FROM NEW.at) * 1000000)::pg_catalog.int8), 'UTF8'));
    IF NEW.hash IS NULL OR NEW.salt IS NULL THEN
        IF previous IS NULL THEN
            RAISE EXCEPTION 'journal row % of run % step % has no predecessor', NEW.seq, NEW.run, NEW.step
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        NEW.salt := pg_catalog.uuid_send(pg_catalog.gen_random_uuid());
        NEW.body_hash := pg_catalog.sha256(NEW.salt || pg_catalog.convert_to(NEW.body, 'UTF8'));
        NEW.hash := pg_catalog.sha256(previous || NEW.body_hash || pg_catalog.convert_to(pg_catalog.concat_ws('|',
            NEW.tenant, NEW.run, NEW.step, NEW.seq, NEW.kind, NEW.schema_version, NEW.epoch,
            (extract(epoch FROM NEW.at) * 1000000)::pg_catalog.int8), 'UTF8'));
    END IF;
    RETURN NEW;
END $$
"""
# As 0003 made it.
LINK = """
CREATE OR REPLACE FUNCTION chargehand.journal_link() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF NEW.body_hash IS NULL OR NEW.salt IS NULL THEN
        NEW.salt := pg_catalog.uuid_send(pg_catalog.gen_random_uuid());
        NEW.body_hash := pg_catalog.sha256(NEW.salt || pg_catalog.convert_to(NEW.body, 'UTF8'));
    END IF;
    NEW.hash := pg_catalog.sha256(previous || NEW.body_hash || pg_catalog.convert_to(pg_catalog.concat_ws('|',
        NEW.tenant, NEW.run, NEW.step, NEW.seq, NEW.kind, NEW.schema_version, NEW.epoch,
        (extract(epoch FROM NEW.at) * 1000000)::pg_catalog.int8), 'UTF8'));
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    """Go to this revision."""
    for (table, column), values in ONE_OF.items():
        _check(table, column, f"{column} = ANY ('{{{','.join(values)}}}'::text[])")
    op.execute(sa.text(LIGHTER_LINK.replace(":", r"\:")))


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute(sa.text(LINK.replace(":", r"\:")))
    for (table, column), values in ONE_OF.items():
        _check(table, column, f"{column} IN ({', '.join(repr(value) for value in values)})")


def _check(table: str, column: str, condition: str) -> None:
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table, schema="chargehand")
    op.create_check_constraint(name, table, condition, schema="chargehand")

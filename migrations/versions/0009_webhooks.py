"""Webhooks, what is to be delivered to them, and how far a run was warned about its budget.

A trigger writes the delivery with the very commit that writes the fact, whoever writes it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# As the supervisor's role: the application's may write facts, not deliveries. Of several steps that ask about one cause
# the first is told; the lock lets two that ask at once see each other.
NOTIFY = """
CREATE FUNCTION chargehand.journal_notify() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, chargehand, pg_temp AS $$
DECLARE
    told text := CASE NEW.kind WHEN 'step.waiting' THEN 'escalation.opened' WHEN 'budget.warned' THEN 'budget.warning'
        ELSE NEW.kind END;
    fact jsonb;
BEGIN
    IF NOT EXISTS (SELECT FROM chargehand.webhooks w WHERE w.tenant = NEW.tenant AND told = ANY (w.events)) THEN
        RETURN NULL;
    END IF;
    IF NEW.kind = 'step.waiting' THEN
        fact := NEW.body::jsonb;
        IF fact->>'reason' NOT IN ('human', 'gate', 'budget') OR jsonb_array_length(fact->'options') = 0 THEN
            RETURN NULL;
        END IF;
        IF coalesce(fact->>'cause', '') <> '' THEN
            PERFORM pg_advisory_xact_lock(hashtextextended(NEW.run || (fact->>'cause'), 0));
            IF EXISTS (SELECT FROM chargehand.steps s WHERE s.run = NEW.run AND s.id <> NEW.step
                AND s.status = 'waiting' AND s.wait_cause = fact->>'cause') THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    INSERT INTO chargehand.deliveries (tenant, webhook, event, run, step, seq)
    SELECT NEW.tenant, w.id, told, NEW.run, NEW.step, NEW.seq
    FROM chargehand.webhooks w WHERE w.tenant = NEW.tenant AND told = ANY (w.events);
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE TRIGGER notify AFTER INSERT ON chargehand.journal FOR EACH ROW
WHEN (NEW.kind IN ('step.waiting', 'run.finished', 'budget.warned')) EXECUTE FUNCTION chargehand.journal_notify()
"""
GRANTS = (
    # Who has made a webhook knows its secret; nobody reads it again but who signs with it.
    "GRANT SELECT (id, tenant, url, events, created_at), INSERT, DELETE ON chargehand.webhooks TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.webhooks TO chargehand_supervisor",
    "GRANT SELECT, UPDATE (status, attempts, due_at) ON chargehand.deliveries TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.deliveries TO chargehand_supervisor",
    "GRANT CREATE ON SCHEMA chargehand TO chargehand_supervisor",
    "ALTER FUNCTION chargehand.journal_notify() OWNER TO chargehand_supervisor",
    "REVOKE CREATE ON SCHEMA chargehand FROM chargehand_supervisor",
)


def upgrade() -> None:
    """Go to this revision."""
    op.add_column(
        "budgets",
        sa.Column("warned_percent", sa.SmallInteger(), server_default="0", nullable=False),
        schema="chargehand",
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        schema="chargehand",
    )
    op.create_index("ix_webhooks_tenant", "webhooks", ["tenant"], unique=False, schema="chargehand")
    op.create_table(
        "deliveries",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("webhook", sa.UUID(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("step", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook"], ["chargehand.webhooks.id"], name=op.f("fk_deliveries_webhook"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        schema="chargehand",
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["due_at"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_deliveries_webhook", "deliveries", ["webhook", "created_at"], unique=False, schema="chargehand")
    for table in ("webhooks", "deliveries"):
        op.execute(f"ALTER TABLE chargehand.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE chargehand.{table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON chargehand.{table} TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})")
        op.execute(
            f"CREATE POLICY supervisor ON chargehand.{table} TO chargehand_supervisor USING (true) WITH CHECK (true)"
        )
    for statement in (NOTIFY, TRIGGER, *GRANTS):
        op.execute(sa.text(statement.replace(":", r"\:")))


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("DROP TRIGGER notify ON chargehand.journal")
    op.execute("DROP FUNCTION chargehand.journal_notify()")
    op.drop_table("deliveries", schema="chargehand")
    op.drop_table("webhooks", schema="chargehand")
    op.drop_column("budgets", "warned_percent", schema="chargehand")

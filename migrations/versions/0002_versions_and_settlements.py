"""Schema versions of runs and steps, late settlements, since when a process has been connected, signals by tenant.

Processes of the version before go on meanwhile: nothing that they name is renamed, and what is new has a default.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A row that somebody has locked is not waited for: a client frozen in a pause would cost this process all its leases.
# It is held all the same, and so it is among what the function gives; its lease is renewed by the next beat.
RENEW_LEASES = """
CREATE OR REPLACE FUNCTION chargehand.renew_leases(step_ids uuid[], epochs integer[], lease_seconds double precision)
RETURNS SETOF uuid LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, chargehand, pg_temp AS $$
    WITH held AS (
        SELECT s.id FROM chargehand.steps s
        JOIN unnest(step_ids, epochs) AS mine(id, epoch) ON s.id = mine.id AND s.epoch = mine.epoch
        WHERE s.status = 'running'
    ), free AS (
        SELECT s.id FROM chargehand.steps s
        JOIN unnest(step_ids, epochs) AS mine(id, epoch) ON s.id = mine.id AND s.epoch = mine.epoch
        WHERE s.status = 'running' ORDER BY s.run, s.ordinal FOR NO KEY UPDATE OF s SKIP LOCKED
    ), renewed AS (
        UPDATE chargehand.steps s SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
        FROM free WHERE s.id = free.id
    )
    SELECT id FROM held
$$
"""
RENEW_LEASES_OF_0001 = """
CREATE OR REPLACE FUNCTION chargehand.renew_leases(step_ids uuid[], epochs integer[], lease_seconds double precision)
RETURNS SETOF uuid LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, chargehand, pg_temp AS $$
    WITH held AS (
        SELECT s.id FROM chargehand.steps s
        JOIN unnest(step_ids, epochs) AS mine(id, epoch) ON s.id = mine.id AND s.epoch = mine.epoch
        WHERE s.status = 'running' ORDER BY s.run, s.ordinal FOR NO KEY UPDATE OF s
    )
    UPDATE chargehand.steps s SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
    FROM held WHERE s.id = held.id RETURNING s.id
$$
"""
BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"


def upgrade() -> None:
    """Go to this revision."""
    for table in ("runs", "steps", "submissions"):
        op.add_column(
            table,
            sa.Column("schema_version", sa.SmallInteger(), server_default="1", nullable=False),
            schema="chargehand",
        )
    op.add_column(
        "pools",
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        schema="chargehand",
    )
    # Ids of steps can be worked out by whoever knows a run's: another tenant's answer must not take the place.
    op.drop_constraint("pk_signals", "signals", schema="chargehand")
    op.create_primary_key("pk_signals", "signals", ["tenant", "step", "wait_id"], schema="chargehand")
    op.create_table(
        "settlements",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("call", sa.UUID(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("step", sa.UUID(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=False),
        sa.Column("booked", sa.Text(), nullable=True),
        sa.Column(
            "settled_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("booked IN ('run', 'nowhere')", name=op.f("ck_settlements_booked")),
        sa.CheckConstraint("cost_microusd >= 0", name=op.f("ck_settlements_cost")),
        sa.PrimaryKeyConstraint("tenant", "call", name=op.f("pk_settlements")),
        schema="chargehand",
    )
    op.create_index(
        "ix_settlements_open",
        "settlements",
        ["run"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("booked IS NULL"),
    )
    op.execute("GRANT SELECT, INSERT ON chargehand.settlements TO chargehand_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.settlements TO chargehand_supervisor")
    op.execute("ALTER TABLE chargehand.settlements ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.settlements FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON chargehand.settlements TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})")
    op.execute(
        "CREATE POLICY supervisor ON chargehand.settlements TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    op.execute(sa.text(RENEW_LEASES.replace(":", r"\:")))
    # The first schema forgot it, and a search read the list of what is not sorted in yet.
    op.drop_index("ix_memories_tsv", table_name="memories", schema="chargehand")
    op.create_index(
        "ix_memories_tsv",
        "memories",
        ["tsv"],
        unique=False,
        schema="chargehand",
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index("ix_memories_tsv", table_name="memories", schema="chargehand")
    op.create_index("ix_memories_tsv", "memories", ["tsv"], unique=False, schema="chargehand", postgresql_using="gin")
    op.execute(sa.text(RENEW_LEASES_OF_0001.replace(":", r"\:")))
    op.drop_table("settlements", schema="chargehand")
    op.execute("DELETE FROM chargehand.signals g USING chargehand.steps s WHERE g.step = s.id AND g.tenant <> s.tenant")
    op.drop_constraint("pk_signals", "signals", schema="chargehand")
    op.create_primary_key("pk_signals", "signals", ["step", "wait_id"], schema="chargehand")
    op.drop_column("pools", "since", schema="chargehand")
    for table in ("submissions", "steps", "runs"):
        op.drop_column(table, "schema_version", schema="chargehand")

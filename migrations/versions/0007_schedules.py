"""Schedules: runs that are asked for again and again."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "schedules",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_tick", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_run", sa.UUID(), nullable=True),
        sa.Column("problem", sa.Text(), server_default="", nullable=False),
        sa.Column("schema_version", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("missed IN ('skip', 'once', 'all')", name=op.f("ck_schedules_missed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        schema="chargehand",
    )
    op.create_index("uq_schedules_name", "schedules", ["tenant", "name"], unique=True, schema="chargehand")
    op.create_index(
        "ix_schedules_next_at",
        "schedules",
        ["next_at"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("NOT paused"),
    )
    for role in ("chargehand_app", "chargehand_supervisor"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.schedules TO {role}")
    op.execute("ALTER TABLE chargehand.schedules ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.schedules FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON chargehand.schedules TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})")
    op.execute(
        "CREATE POLICY supervisor ON chargehand.schedules TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("schedules", schema="chargehand")

"""Calls that went through a batch API and are not settled."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# Whether a batch may be cancelled is seen across tenants: supervisors say it.
GRANTS = (
    "GRANT SELECT, INSERT, DELETE, UPDATE (batch_id) ON chargehand.batched_calls TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.batched_calls TO chargehand_supervisor",
)


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "batched_calls",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("call", sa.UUID(), nullable=False),
        sa.Column("run", sa.UUID(), nullable=False),
        sa.Column("step", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("max_tokens", sa.BigInteger(), nullable=False),
        sa.Column("counted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("may_cancel", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("looks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("look_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "call", name=op.f("pk_batched_calls")),
        schema="chargehand",
    )
    op.create_index("ix_batched_calls_run", "batched_calls", ["run"], schema="chargehand")
    op.create_index("ix_batched_calls_batch", "batched_calls", ["batch_id"], schema="chargehand")
    op.execute("ALTER TABLE chargehand.batched_calls ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.batched_calls FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON chargehand.batched_calls TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})"
    )
    op.execute(
        "CREATE POLICY supervisor ON chargehand.batched_calls TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    for statement in GRANTS:
        op.execute(statement)


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("batched_calls", schema="chargehand")

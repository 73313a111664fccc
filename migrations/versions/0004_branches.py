"""The way that a branch took, and steps that better ones stand in for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATUSES = (
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
)


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("steps", sa.Column("label", sa.Text(), nullable=True), schema="chargehand")
    _allow(*STATUSES, "superseded")


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("UPDATE chargehand.steps SET status = 'cancelled' WHERE status = 'superseded'")
    _allow(*STATUSES)
    op.drop_column("steps", "label", schema="chargehand")


def _allow(*statuses: str) -> None:
    op.drop_constraint(op.f("ck_steps_status"), "steps", schema="chargehand")
    listed = ", ".join(repr(status) for status in statuses)
    op.create_check_constraint(op.f("ck_steps_status"), "steps", f"status IN ({listed})", schema="chargehand")

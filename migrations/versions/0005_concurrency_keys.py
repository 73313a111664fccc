"""Concurrency keys of runs, and runs that wait for theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATUSES = ("running", "paused", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("runs", sa.Column("concurrency_key", sa.Text(), nullable=True), schema="chargehand")
    _allow("queued", *STATUSES)
    op.create_index(
        "uq_runs_concurrency_key",
        "runs",
        ["tenant", "concurrency_key"],
        unique=True,
        schema="chargehand",
        postgresql_where=sa.text("status IN ('running', 'paused')"),
    )
    op.create_index(
        "ix_runs_queued",
        "runs",
        ["tenant", "concurrency_key", "created_at"],
        unique=False,
        schema="chargehand",
        postgresql_where=sa.text("status = 'queued'"),
    )


def downgrade() -> None:
    """Go back to the revision before; runs that wait go on as paused ones."""
    op.drop_index("ix_runs_queued", table_name="runs", schema="chargehand")
    op.drop_index("uq_runs_concurrency_key", table_name="runs", schema="chargehand")
    op.execute("UPDATE chargehand.runs SET status = 'paused' WHERE status = 'queued'")
    _allow(*STATUSES)
    op.drop_column("runs", "concurrency_key", schema="chargehand")


def _allow(*statuses: str) -> None:
    op.drop_constraint(op.f("ck_runs_status"), "runs", schema="chargehand")
    listed = ", ".join(repr(status) for status in statuses)
    op.create_check_constraint(op.f("ck_runs_status"), "runs", f"status IN ({listed})", schema="chargehand")

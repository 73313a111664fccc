"""The run that a fork left, and the conversation that a run is part of."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("runs", sa.Column("forked_from", sa.Uuid(), nullable=True), schema="chargehand")
    op.add_column("runs", sa.Column("conversation_id", sa.Text(), nullable=True), schema="chargehand")
    op.create_index(
        "ix_runs_conversation_id",
        "runs",
        ["tenant", "conversation_id", "finished_at"],
        schema="chargehand",
        postgresql_where=sa.text("conversation_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index("ix_runs_conversation_id", "runs", schema="chargehand")
    op.drop_column("runs", "conversation_id", schema="chargehand")
    op.drop_column("runs", "forked_from", schema="chargehand")

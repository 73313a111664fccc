"""Who answered a question, when a question expires, and which questions one answer settles."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("steps", sa.Column("wait_cause", sa.Text(), nullable=True), schema="chargehand")
    op.add_column("steps", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True), schema="chargehand")
    op.add_column("signals", sa.Column("sent_by", sa.Text(), server_default="", nullable=False), schema="chargehand")
    op.create_index("ix_signals_run", "signals", ["run"], unique=False, schema="chargehand")


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index("ix_signals_run", table_name="signals", schema="chargehand")
    op.drop_column("signals", "sent_by", schema="chargehand")
    op.drop_column("steps", "expires_at", schema="chargehand")
    op.drop_column("steps", "wait_cause", schema="chargehand")

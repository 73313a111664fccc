"""When a run was erased."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("runs", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True), schema="chargehand")
    op.add_column("runs", sa.Column("erased_artifacts", sa.ARRAY(sa.Text()), nullable=True), schema="chargehand")
    # What left a run, so that erasing it reaches them.
    op.create_index(
        "ix_runs_forked_from",
        "runs",
        ["forked_from"],
        schema="chargehand",
        postgresql_where=sa.text("forked_from IS NOT NULL"),
    )


def downgrade() -> None:
    """Go back to the revision before; what was erased stays so."""
    op.drop_index("ix_runs_forked_from", "runs", schema="chargehand")
    op.drop_column("runs", "erased_artifacts", schema="chargehand")
    op.drop_column("runs", "erased_at", schema="chargehand")

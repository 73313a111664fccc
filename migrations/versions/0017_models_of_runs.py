"""The tier and the model that whoever submits a run names for its agents."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("runs", sa.Column("tier", sa.Text(), nullable=True), schema="chargehand")
    op.add_column("runs", sa.Column("model", sa.Text(), nullable=True), schema="chargehand")


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_column("runs", "model", schema="chargehand")
    op.drop_column("runs", "tier", schema="chargehand")

"""What may be spent to keep what a run has taught."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision; of the runs that there are nothing is kept."""
    op.add_column("runs", sa.Column("consolidate_microusd", sa.BigInteger(), nullable=True), schema="chargehand")


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_column("runs", "consolidate_microusd", schema="chargehand")

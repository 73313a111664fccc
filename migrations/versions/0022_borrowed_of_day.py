"""How much of what a run has borrowed it has borrowed on its last day of borrowing."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision; what runs have borrowed today does not go back to the day's cap, for it is not known."""
    op.add_column(
        "budgets",
        sa.Column("allotted_of_day_microusd", sa.BigInteger(), server_default="0", nullable=False),
        schema="chargehand",
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_column("budgets", "allotted_of_day_microusd", schema="chargehand")

"""By how much a run was above its cap, because a server charged more than the upper bound of a call."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column(
        "budgets",
        sa.Column("overrun_microusd", sa.BigInteger(), server_default="0", nullable=False),
        schema="chargehand",
    )
    _hold("drawn_microusd <= cap_microusd + overrun_microusd")


def downgrade() -> None:
    """Go back to the revision before."""
    # What was paid was paid: there is no smaller cap that it fits under.
    op.execute("UPDATE chargehand.budgets SET cap_microusd = greatest(cap_microusd, drawn_microusd)")
    _hold("drawn_microusd <= cap_microusd")
    op.drop_column("budgets", "overrun_microusd", schema="chargehand")


def _hold(condition: str) -> None:
    op.drop_constraint(op.f("ck_budgets_cap"), "budgets", schema="chargehand")
    op.create_check_constraint(op.f("ck_budgets_cap"), "budgets", condition, schema="chargehand")

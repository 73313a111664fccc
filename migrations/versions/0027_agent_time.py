"""For how long all agents of a tenant together may hold workers, in all and in a day."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

CAPS = ("max_agent_ms", "day_max_agent_ms")
COUNTED = ("agent_ms", "day_agent_ms")


def upgrade() -> None:
    """Go to this revision."""
    for name in CAPS:
        op.add_column("tenant_usage", sa.Column(name, sa.BigInteger(), nullable=True), schema="chargehand")
    for name in COUNTED:
        column = sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        op.add_column("tenant_usage", column, schema="chargehand")
    # As of the other counts: a tenant's own processes count, only who may act as the supervisor sets caps.
    op.execute(f"GRANT UPDATE ({', '.join(COUNTED)}) ON chargehand.tenant_usage TO chargehand_app")


def downgrade() -> None:
    """Go back to the revision before."""
    for name in (*COUNTED, *CAPS):
        op.drop_column("tenant_usage", name, schema="chargehand")

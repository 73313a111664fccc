"""How many calls of models and how many tokens all runs of a tenant may take, in all and in a day."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# A tenant's own processes count; only who may act as the supervisor sets what it may take.
GRANTS = (
    "GRANT SELECT, UPDATE (calls, tokens, day, day_calls, day_tokens) ON chargehand.tenant_usage TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.tenant_usage TO chargehand_supervisor",
)


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "tenant_usage",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("max_calls", sa.BigInteger(), nullable=True),
        sa.Column("max_tokens", sa.BigInteger(), nullable=True),
        sa.Column("day_max_calls", sa.BigInteger(), nullable=True),
        sa.Column("day_max_tokens", sa.BigInteger(), nullable=True),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("day_calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("day_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenant_usage")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.execute("ALTER TABLE chargehand.tenant_usage ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.tenant_usage FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON chargehand.tenant_usage TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})"
    )
    op.execute(
        "CREATE POLICY supervisor ON chargehand.tenant_usage TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    for statement in GRANTS:
        op.execute(statement)


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("tenant_usage", schema="chargehand")

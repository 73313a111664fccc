"""Caps of a tenant and of its day, and of a run's calls and tokens; whether a run that has spent its budget asks."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# A tenant's own processes draw from it; only who may act as the supervisor sets what it may spend.
GRANTS = (
    "GRANT SELECT, UPDATE (drawn_microusd, day, day_drawn_microusd, granted_microusd) ON chargehand.tenant_budgets "
    "TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.tenant_budgets TO chargehand_supervisor",
)


def upgrade() -> None:
    """Go to this revision."""
    for column in (
        sa.Column("allotted_microusd", sa.BigInteger(), nullable=True),
        sa.Column("allotted_day", sa.Date(), nullable=True),
        sa.Column("on_exceeded", sa.Text(), server_default="fail", nullable=False),
        sa.Column("max_calls", sa.BigInteger(), nullable=True),
        sa.Column("max_tokens", sa.BigInteger(), nullable=True),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
    ):
        op.add_column("budgets", column, schema="chargehand")
    # Runs under way were promised that a person is asked.
    op.execute("UPDATE chargehand.budgets SET on_exceeded = 'ask'")
    op.create_check_constraint(
        op.f("ck_budgets_on_exceeded"), "budgets", "on_exceeded IN ('fail', 'ask')", schema="chargehand"
    )
    op.create_table(
        "tenant_budgets",
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("cap_microusd", sa.BigInteger(), nullable=True),
        sa.Column("day_cap_microusd", sa.BigInteger(), nullable=True),
        sa.Column("drawn_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("day_drawn_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("granted_microusd", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenant_budgets")),
        schema="chargehand",
        postgresql_with={"fillfactor": "70"},
    )
    op.execute("ALTER TABLE chargehand.tenant_budgets ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.tenant_budgets FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON chargehand.tenant_budgets TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})"
    )
    op.execute(
        "CREATE POLICY supervisor ON chargehand.tenant_budgets TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    for statement in GRANTS:
        op.execute(statement)


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("tenant_budgets", schema="chargehand")
    op.drop_constraint(op.f("ck_budgets_on_exceeded"), "budgets", schema="chargehand")
    for name in ("tokens", "calls", "max_tokens", "max_calls", "on_exceeded", "allotted_day", "allotted_microusd"):
        op.drop_column("budgets", name, schema="chargehand")

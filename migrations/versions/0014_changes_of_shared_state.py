"""Who replaced which value of shared state, and when."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLE = "chargehand.shared_state_changes"


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "shared_state_changes",
        sa.Column("tenant", sa.Uuid(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("old_version", sa.BigInteger(), nullable=False),
        sa.Column("new_version", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("run", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Uuid(), nullable=True),
        sa.Column("step_key", sa.Text(), server_default="", nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("call_key", sa.Text(), nullable=True),
        sa.Column("database_user", sa.Text(), server_default=sa.text("session_user"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_shared_state_changes")),
        schema="chargehand",
    )
    op.create_index(
        "uq_shared_state_changes_version",
        "shared_state_changes",
        ["tenant", "scope", "key", "new_version"],
        unique=True,
        schema="chargehand",
    )
    # One call of a tool writes a value once, however often it is made.
    op.create_index(
        "uq_shared_state_changes_call",
        "shared_state_changes",
        ["tenant", "call_key", "scope", "key"],
        unique=True,
        schema="chargehand",
        postgresql_where=sa.text("call_key IS NOT NULL"),
    )
    op.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY")
    bound = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
    op.execute(f"CREATE POLICY tenant ON {TABLE} TO chargehand_app USING ({bound}) WITH CHECK ({bound})")
    op.execute(f"CREATE POLICY supervisor ON {TABLE} TO chargehand_supervisor USING (true) WITH CHECK (true)")
    # Nobody changes what has been written down.
    op.execute(f"GRANT SELECT, INSERT ON {TABLE} TO chargehand_app, chargehand_supervisor")


def downgrade() -> None:
    """Go back to the revision before; who changed what is forgotten."""
    op.drop_table("shared_state_changes", schema="chargehand")

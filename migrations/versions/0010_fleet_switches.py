"""What people have switched off for the whole fleet, and who did so when."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KINDS = "kind IN ('all', 'role', 'tool', 'model')"


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "switches",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(KINDS, name=op.f("ck_switches_kind")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_switches")),
        schema="chargehand",
    )
    op.create_table(
        "switch_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("database_user", sa.Text(), server_default=sa.text("session_user"), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(KINDS, name=op.f("ck_switch_changes_kind")),
        sa.CheckConstraint("change IN ('pause', 'resume')", name=op.f("ck_switch_changes_change")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_switch_changes")),
        schema="chargehand",
    )
    # They belong to no tenant: everybody obeys them, and only who may see all tenants sets them.
    op.execute("GRANT SELECT ON chargehand.switches, chargehand.switch_changes TO chargehand_app")
    op.execute("GRANT SELECT, INSERT, DELETE ON chargehand.switches TO chargehand_supervisor")
    op.execute("GRANT SELECT, INSERT ON chargehand.switch_changes TO chargehand_supervisor")


def downgrade() -> None:
    """Go back to the revision before; what was off is on again."""
    op.drop_table("switch_changes", schema="chargehand")
    op.drop_table("switches", schema="chargehand")

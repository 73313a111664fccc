"""Nobody but the journal's own trigger runs what writes deliveries as the supervisor."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision; a trigger that is there needs no right to its function."""
    op.execute("REVOKE ALL ON FUNCTION chargehand.journal_notify() FROM PUBLIC")


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("GRANT EXECUTE ON FUNCTION chargehand.journal_notify() TO PUBLIC")

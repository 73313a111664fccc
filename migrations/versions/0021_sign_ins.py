"""Browsers that signed in to the pages, looked up before a tenant is bound, by the hash of their secret."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# The secret has 256 random bits: how long the look-up takes tells nothing that helps to find another one.
HOLDER = """
CREATE FUNCTION chargehand.sign_in_holder(presented_hash bytea)
RETURNS TABLE (id uuid, tenant uuid, name text, scopes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, chargehand, pg_temp AS $$
    SELECT k.id, k.tenant, k.name, k.scopes
    FROM chargehand.sign_ins s JOIN chargehand.api_keys k ON k.id = s.key AND k.tenant = s.tenant
    WHERE s.hash = presented_hash AND s.expires_at > clock_timestamp() AND k.revoked_at IS NULL
$$
"""
GRANTS = (
    "GRANT SELECT, INSERT, DELETE ON chargehand.sign_ins TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.sign_ins TO chargehand_supervisor",
    "GRANT CREATE ON SCHEMA chargehand TO chargehand_supervisor",
    "ALTER FUNCTION chargehand.sign_in_holder(bytea) OWNER TO chargehand_supervisor",
    "REVOKE CREATE ON SCHEMA chargehand FROM chargehand_supervisor",
    "REVOKE ALL ON FUNCTION chargehand.sign_in_holder(bytea) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chargehand.sign_in_holder(bytea) TO chargehand_app",
)


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "sign_ins",
        sa.Column("hash", postgresql.BYTEA(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("key", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["key"], ["chargehand.api_keys.id"], name=op.f("fk_sign_ins_key_api_keys"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sign_ins")),
        schema="chargehand",
    )
    op.create_index("ix_sign_ins_tenant", "sign_ins", ["tenant", "expires_at"], unique=False, schema="chargehand")
    op.execute("ALTER TABLE chargehand.sign_ins ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.sign_ins FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON chargehand.sign_ins TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})")
    op.execute(
        "CREATE POLICY supervisor ON chargehand.sign_ins TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    for statement in (HOLDER, *GRANTS):
        op.execute(sa.text(statement.replace(":", r"\:")))


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("DROP FUNCTION chargehand.sign_in_holder(bytea)")
    op.drop_table("sign_ins", schema="chargehand")

"""Keys of the HTTP API, and an index for pages of runs.

A key is looked up before a tenant is bound: by a function that takes its hash and gives nothing without it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

BOUND = "tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid"
# Both hashes are hashed again with a new nonce, so that the time of the comparison tells nothing of the stored one.
# When it was last used is written at most once a minute: a busy key is no hot row.
HOLDER = """
CREATE FUNCTION chargehand.api_key_holder(presented_prefix text, presented_hash bytea)
RETURNS TABLE (id uuid, tenant uuid, name text, scopes text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, chargehand, pg_temp AS $$
DECLARE
    nonce bytea := uuid_send(gen_random_uuid());
    known chargehand.api_keys;
BEGIN
    SELECT * INTO known FROM chargehand.api_keys k WHERE k.prefix = presented_prefix;
    IF NOT FOUND OR known.revoked_at IS NOT NULL
        OR sha256(known.hash || nonce) <> sha256(presented_hash || nonce) THEN
        RETURN;
    END IF;
    IF known.last_used_at IS NULL OR known.last_used_at < clock_timestamp() - interval '1 minute' THEN
        UPDATE chargehand.api_keys k SET last_used_at = clock_timestamp() WHERE k.id = known.id;
    END IF;
    RETURN QUERY SELECT known.id, known.tenant, known.name, known.scopes;
END $$
"""
GRANTS = (
    # The hash is written and never read: it is compared where the owner of the function may.
    "GRANT SELECT (id, tenant, name, prefix, scopes, created_at, last_used_at, revoked_at), INSERT,"
    " UPDATE (revoked_at) ON chargehand.api_keys TO chargehand_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chargehand.api_keys TO chargehand_supervisor",
    "GRANT CREATE ON SCHEMA chargehand TO chargehand_supervisor",
    "ALTER FUNCTION chargehand.api_key_holder(text, bytea) OWNER TO chargehand_supervisor",
    "REVOKE CREATE ON SCHEMA chargehand FROM chargehand_supervisor",
    "REVOKE ALL ON FUNCTION chargehand.api_key_holder(text, bytea) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chargehand.api_key_holder(text, bytea) TO chargehand_app",
)


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", postgresql.BYTEA(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        schema="chargehand",
    )
    op.create_index("uq_api_keys_prefix", "api_keys", ["prefix"], unique=True, schema="chargehand")
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"], unique=False, schema="chargehand")
    op.create_index("ix_runs_created_at", "runs", ["tenant", "created_at", "id"], unique=False, schema="chargehand")
    op.execute("ALTER TABLE chargehand.api_keys ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE chargehand.api_keys FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON chargehand.api_keys TO chargehand_app USING ({BOUND}) WITH CHECK ({BOUND})")
    op.execute(
        "CREATE POLICY supervisor ON chargehand.api_keys TO chargehand_supervisor USING (true) WITH CHECK (true)"
    )
    for statement in (HOLDER, *GRANTS):
        op.execute(sa.text(statement.replace(":", r"\:")))


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("DROP FUNCTION chargehand.api_key_holder(text, bytea)")
    op.drop_index("ix_runs_created_at", table_name="runs", schema="chargehand")
    op.drop_table("api_keys", schema="chargehand")

"""Alembic's entry: run the migrations on the connection that `chargehand.orchestrator.schema` hands over."""

from alembic import context

from chargehand.orchestrator.schema import METADATA, is_declared, is_ours

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    version_table_schema="chargehand",
    include_schemas=True,
    include_name=is_ours,
    include_object=is_declared,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()

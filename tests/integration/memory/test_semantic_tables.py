"""The tables of memory as Postgres has them."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, create_engine, make_url, text

from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE
from chargehand.memory.semantic_tables import Embedding, Memory, RoleVersion, made_by_ddl
from chargehand.memory.state_tables import SharedState

TABLES = [model.__table__ for model in (Memory, Embedding, RoleVersion, SharedState)]
NAMES = {table.name for table in TABLES}


def test_the_database_has_what_the_metadata_says(database_url: str) -> None:
    metadata = MetaData()
    for table in TABLES:
        table.to_metadata(metadata)

    def include(item: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        known = kind != "table" or name in NAMES
        return known and not (reflected and made_by_ddl(kind, name))

    # With its usual search path: Alembic gives the schema of the path's first entry no name.
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True, "include_object": include})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_lexical_function_is_the_supervisors_and_closed_to_the_public(owner: Engine) -> None:
    with owner.connect() as connection:
        row = connection.execute(
            text(
                "SELECT pg_get_userbyid(proowner) AS owner, prosecdef, proconfig, proacl::text AS acl "
                "FROM pg_proc WHERE proname = 'lexical_recall'"
            )
        ).one()
    assert row.owner == SUPERVISOR_ROLE
    assert row.prosecdef
    assert row.proconfig == ["search_path=pg_catalog, chargehand, pg_temp", "enable_seqscan=off"]
    assert f"{APP_ROLE}=X/" in row.acl
    assert "{=X/" not in row.acl
    assert ",=X/" not in row.acl


def test_both_tables_are_spread_over_all_partitions(owner: Engine) -> None:
    with owner.connect() as connection:
        names = connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")).all()
    assert len(names) == 2 * 16
    assert all(made_by_ddl("table", name) for name in names)
    assert not any(made_by_ddl("table", name) for name in NAMES)


def test_workers_cannot_reach_a_partition_around_the_policy(owner: Engine) -> None:
    with owner.connect() as connection:
        allowed = connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' "
                "AND has_table_privilege(:role, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')"
            ),
            {"role": APP_ROLE},
        ).all()
    assert allowed == []

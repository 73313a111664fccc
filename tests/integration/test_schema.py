"""The schema goes up from empty, down to nothing, and is what the code says."""

import ast
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from chargehand.memory.database import APP_ROLE, SCHEMA, open_engine, tenant_session
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.schema import MIGRATIONS, differences, dismantle, migrate
from chargehand.orchestrator.settings import DEFAULT_TENANT


def test_the_schema_goes_up_from_empty_down_again_and_up(empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert differences(empty_database_url) == []
    dismantle(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'", [SCHEMA]
        ).fetchall()
        functions = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = %s::regnamespace", [SCHEMA]
        ).fetchall()
    assert left == [("alembic_version",)]
    assert functions == []
    migrate(empty_database_url)
    migrate(empty_database_url)
    assert differences(empty_database_url) == []


def test_no_migration_changes_when_the_code_does() -> None:
    # A migration that imports from us makes another schema next year than it made on the servers that have it.
    versions = sorted((MIGRATIONS / "versions").glob("*.py"))
    assert len(versions) > 1
    assert [file.name for file in versions if "chargehand." in "\n".join(imports_of(file))] == []


def imports_of(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def test_each_revision_can_be_taken_back_alone(empty_database_url: str) -> None:
    migrate(empty_database_url)
    dismantle(empty_database_url, revision="0001")
    with psycopg.connect(empty_database_url) as connection:
        columns = connection.execute(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = %s "
            "AND (table_name, column_name) IN (('runs', 'schema_version'), ('pools', 'since'))",
            [SCHEMA],
        ).fetchall()
        assert columns == []
        assert key_of(connection, "signals") == ["step", "wait_id"]
    migrate(empty_database_url)
    assert differences(empty_database_url) == []
    with psycopg.connect(empty_database_url) as connection:
        # Alembic compares neither keys nor what an index is made with.
        assert key_of(connection, "signals") == ["tenant", "step", "wait_id"]
        assert key_of(connection, "settlements") == ["tenant", "call"]
        options = connection.execute(
            "SELECT DISTINCT i.reloptions FROM pg_inherits JOIN pg_class i ON i.oid = inhrelid "
            "WHERE inhparent = 'chargehand.ix_memories_tsv'::regclass"
        ).fetchall()
    assert options == [(["fastupdate=off"],)]


def key_of(connection: psycopg.Connection, table: str) -> list[str]:
    rows = connection.execute(
        "SELECT a.attname FROM pg_index i JOIN unnest(i.indkey) WITH ORDINALITY AS k(number, position) ON true "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number "
        "WHERE i.indisprimary AND i.indrelid = %s::regclass ORDER BY k.position",
        [f"{SCHEMA}.{table}"],
    ).fetchall()
    return [name for (name,) in rows]


def test_every_table_with_a_tenant_has_row_level_security_forced(empty_database_url: str) -> None:
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        open_tables = connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' "
            "WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
            "AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
            [SCHEMA],
        ).fetchall()
    assert open_tables == []


def test_an_unbound_session_sees_nothing_and_cannot_read_a_partition(empty_database_url: str) -> None:
    migrate(empty_database_url)
    engine = open_engine(empty_database_url, role=APP_ROLE)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0
    with pytest.raises(ProgrammingError, match="permission denied"), tenant_session(engine, DEFAULT_TENANT) as session:
        session.execute(text("SELECT * FROM memories_p00"))
    engine.dispose()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="Postgres does not answer"):
        migrate("postgresql://nobody@127.0.0.1:1/none")

"""The database schema: bring it up to date, take it down, compare it with the tables in code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, ForeignKeyConstraint, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import SchemaItem

from chargehand.memory import semantic_tables as memory_tables
from chargehand.memory import state_tables
from chargehand.memory import tables as journal_tables
from chargehand.memory.database import SCHEMA, Base
from chargehand.orchestrator import keys, schedules, sign_ins, switches, tables
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.webhooks import tables as webhook_tables

# The modules above fill it.
METADATA = Base.metadata
TABLE_MODULES = (
    journal_tables, memory_tables, keys, schedules, sign_ins, state_tables, switches, tables, webhook_tables,
)  # fmt: skip
MIGRATIONS = Path(__file__).parents[1] / "migrations"
# Two processes that migrate at once take turns.
_MIGRATION_LOCK = 7_221_846_213


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the schema to `revision`; does nothing when it is there.

    Raises `Unavailable` when the server does not answer, `UserError` when the user may not create the schema.
    """
    _run(database_url, lambda config: command.upgrade(config, revision))


def dismantle(database_url: str, *, revision: str = "base") -> None:
    """Take the schema down to `revision`."""
    _run(database_url, lambda config: command.downgrade(config, revision))


def differences(database_url: str) -> list[Any]:
    """What the database has otherwise than the tables in code; empty when they agree."""
    with _connect(database_url) as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": is_ours,
                "include_object": is_declared,
                "version_table_schema": SCHEMA,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        return list(compare_metadata(context, METADATA))


def is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Whether Alembic looks at this object: our schema, without the partitions of a table."""
    if kind == "schema":
        return name == SCHEMA
    if kind == "table":
        return f"{SCHEMA}.{name}" in METADATA.tables
    return True


def is_declared(item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Whether Alembic compares this object: not the keys that Postgres itself adds for each partition."""
    if reflected and isinstance(item, ForeignKeyConstraint):
        return all(element.target_fullname.rpartition(".")[0] in METADATA.tables for element in item.elements)
    return True


@contextmanager
def _connect(database_url: str) -> Iterator[Connection]:
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, connect_args={"connect_timeout": 3}, poolclass=NullPool)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise Unavailable(f"Postgres does not answer ({str(error.orig).strip()}); start it, then try again.") from error
    with connection:
        yield connection


def _run(database_url: str, act: Callable[[Config], None]) -> None:
    with _connect(database_url) as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
        try:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            act(config)
            connection.commit()
        except DBAPIError as error:
            raise UserError(
                f"The schema could not be migrated ({str(error.orig).strip()}); "
                "use a database user who may create schemas, roles and the vector extension."
            ) from error
        finally:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})"))
            connection.commit()

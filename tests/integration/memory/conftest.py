"""A database with the tables of memory, used as a worker uses it: as its role, under row-level security."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from chargehand.memory.database import APP_ROLE, SCHEMA, SUPERVISOR_ROLE, Base, open_engine, tenant_session
from chargehand.memory.embedder import Embedder, load_embedder
from chargehand.memory.semantic_tables import MEMORY_DDL, Embedding, Memory, RoleVersion, SharedState

OpenSession = Callable[[], AbstractContextManager[Session]]


TABLES = [model.__table__ for model in (Memory, Embedding, RoleVersion, SharedState)]
SETUP = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    f"CREATE SCHEMA {SCHEMA}",
    *(
        f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        for role in (APP_ROLE, SUPERVISOR_ROLE)
    ),
    f"GRANT USAGE ON SCHEMA {SCHEMA} TO {APP_ROLE}, {SUPERVISOR_ROLE}",
)


@pytest.fixture(scope="module")
def database_url(empty_database_url: str) -> str:
    """A database with the tables of memory alone, protected as the migration protects every table with a tenant."""
    owner = open_engine(empty_database_url)
    with owner.begin() as connection:
        for statement in SETUP:
            connection.execute(text(statement))
        Base.metadata.create_all(connection, tables=TABLES)
        for statement in MEMORY_DDL:
            connection.exec_driver_sql(statement)
        for table in TABLES:
            name = f"{SCHEMA}.{table.name}"
            for statement in (
                f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
                f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
                f"CREATE POLICY tenant ON {name} TO {APP_ROLE} "
                "USING (tenant = nullif(current_setting('chargehand.tenant', true), '')::uuid)",
                f"CREATE POLICY supervisor ON {name} TO {SUPERVISOR_ROLE} USING (true)",
            ):
                connection.execute(text(statement))
    owner.dispose()
    return empty_database_url


@pytest.fixture(scope="module")
def engine(database_url: str) -> Iterator[Engine]:
    """Connections as the role of workers."""
    engine = open_engine(database_url, role=APP_ROLE)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def owner(database_url: str) -> Iterator[Engine]:
    """Connections as the owner of the tables."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def tenant() -> UUID:
    """A tenant that no other test uses."""
    return uuid4()


@pytest.fixture
def open_session(engine: Engine, tenant: UUID) -> OpenSession:
    """Opens a transaction bound to the tenant."""
    return lambda: tenant_session(engine, tenant)


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The real model."""
    return load_embedder()

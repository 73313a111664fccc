"""A database with the tables of memory, used as a worker uses it: as its role, under row-level security."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.memory.embedder import Embedder, load_embedder

OpenSession = Callable[[], AbstractContextManager[Session]]


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

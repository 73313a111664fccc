"""A database with the tables of memory, used as a worker uses it: as its role, under row-level security."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.database import APP_ROLE, open_engine, tenant_session
from chargehand.memory.embedder import Embedder, load_embedder
from chargehand.memory.keyspace import connect
from chargehand.orchestrator.laptop.services import Valkey

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


class Node:
    """One of several independent Redis servers: a process of its own, which can be stopped, killed and emptied."""

    def __init__(self, server: Valkey) -> None:
        self.server = server
        self.client = connect(server.url, connect_timeout_seconds=0.2, socket_timeout_seconds=0.2, retries=0)

    def freeze(self) -> None:
        """SIGSTOP it: it is reachable and silent."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it."""
        os.kill(self.server.pid, signal.SIGCONT)

    def restore(self) -> None:
        """Up and empty, whatever was done to it."""
        if self.server.is_running:
            self.thaw()
            self.client.flushall()
        else:
            self.server.restart()


@pytest.fixture(scope="module")
def five_servers() -> Iterator[list[Node]]:
    """Five Valkey processes for a module; tests ask for `nodes`."""
    home = Path(tempfile.mkdtemp(prefix="ch-nodes-", dir="/tmp"))
    home.chmod(0o711)
    servers: list[Node] = []
    try:
        servers.extend(Node(Valkey.start(home / str(number))) for number in range(5))
        yield servers
    finally:
        for node in servers:
            node.client.close()
            # A stopped process does not end when it is asked to.
            if node.server.is_running:
                node.server.kill()
        shutil.rmtree(home)


@pytest.fixture
def nodes(five_servers: list[Node]) -> Iterator[list[Node]]:
    """Five empty nodes that are up; put right again after the test."""
    yield five_servers
    for node in five_servers:
        node.restore()

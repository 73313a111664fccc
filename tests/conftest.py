"""Real services for tests: one embedded Postgres and Valkey for each test process, a fresh database for each module."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import redis

from chargehand.orchestrator.laptop.services import Postgres, Valkey
from chargehand.orchestrator.settings import load_settings

POLL_SECONDS = 0.02

# Two busy cores make single examples slow: a test's own time-out says when it hangs.
hypothesis.settings.register_profile("chargehand", deadline=None)
hypothesis.settings.load_profile("chargehand")


class WaitUntil(Protocol):
    """Wait for a condition, or fail with a message."""

    def __call__(self, condition: Callable[[], object], timeout_seconds: float = 10.0, message: str = "") -> None:
        """Poll `condition` until it is true; raise `AssertionError` after `timeout_seconds`."""


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """A function that waits for a condition with a deadline; never sleep for luck."""

    def wait(condition: Callable[[], object], timeout_seconds: float = 10.0, message: str = "") -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"Not within {timeout_seconds} s: {message or condition!r}")
            time.sleep(POLL_SECONDS)

    return wait


@pytest.fixture(autouse=True)
def _settings_are_read_anew() -> Iterator[None]:
    """A process reads its settings once: what one test has set must not be another's."""
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


@pytest.fixture
def laptop_home() -> Iterator[Path]:
    """An empty home with a path short enough for a Unix socket, reachable for the account of root's Postgres."""
    home = _make_home()
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def _session_home() -> Iterator[Path]:
    home = _make_home()
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres(_session_home: Path) -> Iterator[Postgres]:
    """The embedded Postgres of this test process. Tests that stop it start one of their own in `laptop_home`."""
    server = Postgres.start(_session_home)
    yield server
    # Nothing in it is needed again.
    server.stop("immediate")


@pytest.fixture(scope="session")
def valkey(_session_home: Path) -> Iterator[Valkey]:
    """The embedded Valkey of this test process. Tests that kill it start one of their own in `laptop_home`."""
    server = Valkey.start(_session_home)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A database of this module without tables."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.url_of(name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database_url(empty_database_url: str) -> str:
    """A database of this module with the current schema; tests tell their rows apart by run or tenant."""
    from chargehand.orchestrator.schema import migrate

    migrate(empty_database_url)
    return empty_database_url


@pytest.fixture
def redis_url(valkey: Valkey) -> Iterator[str]:
    """The URL of an empty Valkey, emptied again after the test."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield valkey.url
        client.flushall()


def _make_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    home.chmod(0o711)
    return home

"""Real services for tests: one embedded Postgres and Valkey for each test process, a fresh database for each module."""

import fcntl
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import redis

from chargehand.orchestrator.laptop.postgres import DATABASE
from chargehand.orchestrator.laptop.services import Postgres, Valkey
from chargehand.orchestrator.settings import load_settings

POLL_SECONDS = 0.02
# Only a test that fails waits for so long; on a machine at a load of twenty what takes one second takes ten.
PATIENCE_SECONDS = 60.0

# Two busy cores make single examples slow: a test's own time-out says when it hangs.
# The examples are the same each time, so that a change is judged by what it changes; HYPOTHESIS_PROFILE=explore looks
# for new ones, and what it finds is pinned by an `@example`.
hypothesis.settings.register_profile("chargehand", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "chargehand"))


# Rewriting the asserts of all files takes a process ten seconds: what one has rewritten is kept for the others, and for
# the next time, whatever the environment says. What a test starts keeps nothing: a module that is written anew within
# the same second, and is as long as before, would be taken for the old one.
sys.dont_write_bytecode = False
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
# What is imported stays: to look again and again for garbage in it takes four seconds of ten.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let one process at a time import a file of tests: all begin at once, and each would rewrite the same asserts."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    with collector.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_finish() -> None:
    """From now on modules are imported that tests have written, and there is garbage; see above."""
    sys.dont_write_bytecode = True
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _warnings_are_logged() -> None:
    """Celery's worker for tests sets the level of all logs; those that come after it would hear no warning."""
    logging.getLogger().setLevel(logging.WARNING)


# The last fifth of the files belongs to the quick ones, so that no process ends long after the others.
SPREAD = 0.8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix the files: those that kill processes mostly wait, the others compute, and both at once use the machine best.

    Left to itself, xdist begins with the files of many tests and ends with the long ones, which have one each.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [file for file in files.values() if file[0].get_closest_marker("system")]
    computing = [file for file in files.values() if not file[0].get_closest_marker("system")]
    every = max(1, int(len(computing) * SPREAD) // max(1, len(waiting)))
    mixed: list[list[pytest.Item]] = []
    for position, file in enumerate(computing):
        mixed += [*waiting[position // every : position // every + (position % every == 0)], file]
    mixed += waiting[-(-len(computing) // every) :]
    items[:] = [item for file in mixed for item in file]


class WaitUntil(Protocol):
    """Wait for a condition, or fail with a message."""

    def __call__(
        self, condition: Callable[[], object], timeout_seconds: float = PATIENCE_SECONDS, message: str = ""
    ) -> None:
        """Poll `condition` until it is true; raise `AssertionError` after `timeout_seconds`."""


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """A function that waits for a condition with a deadline; never sleep for luck."""

    def wait(condition: Callable[[], object], timeout_seconds: float = PATIENCE_SECONDS, message: str = "") -> None:
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
def migrated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Postgres that has the current schema and is stopped, to be copied; one for all test processes."""
    from chargehand.orchestrator.schema import migrate

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "migrated_cluster"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            home = _make_home()
            server = Postgres.start(home)
            migrate(server.url)
            server.stop()
            copy_cluster(home / "postgres", folder)
            shutil.rmtree(home)
    return folder


def copy_cluster(source: Path, target: Path) -> None:
    """Copy the files of a Postgres with their owners, whole or not at all."""
    building = target.with_name(f"{target.name}.building")
    subprocess.run(["cp", "-a", source, building], check=True)
    building.rename(target)


@pytest.fixture
def used_home(laptop_home: Path, migrated_cluster: Path) -> Path:
    """A home as it is when everything was up once: making its Postgres costs more than most tests do with it."""
    copy_cluster(migrated_cluster, laptop_home / "postgres")
    return laptop_home


@pytest.fixture(scope="session")
def postgres(_session_home: Path, migrated_cluster: Path) -> Iterator[Postgres]:
    """The embedded Postgres of this test process. Tests that stop it start one of their own in `laptop_home`."""
    copy_cluster(migrated_cluster, _session_home / "postgres")
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


@contextmanager
def _database(postgres: Postgres, template: str = "template1") -> Iterator[str]:
    """The name of a database that goes when the block ends."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        # Whoever kills the server has one of their own: here nothing is lost by not waiting for the disk.
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield name
    with psycopg.connect(postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A database of this module without tables."""
    with _database(postgres) as name:
        yield postgres.url_of(name)


@pytest.fixture(scope="session")
def _migrated(postgres: Postgres) -> Iterator[str]:
    """A database with the current schema, to be copied; nobody else connects to it, as they may to the one it is of."""
    with _database(postgres, template=DATABASE) as name:
        yield name


@pytest.fixture(scope="module")
def database_url(postgres: Postgres, _migrated: str) -> Iterator[str]:
    """A database of this module with the current schema; tests tell their rows apart by run or tenant."""
    with _database(postgres, template=_migrated) as name:
        yield postgres.url_of(name)


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

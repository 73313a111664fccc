"""Real processes: one whole laptop for each test process, shared by the tests that do not break it for others."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The chaos package is a program of its own (`make chaos`) and no part of what is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.machine import Fleet, Machine, machine

from tests.conftest import copy_cluster


@pytest.fixture(scope="module")
def home(migrated_cluster: Path) -> Iterator[Path]:
    """A home of this module, its path short enough for a Unix socket, its Postgres with the current schema already."""
    folder = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    folder.chmod(0o711)
    copy_cluster(migrated_cluster, folder / "postgres")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """Which processes the module needs; modules override it."""
    return Fleet()


@pytest.fixture(scope="module")
def laptop(home: Path, fleet: Fleet) -> Iterator[Machine]:
    """The module's laptop."""
    with machine(home, fleet) as running:
        yield running


@pytest.fixture(scope="module")
def workspace(home: Path) -> Path:
    """A git repository with a little to read."""
    folder = home / "workspace"
    folder.mkdir()
    (folder / "login.py").write_text("def check_password(shop, password):\n    return shop.password == password\n")
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm x"
    subprocess.run(commit, shell=True, cwd=folder, check=True)
    return folder

"""The demo's repository: a copy of `examples/parcel_desk` as a git repository, the same commit each time."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chargehand.orchestrator.errors import InvalidWorkspace, Unavailable

EXAMPLE = Path("examples") / "parcel_desk"
# Fixed, so that the commit, and with it every finding's place, is the same in each demo.
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Parcel Desk",
    "GIT_AUTHOR_EMAIL": "parcel.desk@example.invalid",
    "GIT_AUTHOR_DATE": "2026-01-05T09:00:00+00:00",
    "GIT_COMMITTER_NAME": "Parcel Desk",
    "GIT_COMMITTER_EMAIL": "parcel.desk@example.invalid",
    "GIT_COMMITTER_DATE": "2026-01-05T09:00:00+00:00",
    # The user's own settings (signing, hooks, line ends) would give another commit.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C.UTF-8",
}
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache", ".ruff_cache", ".git")


@contextmanager
def demo_workspace() -> Iterator[Path]:
    """The repository while the block runs; raises `InvalidWorkspace` outside of a checkout."""
    example = example_folder()
    with tempfile.TemporaryDirectory(prefix="chargehand-demo-") as folder:
        yield make_repository(example, Path(folder) / "parcel_desk")


def example_folder() -> Path:
    """`examples/parcel_desk` of this checkout; an installed package has none."""
    example = Path(__file__).resolve().parents[2] / EXAMPLE
    if not example.is_dir():
        raise InvalidWorkspace(
            f"The demo's repository {EXAMPLE} is not part of an installed package; run it in a checkout of "
            "Chargehand, or name a repository of yours with --workspace PATH."
        )
    return example


def make_repository(example: Path, target: Path) -> Path:
    """A copy of the example with one commit."""
    shutil.copytree(example, target, ignore=_LEFT_OUT)
    for arguments in (
        ("init", "--quiet", "--template=", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "Parcel Desk as it is"),
    ):
        _git(target, *arguments)
    return target


def _git(folder: Path, *arguments: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**inherited, **_IDENTITY},
        )
    except FileNotFoundError as error:
        raise Unavailable("git is not installed; install it, then run the demo again.") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"git {arguments[0]} in {folder} failed: {error.stderr.strip()}") from error

"""What `.ci/run` makes of tests that fail: once more by themselves, if they are few."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

RUN = Path(__file__).parents[2] / ".ci" / "run"
MAKEFILE = """
setup check docs test-long test-browser test-embedders build/embedders/.set-up:
\t@:
test:
\t@.venv/bin/python -m pytest -q --rootdir . test_them.py $(ARGS)
"""
# They fail the first time, as if somebody had taken their core away.
UNSTEADY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({number}))
def test_unsteady(number):
    seen = Path(f"seen-{{number}}")
    first = not seen.exists()
    seen.touch()
    assert not first
"""
BROKEN = """
def test_broken():
    assert False
"""


def ci(folder: Path, tests: str) -> "subprocess.CompletedProcess[str]":
    """The script's own run in a tree with nothing but these tests."""
    (folder / ".ci").mkdir()
    shutil.copy(RUN, folder / ".ci" / "run")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "test_them.py").write_text(tests)
    # All packages are said to be there: a test installs nothing.
    environment = {**os.environ, "BASH_FUNC_dpkg%%": "() { :; }", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith(("PYTEST_XDIST", "MAKE"))}
    return subprocess.run(
        ["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_few_tests_that_pass_alone_are_named_and_forgiven(tmp_path):
    ended = ci(tmp_path, UNSTEADY.format(number=2))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "UNSTEADY" in ended.stderr
    assert "test_them.py::test_unsteady[0]" in ended.stderr
    assert "test_them.py::test_unsteady[1]" in ended.stderr


def test_a_test_that_fails_again_alone_fails(tmp_path):
    ended = ci(tmp_path, UNSTEADY.format(number=1) + BROKEN)
    assert ended.returncode == 1
    assert "FAILED: make test" in ended.stderr
    assert "UNSTEADY" not in ended.stderr


def test_many_failures_are_no_accident(tmp_path):
    ended = ci(tmp_path, UNSTEADY.format(number=5))
    assert ended.returncode == 1
    assert "once more by itself" not in ended.stdout

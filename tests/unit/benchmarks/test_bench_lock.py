"""What the benchmarks need beyond everything else: pinned, apart, and never in the environment of the tests."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.peers import DISTRIBUTIONS

ROOT = Path(__file__).parents[3]


def lines(lock):
    return [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("# ")]


def names(lock):
    return {canonicalize_name(line.partition("==")[0]) for line in lines(lock)}


def test_every_line_of_the_lock_is_a_name_and_an_exact_version():
    for line in lines("requirements-bench.lock"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line), line


def test_the_lock_satisfies_the_extra_of_pyproject():
    locked = {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines("requirements-bench.lock"))
    }
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
    for requirement in map(Requirement, extra):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), "run `make lock`"
    assert {canonicalize_name(Requirement(text).name) for text in extra} == set(DISTRIBUTIONS)


def test_no_package_is_in_both_locks():
    assert names("requirements.lock") & names("requirements-bench.lock") == set()

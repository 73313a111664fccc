"""The lock file is made of exact versions that fit pyproject.toml, and every make target explains itself."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def locked_versions():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_every_line_of_the_lock_is_a_name_and_an_exact_version():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line), line
        assert "://" not in line


def test_the_lock_satisfies_pyproject():
    locked = locked_versions()
    missing = [
        str(requirement)
        for requirement in wanted()
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"))
    ]
    assert missing == [], "run `make lock`"


def make(*arguments):
    # The make that runs these tests must not talk to the one that is tested.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    done = subprocess.run(["make", "-C", ROOT, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_help_documents_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
    documented = set(re.findall(r"^ +make ([a-z-]+) ", make("help"), re.MULTILINE))
    assert documented == phony
    assert {"help", "setup", "demo", "up", "test", "check", "bench", "chaos", "clean"} <= phony


def test_make_demo_passes_a_goal_with_quotes_and_dollars_as_it_was_typed(tmp_path):
    program = tmp_path / "bin" / "chargehand"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".set-up").touch()
    goal = """Find "O'Hara" for $5"""

    output = make("--no-print-directory", "demo", f"VENV={tmp_path}", f"GOAL={goal}", "WORKSPACE=/a b", "KILL=1")

    assert output.splitlines() == ["demo", "--kill", "--workspace", "/a b", "--goal", goal]

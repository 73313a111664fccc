"""`chargehand roles` of files, without a server."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chargehand.orchestrator.cli import exits, invoke
from chargehand.orchestrator.cli import roles as command
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.offers import Offer, Offers
from chargehand.orchestrator.settings import load_settings

READ = Offer(effect="pure", parameters=("path",), required=("path",), takes_context=False)
OFFERS = Offers(scripts={}, tools={"read_file": READ}, outputs=("submit_answer",))
ROLE = """---
name: postmaster
description: Knows the post.
pool: research
tier: small
tools: [read_file]
output: submit_answer
---

Answer.
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr(command, "ask_workers", lambda: OFFERS)
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path / "home"))
    folder = tmp_path / "roles"
    folder.mkdir()
    monkeypatch.setenv("CHARGEHAND_ROLES_PATH", str(folder))
    load_settings.cache_clear()
    yield folder
    load_settings.cache_clear()


def test_a_role_of_the_users_is_listed_and_what_it_takes_the_place_of_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "postmaster.md").write_text(ROLE)
    (folder / "researcher.md").write_text(ROLE.replace("postmaster", "researcher"))

    assert invoke(["roles", "list"]) == exits.OK
    out = capsys.readouterr().out
    assert "Knows the post." in out
    assert f"2 roles from {folder}" in out
    assert f"researcher: {folder}/researcher.md takes the place of " in out

    assert invoke(["roles", "--json"]) == exits.OK
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["postmaster"]["overrides"] == []
    assert listed["researcher"]["overrides"][0].endswith("workers/roles/researcher.md")


def test_roles_in_a_git_repository_of_the_users_have_its_commit_until_their_file_changes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def listed() -> dict[str, object]:
        assert invoke(["roles", "list", "--json"]) == exits.OK
        return next(one for one in json.loads(capsys.readouterr().out) if one["name"] == "postmaster")

    file = folder / "postmaster.md"
    file.write_text(ROLE)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "roles")

    committed = listed()
    assert committed["commit"] == git("rev-parse", "HEAD")
    assert committed["hash"] == git("rev-parse", "HEAD:postmaster.md")

    file.write_text(ROLE.replace("Answer.", "Answer in one line."))
    changed = listed()
    assert changed["commit"] is None
    assert changed["hash"] == git("hash-object", "postmaster.md")


def test_the_roles_of_this_installation_are_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    load_settings.cache_clear()
    assert invoke(["roles", "check"]) == exits.OK


def test_every_problem_is_told_with_its_file_and_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, *changes: tuple[str, str]) -> None:
        text = ROLE.replace("postmaster", name)
        for old, new in changes:
            text = text.replace(old, new)
        (folder / f"{name}.md").write_text(text)

    write("a", ("tier: small", "tier: huge"), ("pool: research", "pool: 7\nmax_turns: 99\nturns: 3"))
    write("b", ("[read_file]", "[teleport]"), ("submit_answer", "mystery"), ("pool: research", "pool: nowhere"))
    write("c", ("pool: research", "approve: [pay]\npool: research"))
    write("d", ("pool: research", "pool: research\npool: audit"))
    write("e", (ROLE.replace("postmaster", "e"), "Just do it.\n"))
    write("f", ("\nAnswer.\n", ""))
    write("g", ("tier: small", "tier: [small"))
    write("h", ("name: h", "name: c"))
    (folder / "README.md").write_text("# Not a role\n")

    assert invoke(["roles", "check", str(folder)]) == exits.FAILED

    *lines, verdict = capsys.readouterr().out.replace(f"{folder}/", "").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["a.md:4", "pool"],
        ["a.md:5", "max_turns"],
        ["a.md:6", "turns"],
        ["a.md:7", "tier"],
        ["b.md:4", "pool"],
        ["b.md:6", "tools"],
        ["b.md:7", "output"],
        ["c.md:4", "approve names 'pay', which is none of its tools; add it to tools"],
        ["d.md:5", "pool"],
        ["e.md:1", "no front matter; begin the file with '---', the fields, and '---'"],
        ["f.md:8", "no instructions; write them below the front matter"],
        ["g.md:6", "the front matter is not YAML"],
        ["h.md:2", "name"],
    ]
    assert verdict == "8 roles checked: 13 problems."


def test_without_workers_the_fields_are_checked_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Offers:
        raise Unavailable("Workers cannot be asked for their scripts: no such module.")

    monkeypatch.setattr(command, "ask_workers", fail)
    (folder / "a.md").write_text(ROLE.replace("[read_file]", "[teleport]"))
    assert invoke(["roles", "check", str(folder), "--json"]) == exits.OK
    said = capsys.readouterr()
    assert json.loads(said.out) == {"ok": True, "files": 1, "problems": []}
    assert "Tools and outputs are not checked." in said.err


def test_a_file_and_a_name_are_shown_and_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "postmaster.md").write_text(ROLE)
    other = folder.parent / "other.md"
    other.write_text(ROLE.replace("Answer.", "Answer in one line."))

    assert invoke(["roles", "show", "postmaster"]) == exits.OK
    assert capsys.readouterr().out == ROLE
    assert invoke(["roles", "diff", "postmaster", str(other)]) == exits.OK
    assert capsys.readouterr().out.splitlines()[-2:] == ["-Answer.", "+Answer in one line."]
    assert invoke(["roles", "diff", "postmaster", "postmaster"]) == exits.OK
    assert capsys.readouterr().out == "The same text.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nobody"), "No role is named 'nobody'; there are: "),
        (("show", "none/at/all.md"), "none/at/all.md cannot be read"),
        (("show", "researcher@xyz"), "'xyz' is no beginning of a hash"),
        (("check", "none/at/all"), "none/at/all does not exist"),
    ],
)
def test_wrong_requests_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert invoke(["roles", *arguments]) == exits.WRONG_REQUEST
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_of_the_path_that_is_not_there_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARGEHAND_ROLES_PATH", f"{folder}:/nowhere")
    load_settings.cache_clear()
    assert invoke(["roles"]) == exits.WRONG_REQUEST
    assert "/nowhere is not a directory" in capsys.readouterr().err

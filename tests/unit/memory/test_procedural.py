"""Roles: what a file may say, and what its hash is."""

import os
import subprocess
from pathlib import Path

import pytest

from chargehand.memory import procedural
from chargehand.memory.procedural import (
    InvalidRole,
    RoleNotFound,
    choose,
    git_blob_hash,
    load_roles,
    parse_role,
    place_roles,
)

TRIAGE = """---
name: triage
description: Decides which findings are real.
pool: audit
tier: small
tools: [read_file, recall]
max_turns: 6
output: submit_verdicts
---

You decide about findings.

Name the code.
"""


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def test_a_role_is_its_front_matter_and_its_text(tmp_path: Path) -> None:
    (tmp_path / "triage.md").write_text(TRIAGE)
    (tmp_path / "README.txt").write_text("no role")

    roles = load_roles(tmp_path)

    role = roles["triage"]
    assert list(roles) == ["triage"]
    assert (role.pool, role.tier, role.tools, role.max_turns) == ("audit", "small", ("read_file", "recall"), 6)
    assert role.output == "submit_verdicts"
    assert role.instructions == "You decide about findings.\n\nName the code."
    assert role.commit is None


def test_a_role_names_the_tools_that_a_person_approves_and_they_are_its_own() -> None:
    written = TRIAGE.replace("max_turns: 6", "approve: [recall]\nexpires: {after_seconds: 60, then: skip}")
    role = parse_role(written, origin="triage.md")
    assert role.approve == ("recall",)
    assert role.expires is not None
    assert (role.expires.after_seconds, role.expires.then) == (60, "skip")
    with pytest.raises(InvalidRole, match="approve names 'pay', which is none of its tools"):
        parse_role(written.replace("approve: [recall]", "approve: [pay]"), origin="triage.md")


def test_the_hash_is_gits(tmp_path: Path) -> None:
    (tmp_path / "triage.md").write_text(TRIAGE)
    assert parse_role(TRIAGE, origin="t").blob_hash == git(tmp_path, "hash-object", "triage.md")
    assert git_blob_hash(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_the_commit_is_noted_while_the_file_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "triage.md"
    path.write_text(TRIAGE)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "roles")

    assert load_roles(tmp_path)["triage"].commit == git(tmp_path, "rev-parse", "HEAD")
    path.write_text(TRIAGE + "More.\n")
    assert load_roles(tmp_path)["triage"].commit is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("You decide.", "no front matter"),
        ("---\nname: x\n", "no front matter"),
        (TRIAGE.replace("tier: small", "tier: huge"), "tier"),
        (TRIAGE.replace("max_turns: 6", "max_turns: 21"), "max_turns"),
        (TRIAGE.replace("max_turns: 6", "turns: 6"), "turns: Extra inputs"),
        (TRIAGE.replace("name: triage", "name: Triage Role"), "name"),
        (TRIAGE.replace("output: submit_verdicts\n", ""), "output: Field required"),
        (TRIAGE.replace("tools: [read_file, recall]", "tools: [read_file"), "not YAML"),
        (TRIAGE.split("You decide")[0], "no instructions"),
        ("---\n- a\n---\ntext", "front matter"),
        ("---\nname: !!python/object/apply:os.system ['true']\n---\ntext", "not YAML"),
    ],
)
def test_a_role_that_cannot_be_used_is_named_with_its_problem(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "triage.md"
    path.write_text(text)
    with pytest.raises(InvalidRole) as raised:
        load_roles(tmp_path)
    assert str(path) in str(raised.value)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_roles_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TRIAGE)
    (tmp_path / "b.md").write_text(TRIAGE)
    with pytest.raises(InvalidRole, match="a second role is named 'triage'"):
        load_roles(tmp_path)


def test_bytes_that_are_no_text_and_folders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRole, match="is not a directory"):
        load_roles(tmp_path / "none")
    path = tmp_path / "a.md"
    path.write_bytes(b"---\n\xff\n---\n")
    with pytest.raises(InvalidRole, match="not UTF-8 at byte 4"):
        load_roles(tmp_path)
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(InvalidRole, match="70000 bytes"):
        load_roles(tmp_path)


def test_an_unknown_role_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "triage.md").write_text(TRIAGE)
    roles = load_roles(tmp_path)
    assert choose(roles, "triage").name == "triage"
    with pytest.raises(RoleNotFound, match=r"'writer'; there are: triage\."):
        choose(roles, "writer")


def test_a_role_of_an_earlier_folder_takes_the_place_of_one_of_the_same_name(tmp_path: Path) -> None:
    own, ours = tmp_path / "own", tmp_path / "ours"
    for folder in (own, ours):
        folder.mkdir()
        (folder / "triage.md").write_text(TRIAGE)
    (own / "triage.md").write_text(TRIAGE + "Mine.\n")
    (own / "README.md").write_text("# About these roles\n")
    (ours / "writer.md").write_text(TRIAGE.replace("name: triage", "name: writer"))

    placed = place_roles(own, ours)

    assert list(placed) == ["triage", "writer"]
    assert placed["triage"].role.instructions.endswith("Mine.")
    assert (placed["triage"].path, placed["triage"].overrides) == (own / "triage.md", (ours / "triage.md",))
    assert placed["writer"].overrides == ()
    assert load_roles(own, ours)["triage"] == placed["triage"].role


def test_git_is_not_asked_for_each_reading_of_a_role_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def git_without_repository(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        asked.append(arguments)
        return subprocess.CompletedProcess(arguments, returncode=129, stdout="", stderr="not a git repository")

    monkeypatch.setattr(procedural, "git", git_without_repository)
    (tmp_path / "triage.md").write_text(TRIAGE)
    first = load_roles(tmp_path)
    once = len(asked)
    assert load_roles(tmp_path) == first
    assert (first["triage"].commit, len(asked)) == (None, once)


def test_a_role_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "triage.md").write_text(TRIAGE)
    before = load_roles(tmp_path)["triage"]
    (tmp_path / "triage.md").write_text(TRIAGE + "\nAnd be brief.\n")
    after = load_roles(tmp_path)["triage"]
    assert after.instructions.endswith("And be brief.")
    assert after.blob_hash != before.blob_hash

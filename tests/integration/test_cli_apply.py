"""Putting a run's changes into a working tree: all or nothing, and never over somebody's own changes."""

import os
import subprocess

import pytest

from chargehand.orchestrator.cli import patch
from chargehand.orchestrator.cli.demo_workspace import demo_workspace, example_folder, make_repository
from chargehand.orchestrator.errors import InvalidWorkspace, UserError
from chargehand.orchestrator.facts import WorkspaceRef


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
    ).stdout


@pytest.fixture
def tree(tmp_path):
    """A repository with one committed file in a folder with a blank in its name."""
    root = tmp_path / "my tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "a b.txt").write_text("one\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "Start")
    return root


@pytest.fixture
def change(tree):
    """A patch that fits the tree."""
    (tree / "a b.txt").write_text("two\n")
    diff = git(tree, "diff")
    git(tree, "checkout", "-q", "--", ".")
    return diff


def test_changes_are_applied_and_named_but_not_committed(tree, change):
    assert patch.apply_patch(tree, change, run="r") == ("a b.txt",)
    assert (tree / "a b.txt").read_text() == "two\n"
    assert git(tree, "status", "--porcelain").startswith(b" M")


def test_a_tree_with_changes_of_its_own_is_refused(tree, change):
    (tree / "a b.txt").write_text("mine\n")
    with pytest.raises(UserError, match=r"uncommitted changes \(a b.txt\); commit or stash them"):
        patch.apply_patch(tree, change, run="r")
    assert (tree / "a b.txt").read_text() == "mine\n"


def test_files_that_git_does_not_know_are_no_changes(tree, change):
    (tree / "notes").touch()
    assert patch.apply_patch(tree, change, run="r") == ("a b.txt",)


def test_changes_that_do_not_fit_leave_the_tree_as_it_is(tree, change):
    (tree / "a b.txt").write_text("three\n")
    git(tree, "commit", "-qam", "Meanwhile")
    with pytest.raises(UserError, match="do not fit"):
        patch.apply_patch(tree, change, run="r")
    assert (tree / "a b.txt").read_text() == "three\n"


def test_a_run_that_changed_nothing_has_nothing_to_apply(tree):
    assert patch.apply_patch(tree, b"", run="r") == ()


def test_programs_that_a_repository_configures_are_not_run(tree, change, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(trap))
    git(tree, "config", "core.hooksPath", str(tmp_path))
    patch.apply_patch(tree, change, run="r")
    assert not (tmp_path / "sprung").exists()


def test_the_tree_is_the_audited_one_unless_another_is_named(tree, tmp_path):
    (tree / "below").mkdir()
    source = WorkspaceRef(source=str(tree), commit="0" * 40)
    assert patch.working_tree(None, source) == tree
    assert patch.working_tree(tree / "below", None) == tree
    with pytest.raises(InvalidWorkspace, match="--workspace PATH"):
        patch.working_tree(None, None)
    with pytest.raises(InvalidWorkspace, match="--workspace PATH"):
        patch.working_tree(None, WorkspaceRef(source="https://example.invalid/x.git", commit="0" * 40))
    with pytest.raises(InvalidWorkspace, match="is not a folder"):
        patch.working_tree(tmp_path / "nowhere", None)
    with pytest.raises(InvalidWorkspace, match="not in a git working tree"):
        patch.working_tree(tmp_path, None)


def test_a_tree_of_another_user_is_refused_with_the_way_out(tree, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InvalidWorkspace, match=r"belongs to another user.*apply as that user.*--workspace PATH"):
        patch.working_tree(tree, None)


def test_the_demo_s_repository_is_the_same_commit_each_time_whatever_the_user_configured(tmp_path, monkeypatch):
    first = git(make_repository(example_folder(), tmp_path / "one"), "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("HOME", os.devnull)
    second = git(make_repository(example_folder(), tmp_path / "two"), "rev-parse", "HEAD")
    assert first == second


def test_the_demo_s_repository_is_removed_afterwards():
    with demo_workspace() as folder:
        assert git(folder, "status", "--porcelain") == b""
    assert not folder.parent.exists()

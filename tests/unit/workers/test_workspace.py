"""A clone commits into the bare repository, and nothing of an earlier attempt is read."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from chargehand.memory.artifacts import Artifacts, Imported
from chargehand.workers.workspace import (
    Clone,
    WorkspaceBroken,
    apply_patch,
    diff_between,
    export_commit,
    open_workspace,
    remove_tree,
    sweep,
)


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, input=stdin
    ).stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.py").write_text("a = 1\n")
    (folder / "b.bin").write_bytes(bytes(range(256)))
    with open(os.fsencode(folder) + b"/caf\xe9 \n.txt", "wb") as file:
        file.write(b"odd\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Start")
    return folder


@pytest.fixture
def imported(source: Path, tmp_path: Path) -> Imported:
    return Artifacts(tmp_path / "artifacts").import_repository(str(source), run_id=uuid4())


def opened(
    imported: Imported, root: Path, *, epoch: int = 1, step_id: UUID | None = None, commit: str | None = None
) -> Clone:
    return open_workspace(
        imported.repository,
        root,
        run_id=UUID(int=1),
        step_id=step_id or UUID(int=2),
        epoch=epoch,
        commit=commit or imported.commit,
        base_commit=imported.commit,
    )


def test_a_commit_can_be_the_start_of_another_step(imported: Imported, tmp_path: Path) -> None:
    first = opened(imported, tmp_path / "w")
    (first.path / "a.py").write_text("a = 2\n")
    sha = first.commit("Change a")
    first.close()
    second = opened(imported, tmp_path / "w", step_id=UUID(int=3), commit=sha)
    assert (second.path / "a.py").read_text() == "a = 2\n"
    assert not first.path.exists()
    assert second.base_commit == imported.commit


def test_an_unchanged_tree_keeps_its_head(imported: Imported, tmp_path: Path) -> None:
    clone = opened(imported, tmp_path / "w")
    assert clone.commit("Nothing") == imported.commit


def test_the_patch_from_base_applies_to_the_users_tree(imported: Imported, source: Path, tmp_path: Path) -> None:
    clone = opened(imported, tmp_path / "w")
    (clone.path / "a.py").unlink()
    (clone.path / "b.bin").write_bytes(bytes(reversed(range(256))))
    (clone.path / "new file").write_text("n\n")
    clone.commit("Change all")
    git(source, "apply", "--check", "-", stdin=clone.diff_from_base())


def test_reset_removes_what_the_commit_does_not_know(imported: Imported, tmp_path: Path) -> None:
    clone = opened(imported, tmp_path / "w")
    (clone.path / "a.py").write_text("a = 3\n")
    clone.commit("Change a")
    (clone.path / "junk").mkdir()
    (clone.path / "junk" / "x").write_text("x")
    clone.reset(imported.commit)
    assert (clone.path / "a.py").read_text() == "a = 1\n"
    assert not (clone.path / "junk").exists()
    assert clone.head_commit == imported.commit


def test_a_patch_moves_from_one_commit_to_another(imported: Imported, tmp_path: Path) -> None:
    clone = opened(imported, tmp_path / "w")
    (clone.path / "a.py").write_text("a = 3\n")
    changed = clone.commit("Change a")
    patch = diff_between(clone.path, imported.commit, changed)
    clone.reset(imported.commit)
    assert apply_patch(clone.path, patch) == ""
    assert (clone.path / "a.py").read_text() == "a = 3\n"
    assert "does not apply" in apply_patch(clone.path, patch)


def test_a_lock_left_by_a_killed_git_does_not_stop_the_next_epoch(imported: Imported, tmp_path: Path) -> None:
    killed = opened(imported, tmp_path / "w")
    (killed.path / ".git" / "index.lock").touch()
    with pytest.raises(WorkspaceBroken, match=r"index\.lock"):
        killed.commit("Blocked")
    assert opened(imported, tmp_path / "w", epoch=2).commit("Free") == imported.commit


def test_a_sweep_removes_the_clones_of_the_dead_and_no_others(imported: Imported, tmp_path: Path) -> None:
    mine = opened(imported, tmp_path, step_id=UUID(int=3))
    program = (
        "import sys; from pathlib import Path; from uuid import UUID\n"
        "from chargehand.workers.workspace import open_workspace\n"
        "open_workspace(Path(sys.argv[1]), Path(sys.argv[2]), run_id=UUID(int=1), step_id=UUID(int=2), epoch=1,"
        " commit=sys.argv[3])\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(imported.repository), str(tmp_path), imported.commit]
    theirs = tmp_path / str(UUID(int=1)) / str(UUID(int=2)) / "1"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            # A frozen process may wake up and go on.
            other.send_signal(signal.SIGSTOP)
            assert sweep(tmp_path) == 0
            assert (theirs / "a.py").exists()
        finally:
            other.kill()

    assert sweep(tmp_path) == 1
    assert not theirs.exists()
    assert (mine.path / "a.py").exists()
    mine.close()
    assert sweep(tmp_path) == 0


def test_an_export_has_the_files_of_the_commit_and_no_git_folder(imported: Imported, tmp_path: Path) -> None:
    clone = opened(imported, tmp_path / "w")
    export_commit(clone.path / ".git", imported.commit, tmp_path / "out")
    names = sorted(os.listdir(os.fsencode(tmp_path / "out")))
    assert names == [b"a.py", b"b.bin", b"caf\xe9 \n.txt"]


def test_a_tree_with_locked_folders_and_links_is_removed_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "w" / "inner").mkdir(parents=True)
    (tmp_path / "w" / "inner" / "link").symlink_to(kept)
    (tmp_path / "w" / "inner").chmod(0)
    remove_tree(tmp_path / "w")
    assert kept.exists()
    assert not (tmp_path / "w").exists()


# --- merging ----------------------------------------------------------------------------------------------------------


def changed(imported: Imported, root: Path, name: str, text: str, *, step: int) -> str:
    """The commit of a step that wrote one file."""
    clone = opened(imported, root, step_id=UUID(int=step))
    (clone.path / name).write_text(text)
    return clone.commit(f"Step {step}")


def test_parallel_changes_of_different_files_are_merged(imported: Imported, tmp_path: Path) -> None:
    one = changed(imported, tmp_path, "a.py", "a = 2\n", step=10)
    other = changed(imported, tmp_path, "c.py", "c = 3\n", step=11)
    joined = opened(imported, tmp_path, commit=one)

    assert joined.merge(other) == ()

    assert (joined.path / "a.py").read_text() == "a = 2\n"
    assert (joined.path / "c.py").read_text() == "c = 3\n"
    parents = git(imported.repository, "log", "-1", "--format=%P", joined.head_commit).decode().split()
    assert parents == [one, other]


def test_changes_of_the_same_line_leave_markers_and_name_the_file(imported: Imported, tmp_path: Path) -> None:
    one = changed(imported, tmp_path, "a.py", "a = 2\n", step=10)
    other = changed(imported, tmp_path, "a.py", "a = 3\n", step=11)
    joined = opened(imported, tmp_path, commit=one)

    assert joined.merge(other) == ("a.py",)

    text = (joined.path / "a.py").read_text()
    assert "a = 2" in text
    assert "a = 3" in text
    assert "<<<<<<<" in text
    # Committed, so that the coder who resolves it starts from here.
    assert git(imported.repository, "show", f"{joined.head_commit}:a.py").decode() == text


def test_merging_what_is_no_commit_is_said(imported: Imported, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceBroken, match="cannot be merged"):
        opened(imported, tmp_path).merge("0" * 40)

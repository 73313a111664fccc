"""Blobs come back byte for byte; a repository is copied without running or writing anything of it."""

import os
import stat
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from chargehand.memory.artifacts import ArtifactMissing, Artifacts, Imported, RepositoryUnreadable
from chargehand.memory.git import run_git
from chargehand.memory.pathnames import is_odd, shown


def git(folder: Path, *arguments: str | bytes) -> bytes:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True).stdout


def make_repository(folder: Path, files: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Start")
    return folder


def fingerprint(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below, with content and time of change."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            found[path] = (Path(path).read_bytes(), os.lstat(path).st_mtime_ns)
    return found


def names_in(imported: Imported) -> list[bytes]:
    listing = run_git("ls-tree", "-r", "-z", "--name-only", imported.commit, git_dir=imported.repository)
    return sorted(filter(None, listing.split(b"\0")))


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def test_a_blob_comes_back_byte_for_byte(artifacts: Artifacts) -> None:
    digest = artifacts.put(b"\x00report")
    assert artifacts.get(digest) == b"\x00report"
    assert artifacts.put(b"\x00report") == digest
    assert artifacts.exists(digest)


def test_a_damaged_blob_is_refused(artifacts: Artifacts) -> None:
    digest = artifacts.put(b"report")
    (artifacts.root / "blobs" / digest[:2] / digest).write_bytes(b"edited")
    with pytest.raises(ArtifactMissing, match="damaged"):
        artifacts.get(digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "0" * 64])
def test_an_unknown_hash_is_named_in_the_error(artifacts: Artifacts, digest: str) -> None:
    with pytest.raises(ArtifactMissing, match="artifact"):
        artifacts.get(digest)


def test_every_file_name_survives_the_copy(artifacts: Artifacts, tmp_path: Path) -> None:
    names = [b"two words.py", b"new\nline.py", b"caf\xe9.py", b"sub/\xf0\x9f\x90\x8d.py", b"-dash", b'quo"te']
    source = make_repository(tmp_path / "source", dict.fromkeys(names, b"x = 1\n"))
    imported = artifacts.import_repository(str(source), run_id=uuid4())
    assert names_in(imported) == sorted(names)
    assert imported.uncommitted == ()


def test_the_source_is_not_written_even_when_dirty(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n", b"b.py": b"b\n"})
    (source / "a.py").write_text("changed\n")
    (source / "new\nfile").write_text("x")
    os.utime(source / "b.py", (1, 1))  # git status would like to refresh the index now
    before = fingerprint(source)
    imported = artifacts.import_repository(str(source), run_id=uuid4())
    assert fingerprint(source) == before
    assert imported.uncommitted == ("a.py", "new\\nfile")
    assert run_git("show", f"{imported.commit}:a.py", git_dir=imported.repository) == b"a\n"


def test_nothing_that_the_source_configures_is_executed(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n", b".gitattributes": b"*.py filter=evil diff=evil\n"})
    witness = tmp_path / "executed"
    evil = tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch {witness}\n")
    evil.chmod(0o755)
    for name in (
        "core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv",
        "diff.external", "core.sshCommand", "uploadpack.packObjectsHook", "core.alternateRefsCommand", "core.pager",
    ):  # fmt: skip
        git(source, "config", name, str(evil))
    git(source, "config", "core.hooksPath", str(tmp_path))
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (source / ".git" / "hooks").mkdir(exist_ok=True)
        (source / ".git" / "hooks" / hook).write_text(evil.read_text())
        (source / ".git" / "hooks" / hook).chmod(0o755)
    (source / "a.py").write_text("dirty\n")
    witness.unlink(missing_ok=True)
    imported = artifacts.import_repository(str(source), run_id=uuid4())
    assert imported.uncommitted == ("a.py",)
    assert not witness.exists()


def test_a_read_only_workspace_is_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    for folder, _, files in os.walk(source):
        for name in files:
            os.chmod(os.path.join(folder, name), stat.S_IRUSR)
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR)
    try:
        imported = artifacts.import_repository(str(source), run_id=uuid4())
        assert names_in(imported) == [b"a.py"]
    finally:
        for folder, _, _ in os.walk(source):
            os.chmod(folder, stat.S_IRWXU)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_another_owners_repository_is_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    for folder, folders, files in os.walk(source):
        for name in (*folders, *files, "."):
            os.lchown(os.path.join(folder, name), 12345, 12345)
    assert names_in(artifacts.import_repository(str(source), run_id=uuid4())) == [b"a.py"]


def test_the_second_import_of_a_run_keeps_the_first_commit(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    run_id = uuid4()
    first = artifacts.import_repository(str(source), run_id=run_id)
    git(source, "commit", "-q", "--allow-empty", "-m", "Later")
    assert artifacts.import_repository(str(source), run_id=run_id).commit == first.commit


def test_a_subdirectory_imports_the_whole_repository_and_says_so(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n", b"pkg/b.py": b"b\n"})
    imported = artifacts.import_repository(str(source / "pkg"), run_id=uuid4())
    assert (imported.top_level, imported.subdirectory) == (str(source), "pkg")
    assert names_in(imported) == [b"a.py", b"pkg/b.py"]


def test_linked_worktrees_bare_and_file_urls_are_repositories(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    git(source, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    git(tmp_path, "clone", "-q", "--bare", str(source), "bare.git")
    for name in (str(tmp_path / "linked"), str(tmp_path / "bare.git"), f"file://{source}"):
        imported = artifacts.import_repository(name, run_id=uuid4())
        assert names_in(imported) == [b"a.py"]
        assert imported.uncommitted == ()


def test_a_shallow_clone_is_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    git(source, "commit", "-q", "--allow-empty", "-m", "Second")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{source}", "shallow")
    assert names_in(artifacts.import_repository(str(tmp_path / "shallow"), run_id=uuid4())) == [b"a.py"]


def test_submodules_are_listed_but_not_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    inner = make_repository(tmp_path / "inner", {b"i.py": b"i\n"})
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    git(source, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "vendored")
    git(source, "commit", "-q", "-m", "Add a submodule")
    assert artifacts.import_repository(str(source), run_id=uuid4()).submodules == ("vendored",)


def test_a_folder_that_is_no_repository_is_told_how_to_become_one(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(RepositoryUnreadable, match="git init && git add -A && git commit"):
        artifacts.import_repository(str(tmp_path / "plain"), run_id=uuid4())
    assert list((artifacts.root / "repositories").iterdir()) == []


def test_a_missing_path_an_empty_repository_and_an_unknown_commit_are_told_apart(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    with pytest.raises(RepositoryUnreadable, match="does not exist"):
        artifacts.import_repository(str(tmp_path / "nowhere"), run_id=uuid4())
    with pytest.raises(RepositoryUnreadable, match="has no commits"):
        artifacts.import_repository(str(empty), run_id=uuid4())
    with pytest.raises(RepositoryUnreadable, match="lacks objects"):
        artifacts.import_repository(str(source), run_id=uuid4(), commit="1234567")
    with pytest.raises(RepositoryUnreadable, match="cannot be cloned"):
        artifacts.import_repository("http://127.0.0.1:9/none.git", run_id=uuid4())
    assert list((artifacts.root / "repositories").iterdir()) == []


def test_missing_objects_are_reported_not_half_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", {b"a.py": b"a\n"})
    blob = git(source, "rev-parse", "HEAD:a.py").decode().strip()
    (source / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(RepositoryUnreadable, match="git fsck"):
        artifacts.import_repository(str(source), run_id=uuid4())


@pytest.mark.parametrize(
    ("name", "text"), [(b"plain.py", "plain.py"), (b"caf\xe9", "caf\\xe9"), (b"a\nb", "a\\nb"), ("ü".encode(), "ü")]
)
def test_shown_names_are_printable(name: bytes, text: str) -> None:
    assert shown(name) == text
    assert is_odd(name) == (name != text.encode())

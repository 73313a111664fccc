"""What runs keep as files: blobs by content hash, and one bare git repository a run, in a folder all pools reach."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from chargehand.memory.git import StorageFull, run_git, split_z
from chargehand.memory.pathnames import shown
from chargehand.memory.sources import (
    BASE_REF,
    RepositoryUnreadable,
    Source,
    clone,
    copy_objects,
    is_remote,
    locate,
    uncommitted_files,
)

__all__ = ["ArtifactMissing", "Artifacts", "Imported", "RepositoryUnreadable", "StorageFull"]

# Enough to see what is missing from the audit; a forgotten node_modules must not fill the journal.
MAX_UNCOMMITTED_LISTED = 200

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")


class ArtifactMissing(Exception):
    """No blob of that hash is kept, or what is kept under it is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A user's repository as it was copied for one run."""

    commit: str
    """The commit that the run starts from: HEAD of the source, or the one that was asked for."""
    repository: Path
    """Our bare copy."""
    top_level: str
    """The root of the source's work tree, or the source itself when it is bare or remote."""
    subdirectory: str = ""
    """Where in the repository the given path pointed; the whole repository is imported all the same."""
    uncommitted: tuple[str, ...] = ()
    """Changed and untracked files of the source, which the run does not see; at most `MAX_UNCOMMITTED_LISTED`."""
    uncommitted_count: int = 0
    submodules: tuple[str, ...] = ()
    """Paths of submodules; their content is not imported."""


class Artifacts:
    """Blobs and bare repositories under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes) -> str:
        """Keep the bytes and give their sha256; the same bytes twice are kept once.

        The blob is complete on the disk before its name exists, so a crash leaves no half blob.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self._blob(digest)
        if path.exists():
            # Whoever removes blobs that nobody names any more sees that somebody is about to name this one.
            with suppress(FileNotFoundError):
                os.utime(path)
                return digest
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _fsync_folder(path.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(self.root) from error
            raise
        return digest

    def get(self, digest: str) -> bytes:
        """Give the bytes of that hash, compared with it, or raise `ArtifactMissing`."""
        try:
            content = self._blob(digest).read_bytes()
        except FileNotFoundError:
            raise ArtifactMissing(
                f"No artifact {digest} under {self.root}; was it erased, or does this pool use another "
                "CHARGEHAND_ARTIFACTS_DIR?"
            ) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise ArtifactMissing(f"Artifact {digest} under {self.root} is damaged: restore it from a backup.")
        return content

    def exists(self, digest: str) -> bool:
        """Whether a blob of that hash is kept."""
        return self._blob(digest).is_file()

    def moment(self) -> float:
        """Now, by the clock of the file system, which all pools share."""
        folder = self.root / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writing-") as probe:
            return os.fstat(probe.fileno()).st_mtime

    def remove(self, digest: str, *, put_before: float) -> bool:
        """Remove a blob that no run names; False when it was put since that `moment`, maybe by a run that will.

        It loses its name before its age is looked at: whoever puts the same bytes after that writes them anew.
        """
        path = self._blob(digest)
        aside = path.with_name(f".removing-{uuid4()}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return True
        if aside.stat().st_mtime >= put_before:
            aside.rename(path)
            return False
        aside.unlink()
        return True

    def remove_repository(self, run_id: UUID) -> None:
        """Remove the run's bare repository, if it has one; a fork's has its own links to what both hold."""
        shutil.rmtree(self.repository(run_id), ignore_errors=True)

    def repository(self, run_id: UUID) -> Path:
        """Where the run's bare repository is, or will be."""
        return self.root / "repositories" / f"{run_id}.git"

    def import_repository(self, source: str, *, run_id: UUID, commit: str | None = None) -> Imported:
        """Copy a repository at HEAD (or `commit`) into the run's bare one; the source is only ever read.

        Nothing that the source configures is executed, and its owner does not matter. Doing it again for the same run
        gives the commit of the first time, even if HEAD has moved.
        """
        if commit is not None and not _COMMIT.match(commit):
            raise RepositoryUnreadable(
                source, f"has no commit '{shown(commit)}'", "give a commit as hexadecimal digits"
            )
        target = self.repository(run_id)
        temporary = target.with_name(f".importing-{uuid4()}.git")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_remote(source):
                if not target.exists():
                    clone(source, temporary, commit)
                    _publish(temporary, target)
                return _described(target, top_level=source)
            local = locate(source)
            if not target.exists():
                copy_objects(source, local, temporary, commit)
                _publish(temporary, target)
            return _described(target, top_level=str(local.work_tree or local.git_dir), local=local)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(self.root) from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def fork_repository(self, source: UUID, *, run_id: UUID) -> bool:
        """Give a run a bare repository with all that another one's holds; False when that has none.

        Objects are shared by hard links: they never change, and neither repository needs the other one. A run at work
        may commit meanwhile: refs are copied first, and what they name is there before them.
        """
        origin, target = self.repository(source), self.repository(run_id)
        if not origin.is_dir():
            return False
        temporary = target.with_name(f".importing-{uuid4()}.git")
        try:
            temporary.mkdir(parents=True)
            for entry in sorted(origin.iterdir(), key=lambda path: path.name == "objects"):
                if entry.is_dir():
                    copy = _link if entry.name == "objects" else shutil.copy2
                    shutil.copytree(entry, temporary / entry.name, copy_function=copy, ignore=_unfinished)
                elif not entry.name.endswith(".lock"):
                    shutil.copy2(entry, temporary / entry.name)
            _publish(temporary, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(self.root) from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def _blob(self, digest: str) -> Path:
        if not _HASH.match(digest):
            raise ArtifactMissing(f"'{shown(digest[:80])}' is not an artifact hash; expected 64 hexadecimal digits.")
        return self.root / "blobs" / digest[:2] / digest


def _publish(temporary: Path, target: Path) -> None:
    """Give the finished copy its name; a second importer of the same run keeps the first's."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _fsync_folder(target.parent)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copy2(source, target)
    return target


def _unfinished(folder: str, names: list[str]) -> set[str]:
    """What git has not given its name yet, and may rename while it is copied."""
    del folder
    return {name for name in names if name.startswith("tmp_") or name.endswith(".lock")}


def _described(repository: Path, *, top_level: str, local: Source | None = None) -> Imported:
    commit = run_git("rev-parse", "--verify", BASE_REF, git_dir=repository).decode().strip()
    tree = split_z(run_git("ls-tree", "-r", "-z", commit, git_dir=repository))
    submodules = tuple(shown(row.split(b"\t", 1)[1]) for row in tree if row.startswith(b"160000 "))
    uncommitted = uncommitted_files(local, repository) if local is not None and local.work_tree is not None else []
    return Imported(
        commit=commit,
        repository=repository,
        top_level=shown(top_level),
        subdirectory=local.subdirectory if local is not None else "",
        uncommitted=tuple(shown(name) for name in uncommitted[:MAX_UNCOMMITTED_LISTED]),
        uncommitted_count=len(uncommitted),
        submodules=submodules,
    )


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

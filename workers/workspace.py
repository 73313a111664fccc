"""An attempt's own clone of the run's repository, made anew for each claim: a zombie edits a folder that nobody reads.

The clone borrows the objects of the run's bare repository (git's *alternates*), so it costs one checkout however long
the history is, and what it commits is written straight into the bare repository, so that any pool can start from the
sha. A killed git may leave `index.lock` behind: only in a folder that no later attempt opens.

Whoever works in a clone holds a lock on its folder, which the kernel lets go of when the process ends, however it ends:
`sweep` removes the clones of the dead and leaves those of the living and of the frozen alone.
"""

import errno
import fcntl
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from chargehand.memory.git import GitFailed, StorageFull, run_git, split_z
from chargehand.memory.pathnames import shown

# Commits made for a run are recognisable, and never signed with the name of a person.
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Chargehand",
    "GIT_AUTHOR_EMAIL": "chargehand@localhost",
    "GIT_COMMITTER_NAME": "Chargehand",
    "GIT_COMMITTER_EMAIL": "chargehand@localhost",
}
# The journal will hold the sha, so the objects must survive a power cut as the row does.
_DURABLE = ("-c", "core.fsync=committed")


# `<run>/<step>/<epoch>`; whatever else lies there is somebody's.
_UUID = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))
_CLONES = f"{_UUID}/{_UUID}/[0-9]*"


class WorkspaceBroken(Exception):
    """The clone cannot be made or changed; the message holds what git said."""


@dataclass(kw_only=True, slots=True)
class Clone:
    """The work tree of one attempt."""

    path: Path
    """The work tree."""
    repository: Path
    """The run's bare repository, which keeps the objects."""
    ref: str
    """Where this attempt's newest commit is published in the bare repository."""
    base_commit: str
    """The commit of the user's repository that the run started from."""
    head_commit: str
    """The commit that this attempt has reached."""
    _lock: int
    """Descriptor of the folder, which is locked through it."""
    _closed: bool = field(default=False, repr=False)

    def commit(self, message: str) -> str:
        """Commit every change of the work tree and give the sha; unchanged: the old head.

        The commit is in the bare repository, durably, before its sha is given.
        """
        self._git("add", "--all")
        tree = self._git(*_DURABLE, "write-tree")
        if tree == self._git("rev-parse", "HEAD^{tree}"):
            return self.head_commit
        sha = self._git(*_DURABLE, "commit-tree", "-p", "HEAD", "-F", "-", tree, stdin=message.encode())
        self._move(sha)
        return sha

    def reset(self, commit: str) -> None:
        """Put the work tree at `commit`; files that it does not know are removed."""
        self._git("reset", "--hard", "--quiet", commit)
        self._git("clean", "-ffdxq")
        self._move(self._git("rev-parse", "--verify", f"{commit}^{{commit}}"))

    def merge(self, commit: str) -> tuple[str, ...]:
        """Join another commit of the run to the head; gives the files in which they conflict.

        Those hold git's conflict markers then; the merge is committed all the same, for somebody to resolve.
        """
        tree, conflicts = merged_tree(self.repository, self.head_commit, commit)
        parents = ("-p", self.head_commit, "-p", commit)
        message = f"Merge {commit[:12]}".encode()
        self.reset(self._git(*_DURABLE, "commit-tree", tree, *parents, "-F", "-", stdin=message))
        return conflicts

    def diff_from_base(self) -> bytes:
        """Give everything that this attempt and those before it changed, as one patch on the user's commit."""
        return diff_between(self.path, self.base_commit, self.head_commit)

    def close(self) -> None:
        """Remove the folder; the commits stay in the bare repository."""
        if not self._closed:
            self._closed = True
            try:
                remove_tree(self.path)
            finally:
                os.close(self._lock)

    def _move(self, sha: str) -> None:
        self._git("update-ref", "--no-deref", "HEAD", sha)
        run_git(*_DURABLE, "update-ref", self.ref, sha, git_dir=self.repository)
        self.head_commit = sha

    def _git(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._raw(*arguments, stdin=stdin).decode().strip()

    def _raw(self, *arguments: str, stdin: bytes = b"") -> bytes:
        environment = {**_IDENTITY, "GIT_OBJECT_DIRECTORY": os.fspath(self.repository / "objects")}
        try:
            return run_git(
                *arguments, git_dir=self.path / ".git", work_tree=self.path, stdin=stdin, environment=environment
            )
        except GitFailed as error:
            raise WorkspaceBroken(f"The clone {self.path} cannot be used: {error}") from error


def merged_tree(repository: Path, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """The tree of both commits joined, and the files in which they conflict; raises `WorkspaceBroken`."""
    # With what stood there before, it shows whether a side added, changed or removed something.
    command = (
        *_DURABLE,
        "-c",
        "merge.conflictStyle=diff3",
        "merge-tree",
        "--write-tree",
        "-z",
        "--name-only",
        "--no-messages",
        ours,
        theirs,
    )
    try:
        output = run_git(*command, git_dir=repository, accept=(0, 1))
    except GitFailed as error:
        raise WorkspaceBroken(f"{ours[:12]} and {theirs[:12]} cannot be merged: {error}") from error
    if not output:
        # Exit code 1 means conflicts, and for a commit that is not there it means nothing.
        raise WorkspaceBroken(f"{ours[:12]} and {theirs[:12]} cannot be merged: one of them is no commit of this run.")
    tree, *names = split_z(output)
    return tree.decode(), tuple(shown(name) for name in names)


def open_workspace(
    artifacts_repo: Path,
    root: Path,
    *,
    run_id: UUID,
    step_id: UUID,
    epoch: int,
    commit: str,
    base_commit: str | None = None,
) -> Clone:
    """Make the clone of one attempt at `<root>/<run>/<step>/<epoch>`, checked out at `commit`.

    `base_commit` is the user's commit, when `commit` is a later one that an earlier step has reached. A folder of that
    name is left over from nothing that counts, and is replaced.
    """
    path = root / str(run_id) / str(step_id) / str(epoch)
    remove_tree(path)
    lock = None
    try:
        lock = _lock(path)
        _lay_out(path / ".git", artifacts_repo, commit)
        clone = Clone(
            path=path,
            repository=artifacts_repo,
            ref=f"refs/chargehand/{step_id}/{epoch}",
            base_commit=base_commit or commit,
            head_commit=commit,
            _lock=lock,
        )
        clone.reset(commit)
    except BaseException as error:
        remove_tree(path)
        if lock is not None:
            os.close(lock)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(root) from error
        raise
    return clone


def sweep(root: Path) -> int:
    """Remove the clones whose process has ended without closing them; gives how many there were."""
    count = 0
    for path in root.glob(_CLONES):
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(path)
                count += 1
            finally:
                os.close(lock)
    return count


def diff_between(work_tree: Path, old: str, new: str) -> bytes:
    """Give the changes between two commits as a patch that `git apply` takes, binary files included."""
    return run_git(
        "diff", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", old, new,
        git_dir=work_tree / ".git",
    )  # fmt: skip


def apply_patch(work_tree: Path, patch: bytes) -> str:
    """Apply a patch to the files of a clone, all or nothing; give why it does not apply, or the empty string."""
    try:
        run_git("apply", "--whitespace=nowarn", "-", git_dir=work_tree / ".git", work_tree=work_tree, stdin=patch)
    except GitFailed as error:
        return error.said
    return ""


def export_commit(git_dir: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into the new folder `target`, without a `.git`: to analyse them, or to run them.

    `git_dir` is a clone's `.git` or a bare repository of ours.
    """
    target.mkdir(parents=True)
    index = target.with_name(f".{target.name}.index")
    environment = {"GIT_INDEX_FILE": os.fspath(index)}
    try:
        run_git("read-tree", commit, git_dir=git_dir, environment=environment)
        run_git(
            "checkout-index", "--all", "--force", f"--prefix={target}/",
            git_dir=git_dir, work_tree=target, environment=environment,
        )  # fmt: skip
    finally:
        index.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder whatever permissions are left in it, following no symbolic link; not there is fine."""
    if path.is_symlink() or not path.exists():
        path.unlink(missing_ok=True)
        return
    for folder, folders, _ in os.walk(path):
        for name in folders:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(path)


def _lock(path: Path) -> int:
    """Make the folder and hold it."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
            # A sweeper saw it before it was locked.
            os.close(lock)


def _lay_out(git_dir: Path, repository: Path, commit: str) -> None:
    """Write the handful of files that make a git directory; faster than `git clone`, and no hook or template runs."""
    for folder in ("objects/info", "refs/heads"):
        (git_dir / folder).mkdir(parents=True)
    (git_dir / "objects" / "info" / "alternates").write_text(f"{repository.resolve() / 'objects'}\n")
    if (repository / "shallow").is_file():
        shutil.copyfile(repository / "shallow", git_dir / "shallow")
    (git_dir / "HEAD").write_text(f"{commit}\n")
    settings = (repository / "config").read_text().replace("bare = true", "bare = false")
    (git_dir / "config").write_text(settings)

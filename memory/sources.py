"""A user's repository as a source: found, copied and compared without running or writing anything of it."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from chargehand.memory.git import GitFailed, StorageFull, quiet_environment, raise_failure, run_git, split_z
from chargehand.memory.pathnames import shown

# A clone over the network that takes longer is better made by the user, who then names the path.
CLONE_TIMEOUT_SECONDS = 900.0
# The ref that holds the commit a run started from.
BASE_REF = "refs/chargehand/base"

_REMOTE = re.compile(r"(?:https?|ssh)://|[\w.-]+@[\w.-]+:")
# Configuration of the source that changes how `git status` compares, and cannot name a program.
_HARMLESS_SETTINGS = ("core.filemode", "core.symlinks", "core.ignorecase", "core.autocrlf")


class RepositoryUnreadable(Exception):
    """The source of a run cannot be read as a git repository with a commit."""

    def __init__(self, source: str, why: str, remedy: str) -> None:
        self.source = source
        self.remedy = remedy
        super().__init__(f"Workspace '{shown(source)}' {why}; {remedy}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a local repository keeps its parts; a linked worktree keeps them in two places."""

    git_dir: Path
    common_dir: Path
    work_tree: Path | None
    subdirectory: str = field(default="")


def is_remote(source: str) -> bool:
    """Whether the source is a URL to clone from, and no path."""
    return _REMOTE.match(source) is not None


def locate(source: str) -> Source:
    """Find the git directory by walking up, as git does, but without asking the repository's configuration."""
    path = Path(source.removeprefix("file://")).expanduser()
    try:
        path = path.resolve(strict=True)
        if not path.is_dir():
            raise RepositoryUnreadable(source, "is a file", "give the folder of a git repository")
        if _is_git_dir(path):
            return Source(git_dir=path, common_dir=_common_dir(path), work_tree=None)
        for folder in (path, *path.parents):
            entry = folder / ".git"
            git_dir = entry if entry.is_dir() else _linked_git_dir(entry) if entry.is_file() else None
            if git_dir is not None and _is_git_dir(git_dir):
                inside = "" if folder == path else str(path.relative_to(folder))
                return Source(
                    git_dir=git_dir, common_dir=_common_dir(git_dir), work_tree=folder, subdirectory=shown(inside)
                )
        os.listdir(path)
    except FileNotFoundError:
        raise RepositoryUnreadable(source, "does not exist", "give the path or URL of a git repository") from None
    except PermissionError as error:
        raise RepositoryUnreadable(
            source, f"cannot be read ({shown(str(error.filename))}: permission denied)", "let this user read it"
        ) from None
    raise RepositoryUnreadable(
        source,
        "is not a git repository",
        f"make it one: cd {shown(source)} && git init && git add -A && git commit -m 'Start'",
    )


def _is_git_dir(path: Path) -> bool:
    if not (path / "HEAD").exists():
        return False
    common = _common_dir(path)
    return (common / "objects").is_dir() and (common / "refs").is_dir()


def _common_dir(git_dir: Path) -> Path:
    """A linked worktree names the repository it belongs to in `commondir`."""
    pointer = git_dir / "commondir"
    if not pointer.is_file():
        return git_dir
    return (git_dir / os.fsdecode(pointer.read_bytes().strip())).resolve()


def _linked_git_dir(pointer: Path) -> Path | None:
    """A `.git` file says `gitdir: …` (linked worktrees and submodules)."""
    content = pointer.read_bytes()[:8192]
    if not content.startswith(b"gitdir:"):
        return None
    return (pointer.parent / os.fsdecode(content.removeprefix(b"gitdir:").strip())).resolve()


def copy_objects(source: str, local: Source, target: Path, commit: str | None) -> None:
    """Pack what is reachable from the commit out of the source's object store; its configuration is not needed."""
    head = commit or _head(source, local)
    _init(target, object_format="sha256" if len(head) == 64 else "sha1")
    shallow = local.common_dir / "shallow"
    if shallow.is_file():
        shutil.copyfile(shallow, target / "shallow")
    borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(local.common_dir / "objects")}
    try:
        full = run_git("rev-parse", "--verify", "--quiet", f"{head}^{{commit}}", git_dir=target, environment=borrowed)
        head = full.decode().strip()
        _pipe_objects(target, head, borrowed)
    except GitFailed as error:
        raise RepositoryUnreadable(
            source,
            f"lacks objects of commit {head} ({error.said.splitlines()[0] if error.said else 'not found'})",
            "check it with `git fsck`, let this user read all of .git, and fetch what a partial clone left out",
        ) from None
    run_git("update-ref", BASE_REF, head, git_dir=target)


def _head(source: str, local: Source) -> str:
    """HEAD as a commit, resolved by git from a throw-away git directory that holds only the source's refs."""
    with tempfile.TemporaryDirectory(prefix="chargehand-head-") as folder:
        shadow = Path(folder)
        for name in ("HEAD", "packed-refs"):
            origin = (local.git_dir if name == "HEAD" else local.common_dir) / name
            if origin.is_file():
                shutil.copyfile(origin, shadow / name)
        (shadow / "objects").mkdir()
        (shadow / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
        (shadow / "refs").symlink_to(local.common_dir / "refs", target_is_directory=True)
        try:
            return run_git("rev-parse", "--verify", "--quiet", "HEAD", git_dir=shadow).decode().strip()
        except GitFailed:
            unborn = (local.git_dir / "HEAD").read_bytes()[:200].strip()
    if (local.common_dir / "reftable").is_dir():
        raise RepositoryUnreadable(source, "keeps its refs as reftable, which is not supported", "name a commit")
    raise RepositoryUnreadable(
        source,
        f"has no commits ({shown(unborn)} points to nothing)",
        f"make one: cd {shown(source)} && git add -A && git commit -m 'Start'",
    )


def _pipe_objects(target: Path, head: str, borrowed: dict[str, str]) -> None:
    """`pack-objects | index-pack`, streaming, so that a large history is never in our memory."""
    environment = {**quiet_environment(), **borrowed, "GIT_DIR": os.fspath(target)}
    packing = subprocess.Popen(
        ["git", "pack-objects", "--revs", "--stdout", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=target,
    )
    assert packing.stdin is not None
    assert packing.stdout is not None
    assert packing.stderr is not None
    with packing, packing.stderr as complaints:
        packing.stdin.write(f"{head}\n".encode())
        packing.stdin.close()
        # Without the borrowed store: the pack must be complete in itself.
        indexing = subprocess.run(
            ["git", "index-pack", "--stdin"],
            stdin=packing.stdout,
            capture_output=True,
            env={**quiet_environment(), "GIT_DIR": os.fspath(target)},
            cwd=target,
            check=False,
        )
        said = complaints.read()
    if packing.returncode != 0:
        raise_failure(["pack-objects"], packing.returncode, said, target)
    if indexing.returncode != 0:
        raise_failure(["index-pack"], indexing.returncode, indexing.stderr, target)


def clone(url: str, target: Path, commit: str | None) -> None:
    """Clone over the network with the user's own credentials, but without hooks, templates or other transports."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        **{name: os.environ[name] for name in ("GIT_SSH_COMMAND", "GIT_SSH", "GIT_ASKPASS") if name in os.environ},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh",
        "LC_ALL": "C.UTF-8",
    }
    environment.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
    arguments = ["-c", "core.hooksPath=/dev/null", "clone", "--bare", "--quiet", "--template=", "--no-tags"]
    if commit is None:
        arguments.append("--single-branch")
    try:
        done = subprocess.run(
            ["git", *arguments, "--", url, os.fspath(target)],
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=CLONE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RepositoryUnreadable(
            url, f"was not cloned within {CLONE_TIMEOUT_SECONDS:.0f} s", "clone it yourself and give the path"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        if any("No space left on device" in line for line in said):
            raise StorageFull(target.parent)
        raise RepositoryUnreadable(
            url,
            f"cannot be cloned ({said[-1] if said else 'git gave no reason'})",
            "check the URL and that `git ls-remote` works with it",
        )
    try:
        head = run_git("rev-parse", "--verify", "--quiet", f"{commit or 'HEAD'}^{{commit}}", git_dir=target)
    except GitFailed:
        why = f"has no commit {commit}" if commit else "has no commits"
        raise RepositoryUnreadable(url, why, "push one first, or name a commit it has") from None
    (target / "config").write_text(_bare_config("sha256" if len(head.strip()) == 64 else "sha1"))
    run_git("update-ref", BASE_REF, head.decode().strip(), git_dir=target)


def _init(target: Path, *, object_format: str) -> None:
    for folder in ("objects/info", "objects/pack", "refs/heads"):
        (target / folder).mkdir(parents=True)
    (target / "HEAD").write_text("ref: refs/heads/main\n")
    (target / "config").write_text(_bare_config(object_format))


def _bare_config(object_format: str) -> str:
    """No gc: other steps borrow these objects; loose ones may be referenced from their clones only."""
    version = "1" if object_format == "sha256" else "0"
    extension = f"[extensions]\n\tobjectformat = {object_format}\n" if object_format == "sha256" else ""
    core = f"[core]\n\trepositoryformatversion = {version}\n\tbare = true\n"
    return f"{core}{extension}[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"


def uncommitted_files(local: Source, repository: Path) -> list[bytes]:
    """Compare the work tree with a copy of its index, so that neither filters run nor the real index is refreshed."""
    assert local.work_tree is not None
    with tempfile.TemporaryDirectory(prefix="chargehand-status-") as folder:
        shadow = Path(folder)
        _shadow(local, shadow, _head(str(local.work_tree), local))
        stores = [_quoted(local.common_dir / "objects"), _quoted(repository / "objects")]
        rows = run_git(
            "status", "--porcelain=v1", "-z", "--no-renames", "--ignore-submodules=all", "--untracked-files=normal",
            git_dir=shadow,
            work_tree=local.work_tree,
            environment={"GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(stores)},
        )  # fmt: skip
    return [row[3:] for row in split_z(rows)]


def files_of(local: Source, folder: Path) -> list[bytes]:
    """Files below `folder` that git tracks or would track; the source's configuration is not asked."""
    assert local.work_tree is not None
    with tempfile.TemporaryDirectory(prefix="chargehand-files-") as temporary:
        shadow = Path(temporary)
        _shadow(local, shadow, _head(str(local.work_tree), local))
        inside = os.fspath(folder.relative_to(local.work_tree))
        rows = run_git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", inside,
            git_dir=shadow,
            work_tree=local.work_tree,
        )  # fmt: skip
    return sorted({os.fsencode(local.work_tree) + b"/" + name for name in split_z(rows)})


def _shadow(local: Source, shadow: Path, head: str) -> None:
    """A git directory of ours with the source's index and excludes, but not its configuration."""
    _init(shadow, object_format="sha256" if len(head) == 64 else "sha1")
    (shadow / "HEAD").write_text(f"{head}\n")
    (shadow / "config").write_text(f"[core]\n\tbare = false\n{_extension_of(head)}{_settings(local, shadow)}")
    for index in (local.git_dir / "index", *local.git_dir.glob("sharedindex.*")):
        if index.is_file():
            shutil.copyfile(index, shadow / index.name)
    exclude = local.common_dir / "info" / "exclude"
    if exclude.is_file():
        (shadow / "info").mkdir(exist_ok=True)
        shutil.copyfile(exclude, shadow / "info" / "exclude")


def _extension_of(commit: str) -> str:
    if len(commit) == 64:
        return "\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n"
    return "\trepositoryformatversion = 0\n"


def _settings(local: Source, shadow: Path) -> str:
    """The few settings of the source that only say how files are compared."""
    config = local.common_dir / "config"
    lines = ["[core]"]
    for name in _HARMLESS_SETTINGS:
        try:
            value = run_git("config", "--no-includes", "--file", os.fspath(config), "--get", name, git_dir=shadow)
        except GitFailed:
            continue
        if value.strip().lower() in (b"true", b"false", b"input"):
            lines.append(f"\t{name.removeprefix('core.')} = {value.decode().strip()}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    """A path for `GIT_ALTERNATE_OBJECT_DIRECTORIES`, where `:` separates and a leading `\"` starts C quoting."""
    raw = os.fspath(path)
    if ":" not in raw and not raw.startswith('"'):
        return raw
    return '"' + raw.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

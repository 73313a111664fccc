"""Git as a tool that runs nothing of the repository it reads.

A repository's own configuration can name programs (filters, hooks, fsmonitor, external diff, transports). None of it is
read here: every command gets an explicit git directory that Chargehand wrote itself, no system or user configuration,
no hooks, no prompts and no lazy fetch. It does not protect against a bug in git's own parsers.
"""

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

# The longest local git command that is still work and not a hang; a clone over the network has its own limit.
LOCAL_TIMEOUT_SECONDS = 300.0
# Less room than this is none: a file system keeps some blocks for itself.
_FULL_BYTES = 1 << 20
_MAX_LINES = 8

_FIXED_OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.untrackedCache=false",
    "-c", "core.quotePath=false",
    "-c", "core.pager=cat",
    "-c", "core.attributesFile=/dev/null",
    "-c", "core.excludesFile=/dev/null",
    "-c", "diff.renames=false",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "protocol.allow=never",
    "-c", "advice.detachedHead=false",
    "-c", "commit.gpgSign=false",
    "-c", "init.defaultBranch=main",
)  # fmt: skip


class GitFailed(Exception):
    """Git ended with an error; the message holds the command and what git said."""

    def __init__(self, arguments: Sequence[str | bytes], exit_code: int, stderr: bytes) -> None:
        self.exit_code = exit_code
        self.said = _shortened(stderr.decode("utf-8", "backslashreplace").strip())
        command = " ".join(os.fsdecode(argument).encode("utf-8", "backslashreplace").decode() for argument in arguments)
        super().__init__(f"git {command} ended with {exit_code}: {self.said or 'no message'}")


class StorageFull(Exception):
    """The disk has no room left; free some and start again, nothing half-written is used."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(f"No space left on the disk of {where}; free some space, then retry.")


def run_git(
    *arguments: str | bytes,
    git_dir: Path,
    work_tree: Path | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = LOCAL_TIMEOUT_SECONDS,
    accept: Collection[int] = (0,),
) -> bytes:
    """Run one git command on a git directory that we wrote, and give its output, or raise `GitFailed`.

    `accept`: exit codes that are answers.

    The directory is named explicitly, so git neither searches for one nor asks who owns it.
    """
    locations = {"GIT_DIR": os.fspath(git_dir)}
    if work_tree is not None:
        locations["GIT_WORK_TREE"] = os.fspath(work_tree)
    try:
        done = subprocess.run(
            ["git", *_FIXED_OPTIONS, *arguments],
            input=stdin,
            capture_output=True,
            cwd=work_tree or git_dir,
            env={**quiet_environment(), **locations, **(environment or {})},
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitFailed(arguments, -9, f"not finished after {timeout_seconds:.0f} s".encode()) from None
    if done.returncode not in accept:
        raise_failure(arguments, done.returncode, done.stderr, git_dir)
    return done.stdout


def raise_failure(arguments: Sequence[str | bytes], exit_code: int, stderr: bytes, where: Path) -> None:
    """Raise `StorageFull` if that is what git met, else `GitFailed`."""
    if b"No space left on device" in stderr or b"Disk quota exceeded" in stderr:
        raise StorageFull(where)
    # Checkouts say no more than "unable to write file".
    if b"unable to write" in stderr and shutil.disk_usage(where).free < _FULL_BYTES:
        raise StorageFull(where)
    raise GitFailed(arguments, exit_code, stderr)


def _shortened(said: str) -> str:
    """Git complains once a file; the first few and the last say it all."""
    lines = said.splitlines()
    if len(lines) <= _MAX_LINES:
        return said
    return "\n".join([*lines[: _MAX_LINES - 2], f"[... {len(lines) - _MAX_LINES + 1} more lines ...]", lines[-1]])


def quiet_environment() -> dict[str, str]:
    """Give the only variables that our git sees: none of the caller's `GIT_*`, nobody's configuration, no prompts."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }


def split_z(output: bytes) -> list[bytes]:
    """Split the output of a `-z` command; any byte but NUL may be in a name."""
    return [part for part in output.split(b"\0") if part]

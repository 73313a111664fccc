"""Opens and replaces files below a workspace without leaving it, whatever the path says and whoever made the links.

Every component is opened relative to its parent's descriptor with `O_NOFOLLOW`, so neither `..`, an absolute path nor
a symbolic link leaves the work tree, also when a link is swapped in while we walk. Not covered: hard links to files
outside, which git cannot check out.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from chargehand.memory.git import run_git, split_z
from chargehand.memory.pathnames import shown
from chargehand.workers.tools.registry import ToolRetry


def open_inside(workspace: Path, path: str) -> int:
    """A read-only descriptor of a regular file of the work tree; raises `ToolRetry` with what is wrong.

    A name that was shown with backslash escapes, because it is not printable, is found again.
    """
    try:
        return _open_below(workspace, path, _components(path))
    except ToolRetry:
        real = _unescaped(workspace, path) if "\\" in path else None
        if real is None:
            raise
        return _open_below(workspace, path, _components(real))


def replace_inside(workspace: Path, path: str, content: bytes) -> None:
    """Put a regular file of the work tree in place, whole or not at all; raises `ToolRetry` with what is wrong.

    A file that is there keeps its permissions; folders on the way to a new one are made.
    """
    components = _components(path)
    if any(component.lower() == ".git" for component in components):
        raise ToolRetry("Git's own files are not written; name a file of the work tree.")
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for component in components[:-1]:
            with suppress(FileExistsError):
                os.mkdir(component, dir_fd=directory)
            inner = _open(component, path, directory, os.O_DIRECTORY)
            os.close(directory)
            directory = inner
        _replace(directory, components[-1], path, content)
    finally:
        os.close(directory)


def _replace(directory: int, name: str, path: str, content: bytes) -> None:
    mode = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
    with suppress(FileNotFoundError):
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(there.st_mode):
            raise ToolRetry(f"{path!r} is not a file; name a file.")
        mode = stat.S_IMODE(there.st_mode)
    # Not a name that the repository could have: the folder is an attempt's own, and nobody else writes there.
    fresh = f".chargehand-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o600, dir_fd=directory), "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(fresh, dir_fd=directory)
            raise


def _unescaped(workspace: Path, path: str) -> str | None:
    names = split_z(run_git("ls-files", "-z", git_dir=workspace / ".git", work_tree=workspace, timeout_seconds=10))
    return next((os.fsdecode(name) for name in names if shown(name) == path), None)


def _open_below(workspace: Path, path: str, components: list[str]) -> int:
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for component in components[:-1]:
            inner = _open(component, path, directory, os.O_DIRECTORY)
            os.close(directory)
            directory = inner
        # Without O_NONBLOCK a FIFO would wait for its writer for ever.
        opened = _open(components[-1], path, directory, os.O_NONBLOCK)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise ToolRetry(f"{path!r} is not a file; name a file.")
    return opened


def _components(path: str) -> list[str]:
    if not path or "\0" in path:
        raise ToolRetry("The path is empty or holds a NUL; name a file relative to the repository's root.")
    if path.startswith("/"):
        raise ToolRetry(f"{path!r} is absolute; paths are relative to the repository's root.")
    components = [component for component in path.split("/") if component not in ("", ".")]
    if not components or ".." in components:
        raise ToolRetry(f"{path!r} leaves the repository; paths are relative to its root, without '..'.")
    if components[0].lower() == ".git":
        raise ToolRetry("Git's own files are not readable; name a file of the work tree.")
    return components


def _open(component: str, path: str, directory: int, flags: int) -> int:
    try:
        return os.open(component, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    except FileNotFoundError:
        raise ToolRetry(f"There is no file {path!r}; search_text finds what is there.") from None
    except OSError as error:
        if _is_link(component, directory):
            raise ToolRetry(f"{path!r} goes through the symbolic link {component!r}; links are not followed.") from None
        if isinstance(error, NotADirectoryError):
            raise ToolRetry(f"{path!r} does not exist: {component!r} is not a folder.") from None
        raise ToolRetry(f"{path!r} cannot be opened ({os.strerror(error.errno or 0)}).") from None


def _is_link(component: str, directory: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(component, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False

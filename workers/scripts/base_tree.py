"""The files of a workspace as they are at the base commit, read from git's objects.

Nothing is read from the work tree: a symbolic link in a repository can point anywhere, and git's filters may have
changed what lies there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chargehand.memory.git import run_git, split_z
from chargehand.memory.pathnames import shown
from chargehand.workers.scripts.registry import Workspace

# Blobs are read many at once; together they stay far below what a worker may use.
READ_AT_ONCE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeFile:
    """One regular file of the commit."""

    path: str
    """As it is shown: bytes that are not UTF-8 as backslash escapes."""
    blob: str
    size_bytes: int


def list_files(workspace: Workspace) -> tuple[TreeFile, ...]:
    """Every regular file at the base commit, sorted by path; links and submodules are left out."""
    listing = run_git(
        "ls-tree", "-r", "-z", "--long", "--full-tree", workspace.base_commit, git_dir=git_dir_of(workspace)
    )
    files = []
    for row in split_z(listing):
        description, _, name = row.partition(b"\t")
        mode, kind, blob, size = description.split()
        if kind == b"blob" and mode != b"120000":
            files.append(TreeFile(path=shown(name), blob=blob.decode(), size_bytes=int(size)))
    return tuple(sorted(files, key=lambda file: file.path))


def read_files(workspace: Workspace, files: Sequence[TreeFile]) -> Iterator[tuple[TreeFile, bytes]]:
    """Each file with its bytes, in order, some megabytes at a time."""
    start = 0
    while start < len(files):
        end, total = start, 0
        while end < len(files) and (end == start or total + files[end].size_bytes <= READ_AT_ONCE_BYTES):
            total += files[end].size_bytes
            end += 1
        yield from zip(files[start:end], read_blobs(workspace, files[start:end]), strict=True)
        start = end


def read_blobs(workspace: Workspace, files: Sequence[TreeFile]) -> list[bytes]:
    """The bytes of these files by one call of git."""
    request = "".join(f"{file.blob}\n" for file in files).encode()
    output = run_git("cat-file", "--batch", git_dir=git_dir_of(workspace), stdin=request)
    contents, position = [], 0
    for file in files:
        # A header `<blob> blob <size>`, the content, a newline.
        begin = output.index(b"\n", position) + 1
        contents.append(output[begin : begin + file.size_bytes])
        position = begin + file.size_bytes + 1
    return contents


def git_dir_of(workspace: Workspace) -> Path:
    """The git directory of the clone."""
    return workspace.path / ".git"

"""The files of a folder of the user's, for an ingest: listed without following links, read some at a time."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chargehand.memory.git import GitFailed
from chargehand.memory.pathnames import shown
from chargehand.memory.sources import RepositoryUnreadable, files_of, locate
from chargehand.memory.text_files import MAX_FILE_BYTES, VENDORED, Listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder, or a single file, and what was found in it."""

    root: Path
    owned: str | None
    """With what the sources of all its files begin; None for a single file."""
    paths: dict[str, bytes]
    """Where each source lies."""
    listing: tuple[Listed, ...]

    def read(self, files: Sequence[Listed]) -> Iterator[tuple[Listed, bytes | None]]:
        """Each file with its content, or None where it cannot be read any more."""
        for file in files:
            yield file, content_of(self.paths[file.source])


def open_folder(path: Path, *, name: str | None = None) -> Folder:
    """List what is at `path`; its files are called `NAME/...`, after the folder unless a name is given.

    In a git work tree: what git tracks or would track. Elsewhere: all but what begins with a dot. Raises
    `FileNotFoundError`, `PermissionError`, and `ValueError` for what is neither a folder nor a file.
    """
    root = path.expanduser().resolve(strict=True)
    called = shown(name or root.name or "root").strip("/")
    mode = root.stat().st_mode
    if stat.S_ISREG(mode):
        return _folder(root, None, {called: os.fsencode(root)})
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{shown(str(root))} is neither a folder nor a file; give one of them.")
    os.listdir(root)
    begins = os.fsencode(root).rstrip(b"/") + b"/"
    found = {f"{called}/{shown(place.removeprefix(begins))}": place for place in _places(root)}
    return _folder(root, f"{called}/", found)


def content_of(place: bytes) -> bytes | None:
    """What a regular file holds, up to a byte more than is read of any; None when there is none to be read."""
    try:
        # A link, or a pipe that nobody writes to, may have come to its place meanwhile.
        opened = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        with open(opened, "rb") as file:
            return file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(os.fstat(opened).st_mode) else None
    except OSError:
        return None


def _folder(root: Path, owned: str | None, paths: dict[str, bytes]) -> Folder:
    listing, kept = [], {}
    for source, place in paths.items():
        try:
            known = os.lstat(place)
        except OSError:
            continue
        if stat.S_ISREG(known.st_mode):
            kept[source] = place
            listing.append(Listed(source=source, size_bytes=known.st_size))
    return Folder(root=root, owned=owned, paths=kept, listing=tuple(listing))


def _places(root: Path) -> Iterator[bytes]:
    try:
        local = locate(os.fspath(root))
        if local.work_tree is not None:
            yield from files_of(local, root)
            return
    except (RepositoryUnreadable, GitFailed):
        # No repository, or one without a commit: what there is, is what lies there.
        pass
    for folder, inner, files in os.walk(os.fsencode(root)):
        inner[:] = sorted(one for one in inner if not one.startswith(b".") and os.fsdecode(one).lower() not in VENDORED)
        yield from (os.path.join(folder, one) for one in sorted(files) if not one.startswith(b"."))

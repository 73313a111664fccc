"""A small disk of its own for a folder, that can be filled up while somebody writes there; only root may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FILLER = ".full"
# Twenty clones of a small repository.
MEGABYTES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallDisk:
    """A mounted disk."""

    folder: Path

    def fill(self) -> int:
        """Leave no byte free; gives how many were taken."""
        filler = self.folder / FILLER
        with filler.open("ab") as file:
            # What is freed meanwhile is taken, too.
            while free := os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
                except OSError:
                    break
        return filler.stat().st_size

    def free(self) -> None:
        """Give the room back."""
        (self.folder / FILLER).unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, *, megabytes: int = MEGABYTES) -> Iterator[SmallDisk | None]:
    """The folder on a disk of this size while the block runs; None, and the folder as it was, where that is forbidden.

    What lies on the disk is gone with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield SmallDisk(folder=folder)
    finally:
        # Lazily: a process that was killed a moment ago may still stand in it.
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)

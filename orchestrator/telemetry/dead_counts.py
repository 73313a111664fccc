"""Adds what dead processes have counted to one file, so that a folder of metrics does not grow with each restart.

Their counts must stay: a sum that falls looks to Prometheus like a restart of everything. A crash between the two
writes of `fold` adds one process's counts a second time; nothing is ever lost.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

_KINDS = ("counter", "histogram")
# In the place of a process id; no process has it.
_DEAD = "dead"


def fold(folder: Path) -> int:
    """Fold the files of processes that are gone; gives how many files went."""
    gone = 0
    with locked(folder, exclusive=True):
        for kind in _KINDS:
            archive = folder / f"{kind}_{_DEAD}.db"
            files = [file for file in folder.glob(f"{kind}_*.db") if file != archive and not _is_alive(file)]
            if not files:
                continue
            _write(archive, [*([archive] if archive.exists() else []), *files])
            for file in files:
                file.unlink()
            gone += len(files)
    return gone


@contextmanager
def locked(folder: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Hold the folder's lock: one folds, any number read meanwhile nobody folds."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def _is_alive(file: Path) -> bool:
    number = file.stem.partition("_")[2]
    if not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(archive: Path, files: list[Path]) -> None:
    sums: dict[str, float] = defaultdict(float)
    for file in files:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
            sums[key] += value
    building = archive.with_suffix(".building")
    building.unlink(missing_ok=True)
    written = MmapedDict(str(building))
    try:
        for key, value in sums.items():
            written.write_value(key, value, 0.0)
    finally:
        written.close()
    building.replace(archive)

"""How long ten thousand small files take to be remembered, and to be found unchanged, when embedding costs nothing."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.figures import Figure
from benchmarks.ground import Ground
from chargehand.memory.database import tenant_session
from chargehand.memory.embedder import Vector
from chargehand.orchestrator.client.memories import Memories

FILES = 10_000
# Two thirds prose, one third code, as in a repository with documentation.
CODE_EACH = 3
T = TypeVar("T")


class Costless:
    """An embedder for which no index is kept: what is left is reading, cutting and writing."""

    model_id = "costless"
    dimensions = 4

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """The same vector for all."""
        return [np.full(4, 0.5, dtype=np.float32) for _ in texts]


def measure(ground: Ground) -> Iterator[Figure]:
    """Files a second, first and again, and by how much the process grew."""
    memories = Memories(
        lambda: tenant_session(ground.application, ground.tenant),
        ground.tenant,
        engine=ground.application,
        embedder=Costless,
    )
    with tempfile.TemporaryDirectory(prefix="chargehand-ingest-") as folder:
        root = Path(folder)
        write_files(root)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        first, seconds = timed(lambda: memories.add(root, name="bench"))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        again, seconds_again = timed(lambda: memories.add(root, name="bench"))
    assert (first.files, again.unchanged) == (FILES, FILES), (first, again)
    yield Figure(name="ingest_10k_files_a_second", value=FILES / seconds, unit="files/s", better="higher")
    yield Figure(name="ingest_10k_unchanged_a_second", value=FILES / seconds_again, unit="files/s", better="higher")
    yield Figure(name="ingest_10k_grown_mb", value=grown / 1024, unit="MB")


def write_files(root: Path) -> None:
    """Small files, a hundred in a folder."""
    for number in range(FILES):
        folder = root / f"part{number // 100}"
        folder.mkdir(exist_ok=True)
        if number % CODE_EACH:
            (folder / f"parcel{number}.md").write_text(f"# Parcel {number}\n\nIt lies on shelf {number % 97}.\n")
        else:
            code = f"def parcel_{number}(shelf):\n    return shelf[{number % 97}]\n\n\n" + "VALUE = 1\n" * 20
            (folder / f"parcel{number}.py").write_text(code)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began

"""How fast short texts are remembered with the default model, and ten thousand files where embedding costs nothing."""

import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.figures import Figure
from benchmarks.ground import Ground
from chargehand.memory.beliefs import MemoryItem, remember
from chargehand.memory.database import tenant_session
from chargehand.memory.embedder import Vector, load_embedder
from chargehand.orchestrator.client.memories import Memories

FILES = 10_000
# Two thirds prose, one third code, as in a repository with documentation.
CODE_EACH = 3
# A turn of a conversation, a note: about 25 tokens.
SHORT_TEXT_WORDS = 18
SHORT_TEXTS = 640
# A transaction stays open while its texts are embedded.
BATCH = 32
TARGET_SHORT_TEXTS_PER_SECOND = 100.0
T = TypeVar("T")


class Costless:
    """An embedder for which no index is kept: what is left is reading, cutting and writing."""

    model_id = "costless"
    dimensions = 4

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """The same vector for all."""
        return [np.full(4, 0.5, dtype=np.float32) for _ in texts]


def measure(ground: Ground) -> Iterator[Figure]:
    """Short texts a second; files a second, first and again, and by how much the process grew."""
    yield from measure_short_texts(ground)
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


def measure_short_texts(ground: Ground) -> Iterator[Figure]:
    """Short texts a second, embedded and committed as the application's role, and what one costs this process."""
    embedder = load_embedder()
    # The model is read once, and not by the first text.
    embedder.embed(["warm"])
    texts = short_texts(SHORT_TEXTS)
    processor = time.process_time()
    began = time.perf_counter()
    for start in range(0, len(texts), BATCH):
        with tenant_session(ground.application, ground.tenant) as session:
            remember(
                session,
                tenant=ground.tenant,
                scope="short",
                items=texts[start : start + BATCH],
                embedder=embedder,
            )
    seconds = time.perf_counter() - began
    yield Figure(
        name="ingest_short_texts_per_second",
        value=len(texts) / seconds,
        unit="1/s",
        target=TARGET_SHORT_TEXTS_PER_SECOND,
        better="higher",
    )
    # Waiting for a core does not count; what Postgres does is not in it.
    yield Figure(
        name="ingest_short_text_cpu_ms", value=(time.process_time() - processor) / len(texts) * 1000, unit="ms"
    )


def short_texts(count: int) -> list[MemoryItem]:
    """Texts of English words in no order, no two alike."""
    words = re.findall(r"\b[a-z]{2,12}\b", (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"))
    drawn = random.Random(1)
    return [
        MemoryItem(
            source=f"note {number}",
            line_start=1,
            line_end=1,
            kind="note",
            text=" ".join(drawn.choices(words, k=SHORT_TEXT_WORDS)),
        )
        for number in range(count)
    ]


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

"""Vectors of texts that an earlier run of a benchmark has made, by model and hash of the text."""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from chargehand.memory.embedder import Embedder, Vector

# `FRESH=1` leaves it alone, and measures how fast texts are embedded.
FILE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chargehand" / "bench-vectors.sqlite"


class KeptVectors:
    """An embedder that asks another one only for what it has not embedded before; for one thread."""

    def __init__(self, embedder: Embedder, file: Path) -> None:
        """Opens `file`, or makes it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._embedder = embedder
        # Several runs at once wait for each other; none waits for the disk.
        self._kept = sqlite3.connect(file, timeout=60.0, isolation_level=None)
        self._kept.execute("PRAGMA synchronous = OFF")
        self._kept.execute("CREATE TABLE IF NOT EXISTS vectors (name BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        self.found = 0
        """Texts whose vectors were there."""

    @property
    def model_id(self) -> str:
        """The other's."""
        return self._embedder.model_id

    @property
    def dimensions(self) -> int:
        """The other's."""
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in the order given."""
        np = import_module("numpy")
        names = [hashlib.sha256(f"{self.model_id}\0{text}".encode()).digest() for text in texts]
        kept: dict[bytes, Vector] = {}
        for name in set(names):
            row = self._kept.execute("SELECT vector FROM vectors WHERE name = ?", (name,)).fetchone()
            if row is not None:
                kept[name] = np.frombuffer(row[0], dtype=np.float32)
        self.found += sum(name in kept for name in names)
        missing = {name: text for name, text in zip(names, texts, strict=True) if name not in kept}
        made = self._embedder.embed(list(missing.values())) if missing else []
        new = {name: np.asarray(vector, dtype=np.float32) for name, vector in zip(missing, made, strict=True)}
        rows = [(name, vector.tobytes()) for name, vector in new.items()]
        self._kept.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
        kept |= new
        return [kept[name] for name in names]

    def close(self) -> None:
        """Let go of the file."""
        self._kept.close()

"""Vectors of Voyage AI's service, through its own SDK."""

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal

from chargehand.memory.vectors import EmbeddingFailed, EmbeddingModelMissing, Vector

DEFAULT_MODEL = "voyage-4"
DEFAULT_DIMENSIONS = 1024
# The service takes 1,000 texts and some 100,000 tokens a request; a passage has up to some hundreds.
BATCH = 128
# Longer than any answer that still comes.
TIMEOUT_SECONDS = 60.0
# The SDK counts the first; it waits 1 to 16 s between two, and only where the service asks for patience.
ATTEMPTS = 4


class Voyage:
    """A model of Voyage AI. The texts leave the machine: choose it where they may.

    The key is `VOYAGE_API_KEY`, read by the SDK. Raises `EmbeddingModelMissing` when the SDK or the key is not there,
    `EmbeddingFailed` when the service gives no vectors.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, dimensions: int = DEFAULT_DIMENSIONS, base_url: str = "") -> None:
        if find_spec("voyageai") is None:
            raise EmbeddingModelMissing("voyageai is not installed; run pip install 'chargehand[voyageai]'.")
        self.model_id = f"{model}-{dimensions}"
        self.dimensions = dimensions
        self._model = model
        self._base_url = base_url
        self._lock = Lock()
        self._client: Any = None

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in the order given; each request carries at most 128 texts."""
        vectors: list[Vector] = []
        for start in range(0, len(texts), BATCH):
            vectors.extend(self._ask(list(texts[start : start + BATCH]), "document"))
        return vectors

    def embed_question(self, question: str) -> Vector:
        """The unit vector to look for answers with."""
        return self._ask([question], "query")[0]

    def _ask(self, texts: list[str], input_type: Literal["document", "query"]) -> list[Vector]:
        np, error = import_module("numpy"), import_module("voyageai.error")
        client = self._connected()
        try:
            told = client.embed(
                texts, model=self._model, input_type=input_type, truncation=True, output_dimension=self.dimensions
            ).embeddings
        except error.AuthenticationError as reason:
            raise EmbeddingModelMissing(f"Voyage AI refuses the key: {reason}; set VOYAGE_API_KEY.") from reason
        except error.VoyageError as reason:
            raise EmbeddingFailed(f"Voyage AI gave no vectors ({type(reason).__name__}): {reason}") from reason
        vectors = [np.asarray(vector, dtype=np.float32) for vector in told]
        sizes = {vector.shape for vector in vectors}
        if len(vectors) != len(texts) or sizes != {(self.dimensions,)}:
            raise EmbeddingFailed(
                f"Voyage AI gave {len(vectors)} vectors of shapes {sorted(sizes)} for {len(texts)} texts; expected one "
                f"of {self.dimensions} each: does {self._model} offer this length?"
            )
        lengths = [float(np.linalg.norm(vector)) for vector in vectors]
        if not all(math.isfinite(length) and length > 0 for length in lengths):
            raise EmbeddingFailed("Voyage AI gave a vector without a direction; ask it again.")
        # What was shortened to fewer dimensions by the service need not have unit length.
        return [vector / length for vector, length in zip(vectors, lengths, strict=True)]

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                voyageai = import_module("voyageai")
                self._client = voyageai.Client(
                    max_retries=ATTEMPTS, timeout=TIMEOUT_SECONDS, base_url=self._base_url or None
                )
            return self._client

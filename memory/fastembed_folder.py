"""Vectors of a model in a folder of the user's, read by the library fastembed; nothing is downloaded."""

import hashlib
import json
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from chargehand.memory.vectors import EmbeddingModelMissing, Vector

# Without one of them fastembed does not read the folder.
NEEDED = ("model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json")
# Pooling of sentence-transformers' folders, where they say it; without: the mean, as most small models do.
POOLING_FILE = Path("1_Pooling") / "config.json"
# As the local model: more peaks at gigabytes.
BATCH = 8
# Enough of a hash to tell two files apart in `embeddings.model_id`.
HASH_CHARACTERS = 12


class FastembedFolder:
    """A model that lies in `folder` as ONNX, with its tokenizer; loads on first use and is safe to share.

    Its id is the folder's name and a hash of the model and its tokenizer, so that other files of the same name are
    another model and their vectors are never compared. Raises `EmbeddingModelMissing` when the folder or the library
    is not there.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        if find_spec("fastembed") is None:
            raise EmbeddingModelMissing("fastembed is not installed; run pip install 'chargehand[fastembed]'.")
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise EmbeddingModelMissing(
                f"The folder {folder} has no {', '.join(missing)}; put a model there as fastembed reads it."
            )
        digest = hashlib.sha256()
        for name in ("model.onnx", "tokenizer.json"):
            digest.update((folder / name).read_bytes())
        name = re.sub(r"[^a-zA-Z0-9._-]+", "-", folder.resolve().name)
        self.model_id = f"{name}-{digest.hexdigest()[:HASH_CHARACTERS]}"
        self.dimensions = _dimensions(folder)
        self._folder = folder
        self._threads = threads
        self._lock = Lock()
        self._model: Any = None

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in the order given."""
        return list(self._loaded().passage_embed(list(texts), batch_size=BATCH)) if texts else []

    def embed_question(self, question: str) -> Vector:
        """The unit vector to look for answers with."""
        (vector,) = self._loaded().query_embed([question])
        found: Vector = vector
        return found

    def _loaded(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return self._model

    def _load(self) -> Any:
        fastembed = import_module("fastembed")
        described = import_module("fastembed.common.model_description")
        known = {model["model"] for model in fastembed.TextEmbedding.list_supported_models()}
        if self.model_id not in known:
            fastembed.TextEmbedding.add_custom_model(
                model=self.model_id,
                pooling=described.PoolingType.CLS if _takes_first_token(self._folder) else described.PoolingType.MEAN,
                normalization=True,
                # Required, and never asked: the folder is given.
                sources=described.ModelSource(hf="local/folder"),
                dim=self.dimensions,
                model_file="model.onnx",
            )
        return fastembed.TextEmbedding(
            self.model_id,
            specific_model_path=str(self._folder),
            local_files_only=True,
            threads=self._threads,
            providers=["CPUExecutionProvider"],
        )


def _dimensions(folder: Path) -> int:
    size = _json(folder / "config.json").get("hidden_size")
    if not isinstance(size, int) or size < 1:
        raise EmbeddingModelMissing(f"{folder / 'config.json'} gives no hidden_size; it says how long a vector is.")
    return size


def _takes_first_token(folder: Path) -> bool:
    return (folder / POOLING_FILE).is_file() and _json(folder / POOLING_FILE).get("pooling_mode_cls_token") is True


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as reason:
        raise EmbeddingModelMissing(f"{path} is not JSON: {reason}.") from reason
    return told if isinstance(told, dict) else {}

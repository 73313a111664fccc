"""Vectors of an earlier run are found again by model and text, and nothing else is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.kept_vectors import KeptVectors
from chargehand.memory.embedder import Vector


class Model:
    """Gives each text the vector of its length, and keeps what it was asked."""

    dimensions = 2

    def __init__(self, model_id: str = "one") -> None:
        self.model_id = model_id
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.asked += texts
        return [np.array([len(text), 1], dtype=np.float32) for text in texts]


def test_only_what_was_not_embedded_before_is_asked_for_and_all_come_in_order(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "vectors.sqlite"
    first = KeptVectors(Model(), file)
    first.embed(["a", "bb"])
    assert first.found == 0
    first.close()

    model = Model()
    again = KeptVectors(model, file)
    vectors = again.embed(["ccc", "bb", "a", "ccc", "bb"])

    assert [vector.tolist() for vector in vectors] == [[3, 1], [2, 1], [1, 1], [3, 1], [2, 1]]
    assert (model.asked, again.found) == (["ccc"], 3)
    again.close()


def test_vectors_of_another_model_are_not_taken_for_its_own(tmp_path: Path) -> None:
    KeptVectors(Model(), tmp_path / "v").embed(["a"])
    other = Model("two")
    KeptVectors(other, tmp_path / "v").embed(["a"])
    assert other.asked == ["a"]

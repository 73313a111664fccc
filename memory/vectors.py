"""What every embedding model promises: unit vectors, and a name that keeps them apart from another model's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]
else:
    # Every process imports this module and one of them embeds: the others do not carry numpy (12 MB each).
    Vector = Any


class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product is their similarity."""

    @property
    def model_id(self) -> str:
        """Which model made the vectors; kept beside them."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of each vector."""
        ...

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in the order given."""
        ...


@runtime_checkable
class QuestionEmbedder(Embedder, Protocol):
    """A model that was trained to read a question otherwise than a text that answers it."""

    def embed_question(self, question: str) -> Vector:
        """The unit vector to look for answers with."""
        ...


class EmbeddingModelMissing(RuntimeError):
    """The embedding model that was chosen is not installed, not complete, or not the one that was measured."""


class EmbeddingFailed(RuntimeError):
    """The service that embeds did not answer, or not with vectors that can be used."""


def question_vector(embedder: Embedder, question: str) -> Vector:
    """The vector of a question, read as one where the model knows the difference."""
    if isinstance(embedder, QuestionEmbedder):
        return embedder.embed_question(question)
    return embedder.embed([question])[0]

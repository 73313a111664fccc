"""How two rankings of the same passages become one; pure."""

from collections.abc import Mapping
from uuid import UUID


def fuse(
    lexical: Mapping[UUID, float], semantic: Mapping[UUID, float], *, lexical_weight: float
) -> list[tuple[UUID, float]]:
    """Both score lists as one, best first, each between 0 and 1.

    The scores are normalised, not the ranks: that a passage leads by far is worth knowing. What only one list has
    counts as the other's worst. Ties go by id, so that the order is always the same.
    """
    if not 0.0 <= lexical_weight <= 1.0:
        raise ValueError(f"lexical_weight is {lexical_weight}; give a share between 0 and 1.")
    words, meaning = normalise(lexical), normalise(semantic)
    scores = {
        memory: lexical_weight * words.get(memory, 0.0) + (1.0 - lexical_weight) * meaning.get(memory, 0.0)
        for memory in words.keys() | meaning.keys()
    }
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def normalise(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    """The scores moved to 0 … 1; all alike: all 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high - low < 1e-12:
        return dict.fromkeys(scores, 1.0)
    return {memory: (score - low) / (high - low) for memory, score in scores.items()}

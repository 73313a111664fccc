"""How two rankings of the same passages become one; pure."""

from collections.abc import Iterable, Mapping
from uuid import UUID


def fuse(lexical: Mapping[UUID, float], semantic: Mapping[UUID, float], *, lexical_weight: float) -> dict[UUID, float]:
    """Both score lists as one, each score between 0 and 1.

    The scores are normalised, not the ranks: that a passage leads by far is worth knowing. Give both scores of
    every passage: what only one list has counts as the other's worst.
    """
    if not 0.0 <= lexical_weight <= 1.0:
        raise ValueError(f"lexical_weight is {lexical_weight}; give a share between 0 and 1.")
    words, meaning = normalise(lexical), normalise(semantic)
    return {
        memory: lexical_weight * words.get(memory, 0.0) + (1.0 - lexical_weight) * meaning.get(memory, 0.0)
        for memory in words.keys() | meaning.keys()
    }


def spread(
    scores: Mapping[UUID, float], neighbours: Iterable[tuple[UUID, UUID]], *, share: float
) -> list[tuple[UUID, float]]:
    """The passages best first, each score raised by `share` of those of its neighbours; the best has at most 1.

    An answer often stands beside the words of the question: the turn of a conversation that replies to them, the body
    below a signature. Ties go by id, so that the order is always the same.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}; give a number between 0 and 1.")
    raised = dict(scores)
    for one, other in neighbours:
        raised[one] += share * scores[other]
        raised[other] += share * scores[one]
    most = max([1.0, *raised.values()])
    return sorted(((memory, score / most) for memory, score in raised.items()), key=lambda item: (-item[1], item[0]))


def normalise(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    """The scores moved to 0 … 1; all alike: all 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high - low < 1e-12:
        return dict.fromkeys(scores, 1.0)
    return {memory: (score - low) / (high - low) for memory, score in scores.items()}

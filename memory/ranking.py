"""How two rankings of the same passages become one; pure."""

from collections.abc import Iterable, Mapping
from statistics import fmean, pstdev
from uuid import UUID


def fuse(lexical: Mapping[UUID, float], semantic: Mapping[UUID, float], *, lexical_weight: float) -> dict[UUID, float]:
    """Both score lists as one, between 0 and 1.

    Scores and not ranks are added: that a passage leads by far is worth knowing. Each list is first measured in its own
    standard deviations, so that one far outlier does not press all others together, as it would between the lowest and
    the highest. Give both scores of every passage: what only one list has counts as the other's worst.
    """
    if not 0.0 <= lexical_weight <= 1.0:
        raise ValueError(f"lexical_weight is {lexical_weight}; give a share between 0 and 1.")
    words, meaning = standardise(lexical), standardise(semantic)
    no_words, no_meaning = min(words.values(), default=0.0), min(meaning.values(), default=0.0)
    return normalise(
        {
            memory: lexical_weight * words.get(memory, no_words)
            + (1.0 - lexical_weight) * meaning.get(memory, no_meaning)
            for memory in words.keys() | meaning.keys()
        }
    )


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


def standardise(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    """How many standard deviations each score is above the mean; all alike: all 0."""
    if not scores:
        return {}
    mean, deviation = fmean(scores.values()), pstdev(scores.values())
    if deviation < 1e-12:
        return dict.fromkeys(scores, 0.0)
    return {memory: (score - mean) / deviation for memory, score in scores.items()}


def normalise(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    """The scores moved to 0 … 1; all alike: all 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high - low < 1e-12:
        return dict.fromkeys(scores, 1.0)
    return {memory: (score - low) / (high - low) for memory, score in scores.items()}

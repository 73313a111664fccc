"""How much a memory still matters: importance that fades while nobody asks for it; pure.

After Park et al., "Generative Agents: Interactive Simulacra of Human Behavior" (UIST 2023), section 4.1, which adds up
relevance, importance, and a recency that decays exponentially since a memory was last recalled. There each is a term of
its own; here importance is what decays, so that neither an old triviality nor a new one outranks what answers better.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

# A lesson that nobody has needed for a month counts half.
HALF_LIFE_SECONDS = 30 * 86_400.0
# Share of it in the score of a recalled memory: it decides between answers that are about as good, not against better.
WORTH_SHARE = 0.15
# Of what has no importance, as a passage of a repository: between what matters and what does not.
NEUTRAL = 0.5


def worth(importance: float | None, *, age_seconds: float, half_life_seconds: float = HALF_LIFE_SECONDS) -> float:
    """What is left of `importance` so long after it was written or last recalled; 0 … 1."""
    if half_life_seconds <= 0:
        raise ValueError(f"half_life_seconds is {half_life_seconds}; give more than 0.")
    if importance is None:
        return NEUTRAL
    return float(importance * 0.5 ** (max(age_seconds, 0.0) / half_life_seconds))


def weigh(
    ranked: Sequence[tuple[UUID, float]], worths: Mapping[UUID, float], *, share: float = WORTH_SHARE
) -> list[tuple[UUID, float]]:
    """The memories best first by relevance and worth together, each 0 … 1.

    `worths`: of those that have an importance; without any, the order and the scores stay as they were.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}; give a number between 0 and 1.")
    if not worths:
        return list(ranked)
    weighed = [(memory, (1.0 - share) * score + share * worths.get(memory, NEUTRAL)) for memory, score in ranked]
    return sorted(weighed, key=lambda one: (-one[1], one[0]))

"""Fusion of two rankings."""

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.memory.ranking import fuse, normalise, spread

A, B, C = (UUID(int=number) for number in (1, 2, 3))
SCORES = st.dictionaries(st.uuids(), st.floats(min_value=-1, max_value=50, allow_nan=False), max_size=12)


def order(scores: dict[UUID, float]) -> list[UUID]:
    return [memory for memory, _ in spread(scores, (), share=0.0)]


def test_what_both_rankings_like_leads() -> None:
    assert order(fuse({A: 9.0, B: 1.0}, {A: 0.8, C: 0.9, B: 0.1}, lexical_weight=0.5)) == [A, C, B]


def test_weight_decides_between_words_and_meaning() -> None:
    lexical, semantic = {A: 2.0, B: 1.0}, {A: 0.1, B: 0.2}
    assert order(fuse(lexical, semantic, lexical_weight=1.0))[0] == A
    assert order(fuse(lexical, semantic, lexical_weight=0.0))[0] == B


def test_an_outlier_does_not_press_the_other_scores_together() -> None:
    numbers = [UUID(int=number) for number in range(10, 20)]
    # By its words one passage leads by far; among the others meaning is nearly even, and words say much.
    words = {A: 100.0, B: 12.0, C: 4.0, **dict.fromkeys(numbers, 2.0)}
    meaning = {A: 0.1, B: 0.5, C: 0.52, **dict.fromkeys(numbers, 0.2)}
    assert order(fuse(words, meaning, lexical_weight=0.5))[:3] == [A, B, C]


def test_ties_go_by_id() -> None:
    assert spread(fuse({B: 1.0, A: 1.0}, {}, lexical_weight=0.5), (), share=0.2) == [(A, 1.0), (B, 1.0)]


def test_the_reply_beside_the_words_of_a_question_passes_what_stands_alone() -> None:
    scores = {A: 0.5, B: 0.45, C: 0.9}
    assert spread(scores, [(B, C)], share=0.2)[1][0] == B
    assert spread(scores, [(B, C)], share=0.0)[1][0] == A


def test_neighbours_lend_to_each_other_what_they_had_before() -> None:
    assert dict(spread({A: 0.2, B: 0.4, C: 0.1}, [(A, B), (B, C)], share=0.5)) == pytest.approx(
        {A: 0.4, B: 0.55, C: 0.3}
    )


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share is -0\.1"):
        spread({}, (), share=-0.1)


def test_equal_scores_are_all_best() -> None:
    assert normalise({A: 3.0, B: 3.0}) == {A: 1.0, B: 1.0}


def test_a_weight_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lexical_weight is 1\.5"):
        fuse({}, {}, lexical_weight=1.5)


@given(
    lexical=SCORES,
    semantic=SCORES,
    weight=st.floats(min_value=0, max_value=1),
    share=st.floats(min_value=0, max_value=1),
)
def test_scores_are_sorted_and_between_0_and_1(
    lexical: dict[UUID, float], semantic: dict[UUID, float], weight: float, share: float
) -> None:
    fused = fuse(lexical, semantic, lexical_weight=weight)
    ranked = spread(fused, list(pairwise(fused)), share=share)
    scores = [score for _, score in ranked]
    assert {memory for memory, _ in ranked} == lexical.keys() | semantic.keys()
    assert scores == sorted(scores, reverse=True)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)

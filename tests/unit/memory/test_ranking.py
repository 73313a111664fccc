"""Fusion of two rankings."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.memory.ranking import fuse, normalise

A, B, C = (UUID(int=number) for number in (1, 2, 3))
SCORES = st.dictionaries(st.uuids(), st.floats(min_value=-1, max_value=50, allow_nan=False), max_size=12)


def test_what_both_rankings_like_leads() -> None:
    order = fuse({A: 9.0, B: 1.0}, {A: 0.8, C: 0.9, B: 0.1}, lexical_weight=0.5)
    assert [memory for memory, _ in order] == [A, C, B]


def test_weight_decides_between_words_and_meaning() -> None:
    lexical, semantic = {A: 2.0, B: 1.0}, {A: 0.1, B: 0.2}
    assert fuse(lexical, semantic, lexical_weight=1.0)[0][0] == A
    assert fuse(lexical, semantic, lexical_weight=0.0)[0][0] == B


def test_ties_go_by_id() -> None:
    assert fuse({B: 1.0, A: 1.0}, {}, lexical_weight=0.5) == [(A, 0.5), (B, 0.5)]


def test_equal_scores_are_all_best() -> None:
    assert normalise({A: 3.0, B: 3.0}) == {A: 1.0, B: 1.0}


def test_a_weight_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lexical_weight is 1\.5"):
        fuse({}, {}, lexical_weight=1.5)


@given(lexical=SCORES, semantic=SCORES, weight=st.floats(min_value=0, max_value=1))
def test_scores_are_sorted_and_between_0_and_1(
    lexical: dict[UUID, float], semantic: dict[UUID, float], weight: float
) -> None:
    order = fuse(lexical, semantic, lexical_weight=weight)
    scores = [score for _, score in order]
    assert {memory for memory, _ in order} == lexical.keys() | semantic.keys()
    assert scores == sorted(scores, reverse=True)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)

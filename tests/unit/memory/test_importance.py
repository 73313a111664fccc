"""Importance fades by halves, and weighs little against a better answer."""

from uuid import UUID

import pytest

from chargehand.memory.importance import HALF_LIFE_SECONDS, NEUTRAL, weigh, worth

A, B = UUID(int=1), UUID(int=2)


def test_importance_halves_with_each_half_life() -> None:
    assert worth(0.8, age_seconds=0) == pytest.approx(0.8)
    assert worth(0.8, age_seconds=HALF_LIFE_SECONDS) == pytest.approx(0.4)
    assert worth(0.8, age_seconds=3 * HALF_LIFE_SECONDS) == pytest.approx(0.1)


def test_what_was_written_by_a_clock_ahead_is_new_and_not_more_than_that() -> None:
    assert worth(0.8, age_seconds=-5) == pytest.approx(0.8)


def test_what_has_no_importance_does_not_age() -> None:
    assert worth(None, age_seconds=100 * HALF_LIFE_SECONDS) == NEUTRAL


def test_what_matters_more_comes_first_among_equals_only() -> None:
    assert [memory for memory, _ in weigh([(A, 0.9), (B, 0.9)], {A: 0.1, B: 0.9})] == [B, A]
    assert [memory for memory, _ in weigh([(A, 0.9), (B, 0.5)], {A: 0.1, B: 0.9})] == [A, B]


def test_without_importance_neither_order_nor_scores_change() -> None:
    ranked = [(B, 0.9), (A, 0.9)]
    assert weigh(ranked, {}) == ranked


def test_a_half_life_or_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="half_life_seconds"):
        worth(0.5, age_seconds=1, half_life_seconds=0)
    with pytest.raises(ValueError, match="share"):
        weigh([], {}, share=1.5)

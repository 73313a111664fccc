"""Figures: one JSON line each, judged by their targets."""

import json

import pytest

from benchmarks.figures import Figure, percentile


def test_a_figure_is_one_line_of_json_with_its_target_and_durability() -> None:
    line = Figure(name="turn_overhead_ratio", value=1.40001, unit="x", target=1.6).line()
    assert json.loads(line) == {
        "figure": "turn_overhead_ratio",
        "value": 1.4,
        "unit": "x",
        "target": 1.6,
        "better": "lower",
        "ok": True,
        "class": "fsync",
    }
    assert "\n" not in line


def test_a_promise_is_broken_on_its_bad_side_only() -> None:
    assert Figure(name="x", value=2.0, unit="ms", target=1.0).ok is False
    assert Figure(name="x", value=2.0, unit="1/s", target=1.0, better="higher").ok is True
    assert Figure(name="x", value=2.0, unit="ms").ok is None


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (99, 4.0), (1, 1.0), (100, 4.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value

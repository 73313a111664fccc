"""What is the same in two calls and two results, and what only looks so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.likeness import (
    change,
    settle,
    settle_failure,
    spelling,
    without_identity,
    without_options,
)
from chargehand.orchestrator.tones import tone
from chargehand.orchestrator.volatile import essence, names_in


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("done at 2026-11-24T10:00:00Z", "done at 2026-11-25 11:30:07.123 UTC", True),
        ("trace 0b6f-11: ok", "trace 77ac-02: ok", True),
        ("job 3e0c1b7a-0000-4000-8000-000000000001", "job 9d0c1b7a-0000-4000-8000-000000000002", True),
        ("<Conn at 0x7f01>", "<Conn at 0x7f99>", True),
        ("3 hits in 12 ms", "3 hits in 7.5 ms", True),
        ("b.py\na.py", "a.py\nb.py", True),
        ("3 hits in 12 ms", "4 hits in 12 ms", False),
        ("running, 40%", "running, 41%", False),
        ('{"elapsed_seconds": 4}', '{"elapsed_seconds": 9}', False),
        ("running since 10:00:00", "running since 10:00:05", False),
        ("queue empty at 10:00:00", "queue empty at 10:00:05", True),
        ("x" * 2_000 + " 12 passed in 3.1s", "x" * 2_000 + " 12 passed in 2.8s", True),
        ("x" * 2_000 + "a" + "x" * 2_000, "x" * 2_000 + "b" + "x" * 2_000, False),
    ],
)
def test_an_answer_is_what_it_says_without_what_is_new_in_every_answer(one: str, other: str, same: bool) -> None:
    assert (settle(one) == settle(other)) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("attempt 2 of 5 failed after 3 s", "attempt 3 of 5 failed after 9 s", True),
        ("worker-412 died", "worker-77 died", True),
        ("a.py:12: too long", "a.py:40: too long", True),
        ("2 of 9 pods ready", "3 of 9 pods ready", False),
        ("40% loaded", "60% loaded", False),
        ("no such key", "no such door", False),
    ],
)
def test_a_failure_is_what_it_says_and_its_figures_are_apart(one: str, other: str, same: bool) -> None:
    assert (settle_failure(one)[0] == settle_failure(other)[0]) is same


def test_the_figures_of_a_failure_are_kept_and_its_noise_is_not() -> None:
    settled = settle_failure("pid 311: 4 tests failed at line 12 in 0.3s")

    assert settled.figures == (4,)
    assert settled.positions == (12,)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("redis timeout", "timeout redis?", "wording"),
        ("src/user.py", "src/users.py", "wording"),
        ("how to drain a kafka queue by hand", "how to drain a kafka topic by hand", "wording"),
        ("redis timeout", "pool size", None),
        ("src/a.py", "src/b.py", None),
        ("part-01.csv", "part-02.csv", "numbered"),
        (10, 20, "figures"),
        (10, 10, "same"),
        (True, False, "wording"),
        ("x", None, "wording"),
    ],
)
def test_how_little_lies_between_two_values(one: Any, other: Any, expected: str | None) -> None:
    assert change(one, other) == expected
    assert change(other, one) == expected


def test_signs_alone_are_not_dropped_as_punctuation() -> None:
    assert spelling("+") != spelling("-")
    assert spelling(-1) != spelling(1)
    assert spelling("A, b") == spelling("a b")


def test_an_acknowledgement_is_the_same_whatever_it_acknowledges() -> None:
    assert without_identity("Created ticket #101") == without_identity("Created ticket #102")
    assert without_identity("Created OPS-7, id: 9a") == without_identity("Created OPS-8, id: 4c")
    assert without_identity("copied 4 files") != without_identity("copied 9 files")


def test_what_a_machine_made_up_is_set_aside_only_where_enough_is_left() -> None:
    said, names, spans = essence(
        '{"status": "declined", "reason": "limit", "id": 17, "ref": "x7kq2b9", "for": "3.5 s"}'
    )

    assert "x7kq2b9" not in said
    assert names == {"17", "x7kq2b9"}
    assert spans == (3.5,)
    assert essence("x7kq2b9")[0] == ""
    assert names_in("start x7kq2b9 in 30 s") == ["x7kq2b9"]


def test_options_are_not_what_a_command_is_about() -> None:
    assert without_options("rg -i --hidden 'digest' .") == without_options("rg digest")
    assert without_options("-v") == []


@given(st.text(max_size=400))
def test_any_text_can_be_judged(text: str) -> None:
    assert isinstance(settle(text), str)
    assert all(isinstance(figure, float) for figure in settle_failure(text)[1])
    assert tone(text) in ("failure", "nothing", "success", "plain")


def test_the_order_of_the_objects_in_a_list_says_nothing() -> None:
    one, other = '{"name": "Ada", "born": 1815}', '{"name": "Grace", "born": 1906}'

    assert settle(f'{{"hits": [{one}, {other}]}}') == settle(f'{{"hits": [{other}, {one}]}}')
    assert settle(f'{{"hits": [{one}, {other}]}}') != settle(f'{{"hits": [{one}, {one}]}}')


@pytest.mark.parametrize("characters", range(370, 420, 3))
def test_a_time_is_set_aside_wherever_in_a_short_text_it_stands(characters: int) -> None:
    text = ("word " * 100)[:characters]

    assert settle(f"{text} took 12 ms.") == settle(f"{text} took 345 ms.")


def test_ago_is_a_clock_unless_it_is_of_the_last_progress() -> None:
    assert settle("queued, triggered 5 minutes ago") == settle("queued, triggered 9 minutes ago")
    assert settle("running, updated 5 minutes ago") != settle("running, updated 1 minutes ago")

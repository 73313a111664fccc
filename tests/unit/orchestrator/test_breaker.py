"""The breaker: what is a loop, and above all what is none."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargehand.orchestrator.breaker import Observed, Trip, normalise, watch
from chargehand.orchestrator.facts import ToolFinished


def call(
    seq: int,
    tool: str = "read_file",
    *,
    gave: str = "text",
    error: str = "",
    step: str = "a",
    role: str = "",
    turn: int | None = None,
    commit: str | None = None,
    **arguments: Any,
) -> Observed:
    fact = ToolFinished(
        tool_use_id=f"t{seq}",
        tool=tool,
        arguments=arguments,
        outcome="error" if error else "ok",
        content=error or gave,
        error_type="ToolRetry" if error else "",
        commit=commit,
    )
    return Observed(step=step, seq=seq, fact=fact, role=role, turn=turn)


def rule(*calls: Observed) -> str | None:
    trip = watch(calls)
    return trip.rule if trip else None


def test_nothing_was_called_nothing_trips() -> None:
    assert watch([]) is None


def test_the_third_same_error_of_the_same_call_trips_with_its_rows() -> None:
    calls = [call(1, error="no", path="x"), call(3, gave="ok", path="y"), call(5, error="no", path="x")]

    assert watch(calls) is None
    trip = watch([*calls, call(7, error="no", path="x")])
    assert trip == Trip(
        rule="same_error",
        detail="read_file failed 3 times with the same arguments and ToolRetry.",
        evidence=("a:1", "a:5", "a:7"),
    )


def test_spelling_of_arguments_does_not_hide_a_repetition() -> None:
    one = call(1, error="no", path="x  y", line=1)
    two = call(2, error="no", line=1.0, path=" x y")
    three = call(3, error="no", line="1", path="x\ty\n")

    assert rule(one, two, three) == "same_error"


def test_the_same_error_counts_across_the_agents_of_a_run() -> None:
    calls = [call(1, error="no", path="x", step=step) for step in "abc"]

    assert rule(*calls) == "same_error"


def test_other_arguments_or_another_error_or_a_success_between_is_no_repetition() -> None:
    assert rule(*(call(n, error="no", path="x" * 40 * n) for n in (1, 2, 3))) is None
    assert rule(*(call(n, error=f"no {n}", path="x") for n in (1, 2, 3))) is None
    calls = [
        call(1, error="no", p="x"),
        call(2, error="no", p="x"),
        call(3, gave="ok", p="x"),
        call(4, error="no", p="x"),
    ]
    assert rule(*calls) is None


def test_errors_of_others_do_not_trip_a_step_that_gets_on() -> None:
    others = [call(n, error="no", path="x", step="b") for n in (1, 2, 3)]

    assert rule(*others, call(1, gave="fine", path="y", step="a")) is None


def test_two_calls_in_turn_with_the_same_answers_trip_in_the_second_round() -> None:
    a, b = {"path": "a"}, {"path": "b"}

    assert rule(call(1, **a), call(2, **b), call(3, **a)) is None
    assert rule(call(1, **a), call(2, **b), call(3, **a), call(4, **b)) == "alternation"


def test_edit_and_test_in_turn_with_new_outcomes_is_work() -> None:
    calls = [
        call(1, "apply_fix", path="a", commit="1"),
        call(2, "run", gave="2 failed"),
        call(3, "apply_fix", path="a", commit="2"),
        call(4, "run", gave="1 failed"),
    ]

    assert rule(*calls) is None


def test_polling_whose_answer_changes_is_no_loop() -> None:
    assert rule(*(call(n, "status", gave=f"{n}%", job=7) for n in range(1, 30))) is None


def test_polling_without_an_end_trips() -> None:
    assert rule(*(call(n, "status", gave="0%", job=7) for n in range(1, 6))) == "near_identical"


def test_reading_a_file_in_parts_is_no_loop() -> None:
    assert rule(*(call(n, gave=f"lines {n}", path="big.py", first_line=n * 100) for n in range(1, 15))) is None


def test_guessing_nearly_the_same_name_trips() -> None:
    calls = [
        call(n, error=f"There is no file 'src/handlers/users{n}.py'", path=f"src/handlers/users{n}.py")
        for n in range(5)
    ]

    assert rule(*calls[:4]) is None
    assert rule(*calls) == "near_identical"


def test_failures_of_one_turn_were_made_before_any_answer() -> None:
    calls = [call(n, error=f"no src/handlers/users{n}.py", path=f"src/handlers/users{n}.py", turn=1) for n in range(9)]

    assert rule(*calls) is None


def test_six_calls_that_show_nothing_new_trip() -> None:
    first = [call(n, path=path) for n, path in enumerate(("aaa", "bbbbbb", "ccccccccc"))]
    again = [call(10 + n, path=("aaa", "bbbbbb", "ccccccccc")[n % 3]) for n in range(6)]

    assert rule(*first, *again[:5]) is None
    assert rule(*first, *again) == "no_change"


def test_a_hand_off_back_and_forth_twice_trips() -> None:
    pairs = [("coder", "triager"), ("triager", "coder")] * 2
    calls = [
        call(n, "hand_off", step=f"s{n}", role=one, gave=f"{n}", to=other, why=f"{n}")
        for n, (one, other) in enumerate(pairs)
    ]

    assert rule(*calls[:3]) is None
    assert rule(*calls) == "ping_pong"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": "1.50"}, {"a": 1.5}, True),
        ({"a": "007"}, {"a": 7}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": "1e3"}, {"a": 1000}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": "Foo"}, {"a": "foo"}, False),
    ],
)
def test_only_what_means_the_same_is_the_same(one: Any, other: Any, same: bool) -> None:
    assert (repr(normalise(one)) == repr(normalise(other))) is same


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no failure
@given(VALUES)
def test_normalising_twice_changes_nothing(value: Any) -> None:
    assert normalise(normalise(value)) == normalise(value)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans(), st.integers(0, 1)), max_size=20))
def test_any_history_is_judged_and_evidence_names_its_rows(history: list[tuple[str, int, bool, int]]) -> None:
    calls = [
        call(seq, path=f"{path}", step=step, error="no" if failed else "", gave=str(gave))
        for seq, (step, path, failed, gave) in enumerate(history)
    ]

    trip = watch(calls)

    assert trip is None or set(trip.evidence) <= {observed.place for observed in calls}

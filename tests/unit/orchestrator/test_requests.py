"""Requests: checked before anything is written, refused with the value and the remedy."""

from contextlib import suppress
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chargehand.orchestrator.errors import InvalidBudget, InvalidGoal
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.requests import (
    MAX_GOAL_BYTES,
    RunRequest,
    check_goal,
    goal_plan,
    microusd,
)

PLAN = Plan.of([Step(key="a", kind="script", script="work")])


@pytest.mark.parametrize(
    ("dollars", "micro"), [("0.50", 500_000), ("0.000001", 1), (Decimal("2"), 2_000_000), ("1e2", 10**8)]
)
def test_dollars_are_integer_micro_dollars(dollars: str | Decimal, micro: int) -> None:
    assert microusd(dollars) == micro


@pytest.mark.parametrize("dollars", ["0", "-1", "-0.0", "NaN", "Infinity", "1e9", "", "ten", "0,50", "0.0000001"])
def test_a_budget_that_is_no_positive_amount_is_refused_with_an_example(dollars: str) -> None:
    with pytest.raises(InvalidBudget, match=r"give (dollars, for example 0\.50|at least)"):
        microusd(dollars)


@given(st.text())
def test_any_text_is_a_budget_or_a_clear_refusal(dollars: str) -> None:
    with suppress(InvalidBudget):
        assert microusd(dollars) > 0


@pytest.mark.parametrize("goal", ["", "   ", "\n\t", "\x00", " \x00 "])
def test_an_empty_goal_is_refused(goal: str) -> None:
    with pytest.raises(InvalidGoal, match="say what should be done"):
        check_goal(goal)


def test_a_goal_of_200_kb_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidGoal, match="200,000 bytes; at most 100,000"):
        check_goal("x" * 200_000)
    assert check_goal("x" * MAX_GOAL_BYTES) == "x" * MAX_GOAL_BYTES


@given(st.text(st.characters(codec=None)))
def test_any_other_goal_can_be_stored(goal: str) -> None:
    with suppress(InvalidGoal):
        stored = check_goal(goal)
        assert stored.encode("utf-8")
        assert "\x00" not in stored


def test_bytes_of_a_broken_terminal_become_the_text_they_were() -> None:
    assert check_goal("caf\udcc3\udca9 \ud800") == "café \ufffd"


def test_a_request_waits_as_text_and_comes_back_the_same() -> None:
    request = RunRequest(
        run_id=uuid4(), goal="g", plan=PLAN, budget_microusd=microusd("0.10"), idempotency_key="k", priority=3
    )
    assert RunRequest.model_validate_json(request.model_dump_json()) == request
    assert request.budget_microusd == 100_000


@pytest.mark.parametrize("fields", [{"deadline_seconds": 0}, {"unknown": 1}, {"goal": None}])
def test_a_malformed_request_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunRequest.model_validate({"run_id": uuid4(), "goal": "g", "plan": PLAN, "budget_microusd": 1, **fields})


def test_every_goal_begins_with_the_planner_after_a_look_at_the_workspace() -> None:
    assert [step.key for step in goal_plan(with_workspace=True).steps] == ["inventory", "plan"]
    assert [step.key for step in goal_plan(with_workspace=False).steps] == ["plan"]
    assert [step.role for step in goal_plan(with_workspace=False).steps] == ["planner"]

"""Which model is chosen, and the reason that the journal gets."""

from typing import Any

import pytest

from chargehand.orchestrator.settings import Settings
from chargehand.workers.models.interface import ModelUnavailable
from chargehand.workers.models.router import Tiers, Wish, choose, problems_in, wish

TIERS = Tiers(small="s", medium="m", large="l")


@pytest.mark.parametrize(("tier", "model"), [("small", "s"), ("medium", "m"), ("large", "l")])
def test_role_tier_decides(tier: str, model: str) -> None:
    choice = choose(TIERS, tier)

    assert (choice.model, choice.tier, choice.reason) == (model, tier, f"{tier}: the role's tier")


def test_tiers_come_from_the_settings() -> None:
    assert Tiers.of(Settings(small_model="a", medium_model="b", large_model="c")) == Tiers(
        small="a", medium="b", large="c"
    )


@pytest.mark.parametrize("problem", ["unsure", "invalid", "refuted"])
def test_answer_that_did_not_do_goes_one_tier_up(problem: Any) -> None:
    choice = choose(TIERS, "small", problems=[problem])

    assert (choice.model, choice.tier) == ("m", "medium")
    assert choice.reason == f"medium: escalated from small ({problem})"


def test_escalation_ends_at_the_largest() -> None:
    assert choose(TIERS, "medium", problems=["invalid"] * 9).model == "l"


def test_overload_goes_to_a_larger_model_first_and_then_to_a_smaller_one() -> None:
    assert choose(TIERS, "medium", shunned={"m": "overloaded"}).model == "l"
    last = choose(TIERS, "medium", shunned={"m": "overloaded", "l": "overloaded"})
    assert (last.model, last.tier) == ("s", "small")
    assert last.reason == "small: fell back from m (overloaded)"


def test_one_model_for_all_tiers_has_nothing_to_fall_back_to() -> None:
    with pytest.raises(ModelUnavailable, match="overloaded") as failure:
        choose(Tiers(small="x", medium="x", large="x"), "small", shunned={"x": "overloaded"})

    assert failure.value.retryable


def test_model_named_by_the_caller_is_taken() -> None:
    assert choose(TIERS, "small", wished="z", shunned={"z": "overloaded"}).model == "z"


def test_unknown_tier_is_refused_with_the_remedy() -> None:
    with pytest.raises(ModelUnavailable, match="small, medium, large") as failure:
        choose(TIERS, "huge")

    assert not failure.value.retryable


def exchange(name: str, number: int, *, refused: bool) -> list[dict[str, Any]]:
    """A call and its result."""
    call = {"type": "tool_use", "id": f"t{number}", "name": name, "input": {}}
    result = {"type": "tool_result", "tool_use_id": f"t{number}", "is_error": refused, "content": "no"}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


@pytest.mark.parametrize(("refusals", "problems"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
def test_two_refused_submissions_are_one_step_up(refusals: int, problems: int) -> None:
    messages = [one for number in range(refusals) for one in exchange("submit_plan", number, refused=True)]

    assert problems_in(messages, {"submit_plan"}) == ["invalid"] * problems


def test_errors_of_other_tools_are_no_invalid_answers() -> None:
    messages = [one for number in range(6) for one in exchange("read_file", number, refused=True)]

    assert problems_in(messages, {"submit_plan"}) == []


def test_used_up_budget_goes_one_tier_down_and_says_why() -> None:
    choice = choose(TIERS, "large", used_percent=80)

    assert (choice.model, choice.tier) == ("m", "medium")
    assert choice.reason == "medium: down from large (80% of the budget is used)"
    assert choose(TIERS, "large", used_percent=50).model == "l"
    assert choose(TIERS, "small", used_percent=95).model == "s"
    assert choose(TIERS, "small", used_percent=95, wished="z").model == "z"


def test_escalation_counts_also_while_money_is_short() -> None:
    assert choose(TIERS, "small", problems=["refuted", "invalid"], used_percent=95).model == "m"


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, Wish(tier="medium")),
        ({"role_models": {"writer": "small"}}, Wish(tier="small", by="CHARGEHAND_ROLE_MODELS")),
        ({"role_models": {"writer": "local/q"}}, Wish(tier="medium", model="local/q", by="CHARGEHAND_ROLE_MODELS")),
        ({"role_models": {"other": "small"}}, Wish(tier="medium")),
        ({"role_models": {"writer": "small"}, "run": ("large", None)}, Wish(tier="large", by="named for the run")),
        ({"run": (None, "x"), "step": ("small", None)}, Wish(tier="small", by="named by the step")),
        ({"run": ("large", "x")}, Wish(tier="large", model="x", by="named for the run")),
    ],
)
def test_nearest_word_about_a_model_counts(asked: Any, wanted: Wish) -> None:
    assert wish("writer", "medium", **asked) == wanted


def test_who_named_the_tier_is_the_reason() -> None:
    assert choose(TIERS, "small", by="named for the run").reason == "small: named for the run"
    assert choose(TIERS, "small", wished="z", by="named by the step").reason == "named by the step"

"""When a question expires, and what it comes to then."""

from uuid import uuid4

import pytest

from chargehand.memory.procedural import parse_role
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import StepWaiting, WaitReason
from chargehand.orchestrator.plan import Branch, Expiry, Plan, Repeat, Step
from chargehand.orchestrator.questions import (
    MOST_UNATTENDED_RETRIES,
    expiring,
    of_role,
    of_settings,
    unattended_choice,
)
from chargehand.orchestrator.settings import Settings

RETRY = Expiry(after_seconds=60, then="retry")
SKIP = Expiry(after_seconds=5, then="skip")


def asked(*options: str, reason: WaitReason = "human") -> StepWaiting:
    return StepWaiting(wait_id=uuid4(), reason=reason, question="?", options=options)


def test_the_nearest_policy_counts() -> None:
    found = expiring(asked("retry", "skip"), None, SKIP, RETRY)
    assert (found.expires_after_seconds, found.expires_then) == (5, "skip")


def test_without_a_policy_a_question_waits_for_ever() -> None:
    assert expiring(asked("retry"), None, None).expires_after_seconds is None


def test_a_choice_that_is_not_offered_becomes_a_failure() -> None:
    found = expiring(asked("override", "skip", "abort"), RETRY)
    assert found.expires_then == "fail"
    assert unattended_choice(found, retries=0) == "abort"


@pytest.mark.parametrize("reason", ["rate", "retry", "children"])
def test_what_is_no_question_to_a_person_does_not_expire(reason: WaitReason) -> None:
    assert expiring(asked("answer", reason=reason), RETRY).expires_after_seconds is None


def test_a_budget_in_use_frees_itself_and_one_that_is_used_up_asks() -> None:
    assert expiring(asked(reason="budget"), SKIP).expires_after_seconds is None
    assert expiring(asked("skip", "abort", reason="budget"), SKIP).expires_then == "skip"


def test_a_question_that_comes_back_each_time_is_not_let_try_again_for_ever() -> None:
    found = expiring(asked("retry", "skip"), RETRY)
    assert unattended_choice(found, retries=MOST_UNATTENDED_RETRIES - 1) == "retry"
    assert unattended_choice(found, retries=MOST_UNATTENDED_RETRIES) == "abort"


def test_roles_and_settings_have_policies_of_their_own() -> None:
    front = "name: a\ndescription: d\npool: research\ntier: small\noutput: o\nexpires: {after_seconds: 9, then: skip}"
    text = f"---\n{front}\n---\nDo."
    assert of_role(parse_role(text, origin="test")) == Expiry(after_seconds=9, then="skip")
    assert of_role(None) is None
    assert of_settings(Settings()) is None
    assert of_settings(Settings(question_seconds=7)) == Expiry(after_seconds=7, then="fail")


@pytest.mark.parametrize(
    ("step", "known"),
    [
        (Step(key="g", kind="gate", expires=Expiry(after_seconds=1, then="maybe")), "fail, approve, reject"),
        (Step(key="g", kind="gate", options=("a", "b"), expires=Expiry(after_seconds=1, then="approve")), "fail, a, b"),
        (
            Step(key="s", kind="script", script="x", expires=Expiry(after_seconds=1, then="approve")),
            "fail, skip, retry",
        ),
        (
            Step(
                key="b",
                kind="branch",
                branch=Branch(labels=("l", "r"), role="chooser"),
                expires=Expiry(after_seconds=1, then="skip"),
            ),
            "fail, l, r",
        ),
    ],
)
def test_an_answer_that_cannot_be_given_is_refused_with_those_that_can(step: Step, known: str) -> None:
    with pytest.raises(InvalidPlan, match=f"choose one of: {known}"):
        Plan.of([step])


def test_a_step_that_asks_nobody_cannot_expire() -> None:
    body = (Step(key="s", kind="script", script="x"),)
    step = Step(key="r", kind="repeat", repeat=Repeat(body=body, until="s"), expires=SKIP)
    with pytest.raises(InvalidPlan, match="asks nobody"):
        Plan.of([step])

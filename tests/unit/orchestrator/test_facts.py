"""Facts: they survive the journal, and what is no fact is refused."""

from typing import get_args
from uuid import UUID

import pytest
from pydantic import ValidationError

from chargehand.orchestrator.errors import IllegalFact
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    Fact,
    ReservationsCharged,
    RunFact,
    RunSubmitted,
    StepAnchor,
    StepClaimed,
    StepFact,
    StepFinished,
    StepsAnchored,
    StepWaiting,
    WorkspaceRef,
    parse_fact,
)
from chargehand.orchestrator.plan import Plan, PlanPatch, Step

A_STEP = Step(key="a", kind="script", script="work", arguments={"n": 1.5, "t": "ü\u2028", "l": [None, True]})
EXAMPLES: tuple[Fact, ...] = (
    RunSubmitted(
        goal="Audit\nthis 🙂",
        plan=Plan.of([A_STEP]),
        workspace=WorkspaceRef(source="/x", commit="0" * 40, uncommitted=("a b",)),
        budget_microusd=5,
        role_versions={"planner": "abc"},
    ),
    StepsAnchored(anchors=(StepAnchor(step=UUID(int=1), seq=3, hash="00"),)),
    ReservationsCharged(charged_microusd={UUID(int=1): 5}),
    StepClaimed(holder="w", takeover=True, crashes=2),
    StepWaiting(wait_id=UUID(int=2), reason="human", question="?", options=("yes", "no")),
    StepFinished(outcome="succeeded", result={"deep": [1, {"x": None}]}, patch=PlanPatch(add=(A_STEP,))),
)


@pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.kind)
def test_a_fact_is_read_as_it_was_written(fact: Fact) -> None:
    assert parse_fact(fact.model_dump_json(), schema_version=SCHEMA_VERSION) == fact


def test_kinds_are_unique_and_begin_with_what_they_are_about() -> None:
    kinds: list[str] = []
    for union, stream in ((RunFact, "run"), (StepFact, "step")):
        for fact in get_args(get_args(union)[0]):
            assert fact.stream == stream
            kinds.append(fact.model_fields["kind"].default)
    assert len(kinds) == len(set(kinds))
    assert all("." in kind for kind in kinds)


@pytest.mark.parametrize(
    "body", ["", "null", "{}", '{"kind":"nothing"}', '{"kind":"run.paused","extra":1}', '{"kind":"step.claimed"}']
)
def test_what_is_no_fact_is_illegal(body: str) -> None:
    with pytest.raises(IllegalFact, match="Not a fact"):
        parse_fact(body, schema_version=SCHEMA_VERSION)


def test_a_later_schema_is_left_alone_and_says_what_to_do() -> None:
    with pytest.raises(IllegalFact, match="upgrade this process"):
        parse_fact('{"kind":"run.paused"}', schema_version=SCHEMA_VERSION + 1)


def test_a_fact_is_never_changed() -> None:
    with pytest.raises(ValidationError):
        EXAMPLES[3].holder = "another"  # type: ignore[attr-defined]

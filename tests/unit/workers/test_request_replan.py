"""An agent asks for another plan: its step waits for the planner, and is told when there is none to be asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.workers.tools.registry import Suspended, ToolContext, run_tool
from chargehand.workers.tools.request_replan import request_replan

PLAN = Plan.of(
    [
        Step(key="scan", kind="script", script="scan"),
        Step(key="triage", kind="agent", role="triager", after=("scan",)),
    ]
)
SEEN = ToolContext(
    run_id=UUID(int=1),
    step_id=UUID(int=2),
    step_key="triage",
    arguments={},
    inputs={},
    results=lambda _: None,
    open_workspace=lambda: Path(),  # type: ignore[arg-type, return-value]
    recall=lambda _query, _limit: "",
    plan=PLAN,
    statuses={"scan": "succeeded", "triage": "running"},
    replans=2,
)
ASKED = Step(key="replan:1", kind="agent", role=REPLANNER)


def ask(seen: ToolContext) -> str | Suspended:
    try:
        return run_tool(
            request_replan, {"reason": "the files are not here"}, context=seen, idempotency_key=""
        ).output.content
    except Suspended as suspended:
        return suspended


def test_its_step_waits_for_a_planner_that_is_told_why_and_how_the_plan_stands() -> None:
    asked = ask(SEEN)
    assert isinstance(asked, Suspended)
    assert asked.child is not None
    assert (asked.child.key, asked.child.role, asked.child.parent) == ("triage/replan:1", REPLANNER, "triage")
    told: Any = asked.child.arguments
    assert told["reasons"] == [{"step": "triage", "error": "the files are not here"}]
    assert {step["key"]: step["status"] for step in told["steps"]} == {"scan": "succeeded", "triage": "running"}
    assert (told["round"], told["of"], told["asked_by"]) == (1, 2, "triage")


def test_it_is_told_when_the_plan_of_its_run_is_not_changed() -> None:
    assert "The plan of this run is not changed" in str(ask(replace(SEEN, replans=0)))


def test_it_is_told_when_the_plan_was_changed_often_enough() -> None:
    twice = Plan(steps=(*PLAN.steps, ASKED, ASKED.model_copy(update={"key": "replan:2"})))
    assert "The plan was changed 2 times, and is not again" in str(ask(replace(SEEN, plan=twice)))


def test_that_a_person_let_the_planner_think_again_leaves_it_its_turn() -> None:
    again = Plan(steps=(*PLAN.steps, ASKED, ASKED.model_copy(update={"key": "replan:1~2"})))
    asked = ask(replace(SEEN, plan=again))
    assert isinstance(asked, Suspended)
    assert asked.child is not None
    assert asked.child.key == "triage/replan:2"

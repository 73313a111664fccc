"""Golden cases of the planner: what it makes of a goal and an inventory."""

from typing import Any

import pytest

from chargehand.orchestrator.plan import Plan, PlanPatch, Step, extend
from chargehand.workers.offline.policies.planner import is_question, research_questions, shards_for

ROLES = frozenset({"planner", "researcher", "triager", "coder", "writer"})
SCRIPTS = {"index", "check_answers", "scan", "secrets", "tests", "verify_fixes", "verify", "render"}
BEGINNING = Plan.of(
    [
        Step(key="inventory", kind="script", script="inventory"),
        Step(key="plan", kind="agent", role="planner", after=("inventory",)),
    ]
)
SERVICE = {
    "files": 30,
    "languages": {"Python": 1_400},
    "python_lines": 1_400,
    "has_python": True,
    "routes": ["GET /parcels"],
    "entry_points": [],
    "test_command": ["python", "-m", "pytest"],
}
AUDIT = "Audit this repository, fix what is safe to fix, prove it by its tests, and report"


def planned(stage: Any, goal: str, inventory: dict[str, Any]) -> dict[str, Step]:
    """The steps of the patch, after the whole graph was validated."""
    request = stage.request_of("submit_plan", goal=goal, inputs={"inventory": inventory})
    result = stage.play(request, stage.desk({})).result
    steps = [Step.model_validate(step) for step in result["steps"]]
    extend(BEGINNING, PlanPatch(add=tuple(steps)), roles=ROLES)
    assert {step.script for step in steps if step.kind == "script"} <= SCRIPTS
    assert result["rationale"]
    return {step.key: step for step in steps}


def test_audit_of_a_service_has_every_part(stage: Any) -> None:
    steps = planned(stage, AUDIT, SERVICE)

    assert list(steps) == [
        "index", "research-1", "research-2", "research-3", "check-answers", "scan", "triage-1", "triage-2", "triage-3",
        "triage-4", "secrets", "triage-secrets", "tests-before", "fix", "tests-after", "verify", "report", "render",
    ]  # fmt: skip
    assert steps["research-1"].after == ("index",)
    assert steps["check-answers"].after == ("research-1", "research-2", "research-3")
    assert steps["check-answers"].join == "settled"
    assert steps["triage-2"].arguments == {"shard": 1, "shards": 4}
    assert steps["tests-before"].arguments == {"label": "before"}
    assert [steps[key].after for key in ("fix", "tests-after", "verify")] == [
        ("tests-before",),
        ("fix",),
        ("tests-after",),
    ]
    assert {"triage-1", "triage-secrets", "check-answers", "verify"} <= set(steps["report"].after)
    assert steps["report"].join == "settled"
    assert steps["render"].after == ("report",)


def test_render_knows_every_step_that_was_planned(stage: Any) -> None:
    steps = planned(stage, AUDIT, SERVICE)

    assert set(steps["render"].arguments["steps"]) == {"inventory", *steps} - {"render"}  # type: ignore[arg-type]


def test_pools_follow_the_kind_of_work(stage: Any) -> None:
    pools = {key: step.pool for key, step in planned(stage, AUDIT, SERVICE).items()}

    assert {pools[key] for key in ("index", "research-1", "report", "render")} == {"research"}
    assert {pools[key] for key in ("scan", "triage-1", "secrets", "triage-secrets")} == {"audit"}
    assert {pools[key] for key in ("tests-before", "fix", "tests-after", "verify")} == {"coding"}


def test_no_tests_give_no_step_before_the_fix(stage: Any) -> None:
    steps = planned(stage, AUDIT, {**SERVICE, "test_command": None})

    assert "tests-before" not in steps
    assert steps["fix"].after == ("plan",)
    assert "tests-after" in steps


def test_no_python_gives_neither_scan_nor_fix(stage: Any) -> None:
    steps = planned(stage, AUDIT, {"files": 4, "languages": {"Go": 900}, "python_lines": 0, "has_python": False})

    assert not {"scan", "fix", "tests-before", "tests-after", "verify", "triage-1"} & set(steps)
    assert {"secrets", "triage-secrets", "research-3"} <= set(steps)


def test_small_repository_gets_one_shard(stage: Any) -> None:
    steps = planned(stage, AUDIT, {**SERVICE, "python_lines": 120})

    assert [key for key in steps if key.startswith("triage-")] == ["triage-1", "triage-secrets"]


def test_shards_grow_with_the_code_up_to_four() -> None:
    assert [shards_for(lines) for lines in (0, 100, 399, 450, 1_000, 1_300, 1_000_000)] == [1, 1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("goal", ["Where are routes registered?", "How is a password checked", "Is there a cache?"])
def test_question_is_researched_and_nothing_else(stage: Any, goal: str) -> None:
    steps = planned(stage, goal, SERVICE)

    assert list(steps) == ["index", "research-1", "check-answers", "report", "render"]
    assert steps["research-1"].arguments["question"] == goal


def test_any_other_goal_gives_passages_and_says_so(stage: Any) -> None:
    request = stage.request_of("submit_plan", goal="Write a poem about parcels", inputs={"inventory": SERVICE})

    result = stage.play(request, stage.desk({})).result

    assert "only gives passages" in result["rationale"]
    assert [step["key"] for step in result["steps"]] == ["index", "research-1", "check-answers", "report", "render"]


def test_questions_fit_the_repository() -> None:
    assert research_questions(SERVICE)[0] == "Where are HTTP routes registered?"
    assert "start" in research_questions({"entry_points": ["main.py"]})[0]
    assert research_questions({})[0] == "How is this package installed and imported?"
    assert all(len(research_questions(one)) == 3 for one in (SERVICE, {"entry_points": ["x"]}, {}))


def test_summary_of_the_run_serves_when_the_inventory_is_no_input(stage: Any) -> None:
    request = stage.request_of("submit_plan", goal=AUDIT, repository=SERVICE)

    steps = stage.play(request, stage.desk({})).result["steps"]

    assert "tests-before" in [step["key"] for step in steps]


def test_audit_that_ends_in_a_question_mark_is_a_question_only_if_it_asks() -> None:
    assert not is_question("Audit this repository, will you?")
    assert is_question("Where is it?")


def test_huge_goal_still_makes_a_valid_plan(stage: Any) -> None:
    steps = planned(stage, "Where is " + "x " * 100_000 + "?", SERVICE)

    assert len(str(steps["research-1"].arguments["question"])) <= 2_000


# --- replanning -------------------------------------------------------------------------------------------------------


def changed(stage: Any, *failed: tuple[str, str, str, str], reason: str = "it broke") -> dict[str, Any]:
    """The answer to these failures: key, kind, what it does, error."""
    steps = [{"key": key, "kind": kind, "does": does, "status": "failed"} for key, kind, does, _ in failed]
    reasons = [{"step": key, "error": error} for key, _, _, error in failed] or [{"step": "fix", "error": reason}]
    request = stage.request_of("submit_replan", arguments={"reasons": reasons, "steps": steps, "round": 1, "of": 3})
    result: dict[str, Any] = stage.play(request, stage.desk({})).result
    return result


@pytest.mark.parametrize(
    ("failed", "again", "drop"),
    [
        (("triage-1", "agent", "triager", "no verdict"), ["triage-1"], []),
        (("triage-1~2", "agent", "triager", "no verdict"), [], ["triage-1~2"]),
        (("scan", "script", "scan", "TypeError: broken"), [], ["scan"]),
        (("scan", "script", "scan", "its deadline has passed"), ["scan"], []),
        (("inventory", "script", "inventory", "TypeError: broken"), [], []),
    ],
)
def test_a_failed_step_comes_once_more_or_is_gone_on_without(
    stage: Any, failed: tuple[str, str, str, str], again: list[str], drop: list[str]
) -> None:
    result = changed(stage, failed)
    assert [one["step"] for one in result["again"]] == again
    assert result["drop"] == drop
    assert result["rationale"].startswith("By rules, ")


def test_what_an_agent_asks_for_is_no_rules_to_judge(stage: Any) -> None:
    result = changed(stage, reason="there is nothing to fix")
    assert (result["again"], result["drop"], result["add"]) == ([], [], [])

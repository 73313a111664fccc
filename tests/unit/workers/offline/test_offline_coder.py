"""Golden cases of the coder: which fixes it applies, and what it hands to a person."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from chargehand.workers.findings import HumanTask

TOOLS = ("apply_fix", "list_fixes", "read_file", "search_text")
TESTS = {
    "tests/test_billing.py": "from shop import billing\n\ndef test_paid():\n    assert billing.is_settled()\n",
    "tests/test_timeline.py": "from shop.timeline import newest\n\ndef test_newest():\n    assert newest([1], 1)\n",
}


def candidate(rule: str, path: str, **changes: Any) -> dict[str, Any]:
    """One fix as `list_fixes` shows it."""
    return {"rule": rule, "path": path, "count": 1, "description": "d", "lines": [1], "safe": True, **changes}


def run(
    stage: Any,
    candidates: list[dict[str, Any]],
    tests_before: Mapping[str, Any] | None = None,
    refuse: frozenset[str] = frozenset(),
) -> Any:
    """Play the step; rules in `refuse` cannot be applied."""

    def apply_fix(arguments: Mapping[str, Any]) -> str:
        if arguments["rule"] in refuse:
            raise LookupError(f"ruff has no safe fix of {arguments['rule']}.")
        return json.dumps({**arguments, "description": "d", "commit": "c0ffee", "status": "applied", "evidence": ""})

    inputs = {"tests-before": dict(tests_before)} if tests_before else {}
    request = stage.request_of("submit_fixes", tools=TOOLS, inputs=inputs)
    tools = stage.desk(TESTS, list_fixes=lambda arguments: json.dumps({"fixes": candidates}), apply_fix=apply_fix)
    return stage.play(request, tools)


def before(**outcomes: str) -> dict[str, Any]:
    """A test run before the fixes."""
    ids = {"billing": "tests/test_billing.py::test_paid", "timeline": "tests/test_timeline.py::test_newest"}
    return {
        "command": ["pytest"],
        "runnable": True,
        "outcomes": {ids[name]: outcome for name, outcome in outcomes.items()},
        "output_tail": "E   assert [] == [1]\nFAILED tests/test_timeline.py::test_newest",
    }


def test_fixes_are_applied_in_a_stable_order(stage: Any) -> None:
    listed = [candidate("F632", "b.py"), candidate("F401", "z.py"), candidate("F401", "a.py")]

    played = run(stage, listed)

    expected = [{"rule": "F401", "path": "a.py"}, {"rule": "F401", "path": "z.py"}, {"rule": "F632", "path": "b.py"}]
    assert played.result == {"fixes": expected, "human_tasks": []}
    assert played.result == run(stage, listed[::-1]).result


@pytest.mark.parametrize(
    "unwanted",
    [
        candidate("RUF100", "a.py"),
        candidate("F401", "shop/__init__.py"),
        candidate("S608", "a.py"),
        candidate("F841", "a.py", safe=False),
        candidate("B006", "a.py"),
        candidate("UP007", "a.py", applicability="unsafe"),
    ],
    ids=lambda one: f"{one['rule']} in {one['path']}",
)
def test_fix_that_is_not_safe_by_rule_is_left(stage: Any, unwanted: dict[str, Any]) -> None:
    played = run(stage, [unwanted, candidate("F632", "b.py")])

    assert played.result["fixes"] == [{"rule": "F632", "path": "b.py"}]


def test_failing_test_that_no_fix_concerns_goes_to_a_person(stage: Any) -> None:
    played = run(stage, [candidate("F632", "shop/billing.py")], before(billing="failed", timeline="failed"))

    tasks = [HumanTask.model_validate(task) for task in played.result["human_tasks"]]
    assert [task.subject for task in tasks] == [
        "tests/test_timeline.py::test_newest fails, and no rule knows how to repair it"
    ]
    assert "assert [] == [1]" in tasks[0].evidence


def test_green_tests_ask_for_nobody(stage: Any) -> None:
    played = run(stage, [candidate("F632", "shop/billing.py")], before(billing="passed", timeline="skipped"))

    assert played.result["human_tasks"] == []
    assert "read_file" not in played.called


def test_tests_that_cannot_run_are_no_failing_tests(stage: Any) -> None:
    unrunnable = {**before(billing="failed"), "runnable": False, "reason": "missing flask"}

    assert run(stage, [], unrunnable).result == {"fixes": [], "human_tasks": []}


def test_fix_that_was_refused_is_not_claimed(stage: Any) -> None:
    played = run(stage, [candidate("F401", "a.py"), candidate("F632", "b.py")], refuse=frozenset({"F401"}))

    assert played.result["fixes"] == [{"rule": "F632", "path": "b.py"}]
    assert "F401 in a.py" in played.result["human_tasks"][0]["subject"]


def test_nothing_to_fix_ends_at_once(stage: Any) -> None:
    played = run(stage, [])

    assert played.result == {"fixes": [], "human_tasks": []}
    assert played.called == ["list_fixes", "submit_fixes"]


def test_many_fixes_end_within_the_turns(stage: Any) -> None:
    played = run(stage, [candidate("F401", f"m{index:02}.py") for index in range(60)], before(timeline="failed"))

    assert len(played.result["fixes"]) == 60
    assert len(played.turns) <= 11

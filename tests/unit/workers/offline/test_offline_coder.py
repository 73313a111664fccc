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


# --- what no rule knows is asked --------------------------------------------------------------------------------------

TEST = "tests/test_timeline.py::test_newest"
CODE = "shop/timeline.py"
WRONG = "def newest(events, count):\n    return events[-count:-1]\n"


def asked(stage: Any, answers: list[str | None], **files: str) -> tuple[Any, dict[str, str]]:
    """Play the step; a person gives these answers, None to a question that nobody answers. Gives the files, too."""
    tree = {**TESTS, CODE: WRONG, **files}
    given = iter(answers)

    def ask(arguments: Mapping[str, Any]) -> str:
        answer = next(given)
        if answer is None:
            raise LookupError("Nobody answered in time; go on without an answer.")
        return answer

    def edit(arguments: Mapping[str, Any]) -> str:
        path, old = arguments["path"], arguments["old"]
        if tree[path].count(old) != 1:
            raise LookupError(f"`old` does not stand in {path!r}.")
        tree[path] = tree[path].replace(old, arguments["new"])
        return json.dumps({"path": path, "line": 1, "commit": "c0ffee"})

    before_fixes = {
        **before(timeline="failed"),
        "messages": {TEST: "E   assert [] == [1]"},
        "files_imported": [CODE, "shop/billing.py"],
    }
    request = stage.request_of(
        "submit_fixes", tools=(*TOOLS, "ask_person", "edit_file"), inputs={"tests-before": before_fixes}
    )
    tools = stage.desk(tree, list_fixes=lambda arguments: '{"fixes": []}', ask_person=ask, edit_file=edit)
    return stage.play(request, tools), tree


def questions(played: Any) -> list[dict[str, Any]]:
    return [block["input"] for turn in played.turns for block in turn if block.get("name") == "ask_person"]


@pytest.mark.parametrize(
    "answer",
    [f"{CODE}:2: return events[-count:]", f"{CODE}:2:     return events[-count:]", "[-count:-1] -> [-count:]"],
)
def test_a_person_is_asked_with_the_evidence_and_the_answer_is_applied(stage: Any, answer: str) -> None:
    played, tree = asked(stage, [answer])

    [question] = questions(played)
    assert question["question"].startswith(f"{TEST} fails")
    assert "E   assert [] == [1]" in question["question"]
    assert f"{CODE}:2:     return events[-count:-1]" in question["question"]
    assert (question["files"], question["wants_fix"]) == ([CODE], True)
    assert tree[CODE] == WRONG.replace(":-1]", ":]")
    assert played.result == {"fixes": [{"rule": "by hand", "path": CODE}], "human_tasks": []}


def test_without_an_answer_the_test_is_handed_over_with_the_open_question(stage: Any) -> None:
    played, tree = asked(stage, [None])
    assert tree[CODE] == WRONG
    [task] = played.result["human_tasks"]
    assert task["subject"].startswith(TEST)
    assert "nobody answered" in task["asked"]
    assert HumanTask.model_validate(task)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(f"{CODE}:9: return", "does not exist"), ("nowhere -> there", "does not stand"), ("no idea", "no repair")],
)
def test_an_answer_that_cannot_be_applied_is_asked_about_once_more_with_the_reason(
    stage: Any, wrong: str, said: str
) -> None:
    played, tree = asked(stage, [wrong, f"{CODE}:2: return events[-count:]"])
    assert said in questions(played)[1]["question"]
    assert tree[CODE] == WRONG.replace(":-1]", ":]")
    played, tree = asked(stage, [wrong, wrong])
    assert len(questions(played)) == 2
    assert "could not be applied" in played.result["human_tasks"][0]["asked"]

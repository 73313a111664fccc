"""The coder's rule for names that a failing test found undefined: what it adds, and what it leaves alone."""

import json
from typing import Any

import pytest

from chargehand.workers.offline.policies.missing_imports import MissingImport, find, insertion

SHELF = "def label(parcel):\n    return json.dumps(parcel)\n"
SAID = (
    "test_shelf.py:5: in test_label\n    label(1)\n"
    "shelf.py:2: in label\n    return json.dumps(parcel)\nE   NameError: {}"
)
TEST = "test_shelf.py::test_label"


def failing(name: str = "json") -> dict[str, Any]:
    said = SAID.format(f"name '{name}' is not defined")
    return {"runnable": True, "outcomes": {TEST: "failed"}, "messages": {TEST: said}, "output_tail": ""}


def play(stage: Any, inputs: dict[str, Any], *may_edit: str) -> Any:
    request = stage.request_of(
        "submit_fixes",
        tools=("list_fixes", "apply_fix", "read_file", "edit_file", "ask_person"),
        arguments={"may_edit": list(may_edit)},
        inputs=inputs,
    )
    files = {"shelf.py": SHELF, "test_shelf.py": "from shelf import label\n\n\ndef test_label():\n    label(1)\n"}
    edited = stage.desk(
        files,
        list_fixes=lambda _: json.dumps({"fixes": []}),
        edit_file=lambda arguments: json.dumps({"path": arguments["path"], "line": 1, "commit": "c1"}),
    )
    return stage.play(request, edited)


def edits(played: Any) -> list[dict[str, Any]]:
    return [block["input"] for turn in played.turns for block in turn if block.get("name") == "edit_file"]


@pytest.mark.parametrize(
    "inputs",
    [
        {"tests-before": failing()},
        {"before": failing()},
        # In a later round the verdict on the round before says how the tests stand now.
        {"before": failing("math"), "mend/1/judge": {"passed": False, "tests": failing(), "findings": []}},
    ],
)
def test_a_module_that_nobody_imported_is_imported_once_and_handed_in(stage: Any, inputs: dict[str, Any]) -> None:
    played = play(stage, inputs, "shelf.py")
    expected = {
        "path": "shelf.py",
        "old": "def label(parcel):",
        "new": "import json\n\n\ndef label(parcel):",
        "line": 1,
    }
    assert edits(played) == [expected]
    assert played.result == {"fixes": [{"rule": "by hand", "path": "shelf.py"}], "human_tasks": []}


def test_nothing_is_added_to_a_file_that_the_plan_does_not_name(stage: Any) -> None:
    played = play(stage, {"tests-before": failing()})
    assert edits(played) == []
    assert [task["subject"].split()[0] for task in played.result["human_tasks"]] == [TEST]


def test_a_name_that_is_no_module_is_left_to_a_person(stage: Any) -> None:
    assert edits(play(stage, {"tests-before": failing("labels")}, "./")) == []


def test_the_file_is_the_one_in_which_the_name_was_missing() -> None:
    assert find(SAID.format("name 'json' is not defined")) == MissingImport(path="shelf.py", module="json")
    assert find("AssertionError: 1 != 2") is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Labels."""\n\nimport math\nfrom a import (\n    b,\n)\n\nx = 1\n', (6, ")\nimport json")),
        ('"""Labels."""\n\n# Not yet.\n@cache\ndef f():\n    pass\n', (4, "import json\n\n\n@cache")),
        ("import json\n", None),
        ("def f(:\n", None),
        ("", None),
    ],
)
def test_an_import_goes_below_the_others_or_above_the_code(source: str, expected: tuple[int, str] | None) -> None:
    change = insertion(dict(enumerate(source.split("\n"), start=1)), "json")
    assert (None if change is None else (change["line"], change["new"])) == expected

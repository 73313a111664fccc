"""Conflicts by rule: what both added is kept, what one side left alone gives way, anything else is a person's."""

from collections.abc import Mapping
from typing import Any

import pytest

TOOLS = ("ask_person", "edit_file", "read_file")
N = "\n"


def conflict(ours: str, before: str, theirs: str) -> str:
    return f"<<<<<<< one\n{ours}||||||| base\n{before}=======\n{theirs}>>>>>>> two\n"


def resolve(stage: Any, files: dict[str, str], *, answer: str | None = None) -> Any:
    """The step played over these files, whose conflicts it changes."""

    def edit(arguments: Mapping[str, Any]) -> str:
        text = files[arguments["path"]]
        assert text.count(arguments["old"]) == 1
        assert text[: text.index(arguments["old"])].count("\n") + 1 == arguments["line"]
        files[arguments["path"]] = text.replace(arguments["old"], arguments["new"])
        return '{"path": "x", "commit": "abc"}'

    def ask(arguments: Mapping[str, Any]) -> str:
        if answer is None:
            raise LookupError("Nobody answered in time; go on without an answer.")
        return answer

    request = stage.request_of("submit_resolution", tools=TOOLS, arguments={"conflicts": sorted(files)})
    return stage.play(request, stage.desk(files, edit_file=edit, ask_person=ask))


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        (conflict("a\n", "", "b\n"), "a\nb\n"),
        (conflict("a\n", "x\n", "x\n"), "a\n"),
        (conflict("x\n", "x\n", "b\n"), "b\n"),
        (conflict("", "x\n", "x\n"), ""),
        (f"top\n{conflict('a' + N, '', 'b' + N)}mid\n{conflict('', '', 'c' + N)}end\n", "top\na\nb\nmid\nc\nend\n"),
    ],
)
def test_a_conflict_that_the_lines_before_decide_is_resolved(stage: Any, text: str, resolved: str) -> None:
    files = {"f.py": text}
    played = resolve(stage, files)
    assert played.result == {"resolved": ["f.py"], "unresolved": []}
    assert files["f.py"] == resolved
    assert "ask_person" not in played.called


@pytest.mark.parametrize(
    ("answer", "resolved"), [("ours", "a\n"), ("Theirs", "b\n"), ("both", "a\nb\n"), ("c = 1", "c = 1\n")]
)
def test_what_no_rule_decides_is_asked_and_done_as_answered(stage: Any, answer: str, resolved: str) -> None:
    files = {"f.py": conflict("a\n", "x\n", "b\n")}
    played = resolve(stage, files, answer=answer)
    assert files["f.py"] == resolved
    assert played.result["resolved"] == ["f.py"]


def test_without_an_answer_the_conflict_stays_and_the_others_are_resolved(stage: Any) -> None:
    hard = conflict("a\n", "x\n", "b\n")
    files = {"hard.py": hard, "easy.py": conflict("a\n", "", "b\n")}
    played = resolve(stage, files)
    assert files == {"hard.py": hard, "easy.py": "a\nb\n"}
    assert played.result["resolved"] == ["easy.py"]
    assert [one["path"] for one in played.result["unresolved"]] == ["hard.py"]


def test_a_file_without_markers_is_for_no_rule(stage: Any) -> None:
    played = resolve(stage, {"gone.py": "text\n"})
    assert played.result["unresolved"][0]["reason"] == "one side changed what the other removed, or it is no text"

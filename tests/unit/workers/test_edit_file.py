"""Editing tools: exact passages, in files that the step may touch and nowhere else, each a commit."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chargehand.memory.artifacts import Artifacts
from chargehand.orchestrator.facts import ToolFinished
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.registry import Question, ToolContext, ToolResult, run_tool
from chargehand.workers.workspace import Clone, open_workspace

RUN, STEP = UUID(int=1), UUID(int=2)
APP = "def f(x):\n    return x\n\n\ndef g(x):\n    return x\n"


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    source = tmp_path / "source"
    (source / "src").mkdir(parents=True)
    (source / "src" / "app.py").write_text(APP)
    (source / "run.sh").write_text("echo\n")
    (source / "run.sh").chmod(0o755)
    (source / "blob").write_bytes(b"a\0b")
    (source / "link").symlink_to("/etc/passwd")
    (source / "out").symlink_to("/tmp")
    commands = "git init -q && git add -A && git -c user.name=t -c user.email=t@t commit -qm x"
    subprocess.run(commands, shell=True, cwd=source, check=True)
    artifacts = Artifacts(tmp_path / "artifacts")
    imported = artifacts.import_repository(str(source), run_id=RUN)
    made = open_workspace(
        artifacts.repository(RUN), tmp_path / "ws", run_id=RUN, step_id=STEP, epoch=1, commit=imported.commit
    )
    yield made
    made.close()


def context(clone: Clone, **changes: Any) -> ToolContext:
    made = ToolContext(
        run_id=RUN,
        step_id=STEP,
        step_key="fix",
        arguments={"may_edit": ["src/", "run.sh", "blob", "link", "out/x", "new/deep.txt"]},
        inputs={},
        results=lambda key: None,
        open_workspace=lambda: clone,
        recall=lambda query, limit: "",
    )
    return replace(made, **changes)


def use(name: str, given: ToolContext, **arguments: Any) -> ToolResult:
    return run_tool(registered_tools()[name], arguments, context=given, idempotency_key="k")


def edit(clone: Clone, path: str = "src/app.py", old: str = "def f", new: str = "def h", **rest: Any) -> ToolResult:
    return use("edit_file", context(clone), path=path, old=old, new=new, **rest)


def shown_at(clone: Clone, commit: str | None, path: str) -> str:
    done = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=clone.repository, capture_output=True, check=True)
    return done.stdout.decode()


def test_an_exact_passage_is_replaced_and_ends_in_a_commit_of_the_run(clone: Clone) -> None:
    given = edit(clone, old="def f(x):\n    return x", new="def f(x):\n    return x + 1")
    assert given.outcome == "ok", given
    told = json.loads(given.output.content)
    assert (told["line"], told["problem"]) == (1, "")
    assert given.output.commit == told["commit"] == clone.head_commit != clone.base_commit
    # In the bare repository, where the next attempt starts from.
    assert shown_at(clone, given.output.commit, "src/app.py") == APP.replace("x\n", "x + 1\n", 1)


def test_a_passage_that_stands_twice_is_told_apart_by_its_line(clone: Clone) -> None:
    assert "stands 2 times in 'src/app.py', on lines 2, 6" in edit(clone, old="    return x", new="").output.content
    given = edit(clone, old="    return x", new="    return 2", line=6)
    assert shown_at(clone, given.output.commit, "src/app.py").count("return 2") == 1
    assert "does not begin once on line 3" in edit(clone, old="    return x", new="", line=3).output.content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"old": "def  f"}, "does not stand in 'src/app.py'"),
        ({"new": "def f"}, "is as it was"),
        ({"path": "README.md"}, "not among the files that this step may change: src/, run.sh"),
        ({"path": "src/../README.md"}, "leaves the repository"),
        ({"path": "../outside"}, "not among the files"),
        ({"path": "src/../../outside"}, "leaves the repository"),
        ({"path": "src/.git/config"}, "no file"),
        ({"path": "link"}, "symbolic link"),
        ({"path": "out/x"}, "symbolic link"),
        ({"path": "blob", "old": "a"}, "is a binary file"),
        ({"new": "x" * 50_000}, "at most 48000 characters"),
    ],
)
def test_what_is_not_to_be_edited_is_refused_with_the_reason(
    clone: Clone, arguments: dict[str, Any], said: str
) -> None:
    before = clone.head_commit
    given = edit(clone, **arguments)
    assert given.outcome == "error"
    assert said in given.output.content
    assert clone.head_commit == before


def test_without_leave_nothing_is_edited(clone: Clone) -> None:
    given = use("write_file", context(clone, arguments={}), path="src/app.py", content="")
    assert "may change: none" in given.output.content


def test_a_persons_answer_gives_leave_for_the_files_of_the_question_and_the_one_it_names(clone: Clone) -> None:
    asked = ToolFinished(
        tool_use_id="1",
        tool="ask_person",
        arguments={"question": "?", "files": ["run.sh"]},
        outcome="ok",
        content="src/app.py:1: def h(x):",
    )
    given = context(clone, arguments={}, finished=(asked,))
    assert use("edit_file", given, path="src/app.py", old="def f", new="def h").outcome == "ok"
    assert use("edit_file", given, path="run.sh", old="echo", new="true").outcome == "ok"
    assert use("edit_file", given, path="blob", old="a", new="b").outcome == "error"
    # What was asked and not answered gives no leave.
    unanswered = asked.model_copy(update={"outcome": "error"})
    given = context(clone, arguments={}, finished=(unanswered,))
    assert use("edit_file", given, path="run.sh", old="true", new="echo").outcome == "error"


def test_a_file_is_written_whole_with_its_folders_and_keeps_its_permissions(clone: Clone) -> None:
    given = use("write_file", context(clone), path="new/deep.txt", content="x\n")
    assert shown_at(clone, given.output.commit, "new/deep.txt") == "x\n"
    use("write_file", context(clone), path="run.sh", content="true\n")
    assert os.access(clone.path / "run.sh", os.X_OK)
    written = use("write_file", context(clone, arguments={"may_edit": ["./"]}), path="sub/.git/config", content="x")
    assert "Git's own files" in written.output.content
    assert [name for name in os.listdir(clone.path) if name.startswith(".chargehand")] == []


def test_the_model_is_told_of_python_that_does_not_parse_and_of_conflicts_that_are_left(clone: Clone) -> None:
    assert "SyntaxError" in json.loads(edit(clone, new="def").output.content)["problem"]
    conflict = "<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"
    written = use("write_file", context(clone), path="src/app.py", content=conflict * 2)
    assert json.loads(written.output.content)["conflicts_left"] == 2


def test_a_question_stops_the_step_and_says_what_the_answer_may_change(clone: Clone) -> None:
    with pytest.raises(Question) as asked:
        use("ask_person", context(clone), question="Which line?", files=["src/app.py"], wants_fix=True)
    assert "may be changed: src/app.py" in asked.value.text
    assert "FILE:LINE" in asked.value.text
    assert (asked.value.options, asked.value.wants_fix) == (("answer", "skip", "abort"), True)


def test_nobody_is_asked_again_who_did_not_answer(clone: Clone) -> None:
    silence = ToolFinished(
        tool_use_id="1", tool="ask_person", arguments={}, outcome="error", content="", error_type="Skipped"
    )
    given = use("ask_person", context(clone, finished=(silence,)), question="And now?")
    assert "Nobody answered before" in given.output.content

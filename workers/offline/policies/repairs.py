"""Failing tests that no rule repairs: asks a person for the line that does, and applies what the person typed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.line_fixes import PlacedLine, Swap, corrected, parse_fix
from chargehand.workers.findings import BY_HAND
from chargehand.workers.offline.conversation import Conversation, ToolCall, numbered_lines
from chargehand.workers.offline.policies.moves import Move

# A person answers a few of them, not a whole broken suite; the others are handed over.
MAX_TESTS = 2
# The second time it is about what was wrong with the first answer.
MAX_QUESTIONS_A_TEST = 2
# Of the code under test: enough to see what is wrong with a small function.
MAX_LINES = 40
# Of what pytest said.
MAX_MESSAGE_CHARACTERS = 1_200
HELD = "Asked in this run, and nobody answered in time."


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What came of the questions."""

    repaired: frozenset[str] = frozenset()
    open: dict[str, str] = field(default_factory=dict)
    """Test → what became of the question about it."""
    fixes: list[dict[str, str]] = field(default_factory=list)


def of(conversation: Conversation, failing: Sequence[str]) -> Move | Asked:
    """The next turn about these tests, or what came of all of them."""
    if not {"ask_person", "edit_file", "read_file"} <= conversation.tools.keys():
        return Asked(fixes=_edits(conversation))
    code = {test: path for test in failing if (path := _code_of(test, conversation.inputs)) is not None}
    tests = [test for test in failing if test in code][:MAX_TESTS]
    unread = [code[test] for test in tests if _lines(conversation, code[test]) is None]
    if unread:
        return _read(conversation, unread)
    repaired: dict[str, None] = {}
    still_open: dict[str, str] = {}
    for test in tests:
        found = _about(conversation, test, code[test])
        if isinstance(found, Move):
            return found
        if found == "":
            repaired[test] = None
        else:
            still_open[test] = found
        if found == HELD:
            # Nobody is there: the others are handed over unasked.
            break
    return Asked(repaired=frozenset(repaired), open=still_open, fixes=_edits(conversation))


def _edits(conversation: Conversation) -> list[dict[str, str]]:
    """What was changed, each under the rule by which the finish tool knows it."""
    edited = [str(call.arguments.get("path")) for call in conversation.calls_of("edit_file") if not call.is_error]
    fixes = []
    for at, path in enumerate(edited):
        before = edited[:at].count(path)
        fixes.append({"rule": f"{BY_HAND} {before + 1}" if before else BY_HAND, "path": path})
    return fixes


def _about(conversation: Conversation, test: str, path: str) -> Move | str:
    """The next turn about this test; the empty string when it is repaired, or why its question stays open."""
    asked = [call for call in conversation.calls_of("ask_person") if _question_of(call).startswith(f"{test} fails")]
    if not asked:
        return _ask(conversation, test, path)
    answer = asked[-1]
    if answer.is_error:
        return HELD
    try:
        fix = parse_fix(answer.text)
    except UserError as error:
        return _again(conversation, test, path, asked, str(error))
    target = fix.path if isinstance(fix, PlacedLine) else path
    lines = _lines(conversation, target)
    if lines is None:
        return _read(conversation, [target])
    change = _change(fix, lines)
    if change is None:
        place = f"{target}:{fix.line}" if isinstance(fix, PlacedLine) else "It"
        return _again(conversation, test, path, asked, f"{place} does not exist; the file has {len(lines)} lines.")
    made = [call for call in conversation.calls_of("edit_file") if dict(call.arguments) == {"path": target, **change}]
    if not made:
        return Move(says="Applying what a person typed.", calls=(("edit_file", {"path": target, **change}),))
    return _again(conversation, test, path, asked, made[-1].text) if made[-1].is_error else ""


def _again(conversation: Conversation, test: str, path: str, asked: Sequence[ToolCall], why: str) -> Move | str:
    if len(asked) >= MAX_QUESTIONS_A_TEST:
        return f"Asked in this run; the answer could not be applied: {why}"
    return _ask(conversation, test, path, because=why)


def _ask(conversation: Conversation, test: str, path: str, *, because: str = "") -> Move:
    said = _message(conversation, test)
    lines = _lines(conversation, path) or {}
    shown = [f"{path}:{number}: {text}" for number, text in sorted(lines.items()) if text.strip()][:MAX_LINES]
    parts = [
        f"{test} fails, and no rule knows how to repair it.",
        f"Your answer could not be applied: {because}" if because else "",
        said[-MAX_MESSAGE_CHARACTERS:],
        "The code that it tests:",
        *shown,
    ]
    question = "\n".join(part for part in parts if part)[:3_500]
    return Move(
        says="No rule repairs this test; asking a person for the line.",
        calls=(("ask_person", {"question": question, "files": [path], "wants_fix": True}),),
    )


def _question_of(call: ToolCall) -> str:
    return str(call.arguments.get("question"))


def _read(conversation: Conversation, paths: Sequence[str]) -> Move:
    calls = tuple(("read_file", conversation.fitted("read_file", path=path)) for path in dict.fromkeys(paths))
    return Move(says="Reading the code under the failing tests.", calls=calls)


def _lines(conversation: Conversation, path: str) -> dict[int, str] | None:
    """The lines of a file as they were read; none of one that cannot be, None before it was tried."""
    calls = [call for call in conversation.calls_of("read_file") if call.arguments.get("path") == path]
    if not calls:
        return None
    return {} if calls[-1].is_error else numbered_lines(calls[-1].text)


def _change(fix: PlacedLine | Swap, lines: dict[int, str]) -> dict[str, Any] | None:
    """The arguments of the edit, without the path; None when the line is not there."""
    if isinstance(fix, Swap):
        return {"old": fix.old, "new": fix.new}
    standing = lines.get(fix.line)
    if not standing:
        return None
    return {"old": standing, "new": corrected(fix, standing), "line": fix.line}


def _message(conversation: Conversation, test: str) -> str:
    run = conversation.inputs.get("tests-before")
    messages = run.get("messages") if isinstance(run, dict) else None
    return str(messages.get(test) or "").strip() if isinstance(messages, dict) else ""


def _code_of(test: str, inputs: dict[str, Any]) -> str | None:
    """The file that the test is about, by its name, among those that the tests import."""
    run = inputs.get("tests-before")
    imported = run.get("files_imported") if isinstance(run, dict) else None
    stem = test.split("::")[0].rpartition("/")[2].removesuffix(".py").removeprefix("test_").removesuffix("_test")
    names = [str(name) for name in imported] if isinstance(imported, list) else []
    found = [name for name in names if name.rpartition("/")[2] == f"{stem}.py"]
    return found[0] if len(found) == 1 else None

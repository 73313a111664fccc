"""The tools `edit_file` and `write_file`: changes of text files that a step may touch, each a commit of its own.

A step may touch the files that the plan names in its argument `may_edit`, and those about which a person has answered
it; nothing that it reads can add to them. Not covered: what is written is not judged here, only where it is written.
"""

import os
import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from chargehand.orchestrator.line_fixes import named_file
from chargehand.workers.findings import Frozen
from chargehand.workers.scripts.fixes import syntax_problem
from chargehand.workers.scripts.registry import Workspace
from chargehand.workers.tools.registry import ToolContext, ToolOutput, ToolRetry, tool
from chargehand.workers.tools.workspace_paths import open_inside, replace_inside

# A step's argument: files, folders that end in "/", or "./" for all that the repository has.
MAY_EDIT = "may_edit"
ASK_PERSON = "ask_person"
EDITING_TOOLS = frozenset({"edit_file", "write_file"})
# Larger files are data, and a change of them is not made by hand.
MAX_FILE_BYTES = 1_000_000
# About what a model writes in one answer.
MAX_TEXT_CHARACTERS = 48_000
# A line of each kind stands in a file that git could not merge.
_MARKERS = re.compile(rb"^(?:<<<<<<< |>>>>>>> )", re.MULTILINE)

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
PathName = Annotated[str, Field(min_length=1, max_length=1_000, description="Relative to the repository's root.")]


class Edited(Frozen):
    """What an edit came to."""

    path: str
    line: int
    """Where the new text begins; 1-based."""
    commit: str
    conflicts_left: int = 0
    """Places of the file that still hold git's conflict markers."""
    problem: str = ""
    """Why the file cannot be parsed now, for a file of Python without conflicts."""


@tool(effect="idempotent", timeout_seconds=60)
def edit_file(
    path: PathName,
    old: Annotated[
        Text, Field(min_length=1, description="What stands there now, to the letter, line breaks included.")
    ],
    new: Annotated[Text, Field(description="What takes its place; empty removes it.")],
    context: ToolContext,
    line: Annotated[
        int | None, Field(ge=1, description="The line on which `old` begins, where it stands in several places.")
    ] = None,
) -> ToolOutput:
    """Replace a passage of a text file by another, as one commit. The passage must match exactly, and stand there once.

    Only files that your task lets you change; everything else is refused.
    """
    check_may_edit(path, context)
    workspace = context.open_workspace()
    content = _read(workspace, path)
    at = _place_of(content, old.encode(), path, line)
    edited = content[:at] + new.encode() + content[at + len(old.encode()) :]
    return _put(workspace, path, edited, line=content.count(b"\n", 0, at) + 1, verb="Edit")


@tool(effect="idempotent", timeout_seconds=60)
def write_file(
    path: PathName, content: Annotated[Text, Field(description="All of it.")], context: ToolContext
) -> ToolOutput:
    """Write a text file whole, new or instead of the one that is there, as one commit. Prefer edit_file for changes.

    Only files that your task lets you change; everything else is refused.
    """
    check_may_edit(path, context)
    return _put(context.open_workspace(), path, content.encode(), line=1, verb="Write")


def check_may_edit(path: str, context: ToolContext) -> None:
    """Raise `ToolRetry` unless the step may touch the file."""
    allowed = list(dict.fromkeys(_allowed(context)))
    normal = _normal(path)
    if not any(normal == _normal(name) or (name.endswith("/") and _is_below(normal, name)) for name in allowed):
        names = ", ".join(allowed[:20]) or "none"
        raise ToolRetry(f"{path!r} is not among the files that this step may change: {names}.")


def conflicts_in(content: bytes) -> int:
    """How many places of a file git has left for somebody to merge."""
    return -(-len(_MARKERS.findall(content)) // 2)


def conflicts_left(workspace: Workspace, path: str) -> int:
    """The same of a file as it is now; none in one that is not there, or is no text."""
    try:
        return conflicts_in(_read(workspace, path))
    except ToolRetry:
        return 0


def _allowed(context: ToolContext) -> Iterator[str]:
    given = context.arguments.get(MAY_EDIT)
    if isinstance(given, list):
        yield from (name for name in given if isinstance(name, str))
    for fact in context.finished:
        if fact.tool == ASK_PERSON and fact.outcome == "ok":
            # The person has seen these names in the question.
            asked_about = fact.arguments.get("files")
            if isinstance(asked_about, list):
                yield from (str(name).rstrip("/") for name in asked_about)
            named = named_file(fact.content)
            if named is not None:
                yield named


def _normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _is_below(normal: str, folder: str) -> bool:
    root = _normal(folder)
    return not root or normal.startswith(f"{root}/")


def _read(workspace: Workspace, path: str) -> bytes:
    with os.fdopen(open_inside(workspace.path, path), "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ToolRetry(f"{path!r} has more than {MAX_FILE_BYTES:,} bytes; it is not edited by hand.")
    if b"\0" in content:
        raise ToolRetry(f"{path!r} is a binary file; it is not edited by hand.")
    return content


def _place_of(content: bytes, old: bytes, path: str, line: int | None) -> int:
    """Where the passage begins."""
    places = [found.start() for found in re.finditer(re.escape(old), content)]
    lines = [content.count(b"\n", 0, place) + 1 for place in places]
    if not places:
        raise ToolRetry(f"`old` does not stand in {path!r}; read the file again and copy the passage to the letter.")
    if line is not None:
        here = [place for place, at in zip(places, lines, strict=True) if at == line]
        if len(here) != 1:
            found = ", ".join(map(str, lines[:20]))
            raise ToolRetry(f"`old` does not begin once on line {line} of {path!r}; it begins on: {found}.")
        return here[0]
    if len(places) > 1:
        found = ", ".join(map(str, lines[:20]))
        raise ToolRetry(f"`old` stands {len(places)} times in {path!r}, on lines {found}; say which with `line`.")
    return places[0]


def _put(workspace: Workspace, path: str, content: bytes, *, line: int, verb: str) -> ToolOutput:
    if len(content) > MAX_FILE_BYTES:
        raise ToolRetry(f"{path!r} would have {len(content):,} bytes; at most {MAX_FILE_BYTES:,} are written.")
    try:
        before = workspace.head_commit
        replace_inside(workspace.path, path, content)
        commit = workspace.commit(f"{verb} {path}\n")
    except BaseException:
        # Half an edit must not slip into the next one's commit.
        workspace.reset(workspace.head_commit)
        raise
    if commit == before:
        raise ToolRetry(f"{path!r} is as it was: the new text is the same, or git ignores the file.")
    left = conflicts_in(content)
    problem = "" if left or not path.endswith(".py") else syntax_problem(content, workspace.path)
    edited = Edited(path=_normal(path), line=line, commit=commit, conflicts_left=left, problem=problem)
    return ToolOutput(content=edited.model_dump_json(), commit=commit)

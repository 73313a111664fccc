"""Failing tests that name a module which nobody imported: the import is added, one a turn, where the step may edit."""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chargehand.workers.offline.conversation import Conversation, numbered_lines
from chargehand.workers.offline.policies.moves import Move

_UNDEFINED = re.compile(r"NameError: name '(\w+)' is not defined")
# As pytest names a place of a traceback, in both of its styles.
_PLACE = re.compile(r"^(\S+\.py):\d+: ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingImport:
    """A module of the standard library that a file uses and does not import."""

    path: str
    module: str


def of(conversation: Conversation, said: Mapping[str, str]) -> Move | frozenset[str]:
    """The next turn about these tests, or those whose missing import was added. `said`: test → how it failed."""
    if not {"edit_file", "read_file"} <= conversation.tools.keys():
        return frozenset()
    missing = {test: found for test in sorted(said) if (found := find(said[test])) is not None}
    wanted = {test: one for test, one in missing.items() if _may_edit(conversation, one.path)}
    for one in dict.fromkeys(wanted.values()):
        reads = [call for call in conversation.calls_of("read_file") if call.arguments.get("path") == one.path]
        if not reads:
            call = ("read_file", conversation.fitted("read_file", path=one.path))
            return Move(says="Reading the file that a failing test names.", calls=(call,))
        change = None if reads[-1].is_error else insertion(numbered_lines(reads[-1].text), one.module)
        if change is not None and not _tried(conversation, one):
            return Move(
                says=f"{one.path} uses {one.module} and does not import it.",
                calls=(("edit_file", {"path": one.path, **change}),),
            )
    return frozenset(test for test, one in wanted.items() if _is_done(conversation, one))


def find(said: str) -> MissingImport | None:
    """What the message of a failing test names, if an import of it is all that is missing."""
    undefined = _UNDEFINED.findall(said)
    places = _PLACE.findall(said)
    if not undefined or not places or undefined[-1] not in sys.stdlib_module_names:
        return None
    return MissingImport(path=places[-1], module=undefined[-1])


def insertion(lines: Mapping[int, str], module: str) -> dict[str, str | int] | None:
    """The arguments of the edit that imports the module, without the path; None when it is there or nothing fits."""
    source = "\n".join(lines[number] for number in sorted(lines))
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return None
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    first = min(lines, default=1)
    if module in imported:
        return None
    if imports:
        line = (imports[-1].end_lineno or imports[-1].lineno) + first - 1
        return {"old": lines[line], "new": f"{lines[line]}\nimport {module}", "line": line}
    code = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if not code:
        return None
    line = _first_line(code[0]) + first - 1
    return {"old": lines[line], "new": f"import {module}\n\n\n{lines[line]}", "line": line}


def _first_line(node: ast.stmt) -> int:
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", ())
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _may_edit(conversation: Conversation, path: str) -> bool:
    """Whether the plan names the file; a person is not asked for leave to add an import."""
    given = conversation.arguments.get("may_edit")
    names = [str(name).removeprefix("./") for name in given] if isinstance(given, list) else []
    return any(path == name or name == "" or (name.endswith("/") and path.startswith(name)) for name in names)


def _tried(conversation: Conversation, one: MissingImport) -> bool:
    return any(_adds(call.arguments, one) for call in conversation.calls_of("edit_file"))


def _is_done(conversation: Conversation, one: MissingImport) -> bool:
    return any(_adds(call.arguments, one) and not call.is_error for call in conversation.calls_of("edit_file"))


def _adds(arguments: Mapping[str, object], one: MissingImport) -> bool:
    return arguments.get("path") == one.path and f"import {one.module}" in str(arguments.get("new")).split("\n")

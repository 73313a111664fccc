"""One request read back: the task, its inputs, and what the tools have answered so far."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# A tool's parameters by the meaning that a policy gives them; the first name that the tool's schema has is used.
PARAMETER_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "question", "text", "q", "search"),
    "pattern": ("pattern", "text", "query", "regex", "needle"),
    "path": ("path", "file", "file_path", "filename"),
    "first_line": ("first_line", "start_line", "line_start", "start", "from_line", "line", "offset"),
    "last_line": ("last_line", "end_line", "line_end", "end", "to_line"),
    "line_count": ("line_count", "lines", "max_lines", "limit", "count"),
    "limit": ("limit", "k", "top_k", "max_results", "max_hits"),
    "rule": ("rule", "rule_id", "code"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One earlier call of a tool with what came back."""

    tool_use_id: str
    name: str
    arguments: Mapping[str, Any]
    text: str
    """The result's text; empty while nothing has come back."""
    is_error: bool
    answered: bool


class Conversation:
    """The parts of a Messages request that a policy decides on.

    The system text is not among them: a policy must never hang on the wording of a prompt.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request

    @cached_property
    def tools(self) -> dict[str, Mapping[str, Any]]:
        """Input schema of each tool by its name; only the one that must be called, if there is such a one."""
        choice = self._request.get("tool_choice")
        forced = choice.get("name") if isinstance(choice, Mapping) and choice.get("type") == "tool" else None
        return {
            str(tool["name"]): tool.get("input_schema") or {}
            for tool in self._request.get("tools") or ()
            if "name" in tool and forced in (None, tool["name"])
        }

    @cached_property
    def _opening(self) -> tuple[str, ...]:
        """Text blocks of the first user message: the only place where the task may stand."""
        for message in self._request.get("messages") or ():
            if message.get("role") == "user":
                return tuple(block["text"] for block in _blocks(message) if block.get("type") == "text")
        return ()

    @cached_property
    def goal(self) -> str:
        """What the person asked for."""
        return (_section(self._opening[:1], "goal") or "").strip()

    @cached_property
    def task(self) -> str:
        """The step's instruction."""
        return (_section(self._opening[1:] or self._opening, "task") or "").strip()

    @cached_property
    def repository(self) -> dict[str, Any]:
        """The inventory's summary that all agents of the run share."""
        return _as_object(_parsed(_section(self._opening[:1], "repository", last=True)))

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What the plan handed to this step."""
        return _as_object(_parsed(_section(self._opening[1:] or self._opening, "arguments", last=True)))

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Results of the predecessors by step key; of one that came again (`scan~2`) by its first key too."""
        given = _as_object(_parsed(_section(self._opening[1:] or self._opening, "inputs", last=True)))
        return {_AGAIN.sub("", key): result for key, result in given.items()} | given

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every tool call so far, in order."""
        results: dict[str, Mapping[str, Any]] = {}
        for message in self._request.get("messages") or ():
            for block in _blocks(message):
                if block.get("type") == "tool_result":
                    results[str(block.get("tool_use_id"))] = block
        calls = []
        for message in self._request.get("messages") or ():
            if message.get("role") != "assistant":
                continue
            for block in _blocks(message):
                if block.get("type") != "tool_use":
                    continue
                result = results.get(str(block.get("id")))
                calls.append(
                    ToolCall(
                        tool_use_id=str(block.get("id")),
                        name=str(block.get("name")),
                        arguments=_as_object(block.get("input")),
                        text=_result_text(result),
                        is_error=bool(result and result.get("is_error")),
                        answered=result is not None,
                    )
                )
        return tuple(calls)

    def calls_of(self, name: str) -> tuple[ToolCall, ...]:
        """The calls of one tool, in order."""
        return tuple(call for call in self.calls if call.name == name)

    def fitted(self, tool: str, **values: Any) -> dict[str, Any]:
        """The values under the names that this tool's schema gives them; what it has no name for is left out."""
        properties = self.tools.get(tool, {}).get("properties") or {}
        arguments: dict[str, Any] = {}
        for meaning, value in values.items():
            for name in PARAMETER_NAMES[meaning]:
                if name in properties and name not in arguments:
                    arguments[name] = value
                    break
        return arguments


def payload(text: str) -> Any:
    """The JSON value of a tool's result, or None when it is plain text."""
    stripped = text.strip()
    if not stripped.startswith(("{", "[")):
        return None
    try:
        return json.loads(stripped)
    except ValueError:
        return None


def numbered_lines(text: str) -> dict[int, str]:
    """The lines of a file as a tool showed them, by number; empty when the text carries no numbers.

    Understands `12: code`, `12| code`, `12<tab>code` and `12→code`, with or without leading blanks, and a JSON object
    with the text and its first line.
    """
    value = payload(text)
    if isinstance(value, dict):
        body = next((value[name] for name in ("text", "content", "lines") if name in value), None)
        first = next((value[name] for name in ("first_line", "start_line", "start", "line") if name in value), 1)
        if isinstance(body, list):
            body = "\n".join(str(line.get("text", "") if isinstance(line, dict) else line) for line in body)
        if isinstance(body, str) and isinstance(first, int):
            already = _numbered_text(body)
            return already or dict(enumerate(body.split("\n"), start=first))
        return {}
    return _numbered_text(text)


_NUMBERED = re.compile(r"\s*(\d+)( ?[:|│]|\t|→)(.*)\Z", re.DOTALL)
_AGAIN = re.compile(r"~\d+\Z")
# How a tool's plain text is framed for a model.
_FRAME = re.compile(r"\A<tool_output tool=\"[^\"\n]*\">\n(.*)\n</tool_output>\Z", re.DOTALL)


def _numbered_text(text: str) -> dict[int, str]:
    lines: dict[int, str] = {}
    spaced = True
    expected: int | None = None
    for line in text.split("\n"):
        match = _NUMBERED.match(line)
        if match is None or (expected is not None and int(match[1]) != expected):
            continue
        lines[int(match[1])] = match[3]
        spaced = spaced and match[2] not in "\t→" and (not match[3] or match[3].startswith(" "))
        expected = int(match[1]) + 1
    # A blank after every colon or bar belongs to the layout; anything else is the code's own indentation.
    return {number: rest[1:] for number, rest in lines.items()} if spaced else lines


def objects_under(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every object in a list called `key`, wherever it stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, list):
                yield from (item for item in inner if isinstance(item, dict))
            else:
                yield from objects_under(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from objects_under(inner, key)


def _section(texts: Sequence[str], tag: str, *, last: bool = False) -> str | None:
    """What stands between a tag and the last tag that closes it.

    `last`: the last opening tag counts. JSON inside a tag has its `<` escaped, so the last one is the real one whatever
    a goal or an instruction before it says.
    """
    for text in texts:
        start = text.rfind(f"<{tag}>") if last else text.find(f"<{tag}>")
        end = text.rfind(f"</{tag}>")
        if start != -1 and end > start:
            return text[start + len(tag) + 2 : end]
    return None


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content or () if isinstance(block, dict)]


def _result_text(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    text = "\n".join(str(block.get("text", "")) for block in _blocks(result) if block.get("type") == "text")
    framed = _FRAME.match(text)
    return framed[1] if framed else text

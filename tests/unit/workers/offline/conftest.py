"""Plays a whole step against the offline policies: requests as our agent loop builds them, tools as fakes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from chargehand.workers.offline.policies import answer
from chargehand.workers.tools.taint import fence, to_json

SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "read_file": {"path": {"type": "string"}, "first_line": {"type": "integer"}, "last_line": {"type": "integer"}},
    "search_text": {"pattern": {"type": "string"}, "limit": {"type": "integer"}},
    "recall": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    "ask_person": {"question": {"type": "string"}, "files": {"type": "array"}, "wants_fix": {"type": "boolean"}},
    "edit_file": {
        "path": {"type": "string"},
        "old": {"type": "string"},
        "new": {"type": "string"},
        "line": {"type": "integer"},
    },
    "list_fixes": {},
    "delegate": {"to": {"type": "string"}, "instruction": {"type": "string"}},
    "hand_off": {"to": {"type": "string"}, "instruction": {"type": "string"}},
    "apply_fix": {"rule": {"type": "string"}, "path": {"type": "string"}},
}
MAX_TURNS = 15


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a step went."""

    result: dict[str, Any]
    """Arguments of the finish tool."""
    turns: list[list[dict[str, Any]]] = field(default_factory=list)
    """Content blocks of each answer."""

    @property
    def called(self) -> list[str]:
        """Names of the tools in the order of their calls."""
        return [block["name"] for blocks in self.turns for block in blocks if block["type"] == "tool_use"]


def request_of(
    finish: str,
    *,
    goal: str = "Audit this repository",
    tools: tuple[str, ...] = (),
    arguments: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    repository: Mapping[str, Any] | None = None,
    instruction: str = "Do it.",
    system: str = "You are careful.",
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A first request, laid out as the contract says."""
    run = f"<run>\n<goal>\n{goal}\n</goal>\n<repository>\n{to_json(dict(repository or {}))}\n</repository>\n</run>"
    task = (
        f"<task>\n{instruction}\n</task>\n<arguments>\n{to_json(dict(arguments or {}))}\n</arguments>\n"
        f"<inputs>\n{to_json(dict(inputs or {}))}\n</inputs>"
    )
    listed = [
        {"name": name, "description": "", "input_schema": {"type": "object", "properties": SCHEMAS[name]}}
        for name in tools
    ]
    listed.append({"name": finish, "description": "", "input_schema": dict(schema or {"type": "object"})})
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": system}],
        "tools": listed,
        "messages": [{"role": "user", "content": [{"type": "text", "text": run}, {"type": "text", "text": task}]}],
    }


def play(request: dict[str, Any], respond: Callable[[str, Mapping[str, Any]], str]) -> Played:
    """Ask turn by turn until the finish tool is called; `respond` gives a tool's plain result."""
    messages = list(request["messages"])
    finish = request["tools"][-1]["name"]
    turns: list[list[dict[str, Any]]] = []
    for _ in range(MAX_TURNS):
        blocks = answer({**request, "messages": messages})
        turns.append(blocks)
        calls = [block for block in blocks if block["type"] == "tool_use"]
        ending = [call for call in calls if call["name"] == finish]
        if ending:
            return Played(result=ending[0]["input"], turns=turns)
        results = []
        for call in calls:
            try:
                content, failed = respond(call["name"], call["input"]), False
            except LookupError as error:
                content, failed = str(error), True
            block = {"type": "tool_result", "tool_use_id": call["id"], "is_error": failed}
            results.append({**block, "content": [{"type": "text", "text": fence(call["name"], content)}]})
        messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
    raise AssertionError(f"Not finished within {MAX_TURNS} turns: {turns[-1]}")


def desk(
    files: Mapping[str, str], **more: Callable[[Mapping[str, Any]], str]
) -> Callable[[str, Mapping[str, Any]], str]:
    """Tools over files that exist only here; `more` adds or replaces tools."""

    def respond(name: str, arguments: Mapping[str, Any]) -> str:
        if name in more:
            return more[name](arguments)
        if name == "read_file":
            path = arguments["path"]
            if path not in files:
                raise LookupError(f"{path!r} does not exist.")
            lines = files[path].splitlines()
            first, last = arguments.get("first_line", 1), arguments.get("last_line", 400)
            kept = [f"{number}\t{line}" for number, line in enumerate(lines, start=1) if first <= number <= last]
            return "\n".join([f"{path}, lines {first} to {last} of {len(lines)} lines", *kept])
        if name == "search_text":
            found = [
                f"{path}:{number}: {line}"
                for path, text in files.items()
                for number, line in enumerate(text.splitlines(), start=1)
                if arguments["pattern"].lower() in line.lower()
            ]
            return "\n".join(found) or f"No match for {arguments['pattern']!r}."
        raise LookupError(f"no tool {name}")

    return respond


@pytest.fixture
def stage() -> SimpleNamespace:
    """Requests, tools and the loop."""
    return SimpleNamespace(request_of=request_of, play=play, desk=desk)


@pytest.fixture
def judge_code() -> Callable[..., dict[str, str]]:
    """Triage one finding in one file: `judge_code(code, marker, rule, **finding)`; `marker` stands on its line."""

    def run(code: str, marker: str, rule: str, *, path: str = "shop/store.py", **changes: Any) -> dict[str, str]:
        line = next(number for number, text in enumerate(code.splitlines(), start=1) if marker in text)
        tool = "detect-secrets" if not rule[1:].isdigit() else "bandit" if rule[0] == "B" else "ruff"
        finding = {
            "finding_id": "f1",
            "category": "",
            "title": "",
            "severity": "high",
            "cwe": None,
            "path": path,
            "line": line,
            "end_line": line,
            "snippet": code,
            "hits": [{"tool": tool, "rule": rule, "message": "", "confidence": "high"}],
            "reachable_from": ["GET /parcels"],
            **changes,
        }
        request = request_of("submit_verdicts", tools=("read_file",), inputs={"scan": {"findings": [finding]}})
        verdicts = play(request, desk({path: code})).result["verdicts"]
        assert len(verdicts) == 1
        return json.loads(json.dumps(verdicts[0]))

    return run

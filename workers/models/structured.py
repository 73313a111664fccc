"""Typed answers from every kind of server: how they are asked for, how they are read, and how often one is repaired.

A server that has JSON schemas is given the schema, one that has tools a tool that it must call, any other is asked in
words. Whatever it promises, the answer is validated here: servers drop the constraints that they do not support.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from chargehand.workers.models.interface import Block, ModelAnswer, ModelCall, ModelUnavailable
from chargehand.workers.models.profiles import Profile
from chargehand.workers.tools.schemas import closed_schema

Output = TypeVar("Output", bound=BaseModel)

# The tool by which a typed answer is given where a server has no JSON schema.
ANSWER_TOOL = "give_answer"
# Who was told twice what is wrong does not know better the third time.
MAX_REPAIRS = 2
# Braces at which an object is looked for: a text of nothing but braces must not hold the process.
MAX_LOOKS = 64
# As many mistakes are told at once.
MAX_TOLD = 5


def asked(call: ModelCall, profile: Profile) -> ModelCall:
    """The call as this kind of server can answer it: what must be answered is asked for in a way that it knows."""
    if call.output_schema is not None:
        return _asked_for_schema(call, call.output_schema, profile)
    wanted = _forced_tool(call)
    if wanted is None or "tool_choice" in profile.features:
        return call
    # A choice that is no choice: only this tool is offered, and words beside it for a model that writes instead.
    schema = next((tool.get("input_schema") for tool in call.tools if tool.get("name") == wanted), None)
    words = f"Call the tool `{wanted}` now. If you cannot, answer with its arguments and nothing else. {_json(schema)}"
    return replace(
        call,
        tools=[tool for tool in call.tools if tool.get("name") == wanted],
        tool_choice=None,
        messages=_with_words(call.messages, words),
    )


def understood(content: Sequence[Block], call: ModelCall, profile: Profile) -> tuple[Block, ...]:
    """The answer as our side reads it: a typed answer is one text of JSON, a tool call is a tool call.

    `call`: as it was before `asked`. What cannot be understood is given back as it came.
    """
    if call.output_schema is not None:
        return _one_text(content)
    forced = _forced_tool(call)
    may_be_written = profile.writes_calls and (forced is not None or "tool_choice" not in profile.features)
    if not may_be_written or any(block.get("type") == "tool_use" for block in content):
        return tuple(content)
    finish = forced or next((name for name in _names(call.tools) if name.startswith("submit_")), None)
    written = json_in(_text(content))
    if finish is None or not isinstance(written, dict):
        return tuple(content)
    schema = next((tool.get("input_schema") for tool in call.tools if tool.get("name") == finish), None)
    arguments = _arguments_in(written, finish)
    if not _looks_like(arguments, schema):
        return tuple(content)
    digest = hashlib.sha256(_json(arguments).encode()).hexdigest()[:16]
    use: Block = {"type": "tool_use", "id": f"toolu_text_{len(call.messages)}_{digest}", "name": finish}
    return ({**use, "input": arguments},)


def ask(call: ModelCall, output: type[Output], attempt: Callable[[ModelCall], ModelAnswer]) -> Output:
    """A valid answer of this type; told what was wrong, the model may try again twice.

    `attempt` makes one call, with its own reservation. Raises as `attempt` does, and `ModelUnavailable` when the last
    answer does not fit either.
    """
    call = replace(call, output_schema=closed_schema(output))
    for _ in range(MAX_REPAIRS + 1):
        text = _text(attempt(call).content)
        try:
            return output.model_validate_json(text)
        except ValidationError as error:
            wrong = mistakes(error)
        told = f"This does not fit: {wrong}. Give the whole answer again, as JSON."
        call = replace(
            call,
            messages=[
                *call.messages,
                {"role": "assistant", "content": [{"type": "text", "text": text or "(no answer)"}]},
                {"role": "user", "content": [{"type": "text", "text": told}]},
            ],
        )
    raise ModelUnavailable(f"{MAX_REPAIRS + 1} answers in a row are no {output.__name__}: {wrong}.", retryable=False)


def mistakes(error: ValidationError) -> str:
    """What is wrong with a value, in one line that says where."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False)[:MAX_TOLD]:
        place = ".".join(map(str, problem["loc"])) or "the answer"
        lines.append(f"{place}: {problem['msg']}")
    return "; ".join(lines)


def json_in(text: str) -> JsonValue:
    """The last JSON object in a text, fenced or among words; None without one. Only so many braces are looked at."""
    decoder = json.JSONDecoder()
    found: JsonValue = None
    position = text.find("{")
    for _ in range(MAX_LOOKS):
        if position < 0:
            break
        try:
            found, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        position = text.find("{", end)
    return found


def _asked_for_schema(call: ModelCall, schema: Block, profile: Profile) -> ModelCall:
    if profile.structured == "schema":
        return call
    if profile.structured == "tool":
        tool: Block = {"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": schema}
        choice: Block = {"type": "tool", "name": ANSWER_TOOL}
        return replace(call, output_schema=None, tools=[*call.tools, tool], tool_choice=choice)
    words = f"Answer with one JSON object and nothing else. It fits this schema: {_json(schema)}"
    return replace(call, output_schema=None, messages=_with_words(call.messages, words))


def _one_text(content: Sequence[Block]) -> tuple[Block, ...]:
    for block in content:
        if block.get("type") == "tool_use" and block.get("name") == ANSWER_TOOL:
            return ({"type": "text", "text": _json(block.get("input"))},)
    written = json_in(_text(content))
    return tuple(content) if written is None else ({"type": "text", "text": _json(written)},)


def _forced_tool(call: ModelCall) -> str | None:
    choice = call.tool_choice
    return str(choice["name"]) if choice is not None and choice.get("type") == "tool" and choice.get("name") else None


def _arguments_in(written: dict[str, JsonValue], finish: str) -> dict[str, JsonValue]:
    """Models that write a tool call down write it in the shape of one, too."""
    if written.get("name") == finish or written.get("tool") == finish:
        for key in ("input", "arguments", "parameters"):
            inner = written.get(key)
            if isinstance(inner, dict):
                return inner
    return written


def _looks_like(arguments: Mapping[str, JsonValue], schema: JsonValue) -> bool:
    """Whether an object among words is meant as these arguments: it has their fields. The tool itself validates."""
    if not isinstance(schema, dict):
        return False
    known, required = schema.get("properties"), schema.get("required")
    if not isinstance(known, dict) or not arguments:
        return False
    needed = [str(name) for name in required] if isinstance(required, list) else []
    return all(name in arguments for name in needed) and any(name in known for name in arguments)


def _with_words(messages: Sequence[Block], words: str) -> list[Block]:
    *before, last = messages
    content = last.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
    return [*before, {**last, "content": [*blocks, {"type": "text", "text": words}]}]


def _names(tools: Sequence[Block]) -> list[str]:
    return [str(tool.get("name", "")) for tool in tools]


def _text(content: Sequence[Block]) -> str:
    return "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

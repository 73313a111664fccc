"""Refuses the requests that the real server refuses, with its words' shape."""

from collections.abc import Mapping
from typing import Any

# Parameters that models of this generation no longer take.
GONE = ("temperature", "top_p", "top_k")
# The server's own limits.
MAX_BREAKPOINTS = 4
MAX_TOKENS_CEILING = 128_000
_ROLES = {"user", "assistant"}
_TOOL_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def complaint(request: Any, *, counting: bool = False) -> str:
    """What is wrong with a request, or an empty text. `counting`: a request that only counts tokens."""
    if not isinstance(request, dict):
        return "body: Input should be an object"
    if not isinstance(request.get("model"), str) or not request["model"]:
        return "model: Field required"
    if not counting:
        max_tokens = request.get("max_tokens")
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
            return "max_tokens: Field required"
        if not 0 <= max_tokens <= MAX_TOKENS_CEILING:
            return f"max_tokens: {max_tokens} is not between 0 and {MAX_TOKENS_CEILING}"
    for name in GONE:
        if name in request:
            return f"{name}: Extra inputs are not permitted"
    return (
        _messages_complaint(request.get("messages"))
        or _system_complaint(request.get("system"))
        or _tools_complaint(request.get("tools"), request.get("tool_choice"))
        or _breakpoints_complaint(request)
    )


def _messages_complaint(messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            return f"messages.{index}.role: Input should be 'user' or 'assistant'"
        if index == 0 and message["role"] != "user":
            return 'messages: first message must use the "user" role'
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or (not content and index < len(messages) - 1):
            return f"messages.{index}.content: Input should be a valid list of blocks"
        complaint_of_blocks = _blocks_complaint(index, content)
        if complaint_of_blocks:
            return complaint_of_blocks
        results = {str(block.get("tool_use_id")) for block in content if block["type"] == "tool_result"}
        if message["role"] == "user":
            if open_calls - results:
                missing = ", ".join(sorted(open_calls - results))
                return f"messages.{index}: `tool_use` ids without `tool_result` blocks immediately after: {missing}."
            if results - open_calls:
                extra = ", ".join(sorted(results - open_calls))
                return f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {extra}."
            open_calls = set()
        else:
            open_calls = {str(block.get("id")) for block in content if block["type"] == "tool_use"}
    if open_calls:
        return f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks immediately after"
    return ""


def _blocks_complaint(index: int, content: list[Any]) -> str:
    for position, block in enumerate(content):
        place = f"messages.{index}.content.{position}"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            return f"{place}.type: Field required"
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            return f"{place}.text.text: Field required"
        if block["type"] == "text" and not block["text"]:
            return f"{place}: text content blocks must be non-empty"
        if block["type"] == "tool_use" and not isinstance(block.get("input"), dict):
            return f"{place}.tool_use.input: Input should be a valid dictionary"
    return ""


def _system_complaint(system: Any) -> str:
    if system is None or isinstance(system, str):
        return ""
    if not isinstance(system, list):
        return "system: Input should be a valid list"
    for index, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text" or not block.get("text"):
            return f"system.{index}: text content blocks must be non-empty"
    return ""


def _tools_complaint(tools: Any, choice: Any) -> str:
    if tools is None:
        return "" if choice is None else "tool_choice: tools are required"
    if not isinstance(tools, list):
        return "tools: Input should be a valid list"
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= 128 or set(name) - _TOOL_NAME_CHARACTERS:
            return f"tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if name in names:
            return "tools: Tool names must be unique."
        names.add(name)
        schema = tool.get("input_schema")
        if tool.get("type", "custom") == "custom" and (not isinstance(schema, dict) or schema.get("type") != "object"):
            return f"tools.{index}.custom.input_schema.type: Field required"
    if isinstance(choice, dict) and choice.get("type") == "tool" and choice.get("name") not in names:
        return f"tool_choice: Tool '{choice.get('name')}' not found in provided tools"
    return ""


def _breakpoints_complaint(request: Mapping[str, Any]) -> str:
    blocks = [*(request.get("tools") or ())]
    blocks += [block for block in request.get("system") or () if isinstance(block, dict)]
    for message in request["messages"]:
        if isinstance(message["content"], list):
            blocks += message["content"]
    count = sum(bool(block.get("cache_control")) for block in blocks) + bool(request.get("cache_control"))
    if count > MAX_BREAKPOINTS:
        return f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {count}."
    return ""

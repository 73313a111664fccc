"""What other servers of the Messages format do differently, imitated, so that contracts are tested without them.

Only what is known of them is imitated: what a server ignores, what it refuses and what it leaves out of its answers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Imitation:
    """How one kind of server differs from Claude's."""

    ignores: frozenset[str] = frozenset()
    """Fields of a request, or of its blocks, that it takes without a word and does nothing with."""
    counts_tokens: bool = True
    """Whether `/v1/messages/count_tokens` exists."""
    prewarms: bool = True
    """Whether it takes `max_tokens=0`; otherwise it answers 400."""
    samples: bool = False
    """Whether it still takes `temperature` and its like."""
    has_batches: bool = False
    """Whether `/v1/messages/batches` exists."""
    reports_cache: bool = True
    """Whether its usage has counters of a prompt cache."""


CLAUDE = Imitation(has_batches=True)
_NO_CACHE = frozenset({"cache_control", "output_config", "diagnostics", "strict"})
IMITATIONS: Mapping[str, Imitation] = {
    "anthropic": CLAUDE,
    # Of `max_tokens=0` it makes one token, without a word.
    "llama.cpp": Imitation(ignores=_NO_CACHE, samples=True, reports_cache=False),
    "vllm": Imitation(ignores=_NO_CACHE, prewarms=False, samples=True, reports_cache=False),
    "sglang": Imitation(ignores=frozenset({"diagnostics"}), prewarms=False),
    "ollama": Imitation(
        ignores=_NO_CACHE | {"tool_choice"}, counts_tokens=False, prewarms=False, samples=True, reports_cache=False
    ),
    "lmstudio": Imitation(ignores=_NO_CACHE, counts_tokens=False, prewarms=False, samples=True, reports_cache=False),
    "litellm": Imitation(ignores=frozenset({"diagnostics", "output_config"})),
}


def heard(request: Mapping[str, Any], imitation: Imitation) -> dict[str, Any]:
    """The request as this kind of server takes it in: without what it ignores."""
    if not imitation.ignores:
        return dict(request)
    kept = _without(request, imitation.ignores)
    for part in ("system", "tools"):
        if isinstance(request.get(part), list):
            kept[part] = [_without(block, imitation.ignores) for block in request[part]]
    kept["messages"] = [
        {**message, "content": [_without(block, imitation.ignores) for block in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in request["messages"]
    ]
    return kept


def told(message: Mapping[str, Any], imitation: Imitation) -> dict[str, Any]:
    """The answer as this kind of server gives it: without counters that it does not have."""
    if imitation.reports_cache:
        return dict(message)
    usage = {name: value for name, value in message["usage"].items() if name in {"input_tokens", "output_tokens"}}
    return {**message, "usage": usage}


def in_prose(message: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a small model that writes its tool call down instead of making it."""
    texts = [block["text"] for block in message["content"] if block["type"] == "text"]
    texts += [
        "```json\n" + json.dumps({"name": block["name"], "arguments": block["input"]}, indent=1) + "\n```"
        for block in message["content"]
        if block["type"] == "tool_use"
    ]
    return {**message, "content": [{"type": "text", "text": "\n".join(texts)}], "stop_reason": "end_turn"}


def _without(block: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in names}

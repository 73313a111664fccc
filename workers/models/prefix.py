"""How a server's prompt cache behaves: what of a call is shared, for how long it is kept, and when it is silent.

A prefix is read block by block in the order tools, system, messages. It is cached at a breakpoint (`cache_control`, at
most four), and looked for at most twenty blocks before one; a prefix that is too short is silently not cached.
"""

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import JsonValue

from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.interface import Block, ModelCall

log = logging.getLogger(__name__)

Ttl = Literal["5m", "1h"]
TTL_SECONDS: Mapping[Ttl, float] = {"5m": 300.0, "1h": 3_600.0}
# What a write costs of the input price; a read is taken as free beside it.
WRITE_PERMILLE: Mapping[Ttl, int] = {"5m": 1_250, "1h": 2_000}
# Consecutive calls with a cacheable prefix and both counters at zero before it is said; the first may be a cold one.
SILENT_CALLS = 3
# Models remembered for that.
MAX_WATCHED = 64
# From 512 to 4,096 tokens, differing by model (`CHARGEHAND_CACHE_MIN_TOKENS`); the strictest only makes the warning
# come later, the usual one is what is worth being warmed.
STRICTEST_MIN_PREFIX_TOKENS = 4_096
USUAL_MIN_PREFIX_TOKENS = 1_024
# English and code have about four bytes a token.
BYTES_PER_TOKEN = 4


def ttl_for(*, gap_seconds: float, reuses: float) -> Ttl:
    """The cheaper time to live of a prefix that is used again so often, each time after so long.

    Use within five minutes renews the short one for nothing. After a longer gap it is written anew each time, and one
    long write is cheaper when it is read again with a probability above .6.
    """
    if gap_seconds <= TTL_SECONDS["5m"] or gap_seconds > TTL_SECONDS["1h"]:
        return "5m"
    return "1h" if WRITE_PERMILLE["5m"] * (1 + reuses) > WRITE_PERMILLE["1h"] else "5m"


def blocks_of(call: ModelCall) -> Iterator[tuple[str, Block]]:
    """Every block of the prompt in the order in which a cache reads them, with a name for people."""
    for index, tool in enumerate(call.tools):
        yield f"tools[{index}] {tool.get('name', '')}".rstrip(), tool
    for index, block in enumerate(call.system):
        yield f"system[{index}]", block
    for number, message in enumerate(call.messages):
        content = message.get("content")
        for index, inner in enumerate(content if isinstance(content, list) else [content]):
            said: Block = {**inner} if isinstance(inner, dict) else {"type": "text", "text": inner}
            yield f"messages[{number}].content[{index}]", {**said, "role": message.get("role")}


def broken_block(before: ModelCall, after: ModelCall) -> str:
    """The name of the first block in which the later call does not continue the earlier; empty when it does."""
    later = blocks_of(after)
    for name, block in blocks_of(before):
        found = next(later, None)
        if found is None or _bare(found[1]) != _bare(block) or found[0] != name:
            return name
    return ""


def shared_prefix(call: ModelCall) -> tuple[str, int]:
    """The hash and the estimated tokens of what the agents of a run have in common: all up to the run's own block.

    It ends at the breakpoint of the first block of the first message, or, without one there, at the last in the system.
    """
    hashed = hashlib.sha256()
    size = 0
    prefix = ("", 0)
    for name, block in blocks_of(call):
        if name.startswith("messages") and name != "messages[0].content[0]":
            break
        data = _canonical(_bare(block))
        size += len(data)
        hashed.update(data)
        if block.get("cache_control"):
            prefix = (hashed.hexdigest(), size // BYTES_PER_TOKEN)
    return prefix


def has_breakpoint(call: ModelCall) -> bool:
    """Whether anything of the call is asked to be cached."""
    return any(block.get("cache_control") for _, block in blocks_of(call))


def _bare(block: Block) -> Block:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _canonical(value: JsonValue) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


class CacheWatch:
    """Says once for each model that its prompt cache never answers; safe to use from many threads."""

    def __init__(self, min_prefix_tokens: Mapping[str, int] | None = None) -> None:
        self._min_prefix_tokens = dict(min_prefix_tokens or {})
        self._silent: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def saw(self, model: str, usage: Usage) -> bool:
        """Count one call with breakpoints; True when this one made the warning due."""
        shortest = self._min_prefix_tokens.get(model, STRICTEST_MIN_PREFIX_TOKENS)
        if usage.cache_read_tokens or usage.cache_write_tokens:
            with self._lock:
                self._silent.pop(model, None)
            return False
        if usage.input_tokens < shortest:
            return False
        with self._lock:
            count = self._silent.get(model, 0) + 1
            self._silent[model] = count
            self._silent.move_to_end(model)
            while len(self._silent) > MAX_WATCHED:
                self._silent.popitem(last=False)
        if count != SILENT_CALLS:
            return False
        log.warning(
            "prompt cache silent",
            extra={"model": model, "calls": count, "min_prefix_tokens": shortest},
        )
        return True

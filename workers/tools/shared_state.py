"""The tools `read_state` and `update_state`: values that the agents of a run share.

An agent replaces only what it has seen, and only if *nothing* that it has seen was replaced meanwhile: which versions
those are is known from its journal, not from what it says.
"""

import json
from typing import Annotated

from pydantic import Field, JsonValue

from chargehand.memory.shared_state import Replaced, StaleState
from chargehand.workers.blackboard import Blackboard
from chargehand.workers.tools.registry import ToolContext, ToolOutput, ToolRetry, make_tool

MAX_KEYS = 20
# Every agent that reads it has it in its window.
MAX_VALUE_BYTES = 16_000

Key = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$",
        description="Name of a value: lower-case letters, digits, `_`, `.`, `-`.",
    ),
]


def _read_state(
    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_KEYS, description="Values to read, at one moment.")],
    context: ToolContext,
) -> ToolOutput:
    """Read values that the agents of this run share, each with its version; null at version 0: nobody has written it.

    You are told when one of them is replaced by somebody else.
    """
    found = _blackboard(context).read_many(keys)
    shown = {key: {"value": one.value, "version": one.version} for key, one in found.items()}
    return ToolOutput(
        content=json.dumps(shown, ensure_ascii=False, separators=(",", ":")),
        reads=tuple(f"state:{key}@{one.version}" for key, one in found.items()),
    )


def _update_state(
    key: Key,
    value: Annotated[JsonValue, Field(description="The whole new value.")],
    context: ToolContext,
    *,
    idempotency_key: str,
) -> ToolOutput:
    """Replace a value that the agents of this run share. Read it first, in an earlier turn.

    It is refused when anything that you have read of shared state was replaced by somebody else meanwhile: then decide
    anew by what is there now.
    """
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_VALUE_BYTES:
        raise ToolRetry(f"A shared value may have {MAX_VALUE_BYTES:,} bytes; keep a summary, or a path, instead.")
    if key not in context.view:
        raise ToolRetry(f"You have not seen {key!r}; read it with read_state, and replace it in a later turn.")
    try:
        written = _blackboard(context).commit(view=context.view, values={key: value}, call_key=idempotency_key)[key]
    except StaleState as stale:
        raise ToolRetry(
            f"Nothing was written. {'; '.join(map(_told, stale.replaced))}. What is there now follows; decide by it."
        ) from stale
    return ToolOutput(
        content=json.dumps({"key": key, "version": written.version}), reads=(f"state:{key}@{written.version}",)
    )


def _told(one: Replaced) -> str:
    by = f", replaced by step {one.by}" if one.by else ""
    return f"{one.key!r} is at version {one.version}, you had seen {one.seen_version}{by}"


def _blackboard(context: ToolContext) -> Blackboard:
    if context.blackboard is None:
        raise RuntimeError("no shared state in this program")
    return context.blackboard


read_state = make_tool(_read_state, effect="pure", name="read_state")
update_state = make_tool(_update_state, effect="idempotent", name="update_state")

"""Streams of the offline server as they were recorded: it still says the same, and both readers still understand it.

`CHARGEHAND_RECORD=1` records them again; look at the difference before it is committed.
"""

import os
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from wire import PLAN_TOOL, call, foreign, models_over, serving

from chargehand.workers.models.interface import ModelUnavailable

CASSETTES = Path(__file__).parents[2] / "data" / "cassettes"
LONG = {"type": "text", "text": "You plan. " + "Look twice; " * 600, "cache_control": {"type": "ephemeral"}}
TAPES: dict[str, dict[str, Any]] = {
    "tool_call": {"tools": [PLAN_TOOL]},
    "cache_write": {"system": [LONG]},
    "typed": {"tools": [], "output_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    "max_tokens": {"max_tokens": 8},
    "refusal": {},
    "cut_stream": {},
}
FAULTS = {"refusal", "cut_stream"}


def record(name: str) -> bytes:
    """What the server streams to this call, byte for byte."""
    asked = call(**TAPES[name])
    body: dict[str, Any] = {
        "model": asked.model,
        "max_tokens": asked.max_tokens,
        "system": list(asked.system),
        "messages": list(asked.messages),
        "stream": True,
    }
    if asked.tools:
        body["tools"] = list(asked.tools)
    if asked.output_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": asked.output_schema}}
    with serving() as server:
        if name in FAULTS:
            server.faults.replace([{"kind": name}])
        pieces = bytearray()
        try:
            with httpx2.stream("POST", f"{server.base_url}/v1/messages", json=body) as response:
                for piece in response.iter_bytes():
                    pieces += piece
        except httpx2.RemoteProtocolError:
            assert name == "cut_stream"
        return bytes(pieces)


def played(name: str) -> anthropic.Anthropic:
    """The SDK over a server that plays the tape."""
    body = (CASSETTES / f"{name}.sse").read_bytes()
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return foreign(lambda request: httpx2.Response(200, content=body, headers=headers))


@pytest.mark.parametrize("name", TAPES)
def test_offline_server_still_says_what_was_recorded(name: str) -> None:
    said, tape = record(name), CASSETTES / f"{name}.sse"
    if os.environ.get("CHARGEHAND_RECORD"):
        tape.write_bytes(said)

    assert said == tape.read_bytes()


@pytest.mark.parametrize("name", [name for name in TAPES if name not in FAULTS])
def test_our_reader_and_the_sdks_hear_the_same_message(name: str) -> None:
    asked = call(**TAPES[name], on_delta=lambda piece: None)
    with played(name).messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        theirs = stream.get_final_message()

    ours = models_over(played(name)).call(asked)

    assert [block["type"] for block in ours.content] == [block.type for block in theirs.content]
    assert ours.stop_reason == theirs.stop_reason
    assert ours.usage.output_tokens == theirs.usage.output_tokens
    assert ours.usage.cache_write_tokens == (theirs.usage.cache_creation_input_tokens or 0)
    assert (ours.usage.cache_write_tokens > 0) == (name == "cache_write")


def test_tape_that_was_cut_is_no_answer() -> None:
    with pytest.raises(ModelUnavailable, match="broke off"):
        models_over(played("cut_stream")).call(call(on_delta=lambda piece: None))

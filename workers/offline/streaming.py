"""A message as the events of its stream."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

# Small enough that a watcher sees text grow, large enough to cost nothing.
TEXT_PIECE_CHARACTERS = 24
JSON_PIECE_CHARACTERS = 200


def events_of(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events that add up to this message, in the order of the real server."""
    usage = message["usage"]
    opening = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": opening}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        if block["type"] == "tool_use":
            yield {"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}}
            text = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
            for piece in ("", *_pieces(text, JSON_PIECE_CHARACTERS)):
                delta = {"type": "input_json_delta", "partial_json": piece}
                yield {"type": "content_block_delta", "index": index, "delta": delta}
        else:
            yield {"type": "content_block_start", "index": index, "content_block": {**block, "text": ""}}
            for piece in _pieces(block["text"], TEXT_PIECE_CHARACTERS):
                yield {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": usage["output_tokens"]},
    }
    yield {"type": "message_stop"}


def encoded(event: Mapping[str, Any]) -> bytes:
    """One event on the wire."""
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {body}\n\n".encode(errors="replace")


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]

"""Requests that the real server refuses are refused here too."""

from typing import Any

import pytest

from chargehand.workers.offline.validation import complaint

USER = {"role": "user", "content": "hello"}
GOOD: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [USER]}
TOOL = {"name": "t", "input_schema": {"type": "object"}}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "u1", "name": "t", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u1", "content": "r"}]}
MARKED = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    "request_body",
    [
        GOOD,
        {**GOOD, "max_tokens": 0},
        {**GOOD, "system": "s", "tools": [TOOL], "tool_choice": {"type": "tool", "name": "t"}},
        {**GOOD, "messages": [USER, USE, RESULT]},
        {
            **GOOD,
            "messages": [USER, USE, {**RESULT, "content": [*RESULT["content"], {"type": "text", "text": "go on"}]}],
        },  # type: ignore[misc]
        {**GOOD, "messages": [USER, USER]},
        {**GOOD, "system": [MARKED] * 4},
        {**GOOD, "a_field_of_next_year": 1},
    ],
)
def test_valid_requests_pass(request_body: dict[str, Any]) -> None:
    assert complaint(request_body) == ""


@pytest.mark.parametrize(
    ("request_body", "said"),
    [
        ([], "object"),
        ({**GOOD, "model": ""}, "model"),
        ({**GOOD, "max_tokens": None}, "max_tokens"),
        ({**GOOD, "max_tokens": 10**9}, "max_tokens"),
        ({**GOOD, "max_tokens": True}, "max_tokens"),
        ({**GOOD, "temperature": 0}, "temperature"),
        ({**GOOD, "messages": []}, "at least one"),
        ({**GOOD, "messages": [{"role": "system", "content": "x"}]}, "role"),
        ({**GOOD, "messages": [USE]}, "first message"),
        ({**GOOD, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-empty"),
        ({**GOOD, "messages": [USER, USE, USER]}, "u1"),
        ({**GOOD, "messages": [USER, USE]}, "tool_result"),
        ({**GOOD, "messages": [USER, RESULT]}, "unexpected"),
        ({**GOOD, "messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "u"}]}]}, "input"),
        ({**GOOD, "tools": [{**TOOL, "name": "has space"}]}, "pattern"),
        ({**GOOD, "tools": [TOOL, TOOL]}, "unique"),
        ({**GOOD, "tools": [{"name": "t"}]}, "input_schema"),
        ({**GOOD, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "not found"),
        ({**GOOD, "system": [{"type": "text", "text": ""}]}, "system"),
        ({**GOOD, "system": [MARKED] * 5}, "maximum of 4"),
    ],
)
def test_invalid_requests_are_told_what_is_wrong(request_body: Any, said: str) -> None:
    assert said in complaint(request_body)


def test_counting_needs_no_limit() -> None:
    assert complaint({"model": "m", "messages": [USER]}, counting=True) == ""

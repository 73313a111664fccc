"""Typed answers: how each kind of server is asked, how its answer is read, and how often it is repaired."""

from typing import Any

import pytest
from pydantic import BaseModel, Field

from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.interface import Block, ModelAnswer, ModelCall, ModelUnavailable
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.structured import ANSWER_TOOL, MAX_REPAIRS, ask, asked, json_in, understood

FINISH: Block = {
    "name": "submit_note",
    "input_schema": {"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]},
}
LOOK: Block = {"name": "look", "input_schema": {"type": "object", "properties": {}}}


class Verdict(BaseModel):
    """An answer."""

    label: str
    confidence: float = Field(ge=0, le=1)


def call(**changes: Any) -> ModelCall:
    """A call with two tools."""
    values: dict[str, Any] = {
        "tier": "small",
        "system": [],
        "tools": [FINISH, LOOK],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Begin."}]}],
    }
    return ModelCall(**{**values, **changes})


def answer(*content: Block) -> ModelAnswer:
    """An answer with this content."""
    return ModelAnswer(
        model="m", content=content, stop_reason="end_turn", usage=Usage(), cost_microusd=0, duration_ms=1
    )


def text(words: str) -> Block:
    """A block of text."""
    return {"type": "text", "text": words}


def test_server_with_schemas_is_given_the_schema() -> None:
    asking = call(output_schema={"type": "object"}, tools=[])

    assert asked(asking, PROFILES["anthropic"]) is asking


def test_server_with_tools_is_given_a_tool_that_it_must_call() -> None:
    sent = asked(call(output_schema={"type": "object"}, tools=[]), PROFILES["vllm"])

    assert sent.tools == [{"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": {"type": "object"}}]
    assert sent.tool_choice == {"type": "tool", "name": ANSWER_TOOL}
    assert sent.output_schema is None


def test_any_other_server_is_asked_in_words() -> None:
    asking = call(output_schema={"type": "object", "title": "T"}, tools=[])

    sent = asked(asking, PROFILES["ollama"])

    words = sent.messages[-1]["content"][-1]["text"]  # type: ignore[index,call-overload]
    assert "one JSON object" in words
    assert '"title":"T"' in words
    assert asking.messages[0]["content"] == [text("Begin.")]


def test_forced_tool_is_the_only_one_offered_where_nothing_can_be_forced() -> None:
    forced = call(tool_choice={"type": "tool", "name": "submit_note"})

    sent = asked(forced, PROFILES["ollama"])

    assert [tool["name"] for tool in sent.tools] == ["submit_note"]
    assert sent.tool_choice is None
    assert asked(forced, PROFILES["anthropic"]) is forced


@pytest.mark.parametrize(
    "words",
    [
        '{"note": "done"}',
        'Here it is:\n```json\n{"note": "done"}\n```\nThat is all.',
        '{"name": "submit_note", "arguments": {"note": "done"}}',
        'I thought of {"x": 1}, but: {"tool": "submit_note", "input": {"note": "done"}}',
    ],
)
def test_tool_call_that_was_written_down_is_a_tool_call(words: str) -> None:
    content = understood([text(words)], call(), PROFILES["ollama"])

    assert [(block["type"], block["name"], block["input"]) for block in content] == [
        ("tool_use", "submit_note", {"note": "done"})
    ]
    assert content == understood([text(words)], call(), PROFILES["ollama"])


@pytest.mark.parametrize("words", ["Nothing yet.", '{"other": 1}', "{", '{"note"', "[1]"])
def test_words_that_are_no_submission_stay_words(words: str) -> None:
    assert understood([text(words)], call(), PROFILES["ollama"]) == (text(words),)


def test_prose_of_a_server_that_can_call_tools_is_never_a_call() -> None:
    content = (text('{"note": "an example of what I could submit"}'),)

    assert understood(content, call(), PROFILES["anthropic"]) == content


@pytest.mark.parametrize("deep", ["{" * 100_000, '{"a":' * 50_000, "{} " * 10_000])
def test_hostile_text_is_read_in_bounded_time(deep: str) -> None:
    assert json_in(deep) in (None, {})


def test_answer_is_validated_here_and_repaired_by_what_was_wrong() -> None:
    calls: list[ModelCall] = []
    answers = [text('{"label": "yes", "confidence": 7}'), text('```json\n{"label": "yes", "confidence": 0.7}\n```')]

    def attempt(asking: ModelCall) -> ModelAnswer:
        calls.append(asking)
        content = understood([answers[len(calls) - 1]], asking, PROFILES["llama.cpp"])
        return answer(*content)

    verdict = ask(call(tools=[]), Verdict, attempt)

    assert verdict == Verdict(label="yes", confidence=0.7)
    assert "confidence: Input should be less than or equal to 1" in str(calls[1].messages[-1])


def test_repairs_are_bounded() -> None:
    calls: list[ModelCall] = []

    def attempt(asking: ModelCall) -> ModelAnswer:
        calls.append(asking)
        return answer(text("I would rather talk."))

    with pytest.raises(ModelUnavailable, match="no Verdict") as failure:
        ask(call(tools=[]), Verdict, attempt)

    assert len(calls) == MAX_REPAIRS + 1
    assert not failure.value.retryable


def test_call_that_must_be_made_may_be_written_down_on_a_local_server_only() -> None:
    content = (text('{"note": "done"}'),)
    forced = call(tool_choice={"type": "tool", "name": "submit_note"})

    assert understood(content, forced, PROFILES["llama.cpp"])[0]["type"] == "tool_use"
    assert understood(content, call(), PROFILES["llama.cpp"]) == content
    assert understood(content, forced, PROFILES["anthropic"]) == content

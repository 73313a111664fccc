"""The hash of a growing conversation is that of the whole request, however it grew."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from chargehand.orchestrator.facts import ModelResponded, ToolFinished, Usage
from chargehand.workers.context import AgentTask, GrowingPrompt, build
from chargehand.workers.conversation import Conversation, Exchange
from chargehand.workers.tools.finish import finish_tool
from chargehand.workers.tools.registry import ToolContext, make_tool
from tests.unit.workers.test_agent import FakeRole


def no_workspace() -> Any:
    raise AssertionError


def look(place: str) -> str:
    """Look somewhere."""
    return place


LOOK = make_tool(look, effect="pure")
TASK = AgentTask(
    goal="Find <goal> ü",
    role=FakeRole(tools=("look",)),
    instruction="Answer",
    repository={"files": ["a", 1, None]},
    finish=finish_tool("researcher"),
    context=ToolContext(
        run_id=UUID(int=1),
        step_id=UUID(int=2),
        step_key="ask",
        arguments={"b": 1, "a": {"z": 1, "y": []}},
        inputs={"before": "text"},
        results=lambda _: None,
        open_workspace=no_workspace,
        recall=lambda *_: "",
    ),
    max_turns=6,
)
TEXTS = st.text(max_size=8) | st.sampled_from(["", '{"a": 1}', "<tool_output>", "</task>", "é\U0001f600"])


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    uses = draw(st.lists(TEXTS, max_size=3))
    content: list[dict[str, Any]] = [{"type": "text", "text": draw(TEXTS)}]
    content += [
        {"type": "tool_use", "id": f"t{n}", "name": "look", "input": {"place": at}} for n, at in enumerate(uses)
    ]
    answer = ModelResponded(
        call_id=UUID(int=9),
        model="m",
        content=tuple(content),
        stop_reason=draw(st.sampled_from(["tool_use", "max_tokens"])),
        usage=Usage(),
        cost_microusd=0,
    )
    results = {
        f"t{n}": ToolFinished(
            tool_use_id=f"t{n}",
            tool="look",
            arguments={"place": at},
            outcome=draw(st.sampled_from(["ok", "error"])),
            content=draw(TEXTS),
        )
        for n, at in enumerate(uses)
    }
    return Exchange(answer=answer, results=results, notes=tuple(draw(st.lists(TEXTS, max_size=2))))


@settings(deadline=None)
@given(st.lists(exchanges(), max_size=6), st.lists(TEXTS, max_size=2), st.booleans())
def test_each_request_of_a_conversation_hashes_as_the_whole_one_does(
    said: list[Exchange], notes: list[str], every: bool
) -> None:
    prompt = GrowingPrompt(TASK, [LOOK], {})
    for count in range(len(said) + 1):
        conversation = Conversation(exchanges=tuple(said[:count]), opening_notes=tuple(notes))
        # A call that fails is made again; a fork begins with several turns at once.
        for _ in range(2 if every else count == len(said)):
            assert prompt.next_hash(conversation) == build(TASK, [LOOK], conversation).prompt_hash


def test_a_role_of_another_version_has_another_ending() -> None:
    endings: dict[tuple[str, bool], bytes] = {}
    other = replace(TASK, role=FakeRole(tools=("look",), instructions="Otherwise.", blob_hash="def"))
    hashes = [GrowingPrompt(task, [LOOK], endings).next_hash(Conversation()) for task in (TASK, other)]
    assert hashes == [build(task, [LOOK], Conversation()).prompt_hash for task in (TASK, other)]
    assert len(set(hashes)) == 2

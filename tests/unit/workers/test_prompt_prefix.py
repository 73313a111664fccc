"""The prefix of a prompt: the same to the byte wherever it is built, continued by each turn, read from the cache."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chargehand.orchestrator.facts import ModelResponded, ToolFinished, Usage
from chargehand.workers.context import AgentTask, build
from chargehand.workers.conversation import Conversation, Exchange
from chargehand.workers.models.interface import ModelCall
from chargehand.workers.models.prefix import blocks_of, broken_block, shared_prefix, ttl_for
from chargehand.workers.offline.accounting import LOOK_BACK_BLOCKS, PromptCache
from tests.unit.workers.test_growing_prompt import LOOK, TASK

TURNS = 15
# Ten thousand tokens of system text, as a role with long instructions has.
LONG_TEXT = "Rules of the shop floor. " * 1_600


def long_task() -> AgentTask:
    """An agent of fifteen turns with a long system text."""
    return replace(TASK, role=replace(TASK.role, instructions=LONG_TEXT), max_turns=TURNS)  # type: ignore[type-var]


def exchange(number: int, results: int = 1) -> Exchange:
    """One answer with so many tool calls, and what they gave."""
    uses = [
        {"type": "tool_use", "id": f"t{number}-{index}", "name": "look", "input": {"place": f"{number}.{index}"}}
        for index in range(results)
    ]
    answer = ModelResponded(
        call_id=UUID(int=number),
        model="m",
        content=({"type": "text", "text": f"Looking, {number}."}, *uses),
        stop_reason="tool_use",
        usage=Usage(),
        cost_microusd=0,
    )
    facts = {
        str(use["id"]): ToolFinished(
            tool_use_id=str(use["id"]),
            tool="look",
            arguments={"place": f"{number}"},
            outcome="ok",
            content=f"result {number} " * 12,
        )
        for use in uses
    }
    return Exchange(answer=answer, results=facts)


def calls_of(task: AgentTask, *, results: int = 1) -> list[ModelCall]:
    """The calls of all turns of a step."""
    calls = []
    for turn in range(task.max_turns):
        conversation = Conversation(exchanges=tuple(exchange(number, results) for number in range(turn)))
        request = build(task, [LOOK], conversation)
        calls.append(
            ModelCall(
                tier="medium",
                system=request.system,
                tools=request.tools,
                messages=request.messages,
                tool_choice=request.tool_choice,
            )
        )
    return calls


def sent(call: ModelCall) -> dict[str, Any]:
    """The call as a server gets it."""
    body: dict[str, Any] = {"model": "m", "tools": call.tools, "system": call.system, "messages": call.messages}
    return body if call.tool_choice is None else {**body, "tool_choice": call.tool_choice}


def hashes() -> list[str]:
    """The hash of the call of each turn, block by block."""
    listed = [[*blocks_of(call)] for call in calls_of(long_task())]
    return [hashlib.sha256(json.dumps(blocks).encode()).hexdigest() for blocks in listed]


def test_each_turn_continues_the_one_before_to_the_byte() -> None:
    calls = calls_of(long_task())

    assert [broken_block(before, after) for before, after in pairwise(calls)] == [""] * (TURNS - 1)


def test_another_process_builds_the_same_bytes() -> None:
    root = Path(__file__).parents[3]
    program = "import json; from tests.unit.workers.test_prompt_prefix import hashes; print(json.dumps(hashes()))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    assert json.loads(done.stdout) == hashes()


def test_steps_of_one_role_share_all_up_to_their_own_task() -> None:
    task = long_task()
    other = replace(task, instruction="Something else", context=replace(task.context, step_key="other", arguments={}))

    assert shared_prefix(calls_of(task)[0]) == shared_prefix(calls_of(other)[0])
    assert broken_block(calls_of(task)[0], calls_of(other)[0]) == "messages[0].content[1]"


BREAKS: dict[str, Callable[[ModelCall], ModelCall]] = {
    "tools[0] look": lambda call: replace(call, tools=[*reversed(call.tools)]),
    "tools[1] submit_answer": lambda call: replace(call, tools=call.tools[:1]),
    "system[0]": lambda call: replace(
        call, system=[{**call.system[0], "text": "Today is Thursday."}, *call.system[1:]]
    ),
    "system[1]": lambda call: replace(call, system=[*call.system[:1], {**call.system[1], "text": "run 8f3a"}]),
    "messages[0].content[0]": lambda call: replace(
        call, messages=[{"role": "user", "content": [{"type": "text", "text": "<run>"}]}, *call.messages[1:]]
    ),
    "messages[1].content[0]": lambda call: replace(
        call, messages=[call.messages[0], {"role": "assistant", "content": []}, *call.messages[2:]]
    ),
}


@pytest.mark.parametrize("block", BREAKS)
def test_a_change_that_breaks_the_prefix_is_named_by_its_block(block: str) -> None:
    calls = calls_of(replace(long_task(), finish=TASK.finish))
    broken = BREAKS[block](calls[4])

    assert broken_block(calls[3], broken).startswith(block.split(" ")[0])


def test_every_request_has_at_most_four_breakpoints() -> None:
    for call in calls_of(long_task(), results=3):
        assert sum("cache_control" in block for _, block in blocks_of(call)) <= 4


def test_agent_of_fifteen_turns_reads_nine_tenths_of_its_input_from_the_cache() -> None:
    cache = PromptCache()

    counted = [cache.count(sent(call)) for call in calls_of(long_task())]

    assert sum(one.read for one in counted) / sum(one.total for one in counted) >= 0.9
    # The system text is written once; also the last turn, which must call one tool, reads it.
    assert [one.read > 10_000 for one in counted] == [False] + [True] * (TURNS - 1)


def test_turn_of_more_blocks_than_a_server_looks_back_loses_nothing() -> None:
    cache = PromptCache()
    results = LOOK_BACK_BLOCKS + 10

    calls = calls_of(replace(long_task(), max_turns=5), results=results)[:4]
    counted = [cache.count(sent(call)) for call in calls]

    for before, after in pairwise(counted):
        assert after.read == before.read + before.written


@pytest.mark.parametrize(
    ("gap_seconds", "reuses", "ttl"),
    [(0, 14, "5m"), (299, 50, "5m"), (600, 1, "1h"), (600, 0.5, "5m"), (1_800, 1, "1h"), (7_200, 9, "5m")],
)
def test_prefix_is_kept_as_long_as_its_reuse_pays(gap_seconds: float, reuses: float, ttl: str) -> None:
    assert ttl_for(gap_seconds=gap_seconds, reuses=reuses) == ttl

"""Agents on real Postgres whose model is a function of the request, and whose tools are the test's own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.plan import Step, step_id
from chargehand.workers.executor import execute
from chargehand.workers.models.interface import Block, ModelAnswer, ModelCall, Quote
from chargehand.workers.shop import Shop
from chargehand.workers.tools.registry import Tool

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

ROLE = """\
---
name: asker
description: Does what its step says.
pool: research
tier: small
tools: [{tools}]
max_turns: 15
output: submit_answer
---
Do it.
"""
ANSWER: dict[str, Any] = {"question": "q", "found": False, "answer": "by hand", "quotes": []}


class FunctionModel:
    """Answers with what a function makes of the request and of the number of answers in it."""

    def __init__(self, reply: Callable[[ModelCall, int], list[Block]]) -> None:
        self.reply = reply

    def quote(self, call: ModelCall) -> Quote:
        return Quote(model="fake", tier=call.tier, reserved_microusd=1, max_tokens=100, routed_because="test")

    def call(self, call: ModelCall) -> ModelAnswer:
        turn = sum(message["role"] == "assistant" for message in call.messages)
        content = tuple(self.reply(call, turn))
        return ModelAnswer(
            model="fake", content=content, stop_reason="tool_use", usage=Usage(), cost_microusd=1, duration_ms=1
        )


def use(name: str, turn: int, **arguments: Any) -> Block:
    return {"type": "tool_use", "id": f"use-{turn}", "name": name, "input": arguments}


def agent(key: str, **fields: Any) -> Step:
    return Step(key=key, kind="agent", role="asker", instruction=f"Do {key}.", **fields)


def start(house: "House", *steps: Step, tools: Mapping[str, Tool], **fields: Any) -> UUID:
    """A run of these agents, whose first steps are queued."""
    texts = {"asker": ROLE.format(tools=", ".join(tools))}
    return house.start(*steps, role_texts=texts, **fields)


def shop(house: "House", reply: Callable[[ModelCall, int], list[Block]], tools: Mapping[str, Tool]) -> Shop:
    return replace(house.shop(), models=FunctionModel(reply), tools=tools)


def deliver(house: "House", shop: Shop, run_id: UUID, key: str) -> None:
    execute(shop, tenant=house.tenant, step_id=step_id(run_id, key))

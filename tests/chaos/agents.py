"""An agent's step on the stage: the loop of production, a model that reports its calls, a tool that may kill."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from chaos.errands import RUNNER
from chaos.hand import Hand
from chaos.ledger import Ledger
from chaos.stage import LEASE_SECONDS, Stage
from chargehand.orchestrator.errors import Fenced
from chargehand.orchestrator.facts import StepFinished, Usage
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.agent import AgentTask, Finished, run_agent
from chargehand.workers.models.interface import ModelAnswer, ModelCall, Quote
from chargehand.workers.tools.finish import finish_tool
from chargehand.workers.tools.registry import Tool, ToolContext, make_tool

RESERVED_MICROUSD = 1_000
COST_MICROUSD = 400
MODEL = "rules-of-the-stage"
USAGE = Usage(input_tokens=20, output_tokens=5)
STEP = "post"


class WorkerDied(BaseException):
    """Nothing of the worker runs any more; no handler of an `Exception` sees it."""


class Scripted:
    """A model that lets a letter be posted, and then ends; each call costs money."""

    def __init__(self, ledger: Ledger, instead_of_answer: Callable[[], None] = lambda: None) -> None:
        """`instead_of_answer` happens when the first call has been paid for and not answered."""
        self._ledger = ledger
        self._instead = instead_of_answer
        self.calls: list[UUID] = []
        """Ids of the calls that have arrived."""

    def quote(self, call: ModelCall) -> Quote:
        """Always the same."""
        return Quote(
            model=MODEL,
            tier=call.tier,
            reserved_microusd=RESERVED_MICROUSD,
            max_tokens=call.max_tokens,
            routed_because="it is the only one",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        """Post once, then hand in the result."""
        prompt = repr(call.messages)
        self.calls.append(UUID(call.request_id.rpartition("/")[2]))
        receipt = self._ledger.call_received(
            call.request_id, model=MODEL, finish_tool="", prompt_hash=prompt, stream=False
        )
        self._ledger.call_answered(
            receipt,
            outcome="ok",
            billed=True,
            tokens={"input_tokens": USAGE.input_tokens, "output_tokens": USAGE.output_tokens},
        )
        self._instead()
        use = ("submit_result", {"done": 1}) if "tool_result" in prompt else (STEP, {})
        return ModelAnswer(
            model=MODEL,
            content=({"type": "tool_use", "id": f"use-{use[0]}", "name": use[0], "input": use[1]},),
            stop_reason="tool_use",
            usage=USAGE,
            cost_microusd=COST_MICROUSD,
            duration_ms=1,
        )


def start(stage: Stage) -> UUID:
    """A run of one agent that posts a letter."""
    step = Step(key=STEP, kind="agent", role=RUNNER.name, pool="audit")
    return stage.start(step, role_texts={RUNNER.name: RUNNER.text})


def attempt(stage: Stage, hand: Hand, run: UUID, models: Scripted, *, dies_in_tool: bool = False) -> None:
    """What a worker does with the step's message, until it ends, or dies."""
    held = stage.claim(hand, run, STEP)
    assert held is not None

    def post(context: ToolContext, *, idempotency_key: str) -> str:
        """Post a letter."""
        hand.knock(run, context.step_key, idempotency_key)
        hand.take_effect(run, context.step_key, idempotency_key)
        if dies_in_tool:
            raise WorkerDied
        return "posted"

    def pay() -> str:
        """Pay in cash; nobody here does."""
        raise AssertionError

    tools = {
        "post": make_tool(post, effect="idempotent", name="post"),
        "pay": make_tool(pay, effect="effectful", name="pay"),
    }
    with suppress(WorkerDied, Fenced):
        _run(stage, held, models, tools)


def _run(stage: Stage, held: HeldStep, models: Scripted, tools: Mapping[str, Tool]) -> None:
    claim = held.claim
    context = ToolContext(
        run_id=claim.run_id,
        step_id=claim.step_id,
        step_key=claim.step.key,
        arguments={},
        inputs={},
        results=lambda _: None,
        open_workspace=_nothing,
        recall=_nothing,
    )
    task = AgentTask(
        goal="Test this",
        role=RUNNER,
        instruction="Post a letter.",
        repository=None,
        finish=finish_tool(RUNNER.output),
        context=context,
        max_turns=5,
    )
    recorder = StepRecorder(stage.house.connections, held, lease_seconds=LEASE_SECONDS)
    outcome = run_agent(task, recorder=recorder, models=models, tools=tools)
    assert isinstance(outcome, Finished), outcome
    held.finish(StepFinished(outcome="succeeded", result=outcome.result))


def _nothing(*_: object) -> Any:
    raise AssertionError("A letter needs neither files nor memories.")

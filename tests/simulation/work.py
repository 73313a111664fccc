"""What the simulated steps do: scripts, tools, a finish tool and a model, all of which tell the ledger what happened.

A step's arguments say what it will come to, so that a plan is the whole story of an undisturbed world.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import JsonValue

from chargehand.memory.procedural import Role
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.workers.inputs import Gathered, _approvals
from chargehand.workers.models.interface import (
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelRefused,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.scripts.parameters import read_parameters
from chargehand.workers.scripts.registry import Effect as EffectKind
from chargehand.workers.scripts.registry import Script, ScriptContext
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, make_tool
from simulation.ledger import Call, Effect
from simulation.statements import result_of

if TYPE_CHECKING:
    from simulation.processes import Worker
    from simulation.world import World

RESERVED_MICROUSD = 900
ROLE = Role(
    name="agent",
    description="Does what its step says.",
    pool="research",
    tier="small",
    tools=("look", "put", "send"),
    max_turns=8,
    output="submission",
    instructions="Do the task.",
    text="",
    blob_hash="0" * 40,
)
ROLE_VERSIONS = {ROLE.name: ROLE.blob_hash}


@dataclass
class Stage:
    """Where production's code runs just now."""

    world: "World | None" = None

    @property
    def worker(self) -> "Worker":
        """The process whose fiber this is."""
        assert self.world is not None
        return self.world.current_worker()


STAGE = Stage()


# --- scripts ----------------------------------------------------------------------------------------------------------


def _script(effect: EffectKind) -> Script[..., Any]:
    def body(context: ScriptContext, seconds: float = 0.0, fails: int = 0, poison: bool = False) -> JsonValue:
        return STAGE.worker.work(context.step_id, effect, context.idempotency_key, seconds, fails, poison)

    body.__name__ = effect
    return Script(
        name=effect,
        function=body,
        effect=effect,
        timeout_seconds=600.0,
        pool="research",
        retries=0,
        parameters=read_parameters(body, script=effect, context_type=ScriptContext),
    )


EFFECTS: tuple[EffectKind, ...] = ("pure", "idempotent", "effectful")
SCRIPTS = {effect: _script(effect) for effect in EFFECTS}


# --- tools ------------------------------------------------------------------------------------------------------------


def look(n: int, context: ToolContext) -> str:
    """Look at something."""
    STAGE.worker.pass_time("work", 0.3)
    del context
    return f"saw {n}"


def put(n: int, context: ToolContext, idempotency_key: str) -> str:
    """Put something where putting it twice changes nothing."""
    return STAGE.worker.change(Effect(context.step_id, "put", f"put {n}", idempotency_key), "idempotent")


def send(n: int, context: ToolContext, idempotency_key: str) -> str:
    """Send something that cannot be taken back."""
    return STAGE.worker.change(Effect(context.step_id, "send", f"send {n}", idempotency_key), "effectful")


def submit(context: ToolContext) -> ToolOutput:
    """Hand in the result."""
    patch = context.arguments.get("patch")
    return ToolOutput(
        content="{}",
        result={"by": context.step_key},
        patch=PlanPatch.model_validate(patch) if patch is not None else None,
    )


# "send" is not offered for a retry before its time-out has passed.
TOOLS: dict[str, Tool] = {
    "look": make_tool(look, effect="pure"),
    "put": make_tool(put, effect="idempotent"),
    "send": make_tool(send, effect="effectful", timeout_seconds=5.0),
}
FINISH = make_tool(submit, effect="pure")


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelManners:
    """How badly the model behaves."""

    trouble: float = 0.0
    """Share of calls that give no answer."""
    most_seconds: float = 4.0


class SimulatedModels:
    """Answers what the step's arguments say, or gets into trouble."""

    def __init__(self, worker: "Worker") -> None:
        """For one process."""
        self._worker = worker

    def quote(self, call: ModelCall) -> Quote:
        """Always the same price."""
        return Quote(
            model="simulated",
            tier=call.tier,
            reserved_microusd=max(RESERVED_MICROUSD * call.max_tokens // 4096, 1),
            max_tokens=call.max_tokens,
            routed_because="the only one",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        """Tell the ledger, take a while, and answer."""
        world, worker = self._worker.world, self._worker
        _run, step, call_id = map(UUID, call.request_id.split("/"))
        turn = 1 + sum(message["role"] == "assistant" for message in call.messages)
        reserved = max(RESERVED_MICROUSD * call.max_tokens // 4096, 1)
        worker.pass_time("work", 0.05)
        world.rules.on_call(Call(call_id, step, turn))
        world.say("asks the model", step, turn=turn)
        worker.pass_time("work", world.conditions.model.most_seconds)
        if world.choices.happens("model", world.conditions.model.trouble):
            self._be_trouble(call_id, reserved)
        cost = world.choices.number("model", reserved + 1)
        world.ledger.billed[call_id] = cost
        worker.pass_time("work", 0.05)
        return ModelAnswer(
            model="simulated",
            content=self._content(step, turn, call),
            stop_reason="tool_use",
            usage=Usage(input_tokens=1, output_tokens=1),
            cost_microusd=cost,
            duration_ms=0,
        )

    def _content(self, step: UUID, turn: int, call: ModelCall) -> tuple[dict[str, JsonValue], ...]:
        turns: Any = self._worker.world.tables.steps[step].spec.arguments.get("turns", [])
        uses: Sequence[str] = turns[turn - 1] if turn <= len(turns) and call.tool_choice is None else ("submit",)
        return tuple(
            {
                "type": "tool_use",
                "id": f"{turn}.{position}",
                "name": name,
                "input": {} if name == "submit" else {"n": turn * 10 + position},
            }
            for position, name in enumerate(uses)
        )

    def _be_trouble(self, call_id: UUID, reserved: int) -> None:
        match self._worker.world.choices.number("model", 4):
            case 0:
                raise ModelBusy(2.0)
            case 1:
                raise ModelBusy(20.0)
            case 2:
                # The provider may have done the work all the same; who cannot know passes the reservation.
                self._worker.world.ledger.billed[call_id] = reserved // 2
                raise ModelUnavailable("cut off", retryable=True, cost_microusd=reserved)
            case _:
                raise ModelRefused("no")


# --- what a step reads ------------------------------------------------------------------------------------------------


class SimulatedReader:
    """Stands in for `RunReader`."""

    def __init__(self, worker: "Worker", tenant: UUID, run_id: UUID) -> None:
        """`worker` is what a shop has for an engine."""
        self._worker, self._tenant, self._run_id = worker, tenant, run_id

    def gather(self, step: Step) -> Gathered:
        """What the step's attempt starts from."""
        return self.gather_many([step])[0]

    def gather_many(self, steps: Sequence[Step]) -> list[Gathered]:
        """What each of these steps starts from."""
        return self._worker.transact("gather", lambda: [self._gathered(step) for step in steps])

    def _gathered(self, step: Step) -> Gathered:
        tables = self._worker.world.tables
        run = tables.runs.get(self._run_id)
        if run is None or run.tenant != self._tenant:
            raise NotFound(f"There is no run {self._run_id}; it was removed.")
        ended = {key: result_of(tables, run.id, step_id(run.id, key)) for key in step.after}
        return Gathered(
            goal=run.goal,
            workspace=None,
            inputs={key: fact.result for key, fact in ended.items() if fact and fact.outcome == "succeeded"},
            repository=None,
            start_commit=None,
            plan=Plan(steps=tuple(row.spec for row in tables.of_run[run.id])) if step.kind == "agent" else None,
            role_versions=run.role_versions,
            commits={},
            approvals=_approvals(step, {key: fact for key, fact in ended.items() if fact is not None}),
        )

    def result(self, key: str) -> JsonValue | None:
        """The result of any step that succeeded, or None."""
        fact = result_of(self._worker.world.tables, self._run_id, step_id(self._run_id, key))
        return fact.result if fact is not None and fact.outcome == "succeeded" else None

    def role(self, role_hash: str) -> Role:
        """The one there is."""
        assert role_hash == ROLE.blob_hash
        return ROLE

    def account(self) -> None:
        """Nobody asks."""
        raise NotImplementedError

    def step_keys(self) -> Sequence[str]:
        """All steps of the plan."""
        return [row.key for row in self._worker.world.tables.of_run[self._run_id]]


class Unwatched:
    """Stands in for `Progress` and `Hints`: nobody looks."""

    def give(self, run_id: UUID) -> None:
        """To nobody."""

    def say(self, run_id: UUID, step_key: str, line: str) -> None:
        """Into the void."""

    def clear(self, run_id: UUID, step_key: str) -> None:
        """As before."""

    def is_watched(self, run_id: UUID) -> bool:
        """By nobody."""
        del run_id
        return False

"""What the simulated steps do: scripts, tools, a finish tool and a model, all of which tell the ledger what happened.

A step's arguments say what it will come to, so that a plan is the whole story of an undisturbed world.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import JsonValue

from chargehand.memory.procedural import Role
from chargehand.orchestrator import races
from chargehand.orchestrator.backtracking import backtrack
from chargehand.orchestrator.control import MERGE_SCRIPT
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import ModelRequested, Usage
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.workers.inputs import Gathered, _approvals
from chargehand.workers.models.interface import (
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelHeld,
    ModelRefused,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.scripts.parameters import read_parameters
from chargehand.workers.scripts.registry import Effect as EffectKind
from chargehand.workers.scripts.registry import Script, ScriptContext
from chargehand.workers.tools.colleagues import COLLEAGUE_TOOLS, delegate, hand_off
from chargehand.workers.tools.finish import finish_tool
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, make_tool
from chargehand.workers.tools.request_replan import request_replan
from simulation import writers
from simulation.ledger import Call, Effect
from simulation.planning import change_of
from simulation.statements import result_of, winners

if TYPE_CHECKING:
    from simulation.processes import Worker
    from simulation.world import World

RESERVED_MICROUSD = 900
MODELS = ("simulated", "spare")
# Whom an agent gives work to, and whom that one; the last one knows nobody who is not at work above it.
COLLEAGUES = {"agent": "helper", "helper": "third", "third": "agent", "chooser": "helper"}


def _role(name: str, pool: str, output: str, number: int) -> Role:
    return Role(
        name=name,
        description="Does what its step says.",
        pool=pool,
        tier="small",
        tools=() if name == REPLANNER else ("delegate", "hand_off", "look", "put", "request_replan", "send"),
        max_turns=8,
        output=output,
        instructions="Do the task.",
        text="",
        blob_hash=f"{number:040}",
    )


ROLES = (
    _role("agent", "research", "submission", 0),
    _role("helper", "coding", "submission", 1),
    _role("third", "audit", "submission", 2),
    _role("chooser", "research", "choice", 3),
    _role(REPLANNER, "research", "submit_replan", 4),
)
ROLE_VERSIONS = {role.name: role.blob_hash for role in ROLES}


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


# Fails however often it is tried.
ALWAYS = 99


def _working(effect: EffectKind) -> Callable[..., JsonValue]:
    def body(
        context: ScriptContext, seconds: float = 0.0, fails: int = 0, poison: bool = False, item: JsonValue = None
    ) -> JsonValue:
        if isinstance(item, dict):
            seconds, fails = float(str(item["seconds"])), max(fails, int(str(item["fails"])))
        begun = STAGE.worker.work(context.step_id, effect, context.idempotency_key, seconds, fails, poison)
        return {"n": begun} if item is None else {"n": begun, "item": item}

    return body


def _list(context: ScriptContext, items: JsonValue, seconds: float = 0.0) -> JsonValue:
    STAGE.worker.work(context.step_id, "pure", "", seconds, 0, False)
    return items


def _choose(context: ScriptContext, way: JsonValue, seconds: float = 0.0) -> JsonValue:
    STAGE.worker.work(context.step_id, "pure", "", seconds, 0, False)
    return way


def _check(context: ScriptContext, passes_in: int, seconds: float = 0.0) -> JsonValue:
    STAGE.worker.work(context.step_id, "pure", "", seconds, 0, False)
    return {"passed": round_of(context.step_key) >= passes_in}


def _merge(context: ScriptContext) -> JsonValue:
    STAGE.worker.work(context.step_id, "pure", "", 0.5, 0, False)
    assert STAGE.world is not None
    owner = STAGE.world.tables.steps[step_id(context.run_id, context.step_key.rpartition("/")[0])]
    return {"conflicts": owner.spec.arguments.get("conflicts", [])}


def round_of(key: str) -> int:
    """The round of a `repeat` in which a step of its body stands."""
    return int(key.split("/")[-2])


def _script(name: str, body: Callable[..., JsonValue], effect: EffectKind = "pure") -> Script[..., Any]:
    return Script(
        name=name,
        function=body,
        effect=effect,
        timeout_seconds=600.0,
        pool="research",
        retries=0,
        parameters=read_parameters(body, script=name, context_type=ScriptContext),
    )


SUBMIT_REPLAN = "submit_replan"
EFFECTS: tuple[EffectKind, ...] = ("pure", "idempotent", "effectful")
SCRIPTS = {
    **{effect: _script(effect, _working(effect), effect) for effect in EFFECTS},
    "list": _script("list", _list),
    "choose": _script("choose", _choose),
    "check": _script("check", _check),
    MERGE_SCRIPT: _script(MERGE_SCRIPT, _merge),
}


# --- tools ------------------------------------------------------------------------------------------------------------


def look(n: int, context: ToolContext) -> str:
    """Look at something."""
    STAGE.worker.use(context.step_id, "look")
    STAGE.worker.pass_time("work", 0.3)
    return f"saw {n}"


def put(n: int, context: ToolContext, idempotency_key: str) -> str:
    """Put something where putting it twice changes nothing."""
    return STAGE.worker.change(Effect(context.step_id, "put", f"put {n}", idempotency_key), "idempotent")


def send(n: int, context: ToolContext, idempotency_key: str) -> str:
    """Send something that cannot be taken back."""
    return STAGE.worker.change(Effect(context.step_id, "send", f"send {n}", idempotency_key), "effectful")


def submit(context: ToolContext, by: str = "", odds: JsonValue = None) -> ToolOutput:
    """Hand in the result; `by` and `odds` are a colleague's, or a person's."""
    # By tier; a branch's chooser is called after its own.
    own_odds = context.arguments.get("odds")
    if odds is None and isinstance(own_odds, dict):
        odds = own_odds.get(context.step_key.rpartition("/")[2])
    result: dict[str, JsonValue] = {"by": by or context.step_key}
    return ToolOutput(content="{}", result=result if odds is None else {**result, "odds": odds}, patch=_patch(context))


def _patch(context: ToolContext) -> PlanPatch | None:
    """What the step's arguments say of the plan: steps to add and to drop, or one to go back to."""
    patch = context.arguments.get("patch")
    if patch is not None:
        return PlanPatch.model_validate(patch)
    again = context.arguments.get("back_to")
    # Whoever comes again does not go back again, or there would be no end.
    if again is None or context.plan is None or "~" in context.step_key:
        return None
    assert STAGE.world is not None
    tables = STAGE.world.tables
    counting = writers.counting_plan(tables, tables.runs[context.run_id])
    if str(again) not in counting.by_key:
        return None
    return backtrack(counting, {str(again): None}, taken=context.plan.by_key)


# "send" is not offered for a retry before its time-out has passed.
TOOLS: dict[str, Tool] = {
    "delegate": delegate,
    "hand_off": hand_off,
    "look": make_tool(look, effect="pure"),
    "put": make_tool(put, effect="idempotent"),
    "request_replan": request_replan,
    "send": make_tool(send, effect="effectful", timeout_seconds=5.0),
}
FINISH = make_tool(submit, effect="pure")


def finish_of(output: str) -> Tool:
    """Planners hand in by production's own tool: what fits the plan is decided there."""
    return finish_tool(output) if output == SUBMIT_REPLAN else FINISH


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
        """Always the same price; the second model is asked when the first must not be."""
        holds = self._worker.shop.holds
        free = next((model for model in MODELS if holds.model(model) is None), None)
        if free is None and (held := holds.model(MODELS[0])) is not None:
            raise ModelHeld(held)
        return Quote(
            model=free or MODELS[0],
            tier=call.tier,
            reserved_microusd=max(RESERVED_MICROUSD * call.max_tokens // 4096, 1),
            max_tokens=call.max_tokens,
            routed_because="the first that may be asked",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        """Tell the ledger, take a while, and answer."""
        world, worker = self._worker.world, self._worker
        _run, step, call_id = map(UUID, call.request_id.split("/"))
        turn = 1 + sum(message["role"] == "assistant" for message in call.messages)
        reserved = max(RESERVED_MICROUSD * call.max_tokens // 4096, 1)
        worker.pass_time("work", 0.05)
        world.rules.on_call(Call(call_id, step, turn))
        row = world.tables.steps[step]
        model = next(
            fact.model
            for fact in reversed(world.tables.facts(row.run, step))
            if isinstance(fact, ModelRequested) and fact.call_id == call_id
        )
        world.rules.fleet.on_use(step, "model", model, blind_until=worker.blind_until)
        world.rules.fleet.on_use(step, "role", row.spec.role or "", blind_until=worker.blind_until)
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
        spec = self._worker.world.tables.steps[step].spec
        if spec.role == REPLANNER:
            change = change_of(self._worker.world.choices, spec.arguments, turn)
            return ({"type": "tool_use", "id": f"{turn}.0", "name": SUBMIT_REPLAN, "input": change},)
        # A colleague is told in words what a step's arguments say.
        given: Any = json.loads(spec.instruction) if spec.instruction.startswith("{") else spec.arguments
        turns: Any = given.get("turns", [])
        uses: Sequence[str] = turns[turn - 1] if turn <= len(turns) and call.tool_choice is None else ("submit",)
        to_colleague: dict[str, JsonValue] = {
            "to": COLLEAGUES[spec.role or ""],
            "instruction": json.dumps(given.get("colleague") or {"turns": []}),
        }
        return tuple(
            {
                "type": "tool_use",
                "id": f"{turn}.{position}",
                "name": name,
                "input": {}
                if name == "submit"
                else to_colleague
                if name in COLLEAGUE_TOOLS
                else {"reason": "as planned"}
                if name == "request_replan"
                else {"n": turn * 10 + position},
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
        before = races.with_winner(step, winners(tables, run.id)).after
        return Gathered(
            goal=run.goal,
            workspace=None,
            inputs={key: fact.result for key in before if (fact := ended[key]) and fact.outcome == "succeeded"},
            repository=None,
            start_commit=None,
            plan=Plan(steps=tuple(row.spec for row in tables.of_run[run.id])) if step.kind == "agent" else None,
            role_versions=run.role_versions,
            commits={},
            statuses={row.key: row.status for row in tables.of_run[run.id]} if step.kind == "agent" else {},
            approvals=_approvals(step, {key: fact for key, fact in ended.items() if fact is not None}),
            gates=frozenset(key for key in step.after if tables.steps[step_id(run.id, key)].spec.kind == "gate"),
            # So that the people of a world have something to answer.
            on_budget="ask",
        )

    def result(self, key: str) -> JsonValue | None:
        """The result of any step that succeeded, or None."""
        fact = result_of(self._worker.world.tables, self._run_id, step_id(self._run_id, key))
        return fact.result if fact is not None and fact.outcome == "succeeded" else None

    def replans(self) -> int:
        """How often the plan may be changed, all in all."""
        return self._worker.world.tables.runs[self._run_id].replans

    def role(self, role_hash: str) -> Role:
        """The one of that version."""
        return next(role for role in ROLES if role.blob_hash == role_hash)

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

"""How fast a run is done again from its journal: 100,000 rows of agents that took twenty small turns each."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from pydantic import JsonValue

from benchmarks.figures import Figure
from benchmarks.ground import BUDGET_MICROUSD, Ground
from chargehand.memory import journal, procedural
from chargehand.memory.database import tenant_session
from chargehand.memory.journal import NewEntry
from chargehand.memory.procedural import Role
from chargehand.orchestrator import runs
from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    StateRefreshed,
    StepClaimed,
    StepFact,
    StepFinished,
    StepTold,
    ToolFinished,
    ToolStarted,
    Usage,
)
from chargehand.orchestrator.plan import Plan, Step, step_id
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.spending import Peers
from chargehand.workers.agent import Finished, run_agent
from chargehand.workers.context import AgentTask
from chargehand.workers.models.interface import ModelAnswer, ModelCall, Quote
from chargehand.workers.replay import replay
from chargehand.workers.scripts.registry import Workspace
from chargehand.workers.tools.finish import finish_tool
from chargehand.workers.tools.registry import Tool, ToolContext, make_tool

TURNS = 20
# 61 rows each and one more in the run's stream.
STEPS = 1_650
TARGET_ROWS_PER_SECOND = 20_000
RUNS = 3
ROLE = """---
name: asker
description: Looks and answers.
pool: research
tier: small
tools: [look]
max_turns: 20
output: researcher
---
Look at each place once, then answer.
"""


def measure(ground: Ground, *, steps: int = STEPS) -> Iterator[Figure]:
    """Rows a second of the best of some replays, in one process, reading from Postgres included."""
    role = procedural.parse_role(ROLE, origin="the benchmark")
    run_id = write_run(ground, role, steps)
    found, cpu_seconds = [], []
    for _ in range(RUNS):
        with tenant_session(ground.application, ground.tenant) as session:
            started = time.process_time()
            found.append(replay(session, ground.tenant, run_id, {"look": LOOK}))
            cpu_seconds.append(time.process_time() - started)
    first = found[0].first
    if first is not None:
        raise RuntimeError(f"The replay diverges: {first}")
    best = min(one.seconds for one in found)
    yield Figure(name="replay_rows", value=found[0].rows, unit="rows", durability="memory", better="higher")
    yield Figure(name="replay_requests", value=found[0].requests, unit="requests", durability="memory", better="higher")
    yield Figure(
        name="replay_rows_per_second",
        value=found[0].rows / best,
        unit="1/s",
        durability="memory",
        target=TARGET_ROWS_PER_SECOND,
        better="higher",
    )
    # Whatever else the machine does takes the wall's time, and less of this.
    yield Figure(
        name="replay_rows_per_cpu_second",
        value=found[0].rows / min(cpu_seconds),
        unit="1/s",
        durability="memory",
        better="higher",
    )


def write_run(ground: Ground, role: Role, steps: int) -> UUID:
    """A run whose agents have all done the same; written at once, linked by the database as any other."""
    planned = [Step(key=f"ask-{number}", kind="agent", role="asker", instruction="Look") for number in range(steps)]
    request = RunRequest(
        run_id=runs.new_run_id(),
        goal="Measure this",
        plan=Plan.of(planned),
        budget_microusd=BUDGET_MICROUSD,
        role_texts={"asker": role.text},
    )
    facts = facts_of_an_agent(role)
    entries = [
        NewEntry(kind=fact.kind, schema_version=SCHEMA_VERSION, epoch=1, body=fact.model_dump_json()) for fact in facts
    ]
    with tenant_session(ground.application, ground.tenant) as session:
        runs.accept(session, ground.tenant, request, [])
        for step in planned:
            identity = step_id(request.run_id, step.key)
            journal.append(
                session, tenant=ground.tenant, run=request.run_id, step=identity, after_seq=0, entries=entries
            )
    return request.run_id


def facts_of_an_agent(role: Role) -> Sequence[StepFact]:
    """What the loop records of an agent that uses all its turns."""
    recorder = _Recorder(facts=[StepClaimed(holder="bench")])
    outcome = run_agent(_task(role), recorder=recorder, models=_Model(), tools={"look": LOOK}, new_call_id=uuid4)
    if not isinstance(outcome, Finished):
        raise RuntimeError(f"The agent came to {outcome}.")
    return [*recorder.facts, StepFinished(outcome="succeeded", result=outcome.result)]


def _task(role: Role) -> AgentTask:
    return AgentTask(
        goal="Measure this",
        role=role,
        instruction="Look",
        repository=None,
        finish=finish_tool(role.output),
        context=ToolContext(
            run_id=uuid4(),
            step_id=uuid4(),
            step_key="ask",
            arguments={},
            inputs={},
            results=lambda _: None,
            open_workspace=_no_workspace,
            recall=lambda *_: "",
        ),
        max_turns=TURNS,
    )


def _no_workspace() -> Workspace:
    raise RuntimeError("The benchmark has no workspace.")


def _look(place: int) -> str:
    """Look at a place."""
    return f"Nothing but the number {place * 7919 % 1000} stands there."


LOOK: Tool = make_tool(_look, name="look", effect="pure")


class _Model:
    """Looks somewhere else each turn, and answers in the last."""

    def quote(self, call: ModelCall) -> Quote:
        return Quote(model="bench-1", tier=call.tier, reserved_microusd=0, max_tokens=1_000, routed_because="bench")

    def call(self, call: ModelCall) -> ModelAnswer:
        said = sum(message["role"] == "assistant" for message in call.messages)
        given: dict[str, JsonValue] = {"place": said}
        name = "look"
        if said == TURNS - 1:
            name, given = "submit_answer", {"question": "?", "found": False, "answer": "", "quotes": []}
        use: dict[str, JsonValue] = {"type": "tool_use", "id": f"toolu_{said}", "name": name, "input": given}
        return ModelAnswer(
            model="bench-1", content=(use,), stop_reason="tool_use", usage=Usage(), cost_microusd=0, duration_ms=1
        )


@dataclass(slots=True)
class _Recorder:
    """A stream in memory."""

    facts: list[StepFact]
    history: Sequence[StepFact] = field(default=())

    def request(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        self.facts += [*finished, requested]

    def respond(self, fact: ModelResponded | ModelFailed) -> None:
        self.facts.append(fact)

    def abandon(self, fact: CallAbandoned) -> None:
        self.facts.append(fact)

    def tool_started(self, fact: ToolStarted) -> None:
        self.facts.append(fact)

    def tool_finished(self, fact: ToolFinished) -> None:
        self.facts.append(fact)

    def trip(self, fact: BreakerTripped) -> None:
        self.facts.append(fact)

    def hear(self) -> StepTold | None:
        return None

    def told(self, fact: StepTold) -> None:
        self.facts.append(fact)

    def replaced(self, view: Mapping[str, int]) -> StateRefreshed | None:
        del view
        return None

    def refreshed(self, fact: StateRefreshed) -> None:
        self.facts.append(fact)

    def peers(self) -> Peers:
        return Peers()

    def recent_failures(self) -> Sequence[Observed]:
        return ()

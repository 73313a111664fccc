"""The agent loop: ask the model, record the answer, run its tools, until it finishes, waits or fails.

It knows no SQL and no Celery. What it decides follows from the recorded facts, so a second attempt goes on where the
first one stopped: a recorded answer is not asked for again and a finished tool does not run again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from chargehand.orchestrator.breaker import Trip
from chargehand.orchestrator.facts import (
    SKIPPED,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelResponded,
    StepClaimed,
    StepFact,
    StepRecovered,
    StepReleased,
    ToolFinished,
)
from chargehand.orchestrator.questions import EXPIRY, NOBODY
from chargehand.orchestrator.settings import MAX_TURNS_CEILING
from chargehand.orchestrator.spending import ABOVE_PLAN, CHEAP_MICROUSD, above_plan
from chargehand.workers.batch_turn import BatchTurn
from chargehand.workers.context import AgentTask
from chargehand.workers.conversation import Conversation, Decision, Exchange
from chargehand.workers.eviction import evict
from chargehand.workers.holds import NOTHING_HELD, Holds
from chargehand.workers.model_turn import Deltas, ModelTurn
from chargehand.workers.models.interface import Batches, DeltaHook, Models
from chargehand.workers.outcomes import (
    GO_ON_OPTIONS,
    NO_MORE_TURNS_OPTIONS,
    Drained,
    Failed,
    Finished,
    Outcome,
    Wait,
)
from chargehand.workers.summary import turns_to_summarise
from chargehand.workers.tape import Recorder, Tape
from chargehand.workers.tool_turn import ToolTurn, arguments_of
from chargehand.workers.tools.registry import Tool
from chargehand.workers.tools.taint import to_json

# So many calls are shown to whoever is asked about what a step costs.
DEAREST_CALLS = 3
_WITHOUT = {
    "skip": "A person decided to skip this call; go on without its result.",
    "reject": "A person does not allow this call with these arguments; go on without it.",
}

__all__ = ["AgentTask", "Drained", "Failed", "Finished", "Outcome", "Recorder", "Wait", "run_agent"]


def run_agent(
    task: AgentTask,
    *,
    recorder: Recorder,
    models: Models,
    batches: Batches | None = None,
    tools: Mapping[str, Tool],
    should_stop: Callable[[], bool] = lambda: False,
    on_delta: DeltaHook | None = None,
    new_call_id: Callable[[], UUID] = uuid4,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    holds: Holds = NOTHING_HELD,
    used_percent: Callable[[], int] = lambda: 0,
) -> Outcome:
    """Run the step from where its journal stands to its end, or to a wait.

    `tools`: all that are registered; only those that the role names can be called, and not while `holds`
    has them. `used_percent`: how much of the run's budget is spent. Raises `Drained` when `should_stop`
    says so between two turns, and lets `Fenced` through.
    """
    unknown = [name for name in task.role.tools if name not in tools]
    if unknown:
        return Failed(
            error=f"Role {task.role.name!r} names unknown tool {unknown[0]!r}; known: {', '.join(sorted(tools))}."
        )
    task = replace(task, max_turns=max(1, min(task.max_turns, MAX_TURNS_CEILING)))
    chosen = {name: tools[name] for name in task.role.tools}
    tape = Tape(recorder, task.context.step_id)
    batch_turn = BatchTurn(tape, batches)
    attempt = _Attempt(
        task=task,
        tape=tape,
        tool_turn=ToolTurn(task=task, tape=tape, tools=chosen, holds=holds),
        model_turn=ModelTurn(
            task=task,
            tape=tape,
            models=models,
            batch_turn=batch_turn,
            tools=list(chosen.values()),
            on_delta=Deltas(on_delta, clock) if on_delta is not None else None,
            new_call_id=new_call_id,
            sleep=sleep,
            used_percent=used_percent,
        ),
        batch_turn=batch_turn,
        should_stop=should_stop,
    )
    return attempt.run()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    task: AgentTask
    tape: Tape
    tool_turn: ToolTurn
    model_turn: ModelTurn
    batch_turn: BatchTurn
    should_stop: Callable[[], bool]

    def run(self) -> Outcome:
        for call in self.tape.conversation.open_calls:
            if call.batched:
                # It was sent to outlive its claim: its answer is waited for, not given up.
                wait = self.batch_turn.look(call)
                if wait is not None:
                    return wait
                continue
            abandoned = CallAbandoned(call_id=call.call_id, charged_microusd=call.reserved_microusd)
            self.tape.commit(abandoned, self.tape.recorder.abandon)
        outcome = self._obey() or self._look_back()
        while outcome is None:
            outcome = self._step()
        self.tape.flush()
        return outcome

    def _look_back(self) -> Outcome | None:
        """Judge a turn whose results were recorded when its attempt died before it had looked at them."""
        conversation = self.tape.conversation
        if not conversation.exchanges or conversation.exchanges[-1].unresolved or conversation.trip is not None:
            return None
        return self.tool_turn.check(conversation.exchanges[-1])

    def _step(self) -> Outcome | None:
        """Run the tools of the newest answer, or ask the model; None: go on."""
        conversation = self.tape.conversation
        if conversation.exchanges and conversation.exchanges[-1].unresolved:
            return self.tool_turn.run(conversation.exchanges[-1])
        if conversation.trip is not None:
            return self.tool_turn.ask_about_trip(*conversation.trip)
        if self.should_stop():
            self.tape.flush()
            raise Drained("The process is stopping; the step goes on elsewhere.")
        if conversation.turns >= self.task.max_turns:
            return self._out_of_turns(conversation)
        trip = self._above_plan()
        if trip is not None:
            return self.tool_turn.tripped(trip, cause="")
        told = self.tape.recorder.hear()
        if told is not None:
            self.tape.commit(told, self.tape.recorder.told)
        full = evict(self.tape.conversation, window_tokens=self.task.window_tokens)
        if full is not None:
            self.tape.flush()
            self.tape.commit(full, self.tape.recorder.evicted)
        view = self.tape.conversation.view
        newer = self.tape.recorder.replaced(view) if view else None
        if newer is not None:
            # Nobody decides on what others have replaced. What was read stands before what replaces it.
            self.tape.flush()
            self.tape.commit(newer, self.tape.recorder.refreshed)
        conversation = self.tape.conversation
        turns = turns_to_summarise(conversation, window_tokens=self.task.window_tokens)
        if turns:
            return self.model_turn.summarise(conversation, turns)
        return self.model_turn.ask(conversation)

    def _above_plan(self) -> Trip | None:
        """Whether the step has cost far more than its peers; once, for whoever lets it go on has seen the sum."""
        paid: dict[int, int] = {}
        for position, fact in enumerate(self.tape.recorded):
            if isinstance(fact, BreakerTripped) and fact.rule == ABOVE_PLAN:
                return None
            if isinstance(fact, ModelResponded | ModelFailed) and fact.cost_microusd:
                paid[position] = fact.cost_microusd
        spent = sum(paid.values())
        if spent < CHEAP_MICROUSD:
            return None
        dearest = sorted(sorted(paid, key=lambda position: -paid[position])[:DEAREST_CALLS])
        return above_plan(spent, self.tape.recorder.peers(), [self.tape.place(position) for position in dearest])

    def _obey(self) -> Outcome | None:
        """Carry out the newest decision, if nothing happened after it."""
        conversation = self.tape.conversation
        if not conversation.decisions:
            return None
        decision = conversation.decisions[-1]
        if any(not _is_bookkeeping(fact) for fact in self.tape.recorded[decision.position + 1 :]):
            return None
        match decision.choice:
            case "abort":
                return Failed(error=NOBODY if decision.by == EXPIRY else "A person ended the step.")
            case "override":
                return self._overridden(decision)
            case "skip" if decision.about_tool is None:
                return Finished(result=None, commit=conversation.commit)
            case "skip" | "answer" | "reject" if decision.about_tool is not None:
                self._resolve_by_hand(conversation.exchanges[-1], decision)
        return None

    def _overridden(self, decision: Decision) -> Outcome:
        """The person's result, if it is one that the role could have handed in."""
        given = self.tool_turn.call(self.task.finish, decision.body, key="")
        if given.outcome == "ok":
            conversation = self.tape.conversation
            return Finished(result=given.output.result, commit=conversation.commit, patch=given.output.patch)
        return Wait(
            reason="human",
            question=f"The result given by hand does not fit. {given.output.content}",
            options=GO_ON_OPTIONS,
            evidence=(self.tape.place(decision.position),),
        )

    def _resolve_by_hand(self, exchange: Exchange, decision: Decision) -> None:
        use = next(block for block in exchange.tool_uses if block.get("id") == decision.about_tool)
        answered = decision.choice == "answer"
        body = decision.body if isinstance(decision.body, str) else to_json(decision.body)
        fact = ToolFinished(
            tool_use_id=str(use.get("id")),
            tool=str(use.get("name")),
            arguments=arguments_of(use),
            outcome="ok" if answered else "error",
            content=body if answered else _WITHOUT[decision.choice],
            error_type="" if answered else "Rejected" if decision.choice == "reject" else SKIPPED,
        )
        self.tape.commit(fact, self.tape.recorder.tool_finished)

    def _out_of_turns(self, conversation: Conversation) -> Wait:
        places = [
            self.tape.place(position)
            for position, fact in enumerate(self.tape.recorded)
            if isinstance(fact, ModelResponded)
        ]
        return Wait(
            reason="human",
            question=(
                f"{conversation.turns} turns are used up without a result. override: give the result; "
                "skip: go on without one; abort: let the step fail."
            ),
            options=NO_MORE_TURNS_OPTIONS,
            evidence=tuple(places[-3:]),
        )


def _is_bookkeeping(fact: StepFact) -> bool:
    return isinstance(fact, StepClaimed | StepReleased | StepRecovered | CallAbandoned)

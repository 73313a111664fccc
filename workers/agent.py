"""The agent loop: ask the model, record the answer, run its tools, until it finishes, waits or fails.

It knows no SQL and no Celery. What it decides follows from the recorded facts, so a second attempt goes on where the
first one stopped: a recorded answer is not asked for again and a finished tool does not run again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar
from uuid import UUID, uuid4

from pydantic import JsonValue

from chargehand.orchestrator.breaker import Observed, Trip, watch
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, ChargehandError, Unavailable
from chargehand.orchestrator.facts import (
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    StepClaimed,
    StepFact,
    StepRecovered,
    StepReleased,
    ToolFinished,
    ToolStarted,
    WaitReason,
)
from chargehand.orchestrator.plan import PlanPatch
from chargehand.orchestrator.settings import MAX_TURNS_CEILING
from chargehand.workers.context import AgentTask, Conversation, Decision, Exchange, build, fold
from chargehand.workers.models.interface import (
    Block,
    DeltaHook,
    ModelAnswer,
    ModelBusy,
    ModelCall,
    ModelRefused,
    Models,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.tools.registry import Tool, ToolOutput, ToolResult, run_tool, storable
from chargehand.workers.tools.taint import to_json

log = logging.getLogger(__name__)
# Any fact of a step that the loop writes.
F = TypeVar("F", bound=StepFact)

# A shorter wait is slept through; a longer one gives the worker to somebody else.
LONGEST_SLEEP_SECONDS = 5.0
MAX_SLEEPS_A_TURN = 3
# A result that took this long is not put at risk until the next request commits it.
COMMIT_AT_ONCE_MS = 5_000
# An answer shorter than this cannot hold a typed result: better to wait for money than to buy half a sentence.
MIN_MAX_TOKENS = 1_024
BUDGET_WAIT_SECONDS = 2.0
# An unreachable server gets about two minutes (2 + 4 + … + 60 s) before a person hears of it.
MAX_MODEL_FAILURES = 6
RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 60.0
# A service that a tool needs gets this many waits, then the model is told.
MAX_TOOL_WAITS = 5
DELTA_INTERVAL_SECONDS = 0.25
# The journal numbers the rows of a step from here.
FIRST_SEQ = 1

GO_ON_OPTIONS = ("retry", "answer", "override", "skip", "abort")
NO_MORE_TURNS_OPTIONS = ("override", "skip", "abort")


class Drained(ChargehandError):
    """The process is stopping: everything is recorded up to here, hand the step back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The role's typed result."""

    result: JsonValue
    commit: str | None = None
    """Where the workspace ended, when a tool has edited it."""
    patch: PlanPatch | None = None
    """What a planner adds to the graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The step cannot succeed."""

    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """The step has to wait and holds no worker meanwhile."""

    reason: WaitReason
    question: str
    options: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """`step:seq` of the journal rows that show why."""
    run_after_seconds: float | None = None
    """When to go on by itself; None: when it is answered."""


Outcome = Finished | Failed | Wait


class Recorder(Protocol):
    """The step's journal; each method is one commit, and raises `Fenced` when the step is not ours any more."""

    @property
    def history(self) -> Sequence[StepFact]:
        """The step's whole stream as it is at the claim."""
        ...

    def request(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        """Commit results of pure tools and reserve for a call; raises `BudgetExceeded` or `BudgetBusy`."""
        ...

    def respond(self, fact: ModelResponded | ModelFailed) -> None:
        """Commit what came back, and settle."""
        ...

    def abandon(self, fact: CallAbandoned) -> None:
        """Close a call of an earlier attempt whose outcome is unknown."""
        ...

    def tool_started(self, fact: ToolStarted) -> None:
        """Commit that an effect is about to happen."""
        ...

    def tool_finished(self, fact: ToolFinished) -> None:
        """Commit a result at once."""
        ...

    def trip(self, fact: BreakerTripped) -> None:
        """Commit that the breaker tripped."""
        ...

    def recent_failures(self) -> Sequence[Observed]:
        """Failed tool results of the other steps of this run, in order."""
        ...


def run_agent(
    task: AgentTask,
    *,
    recorder: Recorder,
    models: Models,
    tools: Mapping[str, Tool],
    should_stop: Callable[[], bool] = lambda: False,
    on_delta: DeltaHook | None = None,
    new_call_id: Callable[[], UUID] = uuid4,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run the step from where its journal stands to its end, or to a wait.

    `tools`: all that are registered; only those that the role names can be called. Raises `Drained` when `should_stop`
    says so between two turns, and lets `Fenced` through.
    """
    unknown = [name for name in task.role.tools if name not in tools]
    if unknown:
        return Failed(
            error=f"Role {task.role.name!r} names unknown tool {unknown[0]!r}; known: {', '.join(sorted(tools))}."
        )
    task = replace(task, max_turns=max(1, min(task.max_turns, MAX_TURNS_CEILING)))
    attempt = _Attempt(
        task=task,
        recorder=recorder,
        models=models,
        tools={name: tools[name] for name in task.role.tools},
        should_stop=should_stop,
        on_delta=_Deltas(on_delta, clock) if on_delta is not None else None,
        new_call_id=new_call_id,
        sleep=sleep,
    )
    return attempt.run()


class _Deltas:
    """Gives pieces of text on, at most a few times a second; a hook that fails is dropped, never the paid answer."""

    def __init__(self, hook: DeltaHook, clock: Callable[[], float]) -> None:
        self._hook: DeltaHook | None = hook
        self._clock = clock
        self._text = ""
        self._given_at = clock()

    def __call__(self, text: str) -> None:
        """Take a piece."""
        self._text += text
        if self._clock() - self._given_at >= DELTA_INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Give on what is left."""
        text, self._text = self._text, ""
        self._given_at = self._clock()
        if not text or self._hook is None:
            return
        try:
            self._hook(text)
        except Exception:  # whoever watches cannot be allowed to stop the work
            self._hook = None
            log.warning("delta hook failed", exc_info=True)


class _Attempt:
    """One attempt: the facts so far, and the results of pure tools that no commit holds yet."""

    def __init__(
        self,
        *,
        task: AgentTask,
        recorder: Recorder,
        models: Models,
        tools: Mapping[str, Tool],
        should_stop: Callable[[], bool],
        on_delta: "_Deltas | None",
        new_call_id: Callable[[], UUID],
        sleep: Callable[[float], None],
    ) -> None:
        self._task = task
        self._recorder = recorder
        self._models = models
        self._tools = tools
        self._should_stop = should_stop
        self._on_delta = on_delta
        self._new_call_id = new_call_id
        self._sleep = sleep
        self._recorded: list[StepFact] = list(recorder.history)
        self._pending: list[ToolFinished] = []
        self._folded: tuple[int, Conversation] = (0, Conversation())
        self._sleeps = 0

    def run(self) -> Outcome:
        for call in self._conversation().open_calls:
            self._commit(
                CallAbandoned(call_id=call.call_id, charged_microusd=call.reserved_microusd), self._recorder.abandon
            )
        decided = self._obey()
        if decided is not None:
            return decided
        while True:
            outcome = self._step()
            if outcome is None:
                continue
            self._flush()
            return outcome

    def _step(self) -> Outcome | None:
        """Run the tools of the newest answer, or ask the model; None: go on."""
        conversation = self._conversation()
        if conversation.exchanges and conversation.exchanges[-1].unresolved:
            return self._run_tools(conversation.exchanges[-1])
        if conversation.trip is not None:
            return self._asks_about_trip(*conversation.trip)
        self._stop_if_asked()
        if conversation.turns >= self._task.max_turns:
            return self._out_of_turns(conversation)
        return self._ask(conversation)

    # --- what a person has decided ------------------------------------------------------------------------------------

    def _obey(self) -> Outcome | None:
        """Carry out the newest decision, if nothing happened after it."""
        conversation = self._conversation()
        if not conversation.decisions:
            return None
        decision = conversation.decisions[-1]
        if any(not _is_bookkeeping(fact) for fact in self._recorded[decision.position + 1 :]):
            return None
        match decision.choice:
            case "abort":
                return Failed(error="A person ended the step.")
            case "override":
                return self._overridden(decision)
            case "skip" if decision.about_tool is None:
                return Finished(result=None, commit=conversation.commit)
            case "skip" | "answer" if decision.about_tool is not None:
                self._resolve_by_hand(conversation.exchanges[-1], decision)
        return None

    def _overridden(self, decision: Decision) -> Outcome:
        """The person's result, if it is one that the role could have handed in."""
        given = self._run(self._task.finish, decision.body, key="")
        if given.outcome == "ok":
            conversation = self._conversation()
            return Finished(result=given.output.result, commit=conversation.commit, patch=given.output.patch)
        return Wait(
            reason="human",
            question=f"The result given by hand does not fit. {given.output.content}",
            options=GO_ON_OPTIONS,
            evidence=(self._place(decision.position),),
        )

    def _resolve_by_hand(self, exchange: Exchange, decision: Decision) -> None:
        use = next(block for block in exchange.tool_uses if block.get("id") == decision.about_tool)
        answered = decision.choice == "answer"
        body = decision.body if isinstance(decision.body, str) else to_json(decision.body)
        fact = ToolFinished(
            tool_use_id=str(use.get("id")),
            tool=str(use.get("name")),
            arguments=_arguments(use),
            outcome="ok" if answered else "error",
            content=body if answered else "A person decided to skip this call; go on without its result.",
            error_type="" if answered else "Skipped",
        )
        self._commit(fact, self._recorder.tool_finished)

    # --- tools --------------------------------------------------------------------------------------------------------

    def _run_tools(self, exchange: Exchange) -> Outcome | None:
        """Every tool call of the answer in its order, the finish tool last."""
        unresolved = exchange.unresolved
        finish = self._task.finish.name
        incomplete = exchange.answer.content[-1].get("id") if exchange.cut_off else None
        done: set[str] = set()
        for use in (block for block in unresolved if block.get("name") != finish):
            # Two calls under one id would share one result; the second is not run.
            if str(use.get("id")) in done:
                continue
            done.add(str(use.get("id")))
            wait = self._run_call(exchange, use, incomplete=use.get("id") == incomplete)
            if wait is not None:
                return wait
        trip = self._watch(exchange)
        finished: Finished | None = None
        for use in (block for block in unresolved if block.get("name") == finish):
            if use.get("id") == incomplete:
                self._keep(use, _cut_off())
                continue
            given = self._run(self._task.finish, use.get("input"), key="")
            if given.outcome == "ok":
                conversation = self._conversation()
                finished = Finished(result=given.output.result, commit=conversation.commit, patch=given.output.patch)
                break
            self._keep(use, given)
        if finished is not None:
            return finished
        return self._tripped(trip or self._watch(self._conversation().exchanges[-1]))

    def _run_call(self, exchange: Exchange, use: Block, *, incomplete: bool) -> Wait | None:
        name = str(use.get("name"))
        tool = self._tools.get(name)
        if incomplete:
            self._keep(use, _cut_off())
            return None
        if tool is None or self._turn_of(exchange) >= self._task.max_turns:
            offered = [self._task.finish.name] if tool is not None else sorted([*self._tools, self._task.finish.name])
            self._keep(use, _not_offered(name, offered))
            return None
        started = exchange.started.get(str(use.get("id")))
        if started is not None and started.effect == "effectful":
            wait = self._unknown_outcome(exchange, started)
            if wait is not None:
                return wait
        key = started.key if started is not None else f"{exchange.answer.call_id}:{use.get('id')}"
        # An effect that a person lets happen again is announced again: a second crash asks a second time.
        if tool.effect == "effectful" or (tool.effect == "idempotent" and started is None):
            fact = ToolStarted(
                tool_use_id=str(use.get("id")),
                tool=name,
                effect=tool.effect,
                key=key,
                timeout_seconds=tool.timeout_seconds,
            )
            self._commit(fact, self._recorder.tool_started)
        try:
            given = self._run(tool, use.get("input"), key=key)
        except Unavailable as error:
            return self._service_missing(use, tool, error)
        self._keep(use, given, at_once=tool.effect != "pure" or given.duration_ms > COMMIT_AT_ONCE_MS)
        return None

    def _unknown_outcome(self, exchange: Exchange, started: ToolStarted) -> Wait | None:
        """What to do about an effect that may or may not have happened; None: a person said to do it again."""
        conversation = self._conversation()
        position = exchange.positions[started.tool_use_id]
        for decision in conversation.decisions:
            if (
                decision.about_tool == started.tool_use_id
                and decision.position > position
                and decision.choice == "retry"
            ):
                return None
        if not any(wait.reason == "retry" for wait in conversation.waits):
            # The call may still be running somewhere: "retry" is only safe to offer when its time is over.
            return Wait(
                reason="retry",
                question=f"{started.tool} was interrupted and may still be at work; waiting until its time is over.",
                evidence=(self._place(position),),
                run_after_seconds=started.timeout_seconds,
            )
        return Wait(
            reason="human",
            question=(
                f"{started.tool} was started with key {started.key} and its outcome is unknown. Did it happen? "
                "retry: do it again; answer: give its result; skip: go on without it."
            ),
            options=GO_ON_OPTIONS,
            evidence=(self._place(position),),
        )

    def _service_missing(self, use: Block, tool: Tool, error: Unavailable) -> Wait | None:
        waited = len(self._conversation().waits)
        if waited < MAX_TOOL_WAITS:
            self._flush()
            return Wait(
                reason="retry",
                question=f"{tool.name} needs a service that does not answer: {error}",
                run_after_seconds=_backoff(waited + 1),
            )
        given = _refusal("Unavailable", f"The service behind {tool.name} does not answer; go on without it.")
        self._keep(use, given, at_once=tool.effect != "pure")
        return None

    def _run(self, tool: Tool, arguments: JsonValue, *, key: str) -> ToolResult:
        context = replace(self._task.context, finished=self._conversation().tool_facts)
        return run_tool(tool, arguments, context=context, idempotency_key=key)

    def _keep(self, use: Block, given: ToolResult, *, at_once: bool = False) -> None:
        fact = ToolFinished(
            tool_use_id=str(use.get("id")),
            tool=str(use.get("name")),
            arguments=_arguments(use),
            outcome=given.outcome,
            content=given.output.content,
            error_type=given.error_type,
            commit=given.output.commit,
            reads=given.output.reads,
            duration_ms=given.duration_ms,
        )
        if at_once:
            self._commit(fact, self._recorder.tool_finished)
        else:
            self._pending.append(fact)

    # --- the breaker --------------------------------------------------------------------------------------------------

    def _watch(self, exchange: Exchange) -> Trip | None:
        """The first rule that the results of this turn break, each looked at as it came."""
        conversation = self._conversation()
        current = next(e for e in conversation.exchanges if e.answer.call_id == exchange.answer.call_id)
        since = conversation.decisions[-1].position if conversation.decisions else -1
        own = [item for item in self._observed(conversation) if item.seq - FIRST_SEQ > since]
        new = [item for item in own if item.fact.tool_use_id in current.results and item.turn == self._turn_of(current)]
        if not new:
            return None
        failed = any(item.fact.outcome == "error" for item in new)
        others = list(self._recorder.recent_failures()) if failed else []
        before = len(own) - len(new)
        for count in range(before + 1, len(own) + 1):
            trip = watch([*others, *own[:count]])
            if trip is not None:
                return trip
        return None

    def _tripped(self, trip: Trip | None) -> Wait | None:
        if trip is None:
            return None
        self._flush()
        fact = BreakerTripped(rule=trip.rule, evidence=trip.evidence, detail=trip.detail)
        self._commit(fact, self._recorder.trip)
        return self._asks_about_trip(len(self._recorded) - 1, fact)

    def _asks_about_trip(self, position: int, fact: BreakerTripped) -> Wait:
        return Wait(
            reason="human",
            question=(
                f"The step repeats itself: {fact.detail} retry: let it go on; answer: tell it something; "
                "override: give the result; skip: go on without one; abort: let it fail."
            ),
            options=GO_ON_OPTIONS,
            evidence=(*fact.evidence, self._place(position)),
        )

    def _observed(self, conversation: Conversation) -> list[Observed]:
        """This step's results in the order of the calls.

        A result that is not committed yet has the number that the next flush gives it.
        """
        seen: list[Observed] = []
        for turn, exchange in enumerate(conversation.exchanges, start=1):
            for use in exchange.tool_uses:
                tool_use_id = str(use.get("id"))
                fact = exchange.results.get(tool_use_id)
                if fact is not None:
                    seq = exchange.positions[tool_use_id] + FIRST_SEQ
                    step = str(self._task.context.step_id)
                    seen.append(Observed(step=step, seq=seq, fact=fact, role=self._task.role.name, turn=turn))
        return seen

    # --- the model ----------------------------------------------------------------------------------------------------

    def _ask(self, conversation: Conversation) -> Wait | Failed | None:
        request = build(self._task, list(self._tools.values()), conversation)
        call = ModelCall(
            tier=self._task.role.tier,
            system=request.system,
            tools=request.tools,
            messages=request.messages,
            tool_choice=request.tool_choice,
            max_tokens=request.max_tokens,
            on_delta=self._on_delta,
        )
        try:
            quote, call_id = self._reserve(call, request.turn, request.prompt_hash, request.reads)
        except ModelBusy as busy:
            return self._pause(busy.until_seconds, str(busy))
        except ModelUnavailable as error:
            if not error.retryable:
                return Failed(error=f"The model cannot be used: {error}")
            return Wait(reason="retry", question=str(error), run_after_seconds=_backoff(len(conversation.waits) + 1))
        except BudgetBusy as error:
            return Wait(reason="budget", question=str(error), run_after_seconds=BUDGET_WAIT_SECONDS)
        except BudgetExceeded as error:
            return Wait(
                reason="human",
                question=f"The budget is used up: {error} retry after raising it, override the result, skip or abort.",
                options=("retry", "override", "skip", "abort"),
                evidence=(self._place(len(self._recorded) - 1),) if self._recorded else (),
            )
        try:
            answer = self._models.call(replace(call, model=quote.model, tier=quote.tier, max_tokens=quote.max_tokens))
        except ModelBusy as busy:
            self._record_failure(call_id, busy, retryable=True, cost_microusd=0)
            return self._pause(busy.until_seconds, str(busy))
        except ModelRefused as refusal:
            self._record_failure(call_id, refusal, retryable=False, cost_microusd=refusal.cost_microusd)
            return self._asks_about_model(f"The model declines this request: {refusal}")
        except ModelUnavailable as error:
            self._record_failure(call_id, error, retryable=error.retryable, cost_microusd=error.cost_microusd)
            return self._unavailable(error)
        finally:
            if self._on_delta is not None:
                self._on_delta.flush()
        self._commit(_responded(call_id, answer), self._recorder.respond)
        self._sleeps = 0
        return None

    def _reserve(self, call: ModelCall, turn: int, prompt_hash: str, reads: tuple[str, ...]) -> tuple[Quote, UUID]:
        """Commit the request with the largest answer that the budget allows."""
        wanted = call.max_tokens
        while True:
            quote = self._models.quote(replace(call, max_tokens=wanted))
            requested = ModelRequested(
                call_id=self._new_call_id(),
                turn=turn,
                model=quote.model,
                tier=quote.tier,
                routed_because=quote.routed_because,
                prompt_hash=prompt_hash,
                max_tokens=quote.max_tokens,
                reserved_microusd=quote.reserved_microusd,
                reads=reads,
            )
            try:
                self._recorder.request(tuple(self._pending), requested)
            except (BudgetBusy, BudgetExceeded):
                smaller = min(wanted, quote.max_tokens) // 2
                if smaller < MIN_MAX_TOKENS:
                    raise
                wanted = smaller
                continue
            self._recorded += [*self._pending, requested]
            self._pending.clear()
            return quote, requested.call_id

    def _record_failure(self, call_id: UUID, error: Exception, *, retryable: bool, cost_microusd: int) -> None:
        fact = ModelFailed(
            call_id=call_id,
            error=f"{type(error).__name__}: {error}"[:2_000],
            retryable=retryable,
            cost_microusd=cost_microusd,
        )
        self._commit(fact, self._recorder.respond)

    def _pause(self, seconds: float, why: str) -> Wait | None:
        """Sleep through a short wait, and hand the worker back for a longer one."""
        if seconds > LONGEST_SLEEP_SECONDS or self._sleeps >= MAX_SLEEPS_A_TURN:
            return Wait(reason="rate", question=why, run_after_seconds=max(seconds, 1.0))
        self._sleeps += 1
        self._sleep(max(seconds, 0.0))
        return None

    def _unavailable(self, error: ModelUnavailable) -> Wait | Failed:
        if not error.retryable:
            return Failed(error=f"The model cannot be used: {error}")
        failures = [fact for fact in self._conversation().failures if not fact.error.startswith("ModelBusy")]
        if len(failures) >= MAX_MODEL_FAILURES:
            return self._asks_about_model(f"The model failed {len(failures)} times in a row; the last time: {error}")
        return Wait(reason="retry", question=str(error), run_after_seconds=_backoff(len(failures)))

    def _asks_about_model(self, question: str) -> Wait:
        evidence = (self._place(len(self._recorded) - 1),)
        return Wait(reason="human", question=question, options=GO_ON_OPTIONS, evidence=evidence)

    def _out_of_turns(self, conversation: Conversation) -> Wait:
        places = [
            self._place(position) for position, fact in enumerate(self._recorded) if isinstance(fact, ModelResponded)
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

    # --- facts --------------------------------------------------------------------------------------------------------

    def _conversation(self) -> Conversation:
        count = len(self._recorded) + len(self._pending)
        # A flush moves results from one list to the other in their order: the same number means the same facts.
        if count != self._folded[0]:
            self._folded = (count, fold([*self._recorded, *self._pending]))
        return self._folded[1]

    def _commit(self, fact: F, write: Callable[[F], None]) -> None:
        write(fact)
        self._recorded.append(fact)

    def _flush(self) -> None:
        """Commit results that would otherwise wait for the next request."""
        while self._pending:
            self._recorder.tool_finished(self._pending[0])
            self._recorded.append(self._pending.pop(0))

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            self._flush()
            raise Drained("The process is stopping; the step goes on elsewhere.")

    def _turn_of(self, exchange: Exchange) -> int:
        answered = [fact.call_id for fact in self._recorded if isinstance(fact, ModelResponded)]
        return answered.index(exchange.answer.call_id) + 1

    def _place(self, position: int) -> str:
        return f"{self._task.context.step_id}:{position + FIRST_SEQ}"


def _responded(call_id: UUID, answer: ModelAnswer) -> ModelResponded:
    content = tuple(_storable_block(block) for block in answer.content)
    return ModelResponded(
        call_id=call_id,
        model=answer.model,
        content=content,
        stop_reason=answer.stop_reason,
        usage=answer.usage,
        cost_microusd=answer.cost_microusd,
        duration_ms=answer.duration_ms,
    )


def _storable_block(block: Block) -> Block:
    return {storable(key): _storable_value(value) for key, value in block.items()}


def _storable_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return _storable_block(value)
    if isinstance(value, list):
        return [_storable_value(item) for item in value]
    return value


def _arguments(use: Block) -> Block:
    given = use.get("input")
    return given if isinstance(given, dict) else {}


def _refusal(error_type: str, message: str) -> ToolResult:
    return ToolResult(outcome="error", output=ToolOutput(content=message), error_type=error_type)


def _cut_off() -> ToolResult:
    return _refusal(
        "CutOff",
        "Your answer was cut off at its limit inside this call, so nothing was run. Call again, with less text.",
    )


def _not_offered(name: str, offered: Sequence[str]) -> ToolResult:
    return _refusal("UnknownTool", f"There is no tool {name!r} here; you can call {', '.join(offered)}.")


def _is_bookkeeping(fact: StepFact) -> bool:
    return isinstance(fact, StepClaimed | StepReleased | StepRecovered | CallAbandoned)


def _backoff(failures: int) -> float:
    return float(min(RETRY_BASE_SECONDS * 2 ** max(failures - 1, 0), RETRY_CAP_SECONDS))

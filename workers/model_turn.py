"""The first half of a turn: reserve, ask the model, record its answer, and say what happens when there is none."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, StepBudgetExceeded
from chargehand.orchestrator.facts import OVER_BUDGET, OVER_OWN_BUDGET, ModelFailed, ModelRequested
from chargehand.workers.answers import responded
from chargehand.workers.batch_turn import BatchTurn
from chargehand.workers.context import AgentTask, Request, build
from chargehand.workers.conversation import Conversation
from chargehand.workers.models.interface import (
    DeltaHook,
    ModelBusy,
    ModelCall,
    ModelHeld,
    ModelRefused,
    Models,
    ModelUnavailable,
    Quote,
)
from chargehand.workers.models.prefix import Ttl, ttl_for
from chargehand.workers.outcomes import GO_ON_OPTIONS, Failed, Wait, backoff_seconds
from chargehand.workers.summary import SUMMARY_TIER, summary_request
from chargehand.workers.tape import Tape
from chargehand.workers.tools.colleagues import COLLEAGUE_TOOLS
from chargehand.workers.tools.registry import Tool

log = logging.getLogger(__name__)

# A shorter wait is slept through; a longer one gives the worker to somebody else.
LONGEST_SLEEP_SECONDS = 5.0
MAX_SLEEPS_A_TURN = 3
# An answer shorter than this cannot hold a typed result: better to wait for money than to buy half a sentence.
MIN_MAX_TOKENS = 1_024
BUDGET_WAIT_SECONDS = 2.0
# An unreachable server gets about a minute (2 + 4 + … + 32 s) before a person hears of it.
MAX_MODEL_FAILURES = 6
# Two models that refuse are an answer; a person reads it.
MAX_REFUSALS = 2
# Tiers there are to fall back to.
MAX_FALL_BACKS = 3
DELTA_INTERVAL_SECONDS = 0.25
# How long an agent is thought to wait for a person's approval, and for a colleague's answer.
APPROVAL_SECONDS = 1_800.0
COLLEAGUE_SECONDS = 600.0
# By which the chooser of a branch ends.
ROUTING_TOOL = "submit_choice"


class Deltas:
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


class ModelTurn:
    """Asks the model for one attempt."""

    def __init__(
        self,
        *,
        task: AgentTask,
        tape: Tape,
        models: Models,
        batch_turn: BatchTurn,
        tools: Sequence[Tool],
        on_delta: Deltas | None,
        new_call_id: Callable[[], UUID],
        sleep: Callable[[float], None],
        used_percent: Callable[[], int],
    ) -> None:
        self._task = task
        self._tape = tape
        self._models = models
        self._batch_turn = batch_turn
        self._tools = tools
        self._on_delta = on_delta
        self._new_call_id = new_call_id
        self._sleep = sleep
        self._used_percent = used_percent
        self._sleeps = 0
        self._cache_ttl = _cache_ttl(task, tools)

    def ask(self, conversation: Conversation) -> Wait | Failed | None:
        """Reserve, call and record; None: there is an answer, or a short wait is over."""
        request = build(self._task, self._tools, conversation)
        call = ModelCall(
            tier=self._task.role.tier,
            system=request.system,
            tools=request.tools,
            messages=request.messages,
            tool_choice=request.tool_choice,
            max_tokens=request.max_tokens,
            on_delta=self._on_delta,
            model=self._task.model,
            routed_by=self._task.routed_by,
            problems=["refuted"] * self._task.refuted,
            urgent=self._task.urgent or not self._batch_turn.is_open(conversation),
            used_percent=self._used_percent(),
            cache_ttl=self._cache_ttl,
            cache_scope=self._task.cache_scope if _is_routing(self._task, self._tools) else "",
            previous_message_id=conversation.exchanges[-1].answer.message_id if conversation.exchanges else "",
        )
        return self._made(call, request, conversation)

    def summarise(self, conversation: Conversation, turns: int) -> Wait | Failed | None:
        """Have a small model summarise so many of the oldest turns; None: there is a summary, or none can be had."""
        request = summary_request(self._task, conversation, turns)
        call = ModelCall(
            tier=SUMMARY_TIER,
            system=request.system,
            tools=request.tools,
            messages=request.messages,
            tool_choice=request.tool_choice,
            max_tokens=request.max_tokens,
            # It has no effects, and the same turns asked for again give the same summary.
            cache_scope=self._task.cache_scope,
            routed_by="summary of the oldest turns",
            used_percent=self._used_percent(),
        )
        return self._made(call, request, conversation, summarises=turns)

    def _made(
        self, call: ModelCall, request: Request, conversation: Conversation, *, summarises: int = 0
    ) -> Wait | Failed | None:
        """Reserve for the request, call and record."""
        try:
            quote, call_id = self._reserve(call, request, summarises)
        except ModelBusy as busy:
            return self._pause(busy.until_seconds, str(busy))
        except ModelHeld as hold:
            return Wait(reason=hold.held.reason, question=hold.held.why, run_after_seconds=hold.held.seconds)
        except ModelUnavailable as error:
            if not error.retryable and summarises:
                return self.ask(conversation)
            if not error.retryable:
                return Failed(error=f"The model cannot be used: {error}")
            return Wait(
                reason="retry", question=str(error), run_after_seconds=backoff_seconds(len(conversation.waits) + 1)
            )
        except BudgetBusy as error:
            return Wait(reason="budget", question=str(error), run_after_seconds=BUDGET_WAIT_SECONDS)
        except BudgetExceeded as error:
            if self._task.on_budget == "fail":
                over = OVER_OWN_BUDGET if isinstance(error, StepBudgetExceeded) else OVER_BUDGET
                return Failed(error=f"{over}{error}")
            return Wait(
                reason="budget",
                question=(
                    f"The budget is used up: {error} It goes on with more (chargehand budget RUN USD); override: give "
                    "the result by hand; skip: go on without one; abort: let it fail."
                ),
                options=("override", "skip", "abort"),
                cause="budget",
                evidence=(self._tape.place(self._tape.newest),) if self._tape.recorded else (),
            )
        try:
            chosen = replace(
                call,
                model=quote.model,
                tier=quote.tier,
                max_tokens=quote.max_tokens,
                request_id=f"{self._task.context.run_id}/{self._task.context.step_id}/{call_id}",
            )
            if quote.batched:
                return self._batch_turn.submit(chosen, call_id)
            # It is journalled as any other, and costs nothing.
            answer = quote.answer or self._models.call(chosen)
        except ModelBusy as busy:
            self._record_failure(call_id, busy, retryable=True, cost_microusd=0)
            return self._fall_back_or_pause(call, quote, busy)
        except ModelRefused as refusal:
            self._record_failure(call_id, refusal, retryable=False, cost_microusd=refusal.cost_microusd)
            if summarises:
                return None
            # The router remembers who refused: the next quote is another model's, if there is one.
            if self._failures_of(ModelRefused) < MAX_REFUSALS:
                return None
            return self._asks_about_model(f"The model declines this request: {refusal}")
        except ModelUnavailable as error:
            # Nobody is asked because of a summary: the turn can do without.
            is_last = bool(summarises) and self._failures_of(ModelUnavailable) + 1 >= MAX_MODEL_FAILURES
            retryable = error.retryable and not is_last
            self._record_failure(call_id, error, retryable=retryable, cost_microusd=error.cost_microusd)
            if summarises and not retryable:
                return None
            return self._unavailable(error)
        finally:
            if self._on_delta is not None:
                self._on_delta.flush()
        self._tape.commit(responded(call_id, answer, summarises=summarises), self._tape.recorder.respond)
        self._sleeps = 0
        return None

    def _reserve(self, call: ModelCall, request: Request, summarises: int) -> tuple[Quote, UUID]:
        """Commit the request with the largest answer that the budget allows."""
        wanted = call.max_tokens
        while True:
            quote = self._models.quote(replace(call, max_tokens=wanted))
            requested = ModelRequested(
                call_id=self._new_call_id(),
                turn=request.turn,
                model=quote.model,
                tier=quote.tier,
                routed_because=quote.routed_because,
                prompt_hash=request.prompt_hash,
                max_tokens=quote.max_tokens,
                reserved_microusd=quote.reserved_microusd,
                reads=request.reads,
                batched=quote.batched,
                summarises=summarises,
            )
            try:
                self._tape.request(requested)
            except (BudgetBusy, BudgetExceeded):
                smaller = min(wanted, quote.max_tokens) // 2
                if smaller < MIN_MAX_TOKENS:
                    raise
                wanted = smaller
                continue
            return quote, requested.call_id

    def _record_failure(self, call_id: UUID, error: Exception, *, retryable: bool, cost_microusd: int) -> None:
        fact = ModelFailed(
            call_id=call_id,
            error=f"{type(error).__name__}: {error}"[:2_000],
            retryable=retryable,
            cost_microusd=cost_microusd,
        )
        self._tape.commit(fact, self._tape.recorder.respond)

    def _fall_back_or_pause(self, call: ModelCall, refused: Quote, busy: ModelBusy) -> Wait | None:
        """Go on at once if the router has another model for an overloaded one."""
        if busy.until_seconds <= LONGEST_SLEEP_SECONDS:
            return self._pause(busy.until_seconds, str(busy))
        try:
            other = self._models.quote(call)
        except (ModelBusy, ModelHeld, ModelUnavailable):
            other = refused
        if other.model != refused.model and self._failures_of(ModelBusy) < MAX_FALL_BACKS:
            return None
        return self._pause(busy.until_seconds, str(busy))

    def _failures_of(self, kind: type[Exception]) -> int:
        """Failures of this kind since the newest answer."""
        return sum(fact.error.startswith(f"{kind.__name__}:") for fact in self._tape.conversation.failures)

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
        failures = self._failures_of(ModelUnavailable)
        if failures >= MAX_MODEL_FAILURES:
            question = f"The model failed {failures} times in a row; the last time: {error}"
            # All agents of this size call the same one.
            return self._asks_about_model(question, cause=f"model {self._task.role.tier}")
        return Wait(reason="retry", question=str(error), run_after_seconds=backoff_seconds(failures))

    def _asks_about_model(self, question: str, *, cause: str = "") -> Wait:
        evidence = (self._tape.place(self._tape.newest),)
        return Wait(reason="human", question=question, options=GO_ON_OPTIONS, evidence=evidence, cause=cause)


def _is_routing(task: AgentTask, tools: Sequence[Tool]) -> bool:
    """Whether the agent only chooses a way: its answer has no effects, and the same question has the same answer."""
    return task.finish.name == ROUTING_TOOL and all(tool.effect == "pure" for tool in tools)


def _cache_ttl(task: AgentTask, tools: Sequence[Tool]) -> Ttl:
    """How long the server keeps this agent's prompt: as long as it is likely to wait between two of its turns."""
    names = {tool.name for tool in tools}
    if task.role.approve:
        return ttl_for(gap_seconds=APPROVAL_SECONDS, reuses=1)
    if names & COLLEAGUE_TOOLS:
        return ttl_for(gap_seconds=COLLEAGUE_SECONDS, reuses=1)
    return ttl_for(gap_seconds=0, reuses=task.max_turns - 1)

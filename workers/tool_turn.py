"""The second half of a turn: run the tool calls of an answer, and notice when the step repeats itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from chargehand.orchestrator.approval import digest_of, tool_call
from chargehand.orchestrator.breaker import Observed, Trip, watch
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.facts import BreakerTripped, StateRefreshed, ToolFinished, ToolStarted
from chargehand.orchestrator.handoffs import handed_over
from chargehand.orchestrator.plan import Expiry
from chargehand.orchestrator.spending import ABOVE_PLAN
from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry import spans
from chargehand.workers.context import AgentTask
from chargehand.workers.conversation import Conversation, Exchange, versions_read
from chargehand.workers.held import Held
from chargehand.workers.holds import Holds
from chargehand.workers.models.interface import Block
from chargehand.workers.outcomes import CALL_OPTIONS, GO_ON_OPTIONS, Finished, Wait, backoff_seconds
from chargehand.workers.tape import Tape
from chargehand.workers.tools.fetch_output import fetch_output
from chargehand.workers.tools.registry import Question, Suspended, Tool, ToolOutput, ToolResult, run_tool

# A result that took this long is not put at risk until the next request commits it.
COMMIT_AT_ONCE_MS = 5_000
# A service that a tool needs gets this many waits, then the model is told.
MAX_TOOL_WAITS = 5
# The tool that replaces shared state; the result says which version it made.
UPDATE_STATE = "update_state"


class ToolTurn:
    """Runs tools for one attempt; only those it was made with."""

    def __init__(self, *, task: AgentTask, tape: Tape, tools: Mapping[str, Tool], holds: Holds) -> None:
        self._task = task
        self._tape = tape
        self._tools = tools
        self._holds = holds
        self._seen: dict[str, Observed] = {}

    def run(self, exchange: Exchange) -> Finished | Wait | None:
        """Every tool call of the answer in its order, the finish tool last."""
        unresolved = exchange.unresolved
        finish = self._task.finish
        incomplete = exchange.answer.content[-1].get("id") if exchange.cut_off else None
        done: set[str] = set()
        for use in (block for block in unresolved if block.get("name") != finish.name):
            # Two calls under one id would share one result; the second is not run.
            if str(use.get("id")) in done:
                continue
            done.add(str(use.get("id")))
            wait = self._run_call(exchange, use, incomplete=use.get("id") == incomplete)
            if wait is not None:
                return wait
        trip = self._watch(exchange)
        refused = False
        for use in (block for block in unresolved if block.get("name") == finish.name):
            given = _cut_off() if use.get("id") == incomplete else self.call(finish, use.get("input"), key="")
            if given.outcome == "ok":
                given = self._stale(exchange) or given
            if given.outcome == "ok":
                conversation = self._tape.conversation
                return Finished(result=given.output.result, commit=conversation.commit, patch=given.output.patch)
            self._keep(use, given)
            refused = True
        if trip is not None:
            return self.tripped(*trip)
        return self.check(self._tape.conversation.exchanges[-1]) if refused else None

    def _stale(self, exchange: Exchange) -> ToolResult | None:
        """A refusal when shared state that the result rests on was replaced, as long as there are turns left."""
        view = _view(exchange)
        if not view or self._tape.turn_of(exchange.answer.call_id) >= self._task.max_turns:
            return None
        newer = self._tape.recorder.replaced(view)
        if newer is None:
            return None
        return _refusal("StaleState", f"{what_changed(newer)} Look at what is there now, and hand in again.")

    def check(self, exchange: Exchange) -> Wait | None:
        """Ask a person when the results of this turn show that the step, or the run, repeats itself."""
        trip = self._watch(exchange)
        return self.tripped(*trip) if trip is not None else None

    def _run_call(self, exchange: Exchange, use: Block, *, incomplete: bool) -> Wait | None:
        name = str(use.get("name"))
        tool = self._tools.get(name)
        if tool is None and name == fetch_output.name and self._tape.conversation.has_left_out:
            tool = fetch_output
        if incomplete:
            self._keep(use, _cut_off())
            return None
        if tool is None or self._tape.turn_of(exchange.answer.call_id) >= self._task.max_turns:
            offered = [self._task.finish.name] if tool is not None else sorted([*self._tools, self._task.finish.name])
            self._keep(use, _not_offered(name, offered))
            return None
        started = exchange.started.get(str(use.get("id")))
        # Whether an effect has happened is asked in any case; nobody is asked to approve what cannot be called.
        held = self._holds.tool(name) if started is None else None
        if held is not None:
            return self._hold(use, tool, held)
        if started is not None and started.effect == "effectful":
            wait = self._unknown_outcome(exchange, started)
            if wait is not None:
                return wait
        elif started is None and name in self._task.role.approve:
            wait = self._approval(exchange, use)
            if wait is not None:
                return wait
        if started is not None and (held := self._holds.tool(name)) is not None:
            self._tape.flush()
            return Wait(reason=held.reason, question=held.why, run_after_seconds=held.seconds)
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
            self._tape.commit(fact, self._tape.recorder.tool_started)
        try:
            given = self._call_followed(tool, use, key=key)
        except Unavailable as error:
            self._holds.tool_failed(name, str(error))
            return self._service_missing(use, tool, error)
        except Suspended as suspended:
            trip = self._goes_round(use, suspended)
            if trip is not None:
                self._keep(use, _refusal("GoesRound", f"Held back, and a person is asked: {trip.detail}"))
                return self.tripped(trip, cause="")
            self._tape.flush()
            return Wait(
                reason="children",
                question=f"{suspended.child.role} was asked: {suspended.child.instruction}",
                options=(suspended.choice,),
                child=suspended.child,
                tool_use_id=str(use.get("id")),
            )
        except Question as question:
            self._tape.flush()
            expires = Expiry(after_seconds=self._task.context.ask_seconds, then=question.unanswered)
            return Wait(
                reason="human",
                question=question.text,
                options=question.options,
                evidence=(self._tape.place(self._tape.newest),),
                expires=expires,
                tool_use_id=str(use.get("id")),
                wants_fix=question.wants_fix,
            )
        if given.outside:
            self._holds.tool_failed(name, given.error_type)
        else:
            self._holds.tool_passed(name)
        self._keep(use, given, at_once=tool.effect != "pure" or given.duration_ms > COMMIT_AT_ONCE_MS)
        return None

    def _approval(self, exchange: Exchange, use: Block) -> Wait | None:
        """What a person is asked before this call; None: they have approved it, with these arguments.

        The arguments stand in the recorded answer, so what was approved is what is run. What is refused becomes the
        call's result, and the model goes on.
        """
        conversation, identity = self._tape.conversation, str(use.get("id"))
        asked_since = exchange_position(self._tape, exchange)
        for decision in conversation.decisions:
            if decision.about_tool == identity and decision.position > asked_since and decision.choice == "approve":
                return None
        self._tape.flush()
        shown = tool_call(self._task.context.step_key, str(use.get("name")), arguments_of(use))
        return Wait(
            reason="human",
            question=f"{self._task.role.name} wants to call {use.get('name')}. May it, with these arguments?",
            options=CALL_OPTIONS,
            evidence=(self._tape.place(asked_since),),
            guards=(shown,),
            tool_use_id=identity,
        )

    def _unknown_outcome(self, exchange: Exchange, started: ToolStarted) -> Wait | None:
        """What to do about an effect that may or may not have happened; None: a person said to do it again."""
        conversation = self._tape.conversation
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
                evidence=(self._tape.place(position),),
                run_after_seconds=started.timeout_seconds,
            )
        return Wait(
            reason="human",
            question=(
                f"{started.tool} was started with key {started.key} and its outcome is unknown. Did it happen? "
                "retry: do it again; answer: give its result; skip: go on without it."
            ),
            options=GO_ON_OPTIONS,
            evidence=(self._tape.place(position),),
        )

    def _hold(self, use: Block, tool: Tool, held: Held) -> Wait | None:
        """Wait without a worker; an outage that lasts is told to the model, which may go on without the tool."""
        waited = sum(wait.reason == "circuit" for wait in self._tape.conversation.waits)
        if held.reason == "paused" or waited < MAX_TOOL_WAITS:
            self._tape.flush()
            return Wait(reason=held.reason, question=held.why, run_after_seconds=held.seconds)
        self._keep(use, _refusal("Unavailable", f"{tool.name} is unavailable for now; go on without it."))
        return None

    def _service_missing(self, use: Block, tool: Tool, error: Unavailable) -> Wait | None:
        waited = len(self._tape.conversation.waits)
        if waited < MAX_TOOL_WAITS:
            self._tape.flush()
            return Wait(
                reason="retry",
                question=f"{tool.name} needs a service that does not answer: {error}",
                run_after_seconds=backoff_seconds(waited + 1),
            )
        given = _refusal("Unavailable", f"The service behind {tool.name} does not answer; go on without it.")
        self._keep(use, given, at_once=tool.effect != "pure")
        return None

    def _call_followed(self, tool: Tool, use: Block, *, key: str) -> ToolResult:
        attributes = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: tool.name,
            names.TOOL_CALL: str(use.get("id")),
            names.EFFECT: tool.effect,
        }
        with spans.span(f"{names.EXECUTE_TOOL} {tool.name}", attributes) as span:
            given = self.call(tool, use.get("input"), key=key)
            if given.outcome == "error":
                span.fail(given.error_type or "error")
            return given

    def call(self, tool: Tool, arguments: JsonValue, *, key: str) -> ToolResult:
        """Run one tool; nothing is recorded."""
        conversation = self._tape.conversation
        view = _view(conversation.exchanges[-1]) if conversation.exchanges else {}
        context = replace(self._task.context, finished=conversation.tool_facts, view=view)
        return run_tool(tool, arguments, context=context, idempotency_key=key)

    def _keep(self, use: Block, given: ToolResult, *, at_once: bool = False) -> None:
        fact = ToolFinished(
            tool_use_id=str(use.get("id")),
            tool=str(use.get("name")),
            arguments=arguments_of(use),
            outcome=given.outcome,
            content=given.output.content,
            error_type=given.error_type,
            commit=given.output.commit,
            reads=given.output.reads,
            duration_ms=given.duration_ms,
        )
        if at_once:
            self._tape.commit(fact, self._tape.recorder.tool_finished)
        else:
            self._tape.hold(fact)

    def _watch(self, exchange: Exchange) -> tuple[Trip, str] | None:
        """The first rule that the results of this turn break, each looked at as it came, and what it is about."""
        conversation = self._tape.conversation
        current = next(e for e in conversation.exchanges if e.answer.call_id == exchange.answer.call_id)
        since = conversation.decisions[-1].position if conversation.decisions else -1
        own = self._observed(conversation, since)
        new = [
            item
            for item in own
            if item.fact.tool_use_id in current.results and item.turn == self._tape.turn_of(current.answer.call_id)
        ]
        if not new:
            return None
        failed = any(item.fact.outcome == "error" for item in new)
        others = list(self._tape.recorder.recent_failures()) if failed else []
        before = len(own) - len(new)
        for count in range(before + 1, len(own) + 1):
            trip = watch([*others, *own[:count]])
            if trip is not None:
                return trip, _cause(trip, own[count - 1])
        return None

    def _goes_round(self, use: Block, suspended: Suspended) -> Trip | None:
        """Whether this hand-off closes a ring that the run's agents have gone before; asked before it happens."""
        # A person has seen what goes on here, and let it.
        if any(decision.choice == "retry" for decision in self._tape.conversation.decisions):
            return None
        call = handed_over(suspended.child, tool_use_id=str(use.get("id")), for_good=suspended.choice == "override")
        step, role = str(self._task.context.step_id), self._task.role.name
        before = list(self._tape.recorder.hand_offs())
        newest = Observed(step=step, seq=0, fact=call, role=role)
        trip = watch([*before, newest]) if before else None
        return trip and replace(trip, evidence=tuple(place for place in trip.evidence if place != newest.place))

    def tripped(self, trip: Trip, cause: str) -> Wait:
        """Record the trip, and what a person is asked about it."""
        self._tape.flush()
        fact = BreakerTripped(rule=trip.rule, evidence=trip.evidence, detail=trip.detail, cause=cause)
        self._tape.commit(fact, self._tape.recorder.trip)
        return self.ask_about_trip(self._tape.newest, fact)

    def ask_about_trip(self, position: int, fact: BreakerTripped) -> Wait:
        """What a person is asked about a loop, or about what the step costs."""
        what = "costs far more than planned" if fact.rule == ABOVE_PLAN else "repeats itself"
        return Wait(
            reason="human",
            question=(
                f"The step {what}: {fact.detail} retry: let it go on; answer: tell it something; "
                "override: give the result; skip: go on without one; abort: let it fail."
            ),
            options=GO_ON_OPTIONS,
            evidence=(*fact.evidence, self._tape.place(position)),
            cause=fact.cause,
        )

    def _observed(self, conversation: Conversation, since: int) -> list[Observed]:
        """This step's results behind that position, in the order of the calls.

        A result that is not committed yet has the number that the next flush gives it.
        """
        seen: list[Observed] = []
        for turn, exchange in enumerate(conversation.exchanges, start=1):
            for use in exchange.tool_uses:
                tool_use_id = str(use.get("id"))
                fact = exchange.results.get(tool_use_id)
                if fact is not None and exchange.positions[tool_use_id] > since:
                    seen.append(self._observe(fact, exchange.positions[tool_use_id], turn))
        return seen

    def _observe(self, fact: ToolFinished, position: int, turn: int) -> Observed:
        place = self._tape.place(position)
        known = self._seen.get(place)
        # Before its commit a result may still move.
        if known is None or known.fact is not fact:
            step, _, seq = place.rpartition(":")
            known = Observed(step=step, seq=int(seq), fact=fact, role=self._task.role.name, turn=turn)
            self._seen[place] = known
        return known


def arguments_of(use: Block) -> Block:
    """The arguments of a tool call; servers have sent other things than objects."""
    given = use.get("input")
    return given if isinstance(given, dict) else {}


def exchange_position(tape: Tape, exchange: Exchange) -> int:
    """Where the answer of this exchange stands: an id that an earlier one used as well is another call."""
    return next(position for position, fact in enumerate(tape.recorded) if fact is exchange.answer)


def _cause(trip: Trip, newest: Observed) -> str:
    """What a trip is about, the same in every step that meets the same closed door; empty: the step's own affair."""
    if trip.rule != "same_error":
        return ""
    return f"{trip.rule} {digest_of([newest.asked, newest.gave])[:16]}"


def _refusal(error_type: str, message: str) -> ToolResult:
    return ToolResult(outcome="error", output=ToolOutput(content=message), error_type=error_type)


def _cut_off() -> ToolResult:
    return _refusal(
        "CutOff",
        "Your answer was cut off at its limit inside this call, so nothing was run. Call again, with less text.",
    )


def _view(exchange: Exchange) -> dict[str, int]:
    """The versions of shared state that an answer was given on; what its own calls wrote since is known to it.

    What they *read* since is not: the model has not seen it yet.
    """
    view = dict(exchange.view)
    for fact in exchange.results.values():
        if fact.tool == UPDATE_STATE and fact.outcome == "ok":
            view.update(versions_read(fact.reads))
    return view


def what_changed(newer: StateRefreshed) -> str:
    """For the model: what is not as it had seen it."""
    named = [
        f"{one.key!r} is at version {one.version}, not {one.seen_version}{f' ({one.by} replaced it)' if one.by else ''}"
        for one in newer.values
    ]
    return f"Shared state has moved on since you read it: {'; '.join(named)}."


def _not_offered(name: str, offered: Sequence[str]) -> ToolResult:
    return _refusal("UnknownTool", f"There is no tool {name!r} here; you can call {', '.join(offered)}.")

"""The agent loop against a scripted model and a journal in memory, also after a crash at any commit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, LeaseLost, NewerVersion, Unavailable
from chargehand.orchestrator.facts import (
    BatchSubmitted,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    SignalReceived,
    StateRefreshed,
    StateValue,
    StepClaimed,
    StepFact,
    StepTold,
    StepWaiting,
    ToolFinished,
    ToolStarted,
    Usage,
)
from chargehand.orchestrator.spending import Peers
from chargehand.workers.agent import Drained, Failed, Finished, Outcome, Wait, run_agent
from chargehand.workers.context import PREAMBLE, AgentTask, GrowingPrompt, build
from chargehand.workers.conversation import fold
from chargehand.workers.models.interface import ModelAnswer, ModelBusy, ModelCall, ModelRefused, ModelUnavailable, Quote
from chargehand.workers.tools.finish import FINISH_TOOLS
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, ToolRetry, make_tool

STEP = UUID("00000000-0000-7000-8000-0000000000aa")


class Crash(BaseException):
    """The process dies here: nothing may catch it."""


@dataclass(frozen=True)
class FakeRole:
    name: str = "researcher"
    tier: str = "medium"
    tools: tuple[str, ...] = ("look", "edit", "pay")
    max_turns: int | None = None
    instructions: str = "Answer."
    blob_hash: str = "abc"
    approve: tuple[str, ...] = ()


@dataclass
class Journal:
    """The recorder in memory; it can die after any commit, and be fenced at any."""

    facts: list[StepFact] = field(default_factory=list)
    history: tuple[StepFact, ...] = ()
    crash_after: int | None = None
    fence_at: int | None = None
    refuse: list[Exception] = field(default_factory=list)
    others: list[Observed] = field(default_factory=list)
    handed: list[Observed] = field(default_factory=list)
    compared: Peers = field(default_factory=Peers)
    state: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What shared state holds, and at which version."""
    told_to: list[StepTold | None] = field(default_factory=list)
    """What is heard before each call to the model."""
    commits: int = 0

    def claim(self) -> "Journal":
        self.facts.append(StepClaimed(holder="w"))
        self.history = tuple(self.facts)
        return self

    def _write(self, *facts: StepFact) -> None:
        self.commits += 1
        if self.fence_at is not None and self.commits >= self.fence_at:
            raise LeaseLost("newer epoch")
        self.facts += facts
        if self.commits == self.crash_after:
            raise Crash

    def request(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        self._write(*finished, requested)

    def respond(self, fact: ModelResponded | ModelFailed) -> None:
        self._write(fact)

    def submitted(self, fact: BatchSubmitted) -> None:
        self._write(fact)

    def abandon(self, fact: CallAbandoned) -> None:
        self._write(fact)

    def tool_started(self, fact: ToolStarted) -> None:
        self._write(fact)

    def tool_finished(self, fact: ToolFinished) -> None:
        self._write(fact)

    def trip(self, fact: BreakerTripped) -> None:
        self._write(fact)

    def hear(self) -> StepTold | None:
        return self.told_to.pop(0) if self.told_to else None

    def told(self, fact: StepTold) -> None:
        self._write(fact)

    def replaced(self, view: Mapping[str, int]) -> StateRefreshed | None:
        values = [
            StateValue(key=key, value=value, version=version, seen_version=view[key], by="b")
            for key, (value, version) in sorted(self.state.items())
            if key in view and view[key] != version
        ]
        return StateRefreshed(values=tuple(values)) if values else None

    def refreshed(self, fact: StateRefreshed) -> None:
        self._write(fact)

    def evicted(self, fact: OutputsEvicted) -> None:
        self._write(fact)

    def recent_failures(self) -> Sequence[Observed]:
        return self.others

    def hand_offs(self) -> Sequence[Observed]:
        return self.handed

    def peers(self) -> Peers:
        return self.compared

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


Reply = list[dict[str, Any]] | Exception


@dataclass
class Script:
    """A model that gives the next scripted reply by the number of answers in the request, so it is stateless."""

    replies: list[Reply]
    calls: list[ModelCall] = field(default_factory=list)
    stop_reasons: dict[int, str] = field(default_factory=dict)
    quote_errors: list[Exception] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["fake"])
    cost_microusd: int = 1
    """Of each answer."""
    """Who is quoted; one that fails is passed over from then on, as long as there is another."""

    def quote(self, call: ModelCall) -> Quote:
        if self.quote_errors:
            raise self.quote_errors.pop(0)
        return Quote(
            model=self.models[0],
            tier=call.tier,
            reserved_microusd=call.max_tokens,
            max_tokens=call.max_tokens,
            routed_because="test",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        self.calls.append(call)
        turn = sum(message["role"] == "assistant" for message in call.messages)
        reply = self.replies[min(turn, len(self.replies) - 1)]
        if isinstance(reply, Exception):
            if len(self.models) > 1:
                self.models.pop(0)
            else:
                self.replies[turn] = say("recovered")
            raise reply
        if call.on_delta is not None:
            for piece in ["thinking", "aloud"]:
                call.on_delta(piece)
        reason = self.stop_reasons.get(turn, "tool_use")
        return ModelAnswer(
            model="fake", content=tuple(reply), stop_reason=reason, usage=Usage(),
            cost_microusd=self.cost_microusd, duration_ms=1,
        )  # fmt: skip


def say(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def use(name: str, use_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": use_id, "name": name, "input": arguments}


ANSWER: dict[str, Any] = {"question": "q", "found": False, "answer": "not there", "quotes": []}


def done(use_id: str = "end") -> dict[str, Any]:
    return use("submit_answer", use_id, **ANSWER)


@dataclass
class World:
    """What tools have done outside; effects are counted by key."""

    looks: list[str] = field(default_factory=list)
    edits: dict[str, int] = field(default_factory=dict)
    payments: list[str] = field(default_factory=list)
    crash_in: str = ""
    away: int = 0

    def tools(self) -> dict[str, Tool]:
        def look(path: str) -> str:
            """Look at a file."""
            if self.away:
                self.away -= 1
                raise Unavailable("index away")
            if path == "missing":
                raise ToolRetry("no such file")
            self.looks.append(path)
            return f"text of {path}"

        def edit(path: str, *, idempotency_key: str) -> ToolOutput:
            """Edit a file."""
            self.edits[idempotency_key] = self.edits.get(idempotency_key, 0) + 1
            if self.crash_in == "edit":
                self.crash_in = ""
                raise Crash
            return ToolOutput(content="edited", commit=f"sha-{path}")

        def pay(amount: int, *, idempotency_key: str) -> str:
            """Pay."""
            self.payments.append(idempotency_key)
            if self.crash_in == "pay":
                self.crash_in = ""
                raise Crash
            return f"paid {amount}"

        made = [
            make_tool(look, effect="pure"),
            make_tool(edit, effect="idempotent"),
            make_tool(pay, effect="effectful", timeout_seconds=20),
        ]
        return {tool.name: tool for tool in made}


def no_workspace() -> Any:
    raise AssertionError("no tool here opens the workspace")


def task_of(**changes: Any) -> AgentTask:
    context = ToolContext(
        run_id=UUID(int=1),
        step_id=STEP,
        step_key="research-1",
        arguments={"question": "where?"},
        inputs={"index": {"passages": 3}},
        results=lambda key: None,
        open_workspace=no_workspace,
        recall=lambda query, limit: "",
    )
    task = AgentTask(
        goal="Find it",
        role=FakeRole(),
        instruction="Answer the question.",
        repository={"files": 2},
        finish=FINISH_TOOLS["submit_answer"],
        context=context,
        max_turns=15,
    )
    return replace(task, **changes)


def run(
    journal: Journal, model: Script, world: World | None = None, task: AgentTask | None = None, **more: Any
) -> Outcome:
    slept: list[float] = []
    more.setdefault("sleep", slept.append)
    return run_agent(task or task_of(), recorder=journal, models=model, tools=(world or World()).tools(), **more)


def results(journal: Journal) -> list[tuple[str, str, str]]:
    return [(fact.tool_use_id, fact.outcome, fact.error_type) for fact in journal.of(ToolFinished)]


# --- a conversation ---------------------------------------------------------------------------------------------------

FOUR_TURNS: list[Reply] = [
    [*say("first"), use("look", "t1", path="a"), use("look", "t2", path="b")],
    [use("edit", "t3", path="a"), use("look", "t4", path="c")],
    [use("pay", "t5", amount=7)],
    [done()],
]


def test_a_conversation_runs_to_its_typed_result() -> None:
    journal, world, model = Journal().claim(), World(), Script(FOUR_TURNS)

    outcome = run(journal, model, world)

    assert outcome == Finished(result=ANSWER, commit="sha-a")
    assert world.looks == ["a", "b", "c"]
    assert len(model.calls) == 4
    assert [type(fact).__name__ for fact in journal.facts] == [
        "StepClaimed",
        *("ModelRequested", "ModelResponded"),
        *("ToolFinished", "ToolFinished", "ModelRequested", "ModelResponded"),
        *("ToolStarted", "ToolFinished", "ToolFinished", "ModelRequested", "ModelResponded"),
        *("ToolStarted", "ToolFinished", "ModelRequested", "ModelResponded"),
    ]
    # Pure results travel with the next request: two commits a turn, and two more for each effect.
    assert journal.commits == 4 * 2 + 2 * 2
    assert [call.request_id for call in model.calls] == [
        f"{UUID(int=1)}/{STEP}/{fact.call_id}" for fact in journal.of(ModelRequested)
    ]


@pytest.mark.parametrize("commit", range(1, 13))
def test_after_a_crash_at_any_commit_nothing_recorded_is_asked_or_run_again(commit: int) -> None:
    journal, world, model = Journal(crash_after=commit).claim(), World(), Script(FOUR_TURNS)
    with pytest.raises(Crash):
        run(journal, model, world)
    answered_before = len(journal.of(ModelResponded))
    recorded_before = {fact.tool_use_id for fact in journal.of(ToolFinished)}
    paying = isinstance(journal.facts[-1], ToolStarted) and journal.facts[-1].effect == "effectful"

    journal.crash_after = None
    outcome = run(journal.claim(), model, world)

    if paying:
        assert isinstance(outcome, Wait)
        return
    assert outcome == Finished(result=ANSWER, commit="sha-a")
    # Each answer was recorded once; only a call in flight at the crash was made a second time, and stays charged.
    assert len(journal.of(ModelResponded)) == 4
    assert len(model.calls) == 4 + (1 if _was_in_flight(model) else 0)
    abandoned = journal.of(CallAbandoned)
    assert len(abandoned) == len(journal.of(ModelRequested)) - 4
    assert all(fact.charged_microusd == 4_096 for fact in abandoned)
    # Every tool call has one result, and one that was recorded did not run again.
    assert sorted(use_id for use_id, _, _ in results(journal)) == ["t1", "t2", "t3", "t4", "t5"]
    assert len(world.payments) == 1
    assert len(world.edits) == 1
    assert answered_before <= 4
    if {"t1", "t2"} <= recorded_before:
        assert world.looks.count("a") == 1


def _was_in_flight(model: Script) -> bool:
    """Whether two calls carried the same conversation."""
    sizes = [len(call.messages) for call in model.calls]
    return len(sizes) != len(set(sizes))


@pytest.mark.parametrize("commit", range(1, 13))
def test_a_resumed_request_is_the_same_to_the_byte(commit: int) -> None:
    whole, resumed = Script(FOUR_TURNS), Script(FOUR_TURNS)
    run(Journal().claim(), whole)
    journal = Journal(crash_after=commit).claim()
    with pytest.raises(Crash):
        run(journal, resumed)
    journal.crash_after = None
    run(journal.claim(), resumed)

    by_size = {len(call.messages): call for call in whole.calls}
    for call in resumed.calls:
        original = by_size[len(call.messages)]
        assert json.dumps([call.system, call.tools, call.messages]) == json.dumps(
            [original.system, original.tools, original.messages]
        )


@pytest.mark.parametrize("commit", range(1, 13))
def test_a_fence_stops_the_attempt_wherever_it_is_raised(commit: int) -> None:
    journal, model = Journal(fence_at=commit).claim(), Script(FOUR_TURNS)

    with pytest.raises(LeaseLost):
        run(journal, model)

    # It stopped at the refused write: nothing else was tried.
    assert journal.commits == commit


def test_a_drain_hands_the_step_back_with_everything_recorded() -> None:
    journal, world, model = Journal().claim(), World(), Script(FOUR_TURNS)
    stops = iter([False, True])
    with pytest.raises(Drained):
        run(journal, model, world, should_stop=lambda: next(stops))

    assert [use_id for use_id, _, _ in results(journal)] == ["t1", "t2"]
    assert run(journal.claim(), model, world) == Finished(result=ANSWER, commit="sha-a")
    assert world.looks == ["a", "b", "c"]


# --- effects ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_idempotent_tool_runs_again_with_its_key() -> None:
    journal, world, model = Journal().claim(), World(crash_in="edit"), Script([[use("edit", "t1", path="a")], [done()]])
    with pytest.raises(Crash):
        run(journal, model, world)

    run(journal.claim(), model, world)

    assert list(world.edits.values()) == [2]
    assert len(journal.of(ToolStarted)) == 1


def _interrupted_payment() -> tuple[Journal, World, Script]:
    journal, world, model = Journal().claim(), World(crash_in="pay"), Script([[use("pay", "t1", amount=7)], [done()]])
    with pytest.raises(Crash):
        run(journal, model, world)
    first = run(journal.claim(), model, world)
    # "retry" is offered only when the tool cannot be at work any more.
    assert isinstance(first, Wait)
    assert (first.reason, first.run_after_seconds) == ("retry", 20)
    wait_for(journal, first)
    return journal, world, model


def wait_for(journal: Journal, wait: Wait) -> UUID:
    wait_id = uuid4()
    journal.facts.append(StepWaiting(wait_id=wait_id, reason=wait.reason, question=wait.question, options=wait.options))
    return wait_id


def answer(journal: Journal, wait: Outcome, choice: str, body: Any = None) -> None:
    assert isinstance(wait, Wait)
    wait_id = wait_for(journal, wait)
    journal.claim()
    journal.facts.append(SignalReceived(wait_id=wait_id, choice=choice, body=body))
    journal.history = tuple(journal.facts)


def test_an_effect_with_unknown_outcome_goes_to_a_person_with_the_evidence() -> None:
    journal, world, model = _interrupted_payment()

    wait = run(journal.claim(), model, world)

    assert isinstance(wait, Wait)
    assert wait.reason == "human"
    assert wait.options == ("retry", "answer", "override", "skip", "abort")
    (place,) = wait.evidence
    assert isinstance(journal.facts[int(place.split(":")[1]) - 1], ToolStarted)
    assert len(world.payments) == 1


@pytest.mark.parametrize(
    ("choice", "body", "payments", "content"),
    [
        ("retry", None, 2, "paid 7"),
        ("answer", "It was paid.", 1, "It was paid."),
        ("skip", None, 1, "A person decided to skip this call; go on without its result."),
    ],
)
def test_a_person_resolves_an_unknown_outcome(choice: str, body: Any, payments: int, content: str) -> None:
    journal, world, model = _interrupted_payment()
    answer(journal, run(journal.claim(), model, world), choice, body)

    assert run(journal, model, world) == Finished(result=ANSWER)
    assert len(world.payments) == payments
    assert len(set(world.payments)) == 1
    assert journal.of(ToolFinished)[0].content == content


def test_a_second_crash_of_a_retried_effect_asks_a_second_time() -> None:
    journal, world, model = _interrupted_payment()
    answer(journal, run(journal.claim(), model, world), "retry")
    world.crash_in = "pay"
    with pytest.raises(Crash):
        run(journal, model, world)

    again = run(journal.claim(), model, world)

    assert isinstance(again, Wait)
    assert len(world.payments) == 2


def test_a_service_that_a_tool_needs_is_waited_for_and_then_given_up() -> None:
    journal, world, model = Journal().claim(), World(away=100), Script([[use("look", "t1", path="a")], [done()]])
    waits = 0
    while isinstance(outcome := run(journal.claim(), model, world), Wait):
        assert outcome.reason == "retry"
        wait_for(journal, outcome)
        waits += 1

    assert waits == 5
    assert results(journal) == [("t1", "error", "Unavailable")]


def test_a_tool_that_meets_facts_of_a_newer_version_stops_the_attempt_and_tells_the_model_nothing() -> None:
    def read(key: str) -> str:
        """Read a result."""
        raise NewerVersion("fact of schema 9", version=9)

    journal = Journal().claim()
    model = Script([[use("look", "t1", key="b")], [done()]])
    with pytest.raises(NewerVersion):
        run_agent(
            task_of(),
            recorder=journal,
            models=model,
            tools={**World().tools(), "look": make_tool(read, effect="pure", name="look")},
        )
    assert results(journal) == []


# --- what models do wrong ---------------------------------------------------------------------------------------------


def test_unknown_tools_bad_arguments_and_several_calls_are_all_answered() -> None:
    journal, world = Journal().claim(), World()
    turn = [
        use("shell", "t1", command="rm -rf /"),
        use("look", "t2"),
        {**use("look", "t3"), "input": "not an object"},
        use("look", "t4", path="a"),
    ]
    model = Script([turn, [done()]])

    assert run(journal, model, world) == Finished(result=ANSWER)

    assert results(journal) == [
        ("t1", "error", "UnknownTool"),
        ("t2", "error", "InvalidArguments"),
        ("t3", "error", "InvalidArguments"),
        ("t4", "ok", ""),
    ]
    content: Any = model.calls[1].messages[-1]["content"]
    assert [block["tool_use_id"] for block in content] == ["t1", "t2", "t3", "t4"]
    assert [block.get("is_error", False) for block in content] == [True, True, True, False]
    assert model.calls[1].messages[-2]["content"][2]["input"] == {}  # type: ignore[index, call-overload]


def test_a_tool_of_another_role_cannot_be_called() -> None:
    journal, world, model = Journal().claim(), World(), Script([[use("pay", "t1", amount=1)], [done()]])

    run(journal, model, world, task_of(role=FakeRole(tools=("look",))))

    assert world.payments == []
    assert results(journal) == [("t1", "error", "UnknownTool")]


def test_a_role_with_an_unregistered_tool_fails_with_its_name() -> None:
    outcome = run(Journal().claim(), Script([[done()]]), task=task_of(role=FakeRole(tools=("shell",))))

    assert isinstance(outcome, Failed)
    assert "'shell'" in outcome.error


def test_prose_without_a_call_is_asked_for_a_call() -> None:
    model = Script([say("I think it is done."), [done()]])

    assert run(Journal().claim(), model) == Finished(result=ANSWER)

    assert model.calls[1].messages[-1]["content"][0]["text"] == (  # type: ignore[index, call-overload]
        "Call a tool; finish with `submit_answer`."
    )


def test_an_empty_answer_can_be_sent_back() -> None:
    model = Script([[{"type": "text", "text": " "}], [done()]])

    run(Journal().claim(), model)

    assert model.calls[1].messages[1]["content"] == [{"type": "text", "text": "(no answer)"}]


def test_a_finish_beside_other_calls_comes_last() -> None:
    journal, world = Journal().claim(), World()

    outcome = run(journal, Script([[done(), use("look", "t1", path="a"), use("edit", "t2", path="b")]]), world)

    assert outcome == Finished(result=ANSWER, commit="sha-b")
    assert world.looks == ["a"]
    assert {use_id for use_id, _, _ in results(journal)} == {"t1", "t2"}


def test_a_finish_that_is_not_valid_is_told_and_tried_again() -> None:
    bad = use("submit_answer", "t1", **{**ANSWER, "found": True})
    journal = Journal().claim()

    assert run(journal, Script([[bad], [done()]])) == Finished(result=ANSWER)
    assert results(journal) == [("t1", "error", "ToolRetry")]


def test_a_call_that_was_cut_off_is_not_run_and_gets_more_room() -> None:
    journal, world = Journal().claim(), World()
    model = Script(
        [[use("look", "t1", path="a"), use("pay", "t2", amount=1)], [done()]], stop_reasons={0: "max_tokens"}
    )

    run(journal, model, world)

    assert world.looks == ["a"]
    assert world.payments == []
    assert ("t2", "error", "CutOff") in results(journal)
    assert [call.max_tokens for call in model.calls] == [4_096, 8_192]


def test_two_calls_under_one_id_run_once() -> None:
    journal, world = Journal().claim(), World()

    run(journal, Script([[use("pay", "t1", amount=1), use("pay", "t1", amount=2)], [done()]]), world)

    assert len(world.payments) == 1


def test_what_postgres_cannot_hold_does_not_reach_the_journal() -> None:
    journal = Journal().claim()

    run(journal, Script([[*say("a\0\udce9"), use("look", "t1", path="x\0")], [done()]]))

    assert "\\u0000" not in journal.of(ModelResponded)[0].model_dump_json()
    assert "\\u0000" not in journal.of(ToolFinished)[0].model_dump_json()


# --- turns ------------------------------------------------------------------------------------------------------------


def test_in_its_last_turn_a_model_can_only_finish() -> None:
    model = Script([[use("look", f"t{n}", path=f"{n}" * 9)] for n in range(4)])
    journal, world = Journal().claim(), World()

    outcome = run(journal, model, world, task_of(max_turns=4))

    # The others are still there: without them the prefix would be another one, and be paid for once more.
    assert model.calls[2].tools == model.calls[3].tools
    assert model.calls[3].tool_choice == {"type": "tool", "name": "submit_answer"}
    assert "last turn" in str(model.calls[3].messages[-1]["content"])
    assert "3 turns are left" in str(model.calls[1].messages[-1]["content"])
    # It called something else all the same: that is refused, and a person hears of it.
    assert len(world.looks) == 3
    assert isinstance(outcome, Wait)
    assert outcome.options == ("override", "skip", "abort")
    assert len(outcome.evidence) == 3


def test_no_step_gets_more_than_twenty_turns() -> None:
    model = Script([[use("look", f"t{n}", path=f"{n}" * 9)] for n in range(40)])

    run(Journal().claim(), model, task=task_of(max_turns=500))

    assert len(model.calls) == 20


def test_a_model_that_finishes_in_its_only_turn_finishes() -> None:
    assert run(Journal().claim(), Script([[done()]]), task=task_of(max_turns=1)) == Finished(result=ANSWER)


# --- the breaker ------------------------------------------------------------------------------------------------------


def _looping() -> Script:
    return Script([[use("look", f"t{n}", path="missing")] for n in range(9)] + [[done()]])


def test_three_same_errors_stop_the_step_and_ask_a_person() -> None:
    journal, model = Journal().claim(), _looping()

    wait = run(journal, model)

    assert isinstance(wait, Wait)
    assert wait.options == ("retry", "answer", "override", "skip", "abort")
    assert len(model.calls) == 3
    (trip,) = journal.of(BreakerTripped)
    assert trip.rule == "same_error"
    for place in trip.evidence:
        assert isinstance(journal.facts[int(place.split(":")[1]) - 1], ToolFinished)
    # A crash between the trip and the wait asks the same question, and no model.
    assert run(journal.claim(), model) == wait
    assert len(model.calls) == 3


def test_a_step_that_costs_far_more_than_its_peers_asks_a_person_once() -> None:
    looks = [[use("look", f"t{turn}", path=f"p{turn}")] for turn in range(4)]
    model = Script([*looks, [done()]], cost_microusd=50_000)
    compared = Peers(costs_microusd=(6_000, 6_000, 6_000), cap_microusd=1_000_000)
    journal = Journal(compared=compared).claim()
    task, tools = task_of(role=FakeRole(tools=("look",))), World().tools()

    wait = run_agent(task, recorder=journal, models=model, tools=tools)

    assert isinstance(wait, Wait)
    assert wait.question.startswith("The step costs far more than planned: 0.1000 USD spent without a result, 17 times")
    (trip,) = journal.of(BreakerTripped)
    assert (trip.rule, len(trip.evidence), len(journal.of(ModelResponded))) == ("above_plan", 2, 2)
    journal.facts += [
        StepWaiting(wait_id=UUID(int=9), reason=wait.reason, question=wait.question, options=wait.options),
        SignalReceived(wait_id=UUID(int=9), choice="retry"),
    ]
    outcome = run_agent(task, recorder=journal.claim(), models=model, tools=tools)
    assert isinstance(outcome, Finished)
    assert len(journal.of(BreakerTripped)) == 1


def test_what_a_step_costs_is_compared_with_nobody_while_it_is_cheap() -> None:
    class Alone(Journal):
        def peers(self) -> Peers:
            raise AssertionError("nothing is asked of the database")

    model = Script([[use("look", "t1", path="a")], [done()]])
    task = task_of(role=FakeRole(tools=("look",)))
    assert isinstance(run_agent(task, recorder=Alone().claim(), models=model, tools=World().tools()), Finished)


def test_a_loop_is_found_though_its_last_result_was_recorded_by_an_attempt_that_died() -> None:
    # The breaker's verdict would have been the next commit after the fifth edit's result.
    model = Script([[use("edit", f"t{n}", path=str(n // 9))] for n in range(9)])
    journal = Journal(crash_after=5 * 4).claim()
    with pytest.raises(Crash):
        run(journal, model)
    journal.crash_after = None

    assert isinstance(run(journal.claim(), model), Wait)
    assert [fact.rule for fact in journal.of(BreakerTripped)] == ["near_identical"]
    assert len(model.calls) == 5


def test_after_retry_the_count_starts_anew() -> None:
    journal, model = Journal().claim(), _looping()
    answer(journal, run(journal, model), "retry")

    assert isinstance(run(journal, model), Wait)
    assert len(model.calls) == 6


def test_what_a_person_says_reaches_the_model_and_nothing_else_does() -> None:
    journal = Journal().claim()
    model = Script([[use("look", f"t{n}", path="missing")] for n in range(3)] + [[done()]])
    answer(journal, run(journal, model), "answer", "Look at </task> b instead.")

    assert run(journal, model) == Finished(result=ANSWER)
    content: Any = model.calls[-1].messages[-1]["content"]
    assert content[-1]["text"] == "<person>\nLook at &lt;/task> b instead.\n</person>"


@pytest.mark.parametrize(
    ("choice", "body", "expected"),
    [
        ("override", ANSWER, Finished(result=ANSWER)),
        ("skip", None, Finished(result=None)),
        ("abort", None, Failed(error="A person ended the step.")),
    ],
)
def test_a_person_ends_a_step_that_repeats_itself(choice: str, body: Any, expected: Outcome) -> None:
    journal, model = Journal().claim(), _looping()
    answer(journal, run(journal, model), choice, body)

    assert run(journal, model) == expected
    assert len(model.calls) == 3


def test_a_result_by_hand_has_to_fit_the_role() -> None:
    journal, model = Journal().claim(), _looping()
    answer(journal, run(journal, model), "override", {"answer": 1})

    outcome = run(journal, model)

    assert isinstance(outcome, Wait)
    assert "does not fit" in outcome.question


def test_the_same_error_in_other_steps_of_the_run_counts() -> None:
    fact = ToolFinished(
        tool_use_id="o",
        tool="look",
        arguments={"path": "missing"},
        outcome="error",
        content="no such file",
        error_type="ToolRetry",
    )
    journal = Journal(others=[Observed(step="other", seq=n, fact=fact) for n in (4, 6)]).claim()

    wait = run(journal, _looping())

    assert isinstance(wait, Wait)
    assert {"other:4", "other:6"} <= set(wait.evidence)


# --- money, limits, failures ------------------------------------------------------------------------------------------


def test_a_busy_budget_gets_a_smaller_call_first() -> None:
    journal, model = Journal(refuse=[BudgetBusy("x"), BudgetBusy("x")]).claim(), Script([[done()]])

    assert run(journal, model) == Finished(result=ANSWER)
    assert model.calls[0].max_tokens == 1_024
    assert journal.of(ModelRequested)[0].reserved_microusd == 1_024


def test_a_budget_that_stays_busy_is_waited_for_and_one_that_is_spent_fails_the_step() -> None:
    busy = run(Journal(refuse=[BudgetBusy("open reservations")] * 9).claim(), Script([[done()]]))
    spent = run(Journal(refuse=[BudgetExceeded("cap 100")] * 9).claim(), Script([[done()]]))

    assert isinstance(busy, Wait)
    assert (busy.reason, busy.run_after_seconds) == ("budget", 2.0)
    assert spent == Failed(error="budget: cap 100")


def test_a_budget_that_is_spent_goes_to_a_person_where_the_run_was_told_to_ask() -> None:
    told_to_ask = task_of(on_budget="ask")
    spent = run(Journal(refuse=[BudgetExceeded("cap 100")] * 9).claim(), Script([[done()]]), task=told_to_ask)

    assert isinstance(spent, Wait)
    assert (spent.reason, spent.run_after_seconds) == ("budget", None)
    assert spent.options == ("override", "skip", "abort")
    assert "cap 100" in spent.question


def test_a_short_busy_time_is_slept_through_and_a_long_one_hands_the_worker_back() -> None:
    slept: list[float] = []
    short = Script([ModelBusy(2.0), [done()]])
    assert run(Journal().claim(), short, sleep=slept.append) == Finished(result=ANSWER)
    assert slept == [2.0]

    journal = Journal().claim()
    long = run(journal, Script([ModelBusy(30.0), [done()]]))
    assert isinstance(long, Wait)
    assert (long.reason, long.run_after_seconds) == ("rate", 30.0)
    assert [fact.cost_microusd for fact in journal.of(ModelFailed)] == [0]


def test_limits_that_are_known_before_the_call_reserve_nothing() -> None:
    journal, model = Journal().claim(), Script([[done()]], quote_errors=[ModelBusy(60.0)])

    outcome = run(journal, model)

    assert isinstance(outcome, Wait)
    assert outcome.reason == "rate"
    assert journal.of(ModelRequested) == []


def test_an_unreachable_model_is_tried_later_and_in_the_end_a_person_is_asked() -> None:
    journal = Journal().claim()
    outcomes = []
    for _ in range(6):
        model = Script([ModelUnavailable("connection refused", retryable=True, cost_microusd=5), [done()]])
        outcome = run(journal.claim(), model)
        assert isinstance(outcome, Wait)
        outcomes.append((outcome.reason, outcome.run_after_seconds))
        wait_for(journal, outcome)

    assert outcomes == [
        ("retry", 2.0),
        ("retry", 4.0),
        ("retry", 8.0),
        ("retry", 16.0),
        ("retry", 32.0),
        ("human", None),
    ]
    assert sum(fact.cost_microusd for fact in journal.of(ModelFailed)) == 30


def test_a_wrong_key_fails_at_once() -> None:
    wrong = run(Journal().claim(), Script([ModelUnavailable("401", retryable=False)]))

    assert wrong == Failed(error="The model cannot be used: 401")


def test_a_refusal_is_tried_with_another_model_and_then_goes_to_a_person() -> None:
    journal, model = Journal().claim(), Script([ModelRefused("policy", cost_microusd=3)], models=["a", "b"])

    outcome = run(journal, model)

    assert isinstance(outcome, Wait)
    assert outcome.reason == "human"
    assert [fact.model for fact in journal.of(ModelRequested)] == ["a", "b"]
    assert [fact.cost_microusd for fact in journal.of(ModelFailed)] == [3, 3]


def test_an_overloaded_model_is_replaced_without_a_wait() -> None:
    journal, model = Journal().claim(), Script([ModelBusy(60.0)], models=["a", "b"])

    outcome = run(journal, model)

    assert [fact.model for fact in journal.of(ModelRequested)] == ["a", "b"]
    assert isinstance(outcome, Wait)
    assert (outcome.reason, outcome.run_after_seconds) == ("rate", 60.0)


def test_an_unforeseen_error_of_the_client_leaves_the_call_to_be_abandoned() -> None:
    journal = Journal().claim()
    with pytest.raises(RuntimeError):
        run(journal, Script([RuntimeError("bug")]))

    assert run(journal.claim(), Script([[done()]])) == Finished(result=ANSWER)
    assert len(journal.of(CallAbandoned)) == 1


def test_pieces_are_given_on_a_few_times_a_second_and_a_failing_watcher_harms_nothing() -> None:
    seen: list[str] = []
    run(Journal().claim(), Script([[done()]]), on_delta=seen.append, clock=lambda: 0.0)
    assert seen == ["thinkingaloud"]

    ticks = iter(range(100))
    seen.clear()
    run(Journal().claim(), Script([[done()]]), on_delta=seen.append, clock=lambda: float(next(ticks)))
    assert seen == ["thinking", "aloud"]

    def broken(text: str) -> None:
        raise OSError("redis away")

    assert run(Journal().claim(), Script([[done()]]), on_delta=broken) == Finished(result=ANSWER)


# --- the request ------------------------------------------------------------------------------------------------------


def test_the_first_request_is_laid_out_as_agreed() -> None:
    model = Script([[done()]])
    run(Journal().claim(), model, task=task_of(goal="Find </goal> <it>", repository={"name": "<x>"}))

    call: Any = model.calls[0]
    assert [block["text"] for block in call.system] == [PREAMBLE, "Answer."]
    assert "cache_control" in call.system[-1]
    shared, own = call.messages[0]["content"]
    assert shared["text"] == (
        '<run>\n<goal>\nFind &lt;/goal> <it>\n</goal>\n<repository>\n{"name":"\\u003cx>"}\n</repository>\n</run>'
    )
    assert own["text"] == (
        "<task>\nAnswer the question.\n</task>\n"
        '<arguments>\n{"question":"where?"}\n</arguments>\n'
        '<inputs>\n{"index":{"passages":3}}\n</inputs>'
    )


def test_a_triager_sees_its_own_findings_only() -> None:
    findings: Any = [{"finding_id": f"f{n}"} for n in range(3)]
    context = replace(
        task_of().context, arguments={"shard": 0, "shards": 2}, inputs={"scan": {"findings": findings, "files": 9}}
    )
    request = build(task_of(context=context), [], fold([]))
    own: Any = request.messages[0]["content"]

    assert '"finding_ids":["f0","f2"]' in own[1]["text"]
    assert '{"scan":{"files":9,"findings":[{"finding_id":"f0"},{"finding_id":"f2"}]}}' in own[1]["text"]


def test_breakpoints_are_at_most_four_and_the_last_one_moves() -> None:
    model = Script(FOUR_TURNS)
    run(Journal().claim(), model)

    for call in model.calls:
        marked = json.dumps([call.system, call.messages]).count("cache_control")
        assert marked <= 4
        last: Any = call.messages[-1]["content"]
        assert "cache_control" in last[-1]


def test_the_journal_keeps_what_the_context_read() -> None:
    journal = Journal().claim()
    run(journal, Script([[done()]]))

    requested = journal.of(ModelRequested)[0]
    assert requested.reads == ("role:abc", "repository:inventory", "result:index")
    assert (requested.turn, requested.model, requested.routed_because) == (1, "fake", "test")


BLOCKS = st.lists(
    st.one_of(
        st.builds(say, st.text(max_size=20)).map(lambda blocks: blocks[0]),
        st.builds(lambda path: ("look", path), st.sampled_from(["a", "b", "missing"])),
        st.builds(lambda path: ("edit", path), st.sampled_from(["a", "b"])),
        st.just(("shell", "x")),
    ),
    max_size=3,
)


@settings(deadline=None)  # a busy machine is no failure
@given(turns=st.lists(BLOCKS, max_size=6), crash=st.integers(1, 25), text=st.text(max_size=30))
def test_any_conversation_resumed_anywhere_sends_the_same_bytes_and_ends_the_same(
    turns: list[list[Any]], crash: int, text: str
) -> None:
    replies: list[Reply] = []
    for turn, blocks in enumerate(turns):
        replies.append(
            [
                use(block[0], f"t{turn}-{n}", path=block[1]) if isinstance(block, tuple) else block
                for n, block in enumerate(blocks)
            ]
        )
    replies.append([done()])
    task = task_of(goal=text, repository={"name": text})
    whole, resumed = Script(list(replies)), Script(list(replies))
    expected = run(Journal().claim(), whole, task=task)

    journal, world = Journal(crash_after=crash).claim(), World()
    try:
        outcome = run(journal, resumed, world, task=task)
    except Crash:
        journal.crash_after = None
        outcome = run(journal.claim(), resumed, world, task=task)

    hashes = {fact.turn: fact.prompt_hash for fact in journal.of(ModelRequested)}
    assert len(hashes) == len({(fact.turn, fact.prompt_hash) for fact in journal.of(ModelRequested)})
    by_size = {len(call.messages): call for call in whole.calls}
    for call in resumed.calls:
        original = by_size[len(call.messages)]
        assert (call.system, call.tools, call.messages) == (original.system, original.tools, original.messages)
    assert type(outcome) is type(expected)
    if isinstance(outcome, Finished):
        assert outcome == expected
    recorded = [fact.tool_use_id for fact in journal.of(ToolFinished)]
    assert len(recorded) == len(set(recorded))
    assert all(count <= 2 for count in world.edits.values())


# --- what people tell the run -----------------------------------------------------------------------------------------


def test_what_a_person_tells_the_run_is_heard_before_the_next_turn_and_stays_where_it_was_heard() -> None:
    journal, model = Journal().claim(), Script(FOUR_TURNS)
    journal.told_to = [None, StepTold(messages=("Skip vendored code",), run_seq=7)]

    assert isinstance(run(journal, model), Finished)

    told = "A person told the run: Skip vendored code"
    assert [told in str(call.messages) for call in model.calls] == [False, True, True, True]
    # A second attempt builds the same requests from the journal.
    again = Script(FOUR_TURNS)
    # Cut off before the last request: the next attempt has to make it as the first one did.
    recorded = tuple(journal.facts[: journal.facts.index(journal.of(ModelRequested)[-1])])
    run(Journal(facts=list(recorded), history=recorded), again)
    assert again.calls[-1].messages == model.calls[-1].messages


# --- calls that a person approves -------------------------------------------------------------------------------------

ASKS = FakeRole(tools=("look", "pay"), approve=("pay",))
PAYS: list[Reply] = [[use("look", "t1", path="a"), use("pay", "t2", amount=7)], [done()]]


def decided(journal: Journal, wait: Wait, choice: str) -> Journal:
    """The wait and its answer, as the executor and the next claim record them."""
    wait_id = uuid4()
    journal.facts.append(
        StepWaiting(
            wait_id=wait_id,
            reason=wait.reason,
            question=wait.question,
            options=wait.options,
            guards=wait.guards,
            tool_use_id=wait.tool_use_id,
        )
    )
    journal.claim()
    journal.facts.append(SignalReceived(wait_id=wait_id, choice=choice, by="ada"))
    journal.history = tuple(journal.facts)
    return journal


def test_a_call_that_needs_approval_is_shown_with_its_exact_arguments_before_anything_happens() -> None:
    journal, world = Journal().claim(), World()
    wait = run(journal, Script(PAYS), world, task_of(role=ASKS))
    assert isinstance(wait, Wait)
    (shown,) = wait.guards
    assert (shown.does, shown.arguments, wait.options) == ("tool pay", {"amount": 7}, ("approve", "reject", "abort"))
    assert (world.payments, world.looks) == ([], ["a"])
    assert journal.of(ToolStarted) == []


def test_an_approved_call_is_made_once_and_the_next_one_is_asked_for_again() -> None:
    journal, world = Journal().claim(), World()
    model = Script([*PAYS[:1], [use("pay", "t3", amount=7)], [done()]])
    wait = run(journal, model, world, task_of(role=ASKS))
    assert isinstance(wait, Wait)

    again = run(decided(journal, wait, "approve"), model, world, task_of(role=ASKS))

    # The same arguments, and another call: an approval is used up.
    assert isinstance(again, Wait)
    assert again.tool_use_id == "t3"
    assert len(world.payments) == 1
    assert world.looks == ["a"]


def test_an_approval_of_another_answer_with_the_same_id_does_not_count() -> None:
    journal, world = Journal().claim(), World()
    model = Script([*PAYS[:1], [use("pay", "t2", amount=700)], [done()]])
    wait = run(journal, model, world, task_of(role=ASKS))
    assert isinstance(wait, Wait)
    again = run(decided(journal, wait, "approve"), model, world, task_of(role=ASKS))
    assert isinstance(again, Wait)
    assert again.guards[0].arguments == {"amount": 700}
    assert again.guards[0].hash != wait.guards[0].hash
    assert len(world.payments) == 1


def test_a_call_that_a_person_rejects_is_told_to_the_model_and_not_made() -> None:
    journal, world = Journal().claim(), World()
    model = Script(PAYS)
    wait = run(journal, model, world, task_of(role=ASKS))
    assert isinstance(wait, Wait)
    assert run(decided(journal, wait, "reject"), model, world, task_of(role=ASKS)) == Finished(result=ANSWER)
    assert world.payments == []
    assert results(journal)[-1] == ("t2", "error", "Rejected")


def test_a_step_whose_approval_expires_fails_with_that_reason() -> None:
    journal, world = Journal().claim(), World()
    wait = run(journal, Script(PAYS), world, task_of(role=ASKS))
    assert isinstance(wait, Wait)
    decided(journal, wait, "abort")
    journal.facts[-1] = journal.facts[-1].model_copy(update={"by": "expiry"})
    journal.history = tuple(journal.facts)
    assert run(journal, Script(PAYS), world, task_of(role=ASKS)) == Failed(error="nobody answered in time")
    assert world.payments == []


def test_an_approved_effect_that_is_interrupted_is_an_unknown_outcome_and_not_asked_for_again() -> None:
    journal, world = Journal().claim(), World(crash_in="pay")
    wait = run(journal, Script(PAYS), world, task_of(role=ASKS))
    assert isinstance(wait, Wait)
    with pytest.raises(Crash):
        run(decided(journal, wait, "approve"), Script(PAYS), world, task_of(role=ASKS))
    outcome = run(journal.claim(), Script(PAYS), world, task_of(role=ASKS))
    assert isinstance(outcome, Wait)
    assert outcome.reason == "retry"
    assert len(world.payments) == 1


@pytest.mark.parametrize(
    ("finish", "tools", "shared"),
    [("submit_choice", (), True), ("submit_choice", ("look",), True), ("submit_choice", ("pay",), False),
     ("submit_choice", ("edit",), False), ("submit_answer", (), False)],
)  # fmt: skip
def test_only_an_agent_that_chooses_a_way_without_effects_shares_answers(
    finish: str, tools: tuple[str, ...], shared: bool
) -> None:
    model = Script([say("Nothing.")])

    run(
        Journal().claim(),
        model,
        task=task_of(
            finish=FINISH_TOOLS[finish], role=replace(FakeRole(), tools=tools), cache_scope="tenant", max_turns=1
        ),
    )

    assert model.calls[0].cache_scope == ("tenant" if shared else "")


def _shared(*answers: Any) -> tuple[Journal, Script, AgentTask, dict[str, Tool]]:
    journal = Journal(state={"plan": ("old", 1)})

    def peek(key: str) -> ToolOutput:
        """Read a shared value."""
        value, version = journal.state[key]
        return ToolOutput(content=f"{key}={value}", reads=(f"state:{key}@{version}",))

    tools = {"peek": make_tool(peek, effect="pure")}
    return journal, Script(list(answers)), task_of(role=FakeRole(tools=("peek",))), tools


def test_a_replaced_view_is_rebuilt_before_the_model_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, model, task, tools = _shared([use("peek", "1", key="plan")], [done()])

    def replace_after_the_tool_has_read() -> None:
        if model.calls:
            journal.state["plan"] = ("new", 2)

    recorder = journal.claim()
    monkeypatch.setattr(recorder, "hear", replace_after_the_tool_has_read)
    outcome = run_agent(task, recorder=recorder, models=model, tools=tools)
    assert isinstance(outcome, Finished)
    shown = json.dumps(model.calls[1].messages)
    assert shown.index("plan=old") < shown.index("<shared_state>") < shown.index("new")
    asked = journal.of(ModelRequested)[1]
    assert "state:plan@2" in asked.reads
    assert "state:plan@1" not in asked.reads
    # The same facts give the same bytes.
    before = fold(journal.facts[: journal.facts.index(asked)])
    assert build(task, list(tools.values()), before).prompt_hash == asked.prompt_hash


def test_a_result_that_rests_on_a_replaced_view_is_handed_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, model, task, tools = _shared([use("peek", "1", key="plan")], [done("early")], [done("late")])
    real = model.call

    def replace_while_it_decides(asked: ModelCall) -> ModelAnswer:
        if len(model.calls) == 1:
            journal.state["plan"] = ("new", 2)
        return real(asked)

    monkeypatch.setattr(model, "call", replace_while_it_decides)
    outcome = run_agent(task, recorder=journal.claim(), models=model, tools=tools)
    assert isinstance(outcome, Finished)
    refused = next(fact for fact in journal.of(ToolFinished) if fact.tool_use_id == "early")
    assert refused.error_type == "StaleState"
    assert "'plan' is at version 2, not 1 (b replaced it)" in refused.content
    assert "new" in json.dumps(model.calls[2].messages[-1])


def test_an_agent_that_reads_no_shared_state_never_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, model, task, tools = _shared([done()])
    recorder = journal.claim()
    monkeypatch.setattr(recorder, "replaced", lambda view: pytest.fail("asked"))
    assert isinstance(run_agent(task, recorder=recorder, models=model, tools=tools), Finished)


def _long_conversation(crash_after: int | None = None) -> tuple[Journal, Script, AgentTask, dict[str, Tool]]:
    def big(letter: str) -> str:
        """Give much."""
        return letter * 4_000

    answers = [
        [use("big", "1", letter="p")],
        [use("big", "2", letter="q")],
        [use("fetch_output", "3", tool_use_id="1", offset=3_990)],
        [done()],
    ]
    task = task_of(role=FakeRole(tools=("big",)), window_tokens=1_200)
    return Journal(crash_after=crash_after), Script(answers), task, {"big": make_tool(big, effect="pure")}


def test_a_full_window_leaves_big_old_outputs_out_and_gives_them_again_when_asked() -> None:
    journal, model, task, tools = _long_conversation()
    assert isinstance(run_agent(task, recorder=journal.claim(), models=model, tools=tools), Finished)
    (evicted,) = journal.of(OutputsEvicted)
    assert evicted.tool_use_ids == ("1",)
    shown = [json.dumps(call.messages) for call in model.calls]
    assert ["p" * 4_000 in one for one in shown] == [False, True, False, False]
    assert ["q" * 4_000 in one for one in shown] == [False, False, True, True]
    assert '\\"left_out_to_make_room\\":\\"1\\"' in shown[2]
    assert ["fetch_output" in {tool["name"] for tool in call.tools} for call in model.calls] == [
        False,
        False,
        True,
        True,
    ]
    assert journal.of(ToolFinished)[-1].content == "p" * 10


def test_each_request_after_an_eviction_follows_from_the_facts() -> None:
    journal, model, task, tools = _long_conversation()
    run_agent(task, recorder=journal.claim(), models=model, tools=tools)
    growing = GrowingPrompt(task, list(tools.values()), {})
    asked = 0
    for position, fact in enumerate(journal.facts):
        if isinstance(fact, ModelRequested):
            before = fold(journal.facts[:position])
            assert build(task, list(tools.values()), before).prompt_hash == fact.prompt_hash
            assert growing.next_hash(before) == fact.prompt_hash
            asked += 1
    assert asked == 4


@pytest.mark.parametrize("commit", range(1, 12))
def test_a_crash_around_an_eviction_changes_nothing_of_what_is_asked(commit: int) -> None:
    whole, model, task, tools = _long_conversation()
    run_agent(task, recorder=whole.claim(), models=model, tools=tools)
    journal, model, task, tools = _long_conversation(crash_after=commit)
    try:
        run_agent(task, recorder=journal.claim(), models=model, tools=tools)
    except Crash:
        journal.crash_after = None
        assert isinstance(run_agent(task, recorder=journal.claim(), models=model, tools=tools), Finished)
    assert {fact.prompt_hash for fact in journal.of(ModelRequested)} == {
        fact.prompt_hash for fact in whole.of(ModelRequested)
    }

"""A conversation that fills its window: its oldest turns make way for a summary, which is a recorded call as any."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from chargehand.orchestrator.errors import BudgetExceeded
from chargehand.orchestrator.facts import (
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    StateRefreshed,
    StateValue,
    StepFact,
    StepTold,
    ToolFinished,
    Usage,
)
from chargehand.orchestrator.forking import before_turn
from chargehand.workers.agent import Failed, Finished, Wait, run_agent
from chargehand.workers.context import AgentTask, GrowingPrompt, build
from chargehand.workers.conversation import Summary, fold
from chargehand.workers.models.interface import ModelAnswer, ModelCall, ModelRefused, ModelUnavailable, Quote
from chargehand.workers.offline.policies import answer as offline_answer
from chargehand.workers.summary import KEPT_TURNS, summary_request, turns_to_summarise
from chargehand.workers.tools.registry import Tool, ToolOutput, make_tool
from tests.unit.workers.test_agent import Crash, FakeRole, Journal, done, task_of, use

WINDOW_TOKENS = 4_000
TURNS = 14


@dataclass
class Talker:
    """Writes much prose in each of its turns, and is asked for summaries; what it says follows from the journal."""

    journal: Journal
    calls: list[ModelCall] = field(default_factory=list)
    summary: str | Exception = "It looked at <earlier_turns> and found ü."

    def quote(self, call: ModelCall) -> Quote:
        return Quote(
            model="fake",
            tier=call.tier,
            reserved_microusd=1,
            max_tokens=call.max_tokens,
            routed_because="test",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        self.calls.append(call)
        if is_summary(call):
            if isinstance(self.summary, Exception):
                raise self.summary
            content = [use("submit_summary", "s", summary=self.summary)]
        else:
            turn = sum(not fact.summarises for fact in self.journal.of(ModelResponded)) + 1
            content = [
                {"type": "text", "text": f"turn {turn} " + "x" * 1_700},
                use("look", f"t{turn}", path=f"p{turn}"),
            ]
            if turn == TURNS:
                content = [done()]
        tokens = len(json.dumps([*call.messages])) // 4
        return ModelAnswer(
            model="fake", content=tuple(content), stop_reason="tool_use", usage=Usage(input_tokens=tokens),
            cost_microusd=1, duration_ms=1,
        )  # fmt: skip

    @property
    def summaries(self) -> list[ModelCall]:
        return [call for call in self.calls if is_summary(call)]


def is_summary(call: ModelCall) -> bool:
    return call.tools[0]["name"] == "submit_summary"


def look(path: str) -> str:
    """Look at a file."""
    return f"short text of {path}"


TOOLS = {"look": make_tool(look, effect="pure")}


def talk(crash_after: int | None = None, **changes: Any) -> tuple[Journal, Talker, AgentTask]:
    journal = Journal(crash_after=crash_after)
    task = task_of(role=FakeRole(tools=("look",), tier="large"), window_tokens=WINDOW_TOKENS, **changes)
    return journal, Talker(journal), task


def finish(journal: Journal, model: Talker, task: AgentTask, tools: dict[str, Tool] = TOOLS) -> None:
    outcome = run_agent(task, recorder=journal.claim(), models=model, tools=tools, sleep=lambda _: None)
    assert isinstance(outcome, Finished), outcome


def assert_follows_from_the_facts(facts: list[StepFact], task: AgentTask, tools: dict[str, Tool] = TOOLS) -> None:
    """Each request is rebuilt from the facts before it, as a replay does."""
    growing = GrowingPrompt(task, list(tools.values()), {})
    for position, fact in enumerate(facts):
        if isinstance(fact, ModelRequested):
            before = fold(facts[:position])
            if fact.summarises:
                assert summary_request(task, before, fact.summarises).prompt_hash == fact.prompt_hash
            else:
                assert build(task, list(tools.values()), before).prompt_hash == fact.prompt_hash
                assert growing.next_hash(before) == fact.prompt_hash
            assert fact.turn == before.turns + 1


def test_a_full_window_of_prose_makes_room_by_summaries_of_the_oldest_turns() -> None:
    journal, model, task = talk()
    finish(journal, model, task)
    asked = [fact for fact in journal.of(ModelRequested) if fact.summarises]
    assert len(asked) >= 2
    assert [fact.summarises for fact in asked] == sorted({fact.summarises for fact in asked})
    assert {call.tier for call in model.summaries} == {"small"}
    # Each is journalled and paid as any call, and no turn is lost to it.
    assert sum(fact.cost_microusd for fact in journal.of(ModelResponded)) == TURNS + len(asked)
    assert fold(journal.facts).turns == TURNS
    most = max(len(json.dumps([*call.messages])) // 4 for call in model.calls)
    assert most <= WINDOW_TOKENS
    assert_follows_from_the_facts(journal.facts, task)


def test_the_same_turns_are_summarised_once_for_a_tenant_and_the_agents_own_turns_are_never_given_again() -> None:
    journal, model, task = talk(cache_scope="tenant")
    finish(journal, model, task)
    assert {call.cache_scope for call in model.summaries} == {"tenant"}
    assert {call.cache_scope for call in model.calls if not is_summary(call)} == {""}


def test_after_a_summary_the_model_sees_it_instead_of_the_turns_and_may_fetch_what_they_gave() -> None:
    journal, model, task = talk()
    finish(journal, model, task)
    place = next(index for index, call in enumerate(model.calls) if is_summary(call))
    turns = next(fact.summarises for fact in journal.of(ModelRequested) if fact.summarises)
    before, after = model.calls[place - 1], model.calls[place + 1]
    assert [message["role"] for message in after.messages][:2] == ["user", "assistant"]
    shown = json.dumps(after.messages)
    assert "turn 1 x" in json.dumps(before.messages)
    assert "turn 1 x" not in shown
    assert f"turn {turns} x" not in shown
    assert f"turn {turns + 1} x" in shown
    # A summary cannot close its frame.
    assert "It looked at &lt;earlier_turns> and found" in shown
    assert shown.count("</earlier_turns>") == 1
    assert '\\"tool_use_id\\":\\"t1\\"' in shown
    assert "fetch_output" in {tool["name"] for tool in after.tools}
    # What it is made of was all shown to the summariser.
    assert "turn 1 x" in json.dumps(model.summaries[0].messages)
    assert "short text of p1" in json.dumps(model.summaries[0].messages)


@pytest.mark.parametrize("commit", range(1, 36))
def test_a_crash_around_a_summary_changes_nothing_of_what_is_asked(commit: int) -> None:
    whole, model, task = talk()
    finish(whole, model, task)
    journal, model, task = talk(crash_after=commit)
    try:
        finish(journal, model, task)
    except Crash:
        journal.crash_after = None
        finish(journal, model, task)
    assert {fact.prompt_hash for fact in journal.of(ModelRequested)} == {
        fact.prompt_hash for fact in whole.of(ModelRequested)
    }
    answers = [fact.call_id for fact in journal.of(ModelResponded)]
    assert len(answers) == len(whole.of(ModelResponded))


def test_what_people_said_and_what_shared_state_holds_stay_word_for_word() -> None:
    journal, model, task = talk()

    def look(path: str) -> ToolOutput:
        """Look."""
        return ToolOutput(content=f"value of {path}", reads=("state:plan@1",) if path == "p2" else ())

    read = make_tool(look, effect="pure")
    journal.state = {"plan": ("second", 2)}
    journal.told_to = [None, None, StepTold(messages=("Only the <b>API</b>.",), run_seq=3)]
    finish(journal, model, task, {"look": read})
    assert isinstance(journal.of(StateRefreshed)[0].values[0], StateValue)
    last = json.dumps(model.calls[-1].messages)
    assert "turn 2 x" not in last
    assert "value of p2" in last
    assert "Replaced by others since you read it" in last
    assert "A person told the run: Only the <b>API</b>." in last
    assert_follows_from_the_facts(journal.facts, task, {"look": read})


@pytest.mark.parametrize(
    "error", [ModelRefused("no"), ModelUnavailable("too long", retryable=False)], ids=["refused", "rejected"]
)
def test_a_summary_that_cannot_be_had_stops_nobody(error: Exception) -> None:
    journal, model, task = talk()
    model.summary = error
    finish(journal, model, task)
    assert all(not fact.summarises for fact in journal.of(ModelResponded))
    assert len(journal.of(ModelFailed)) == len(model.summaries) >= 1
    assert_follows_from_the_facts(journal.facts, task)


def test_a_small_model_that_is_down_holds_an_agent_up_for_some_tries_and_never_before_a_person() -> None:
    journal, model, task = talk()
    model.summary = ModelUnavailable("down", retryable=True)
    outcomes: list[object] = []
    while not (outcomes and isinstance(outcomes[-1], Finished)):
        outcomes.append(run_agent(task, recorder=journal.claim(), models=model, tools=TOOLS, sleep=lambda _: None))
        assert len(outcomes) < 100
    waits = [one for one in outcomes if isinstance(one, Wait)]
    assert {wait.reason for wait in waits} == {"retry"}
    assert [fact.retryable for fact in journal.of(ModelFailed)[:6]] == [True] * 5 + [False]
    assert_follows_from_the_facts(journal.facts, task)


def test_an_empty_summary_replaces_nothing() -> None:
    journal, model, task = talk()
    model.summary = " "
    finish(journal, model, task)
    assert model.summaries
    assert fold(journal.facts).summary is None
    assert "turn 1 x" in json.dumps(model.calls[-1].messages)


def test_a_summary_beyond_the_budget_ends_the_step_as_a_turn_does() -> None:
    journal, model, task = talk()
    real = journal.request

    def request(finished: Any, requested: ModelRequested) -> None:
        if requested.summarises:
            raise BudgetExceeded("0 left")
        real(finished, requested)

    journal.request = request  # type: ignore[method-assign]
    outcome = run_agent(task, recorder=journal.claim(), models=model, tools=TOOLS)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("budget: ")


def test_big_results_are_left_out_before_anything_is_summarised() -> None:
    journal, model, task = talk()

    def look(path: str) -> str:
        """Look."""
        return path * 2_000

    tools = {"look": make_tool(look, effect="pure")}
    finish(journal, model, task, tools)
    first = next(
        fact
        for fact in journal.facts
        if isinstance(fact, OutputsEvicted) or (isinstance(fact, ModelRequested) and fact.summarises)
    )
    assert isinstance(first, OutputsEvicted)
    assert model.summaries
    assert_follows_from_the_facts(journal.facts, task, tools)


def test_the_newest_turns_are_never_summarised_and_a_small_gain_is_not_worth_a_call() -> None:
    journal, model, task = talk()
    finish(journal, model, task)
    for position, fact in enumerate(journal.facts):
        if isinstance(fact, ModelRequested) and fact.summarises:
            assert fact.summarises <= fold(journal.facts[:position]).turns - KEPT_TURNS
    # A window that the task alone fills: nothing that a summary could mend.
    conversation = fold(journal.facts[:8])
    newest = conversation.exchanges[-1]
    answer = newest.answer.model_copy(update={"usage": Usage(input_tokens=90_000)})
    full = replace(conversation, exchanges=(*conversation.exchanges[:-1], replace(newest, answer=answer)))
    assert turns_to_summarise(full, window_tokens=100_000) == 0


def test_a_fork_takes_a_summary_over_with_the_turns_that_it_stands_for() -> None:
    journal, model, task = talk()
    finish(journal, model, task)
    beginning = before_turn(journal.facts, TURNS)
    taken = fold(beginning.facts)
    assert taken.turns == TURNS - 1
    asked = [isinstance(fact, ModelRequested) and fact.turn == TURNS for fact in journal.facts].index(True)
    assert taken.summary == fold(journal.facts[:asked]).summary
    assert isinstance(taken.summary, Summary)
    assert any(isinstance(fact, ToolFinished) for fact in beginning.facts)


def test_the_offline_rules_summarise_too_and_say_what_they_are() -> None:
    journal, model, task = talk()
    finish(journal, model, task)
    call = model.summaries[-1]
    request = {"messages": [*call.messages], "tools": [*call.tools], "tool_choice": call.tool_choice}
    (said, given) = offline_answer(request)
    assert given["name"] == "submit_summary"
    assert "no language model was used" in given["input"]["summary"]
    assert "look" in given["input"]["summary"]
    assert said["type"] == "text"

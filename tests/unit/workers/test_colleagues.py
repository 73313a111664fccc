"""Who may be asked by whom: never in a circle, never too deep, never too often."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from chargehand.orchestrator.colleagues import MAX_BREADTH, MAX_DEPTH
from chargehand.orchestrator.facts import BreakerTripped, SignalReceived, StepWaiting, ToolFinished
from chargehand.orchestrator.handoffs import handed_over
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.plan import Expiry, Map, Plan, Step
from chargehand.workers.agent import AgentTask, Finished, Outcome, Wait, run_agent
from chargehand.workers.tools.ask_person import ask_person
from chargehand.workers.tools.colleagues import delegate, hand_off
from chargehand.workers.tools.registry import Colleague, Suspended, Tool, ToolContext, run_tool
from tests.unit.workers.test_agent import ANSWER, FakeRole, Journal, Script, World, done, task_of, use

ROLES = ("asker", "helper", "expert", "guru", "oracle")
COLLEAGUES = {
    name: Colleague(pool="audit", output="submit_answer" if name != "oracle" else "submit_plan") for name in ROLES
}


def agent(key: str, role: str, parent: str | None = None) -> Step:
    return Step(key=key, kind="agent", role=role, parent=parent, after=())


def context(*steps: Step, own: str) -> ToolContext:
    return ToolContext(
        run_id=UUID(int=1),
        step_id=UUID(int=2),
        step_key=own,
        arguments={},
        inputs={},
        results=lambda _: None,
        open_workspace=lambda: Path(),  # type: ignore[arg-type, return-value]
        recall=lambda _query, _limit: "",
        plan=Plan.of(steps),
        colleagues=COLLEAGUES,
    )


def ask(tool: Tool, seen: ToolContext, **arguments: Any) -> str | Suspended:
    try:
        return run_tool(tool, arguments, context=seen, idempotency_key="").output.content
    except Suspended as suspended:
        return suspended


def test_the_colleague_becomes_a_child_with_what_the_asker_has_read() -> None:
    seen = context(
        Step(key="read", kind="script", script="s"),
        agent("a", "asker").model_copy(update={"after": ("read",)}),
        own="a",
    )
    asked = ask(delegate, seen, to="helper", instruction="Count.")
    assert isinstance(asked, Suspended)
    child = asked.child
    assert (asked.choice, child.key, child.parent, child.pool) == ("answer", "a/helper-1", "a", "audit")
    assert (child.instruction, child.after, child.join) == ("Count.", ("read",), "settled")


def test_the_second_colleague_of_a_role_is_another_step() -> None:
    asked = ask(
        delegate,
        context(agent("a", "asker"), agent("a/helper-1", "helper", "a"), own="a"),
        to="helper",
        instruction="x",
    )
    assert isinstance(asked, Suspended)
    assert asked.child.key == "a/helper-2"


@pytest.mark.parametrize(
    ("own", "to", "said"),
    [
        ("a", "nobody", "There is no role 'nobody'; there are: expert, guru, helper, oracle."),
        ("a", "asker", "would go round in a circle"),
        ("a/h", "asker", "would go round in a circle"),
        ("a/h/e/g", "oracle", "colleagues deep"),
    ],
)
def test_what_would_not_end_is_refused_and_said(own: str, to: str, said: str) -> None:
    line = (
        agent("a", "asker"),
        agent("a/h", "helper", "a"),
        agent("a/h/e", "expert", "a/h"),
        agent("a/h/e/g", "guru", "a/h/e"),
    )
    answer = ask(delegate, context(*line, own=own), to=to, instruction="x")
    assert isinstance(answer, str)
    assert said in answer


def test_maps_and_repeats_around_an_agent_are_no_colleagues() -> None:
    around = [
        Step(key=f"m{n}", kind="map", parent=f"m{n - 1}" if n else None, map=Map(items=[], body=(agent("x", "asker"),)))
        for n in range(MAX_DEPTH)
    ]
    asked = ask(
        delegate, context(*around, agent("a", "asker", f"m{MAX_DEPTH - 1}"), own="a"), to="helper", instruction="x"
    )
    assert isinstance(asked, Suspended)


def test_nobody_asks_for_ever() -> None:
    asked = [agent(f"a/helper-{number}", "helper", "a") for number in range(MAX_BREADTH)]
    answer = ask(delegate, context(agent("a", "asker"), *asked, own="a"), to="expert", instruction="x")
    assert isinstance(answer, str)
    assert "go on with what they gave" in answer


def test_a_task_is_handed_only_to_who_hands_in_the_same() -> None:
    seen = context(agent("a", "asker"), own="a")
    handed = ask(hand_off, seen, to="helper", instruction="x")
    assert isinstance(handed, Suspended)
    assert handed.choice == "override"
    refused = ask(hand_off, seen, to="oracle", instruction="x")
    assert isinstance(refused, str)
    assert "use delegate instead" in refused


# --- in the loop ------------------------------------------------------------------------------------------------------


def suspended_step(tool: Tool) -> tuple[Journal, Script, AgentTask, Wait]:
    """An agent that looked at something and then asked a colleague, up to the wait."""
    calls: list[Any] = [use("look", "t1", path="a"), use(tool.name, "t2", to="helper", instruction="Count.")]
    journal, model = Journal().claim(), Script([calls, [done()]])
    seen = context(agent("research-1", "asker"), own="research-1")
    task = task_of(context=seen, role=FakeRole(tools=("look", tool.name)))
    outcome = run_agent(task, recorder=journal, models=model, tools={**World().tools(), tool.name: tool})
    assert isinstance(outcome, Wait)
    return journal, model, task, outcome


def resumed(
    journal: Journal, model: Script, task: AgentTask, wait: Wait, tool: Tool, choice: str, body: Any
) -> Outcome:
    wait_id = uuid4()
    journal.facts += [
        StepWaiting(
            wait_id=wait_id, reason=wait.reason, question="", options=wait.options, tool_use_id=wait.tool_use_id
        ),
        SignalReceived(wait_id=wait_id, choice=choice, body=body),
    ]
    return run_agent(task, recorder=journal.claim(), models=model, tools={**World().tools(), tool.name: tool})


def test_an_agent_that_asks_waits_with_everything_recorded_and_goes_on_with_the_answer() -> None:
    journal, model, task, wait = suspended_step(delegate)
    assert (wait.reason, wait.child and wait.child.key, wait.tool_use_id) == ("children", "research-1/helper-1", "t2")
    # What it had looked at before is not looked at again.
    assert [fact.tool_use_id for fact in journal.of(ToolFinished)] == ["t1"]

    outcome = resumed(journal, model, task, wait, delegate, "answer", {"count": 3})

    assert isinstance(outcome, Finished)
    assert [(fact.tool_use_id, fact.content) for fact in journal.of(ToolFinished)][1:] == [("t2", '{"count":3}')]
    assert len(model.calls) == 2


def test_what_a_colleague_made_of_a_task_that_was_handed_off_is_the_steps_result() -> None:
    journal, model, task, wait = suspended_step(hand_off)
    outcome = resumed(journal, model, task, wait, hand_off, "override", ANSWER)
    assert isinstance(outcome, Finished)
    assert outcome.result == ANSWER
    # Nobody is asked once more.
    assert len(model.calls) == 1


# --- a person in the loop ---------------------------------------------------------------------------------------------


def asked_a_person() -> tuple[Journal, Script, AgentTask, Wait]:
    calls: list[Any] = [use("look", "t1", path="a"), use("ask_person", "t2", question="Which?", files=["a.py"])]
    journal, model = Journal().claim(), Script([calls, [done()]])
    seen = replace(context(agent("research-1", "asker"), own="research-1"), ask_seconds=9.0)
    task = task_of(context=seen, role=FakeRole(tools=("look", "ask_person")))
    outcome = run_agent(task, recorder=journal, models=model, tools={**World().tools(), "ask_person": ask_person})
    assert isinstance(outcome, Wait)
    return journal, model, task, outcome


def test_an_agent_that_asks_a_person_holds_no_worker_and_goes_on_with_what_was_answered() -> None:
    journal, model, task, wait = asked_a_person()
    assert (wait.reason, wait.tool_use_id) == ("human", "t2")
    # When nobody answers, the question expires, and the agent is told to go on without.
    assert wait.expires == Expiry(after_seconds=9.0, then="skip")
    assert wait.expires.then in wait.options
    assert wait.question.startswith("Which?")
    outcome = resumed(journal, model, task, wait, ask_person, "answer", "the second")
    assert isinstance(outcome, Finished)
    assert [(fact.outcome, fact.content) for fact in journal.of(ToolFinished)][1:] == [("ok", "the second")]


def test_an_agent_that_is_not_answered_is_told_so_and_goes_on() -> None:
    journal, model, task, wait = asked_a_person()
    outcome = resumed(journal, model, task, wait, ask_person, "skip", None)
    assert isinstance(outcome, Finished)
    told = journal.of(ToolFinished)[-1]
    assert (told.tool, told.outcome, told.error_type) == ("ask_person", "error", "Skipped")
    assert len(model.calls) == 2


def handed(step: str, giver: str, taker: str) -> Observed:
    child = Step(key=f"{step}/{taker}-1", kind="agent", role=taker, instruction="Count.", parent=step)
    return Observed(step=step, seq=5, fact=handed_over(child, tool_use_id="t", for_good=True), role=giver)


def test_a_hand_off_that_would_go_round_once_more_is_held_back_and_a_person_is_asked() -> None:
    """The three before were made by other steps: what one agent sees of itself shows no loop."""
    calls: list[Any] = [use("hand_off", "t2", to="helper", instruction="Count.")]
    before = [handed("s2", "helper", "researcher"), handed("s3", "researcher", "helper")]
    before += [handed("s4", "helper", "researcher")]
    own = context(agent("research-1", "researcher"), own="research-1")
    task = task_of(context=own, role=FakeRole(tools=("hand_off",)))
    tools = {**World().tools(), "hand_off": hand_off}

    def run(count: int) -> tuple[Journal, Outcome]:
        journal = Journal(handed=before[3 - count :]).claim()
        return journal, run_agent(task, recorder=journal, models=Script([calls, calls, [done()]]), tools=tools)

    _, twice = run(2)
    assert isinstance(twice, Wait)
    assert twice.reason == "children"
    journal, wait = run(3)
    assert isinstance(wait, Wait)
    assert wait.reason == "human"
    (trip,) = journal.of(BreakerTripped)
    assert trip.rule == "ping_pong"
    assert trip.evidence == ("s2:5", "s3:5", "s4:5")
    # The colleague was not asked, and the call has an answer that says why.
    (refused,) = journal.of(ToolFinished)
    assert refused.error_type == "GoesRound"

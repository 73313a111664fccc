"""A killed step goes on at its turn: what was answered is not paid for again, what was done is not done again."""

import time
from collections import Counter as Tally

import pytest
from chaos.errands import RUNNER, TIMEOUT_SECONDS
from chaos.machine import Fleet, until
from system.streams import errands, events_of, facts_of, holders_of, turns_of

from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelRequested,
    ModelResponded,
    StepWaiting,
    ToolFinished,
    ToolStarted,
)
from chargehand.orchestrator.plan import Plan, Step

pytestmark = pytest.mark.system

WAIT_SECONDS = 90.0
CALL_SECONDS = 0.3


@pytest.fixture(scope="module")
def fleet():
    return Fleet(pools=("audit",), twins=("audit",), call_seconds=CALL_SECONDS, forged=True)


@pytest.fixture(autouse=True)
def _two_processes(laptop):
    """What the test before has killed is up again."""
    until(laptop.is_whole, WAIT_SECONDS, "both processes are up")


def submit(laptop, *steps):
    plan = Plan.of(steps)
    return laptop.client.submit("Run errands", plan=plan, roles=[RUNNER]), plan


def wait_for_a_call_in_flight(laptop, run, turn):
    """Wait until the model's server has the call of this turn and has not answered it."""

    def in_flight():
        calls = laptop.ledger.calls(run.run_id)
        return len(calls) == turn and not calls[-1].outcome

    until(in_flight, WAIT_SECONDS, f"the call of turn {turn} is in flight")


def test_langgraph_7213_a_step_of_ten_minutes_is_neither_run_nor_paid_for_twice(laptop):
    """There a background run that took longer than a time-out of the queue's was executed again beside the first one.

    Ten minutes are forty leases; here a lease is 3 s, and so is the time after which the broker delivers again.
    """
    letters = 14
    run, plan = submit(laptop, errands("long", errands=["post"] * letters, seconds=0.4, max_turns=letters + 1))
    began = time.monotonic()
    half = letters // 2
    until(lambda: turns_of(run, "long")[-1:] == [half], WAIT_SECONDS, "half of the step is done")
    alive_seconds = time.monotonic() - began
    assert laptop.epochs(run) == {"long": 1}

    wait_for_a_call_in_flight(laptop, run, half)
    laptop.signal(laptop.holder(run, "long"))
    laptop.wait(run, WAIT_SECONDS)

    assert run.result() == {"done": letters}
    assert laptop.objections(run, plan) == []
    # It lived longer than a lease and the time of redelivery before it was killed, and again after it.
    assert alive_seconds > max(laptop.settings.lease_seconds, laptop.settings.visibility_timeout_seconds)
    assert laptop.epochs(run) == {"long": 2}
    # The exact turn: the call in flight is the one that is asked again, word for word, and nothing else is.
    assert turns_of(run, "long") == [*range(1, half + 1), *range(half, letters + 2)]
    calls = laptop.ledger.calls(run.run_id)
    assert len(calls) == letters + 2
    assert calls[half - 1].prompt_hash == calls[half].prompt_hash
    assert len({call.prompt_hash for call in calls}) == letters + 1
    [abandoned] = facts_of(run, "long", CallAbandoned)
    assert abandoned.call_id == facts_of(run, "long", ModelRequested)[half - 1].call_id
    assert len(facts_of(run, "long", ModelResponded)) == letters + 1
    # Every letter was carried once, by one try.
    assert len(laptop.ledger.effects(run.run_id)) == letters
    assert max(Tally(knock.key for knock in laptop.ledger.knocks(run.run_id)).values()) == 1


def test_a_tool_of_unknown_outcome_runs_again_under_its_key_and_a_finished_one_does_not(laptop):
    run, plan = submit(laptop, errands("work", errands=["post"] * 4, seconds=1.0))

    def is_at(knocks, effects):
        return (len(laptop.ledger.knocks(run.run_id)), len(laptop.ledger.effects(run.run_id))) == (knocks, effects)

    until(lambda: is_at(2, 1), WAIT_SECONDS, "the second letter is on its way")
    laptop.signal(laptop.holder(run, "work"))
    until(lambda: is_at(4, 3), WAIT_SECONDS, "the third letter is there, and nobody knows it")
    laptop.signal(laptop.holder(run, "work"))
    laptop.wait(run, WAIT_SECONDS)

    assert laptop.objections(run, plan) == []
    keys = [fact.key for fact in facts_of(run, "work", ToolStarted)]
    assert len(keys) == len(set(keys)) == len(facts_of(run, "work", ToolFinished)) == 4
    one, two, three, four = keys
    assert [knock.key for knock in laptop.ledger.knocks(run.run_id)] == [one, two, two, three, three, four]
    # The post office knows the key of the third letter.
    effects = [(effect.key, effect.repeated) for effect in laptop.ledger.effects(run.run_id)]
    assert effects == [(one, False), (two, False), (three, False), (three, True), (four, False)]
    # The answers that asked for the letters were paid for once.
    assert turns_of(run, "work") == [1, 2, 3, 4, 5]
    assert len(laptop.ledger.calls(run.run_id)) == 5


def test_effects_of_unknown_outcome_go_to_a_person_and_may_be_repeated_only_when_their_time_is_over(laptop):
    """Payments that are cut off before their effect and behind it look the same to us; so does a script's."""
    deliver = Step(key="work", kind="script", script="deliver", pool="audit", arguments={"seconds": 4.0})
    delivered, delivered_plan = submit(laptop, deliver)
    paid, paid_plan = submit(laptop, errands("work", errands=["pay"], seconds=4.0))
    for run in (delivered, paid):
        until(lambda run=run: laptop.ledger.effects(run.run_id), WAIT_SECONDS, "it has happened")
    for name in {laptop.holder(run, "work") for run in (delivered, paid)}:
        laptop.signal(name)
    unpaid, unpaid_plan = submit(laptop, errands("work", errands=["pay"], seconds=2.0))
    until(lambda: laptop.ledger.knocks(unpaid.run_id), WAIT_SECONDS, "it is about to pay")
    laptop.signal(laptop.holder(unpaid, "work"))
    asked = {}
    for run in (delivered, paid, unpaid):
        until(lambda run=run: laptop.client.escalations(run.run_id), WAIT_SECONDS, "a person is asked")
        [asked[run]] = laptop.client.escalations(run.run_id)

    for run in (paid, unpaid):
        [started] = events_of(run, "work", ToolStarted)
        waits = events_of(run, "work", StepWaiting)
        # The tool may still be at work somewhere: nobody is asked to repeat it before its time is over.
        assert [(wait.fact.reason, bool(wait.fact.options)) for wait in waits] == [("retry", False), ("human", True)]
        assert (waits[1].at - started.at).total_seconds() > TIMEOUT_SECONDS
        assert asked[run].evidence == (f"{started.step_id}:{started.seq}",)
        assert started.fact.key in asked[run].question
        # The answer that asked for the payment is not paid for again to find that out.
        assert len(laptop.ledger.calls(run.run_id)) == 1
    assert all("retry" in escalation.options for escalation in asked.values())
    assert laptop.client.answer(asked[delivered], "override", {"delivered": True})
    assert laptop.client.answer(asked[paid], "answer", "Receipt 1")
    assert laptop.client.answer(asked[unpaid], "retry")
    for run, plan in ((delivered, delivered_plan), (paid, paid_plan), (unpaid, unpaid_plan)):
        laptop.wait(run, WAIT_SECONDS)
        assert laptop.objections(run, plan) == []
        assert len(laptop.ledger.effects(run.run_id)) == 1
        assert len(set(holders_of(run, "work"))) > 1
    assert delivered.result() == {"delivered": True}
    assert facts_of(paid, "work", ToolFinished)[-1].content == "Receipt 1"
    assert len(laptop.ledger.knocks(unpaid.run_id)) == 2

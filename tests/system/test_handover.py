"""A pool of two processes: what one of them lets go of, wilfully or not, the other one takes up."""

import signal
from collections import Counter as Tally

import pytest
from chaos.machine import Fleet, until
from chaos.plans import READER, counted, held, reader

from chargehand.orchestrator.facts import ModelResponded, StepClaimed, StepReleased
from chargehand.orchestrator.plan import Plan

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet():
    return Fleet(pools=("audit",), twins=("audit",), call_seconds=0.4, forged=True)


def facts_of(run, key, kind):
    """(time, fact) of one kind in a step's stream."""
    step = next(step.step_id for step in run.steps() if step.key == key)
    return [
        (event.at, event.fact)
        for event in run.events(follow=False)
        if event.step_id == step and isinstance(event.fact, kind)
    ]


@pytest.fixture(autouse=True)
def _two_processes(laptop):
    """What the test before has killed is up again."""
    until(laptop.is_whole, 60, "both processes are up")


def other(name):
    return {"audit": "audit-2", "audit-2": "audit"}[name]


def test_a_recorded_answer_is_not_asked_for_again_after_a_kill(laptop, workspace):
    before = len(laptop.calls())
    plan = Plan.of([reader("read"), counted("end", "read")])
    run = laptop.client.submit("kill", plan=plan, workspace=workspace, roles=[READER])
    until(lambda: facts_of(run, "read", ModelResponded), 60, "the first answer is recorded")

    # The second call is in flight or about to be.
    laptop.signal(laptop.holder(run, "read"))
    laptop.wait(run)

    assert laptop.objections(run, plan) == []
    assert laptop.epochs(run)["read"] == 2
    asked = Tally(call.prompt_hash for call in laptop.calls()[before:])
    assert len(facts_of(run, "read", ModelResponded)) == len(asked) >= 2
    # What was in flight may be asked twice; what had answered may not.
    assert asked.total() - len(asked) <= 1


def test_a_process_that_is_told_to_stop_hands_its_agents_over_at_once(laptop, workspace):
    before = len(laptop.calls())
    agents = [f"read{i}" for i in range(6)]
    plan = Plan.of([*(reader(key) for key in agents), *(counted(f"count{i}", seconds=0.5) for i in range(12))])
    run = laptop.client.submit("drain", plan=plan, workspace=workspace, roles=[READER])
    until(lambda: all(status == "running" for key, status in laptop.statuses(run).items() if key in agents))
    leaving = laptop.holder(run, "read0")

    pid = laptop.signal(leaving, signal.SIGTERM)
    exit_seconds = until(lambda: laptop.laptop.processes.pids().get(leaving) != pid, message="the process exits")
    laptop.wait(run)

    # Idle it is one second; a busy machine tears an interpreter down slowly.
    assert exit_seconds < 30
    assert laptop.objections(run, plan) == []
    handed_over = [key for key in agents if laptop.epochs(run)[key] == 2]
    assert handed_over
    gaps = []
    for key in handed_over:
        (released_at, released), *_ = facts_of(run, key, StepReleased)
        (_, first), (claimed_at, second) = facts_of(run, key, StepClaimed)
        assert released.reason == "drain"
        assert first.holder != second.holder
        gaps.append((claimed_at - released_at).total_seconds())
    # A message may be stuck for a moment in the process that leaves, and is sent again; how quick it is otherwise is
    # measured in `test_sigterm_under_load.py`, against what the machine gives.
    assert max(gaps) < laptop.settings.lease_seconds + 4 * laptop.settings.unclaimed_seconds
    # Nobody waited for a lease, and nothing was asked twice.
    assert [step.crashes for step in run.steps()] == [0] * len(plan.steps)
    asked = Tally(call.prompt_hash for call in laptop.calls()[before:])
    answered = sum(len(facts_of(run, key, ModelResponded)) for key in agents)
    assert asked.total() == answered


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_when_it_wakes(laptop):
    plan = Plan.of([held("work", door="frozen"), counted("end", "work")])
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.ledger.knocks(run.run_id, "work"))
    frozen = laptop.holder(run, "work")
    offset = len(laptop.log(frozen))

    laptop.signal(frozen, signal.SIGSTOP)
    try:
        until(lambda: len(laptop.ledger.knocks(run.run_id, "work")) == 2, 60, "the other process has taken it up")
        assert laptop.holder(run, "work") == other(frozen)
        laptop.ledger.open("frozen")
        laptop.wait(run)
    finally:
        laptop.signal(frozen, signal.SIGCONT)

    # The zombie goes through the same open door, and its end is refused.
    until(lambda: "fenced" in laptop.log(frozen)[offset:], 60, "the zombie is told")
    refusal = next(line for line in laptop.log(frozen)[offset:].splitlines() if "fenced" in line)
    assert "was claimed again; this worker's epoch 1 is over" in refusal
    assert laptop.epochs(run) == {"work": 2, "end": 1}
    assert laptop.objections(run, plan) == []

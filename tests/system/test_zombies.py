"""A worker that was frozen past its lease and wakes: what it still does counts for nothing, and it is told so."""

import signal
from contextlib import contextmanager

import pytest
from chaos.errands import RUNNER
from chaos.machine import until
from system.hazards import HazardousFleet
from system.streams import errands, events_of, facts_of, holders_of, turns_of

from chargehand.orchestrator.facts import CallAbandoned, ModelResponded, StepFinished, ToolFinished, ToolStarted
from chargehand.orchestrator.plan import Plan, Step

pytestmark = pytest.mark.system

WAIT_SECONDS = 90.0


@pytest.fixture(scope="module")
def fleet():
    return HazardousFleet(pools=("audit",), twins=("audit",), call_seconds=0.5, forged=True)


@pytest.fixture(autouse=True)
def _two_processes(laptop):
    until(laptop.is_whole, WAIT_SECONDS, "both processes are up")


class Frozen:
    """A process that stands still, and what it says once it is awake."""

    def __init__(self, laptop, run, key):
        self.name = laptop.holder(run, key)
        self.pid = laptop.pid(self.name)
        self._laptop = laptop
        self._run = run
        self._offset = len(laptop.log(self.name))

    def is_told(self, key, epoch=1):
        """Whether a write of it was refused because the step was claimed again."""
        step = f"Step {key!r} of run {self._run.run_id} was claimed again; this worker's epoch {epoch} is over."
        return any("fenced" in line and step in line for line in self.said().splitlines())

    def said(self):
        return self._laptop.log(self.name)[self._offset :]


@contextmanager
def frozen(laptop, run, key):
    """The holder of the step stands still while the block runs; another one has claimed the step when it begins."""
    victim = Frozen(laptop, run, key)
    laptop.signal(victim.name, signal.SIGSTOP)
    try:
        until(lambda: laptop.epochs(run)[key] == 2, WAIT_SECONDS, "the other process has taken it up")
        assert laptop.holder(run, key) != victim.name
        yield victim
    finally:
        laptop.signal(victim.name, signal.SIGCONT)


def test_the_answer_that_a_zombie_was_waiting_for_is_refused_and_settled_once(laptop):
    plan = Plan.of([errands("work", errands=["post"] * 3, seconds=0.4)])
    run = laptop.client.submit("Run errands", plan=plan, roles=[RUNNER])

    def second_call_is_in_flight():
        calls = laptop.ledger.calls(run.run_id)
        return len(calls) == 2 and not calls[-1].outcome

    until(second_call_is_in_flight, WAIT_SECONDS, "the second call is in flight")
    # It wakes while its successor is at work, and finds its answer in the socket.
    with frozen(laptop, run, "work") as zombie:
        until(lambda: laptop.ledger.calls(run.run_id)[1].outcome == "ok", WAIT_SECONDS, "the server has answered")
    laptop.wait(run, WAIT_SECONDS)
    until(lambda: zombie.is_told("work"), WAIT_SECONDS, "the zombie is told")

    assert laptop.objections(run, plan) == []
    # Its call is given up and charged as reserved, by the successor, once; its answer is nowhere.
    [abandoned] = events_of(run, "work", CallAbandoned)
    assert turns_of(run, "work") == [1, 2, 2, 3, 4]
    assert abandoned.fact.call_id not in {fact.call_id for fact in facts_of(run, "work", ModelResponded)}
    assert len(facts_of(run, "work", ModelResponded)) == 4
    # It lives and is a worker like any other.
    assert laptop.pid(zombie.name) == zombie.pid
    assert "Traceback" not in zombie.said()


def test_what_a_zombie_does_between_the_announcement_and_the_effect_has_the_same_key(laptop):
    plan = Plan.of([errands("work", errands=["post"], seconds=2.0)])
    run = laptop.client.submit("Post a letter", plan=plan, roles=[RUNNER])
    until(lambda: laptop.ledger.knocks(run.run_id), WAIT_SECONDS, "the letter is announced, and not posted yet")

    with frozen(laptop, run, "work") as zombie:
        laptop.wait(run, WAIT_SECONDS)
    until(lambda: zombie.is_told("work"), WAIT_SECONDS, "the zombie is told")

    [started] = facts_of(run, "work", ToolStarted)
    effects = [(effect.key, effect.repeated, effect.pid) for effect in laptop.ledger.effects(run.run_id)]
    # The post office carries it once: it has seen the key.
    assert effects == [
        (started.key, False, effects[0][2]),
        (started.key, True, zombie.pid),
    ]
    assert effects[0][2] != zombie.pid
    assert len(facts_of(run, "work", ToolFinished)) == 1
    assert len(laptop.ledger.calls(run.run_id)) == 2
    assert laptop.objections(run, plan) == []


def test_a_payment_that_a_zombie_makes_after_all_is_not_made_by_anybody_else(laptop):
    plan = Plan.of([errands("work", errands=["pay"], seconds=2.0)])
    run = laptop.client.submit("Pay", plan=plan, roles=[RUNNER])
    until(lambda: laptop.ledger.knocks(run.run_id), WAIT_SECONDS, "the payment is announced, and not made yet")

    with frozen(laptop, run, "work") as zombie:
        until(lambda: laptop.client.escalations(run.run_id), WAIT_SECONDS, "a person is asked")
        assert laptop.ledger.effects(run.run_id) == []
    until(lambda: laptop.ledger.effects(run.run_id), WAIT_SECONDS, "the zombie pays")
    until(lambda: "fenced" in zombie.said(), WAIT_SECONDS, "the zombie is told")
    [asked] = laptop.client.escalations(run.run_id)
    assert laptop.client.answer(asked, "answer", "It was paid, says the bank.")
    laptop.wait(run, WAIT_SECONDS)

    assert [effect.pid for effect in laptop.ledger.effects(run.run_id)] == [zombie.pid]
    [finished] = facts_of(run, "work", ToolFinished)
    assert finished.content == "It was paid, says the bank."
    assert laptop.objections(run, plan) == []


def test_a_zombie_edits_a_folder_that_nobody_reads_and_that_goes_with_it(laptop, workspace):
    plan = Plan.of(
        [
            Step(key="draft", kind="script", script="draft", pool="audit", arguments={"door": "draft"}),
            Step(key="read", kind="script", script="proofread", pool="audit", after=("draft",)),
        ]
    )
    run = laptop.client.submit("Write", plan=plan, workspace=workspace)
    until(lambda: laptop.ledger.knocks(run.run_id), WAIT_SECONDS, "the draft is written")
    step = next(step.step_id for step in run.steps() if step.key == "draft")
    folders = laptop.settings.home / "workspaces" / str(run.run_id) / str(step)

    with frozen(laptop, run, "draft") as zombie:
        until(lambda: len(laptop.ledger.knocks(run.run_id)) == 2, WAIT_SECONDS, "another draft is written")
        drafts = {path.parent.name: path.read_text() for path in folders.glob("*/draft.txt")}
        laptop.ledger.open("draft")
        laptop.wait(run, WAIT_SECONDS)
        left = sorted(path.name for path in folders.iterdir())
    until(lambda: zombie.is_told("draft"), WAIT_SECONDS, "the zombie is told")

    successor = int(holders_of(run, "draft")[1].rpartition(":")[2])
    assert drafts == {"1": str(zombie.pid), "2": str(successor)}
    # The successor cleans up behind itself; what the zombie has is its own until it wakes.
    assert left == ["1"]
    [ended] = events_of(run, "draft", StepFinished)
    assert ended.fact.result["written_by"] == successor
    # The zombie has committed its draft as well; what follows starts from the one that counts.
    assert run.result() == str(successor)
    until(lambda: not list(folders.glob("*")), WAIT_SECONDS, "its folder is removed")
    assert laptop.objections(run, plan) == []

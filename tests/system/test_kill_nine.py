"""SIGKILL of workers, supervisors and Valkey in the middle of a plan: it costs time, never work."""

import signal
import time

import pytest
from chaos.machine import Fleet, Machine, until
from chaos.plans import counted, held

from chargehand.orchestrator.plan import Plan, Step

pytestmark = pytest.mark.system

LINES = range(6)
HEADS = {f"a{i}" for i in LINES}


@pytest.fixture(scope="module")
def fleet():
    return Fleet(twins=("supervisor",), forged=True)


@pytest.fixture(autouse=True)
def _everything_is_up(laptop):
    """What the test before has killed is back."""
    until(laptop.is_whole, 60, "everything is up")


def plan_with_a_pause(door):
    """Six lines that are held in their first step, a join, and a little work behind it."""
    return Plan.of(
        [
            counted("start", pool="research"),
            *(held(f"a{i}", "start", door=door) for i in LINES),
            *(counted(f"b{i}", f"a{i}", pool="coding") for i in LINES),
            counted("join", *(f"b{i}" for i in LINES), pool="research"),
            *(counted(f"c{i}", "join", seconds=0.1) for i in LINES),
            counted("end", *(f"c{i}" for i in LINES), pool="coding"),
        ]
    )


def submit_and_wait_for_the_pause(laptop: Machine, plan):
    run = laptop.client.submit(plan=plan)
    until(lambda: len(laptop.ledger.knocks(run.run_id)) == 1 + len(LINES), message="all lines are held")
    return run


def claimed_twice(laptop, run):
    return {key for key, epoch in laptop.epochs(run).items() if epoch > 1}


def test_a_supervisor_that_hangs_is_replaced_by_the_other_one(laptop):
    plan = plan_with_a_pause("hang")
    run = submit_and_wait_for_the_pause(laptop, plan)
    laptop.signal("supervisor", signal.SIGSTOP)
    try:
        laptop.ledger.open("hang")
        laptop.wait(run)
    finally:
        laptop.signal("supervisor", signal.SIGCONT)
    assert laptop.objections(run, plan) == []
    assert claimed_twice(laptop, run) == set()


def test_a_plan_goes_on_after_all_supervisors_were_killed(laptop):
    plan = plan_with_a_pause("headless")
    run = submit_and_wait_for_the_pause(laptop, plan)
    laptop.signal("supervisor")
    laptop.signal("supervisor-2")
    laptop.ledger.open("headless")
    # The chains that are on their way need no supervisor.
    until(lambda: all(laptop.statuses(run)[f"b{i}"] == "succeeded" for i in LINES), 60)
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert claimed_twice(laptop, run) == set()


def test_steps_of_a_killed_worker_are_taken_up_by_its_successor(laptop):
    plan = plan_with_a_pause("kill")
    run = submit_and_wait_for_the_pause(laptop, plan)
    killed = laptop.signal("audit")
    # By the wall, as the ledger dates what it is told.
    began = time.time()
    until(lambda: len(laptop.ledger.knocks(run.run_id)) == 1 + 2 * len(LINES), message="all heads run again")
    gaps = [knock.at - began for knock in laptop.ledger.knocks(run.run_id)[-len(LINES) :]]
    laptop.ledger.open("kill")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert claimed_twice(laptop, run) == HEADS
    assert laptop.pid("audit") != killed
    # A lease, a new process, and a message.
    assert max(gaps) < laptop.settings.lease_seconds + 10


def test_valkey_may_lose_everything_with_a_chord_in_flight(laptop):
    plan = plan_with_a_pause("empty")
    run = submit_and_wait_for_the_pause(laptop, plan)
    laptop.empty_valkey()
    laptop.ledger.open("empty")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    # Who held a step in Postgres held it all the time.
    assert claimed_twice(laptop, run) == set()


def test_a_worker_outlives_a_broker_that_goes_away_under_its_task(laptop):
    """Celery 5.7 had ended the process here: see `orchestrator/transport.py`."""
    plan = plan_with_a_pause("away")
    run = submit_and_wait_for_the_pause(laptop, plan)
    before = laptop.laptop.processes.pids()
    offset = len(laptop.log("audit"))
    laptop.laptop.services.valkey.kill()
    until(lambda: "consumer: Cannot connect" in laptop.log("audit")[offset:], message="the worker sees it")
    laptop.ledger.open("away")
    until(lambda: all(laptop.statuses(run)[head] == "succeeded" for head in HEADS), 60)
    laptop.laptop.services.valkey.restart()
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert laptop.laptop.processes.pids() == before
    assert claimed_twice(laptop, run) == set()


def test_a_run_is_accepted_while_the_broker_is_down_and_starts_when_it_is_back(laptop):
    plan = Plan.of([counted("one"), counted("two", "one", pool="coding")])
    laptop.laptop.services.valkey.kill()
    try:
        began = time.monotonic()
        run = laptop.client.submit(plan=plan)
        # Celery by itself waits nineteen seconds for a Redis that is down.
        assert time.monotonic() - began < 15
        assert run.status().status == "running"
    finally:
        laptop.laptop.services.valkey.restart()
    laptop.wait(run)
    assert laptop.objections(run, plan) == []


def test_everything_killed_at_once_is_up_again_and_ends_the_plan(laptop):
    plan = plan_with_a_pause("all")
    run = submit_and_wait_for_the_pause(laptop, plan)
    for name in ("supervisor", "supervisor-2", "research", "coding", "audit"):
        laptop.signal(name)
    laptop.empty_valkey()
    laptop.ledger.open("all")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []


def test_a_step_that_kills_its_worker_goes_to_a_person_instead_of_doing_it_for_ever(laptop):
    plan = Plan.of(
        [
            Step(key="poison", kind="script", script="poison", pool="coding"),
            counted("neighbour"),
            counted("end", "poison", "neighbour"),
        ]
    )
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.client.escalations(run.run_id), 60, "somebody is asked")
    asked = laptop.client.escalations(run.run_id)[0]
    assert (asked.step_key, asked.reason) == ("poison", "human")
    assert f"took its worker down {laptop.settings.max_crashes + 1} times" in asked.question
    assert laptop.client.answer(asked, "skip")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []

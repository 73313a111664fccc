"""SIGTERM for a process that is full of work: turns end, scripts end, everything else is with others in two seconds.

What one agent's hand-over looks like is in `test_handover.py`; here a process leaves with all that it has.
"""

import signal
import statistics
from collections import Counter as Tally

import pytest
from chaos.errands import RUNNER
from chaos.machine import Fleet, Machine, machine, until
from chaos.plans import counted
from system.streams import errands, events_of, facts_of

from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import ModelResponded, StepClaimed, StepReleased
from chargehand.orchestrator.plan import Plan

pytestmark = pytest.mark.system

WAIT_SECONDS = 90.0
# What is promised, and what a busy machine makes of it for the last one.
TYPICAL_GAP_SECONDS = 2.0
MOST_GAP_SECONDS = 4.0
# A message that is stuck shows: nobody sends it again before that, and the process does not end before its script.
UNCLAIMED_SECONDS = 15.0
LONG_SECONDS = 6.0
# To say goodbye and to tear an interpreter down takes one second on an idle machine.
MOST_EXIT_SECONDS = 10.0
CALL_SECONDS = 0.4
AGENTS = [f"agent{number:02}" for number in range(10)]
SCRIPTS = [f"script{number}" for number in range(6)]
SMALL_SCRIPTS = 100


@pytest.fixture(scope="module")
def laptop(home):
    """Two processes of one pool, each of which has room for everything."""
    fleet = Fleet(pools=("audit",), twins=("audit",), threads={"audit": 32}, call_seconds=CALL_SECONDS)
    with machine(home, fleet, unclaimed_seconds=UNCLAIMED_SECONDS) as running:
        yield running


@pytest.fixture(autouse=True)
def _two_processes(laptop):
    until(laptop.is_whole, WAIT_SECONDS, "both processes are up")


def load(laptop: Machine) -> list[tuple[RunHandle, Plan]]:
    """Agents of many turns, scripts of a second, one of several, and small ones in packs; under way when it returns."""
    large = Plan.of(
        [
            counted("long", seconds=LONG_SECONDS),
            *(errands(key, errands=["post"] * 6, seconds=0.2) for key in AGENTS),
            *(counted(key, seconds=1.0) for key in SCRIPTS),
        ]
    )
    small = Plan.of([counted(f"small{number:03}", seconds=0.05) for number in range(SMALL_SCRIPTS)])
    run = laptop.client.submit("Run errands", plan=large, roles=[RUNNER])
    until(lambda: set(laptop.statuses(run).values()) == {"running"}, WAIT_SECONDS, "all are at work")
    packed = laptop.client.submit(plan=small)
    until(lambda: len(laptop.ledger.effects(packed.run_id)) > 10, WAIT_SECONDS, "packs are under way")
    return [(run, large), (packed, small)]


def gaps_of(run: RunHandle, pid: int) -> dict[str, float]:
    """step → seconds between its release by that process and the next claim, by another one."""
    gaps: dict[str, float] = {}
    for step in run.steps():
        rows = events_of(run, step.key, StepClaimed, StepReleased)
        for claimed, released, again in zip(rows, rows[1:], rows[2:], strict=False):
            if isinstance(released.fact, StepReleased):
                assert released.fact.reason == "drain"
                assert claimed.fact.holder.endswith(f":{pid}")
                assert not again.fact.holder.endswith(f":{pid}")
                gaps[step.key] = (again.at - released.at).total_seconds()
    return gaps


def test_a_process_that_is_told_to_stop_under_load_leaves_in_order(laptop):
    loaded = load(laptop)
    run = loaded[0][0]
    leaving = laptop.holder(run, "long")
    offset = len(laptop.log(leaving))

    pid = laptop.signal(leaving, signal.SIGTERM)
    exit_seconds = until(lambda: laptop.laptop.processes.pids().get(leaving) != pid, WAIT_SECONDS, "the process ends")
    for each, _ in loaded:
        laptop.wait(each, WAIT_SECONDS)

    # Nothing was lost, nothing was done twice, and nobody was taken for dead.
    for each, plan in loaded:
        assert laptop.objections(each, plan) == []
        assert {step.crashes for step in each.steps()} == {0}
    asked = Tally((call.step, call.prompt_hash) for call in laptop.ledger.calls(run.run_id))
    assert set(asked.values()) == {1}
    assert asked.total() == sum(len(facts_of(run, key, ModelResponded)) for key in AGENTS)
    posted = Tally(knock.key for each, _ in loaded for knock in laptop.ledger.knocks(each.run_id))
    assert set(posted.values()) == {1}
    # What it could hand back was with the other one at once; its scripts ran to their end.
    gaps = {key: gap for each, _ in loaded for key, gap in gaps_of(each, pid).items()}
    assert gaps.keys() & {*AGENTS}
    assert not gaps.keys() & {"long", *SCRIPTS}
    assert statistics.median(gaps.values()) < TYPICAL_GAP_SECONDS, gaps
    assert max(gaps.values()) < MOST_GAP_SECONDS, gaps
    assert exit_seconds < LONG_SECONDS + MOST_EXIT_SECONDS
    assert "Traceback" not in laptop.log(leaving)[offset:]

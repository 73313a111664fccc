"""SIGTERM for a process that is full of work: turns end, scripts end, everything else is with others in two seconds.

What one agent's hand-over looks like is in `test_handover.py`; here a process leaves with all that it has.
"""

import signal
import statistics
from collections import Counter as Tally
from collections import defaultdict
from datetime import datetime

import pytest
from chaos.errands import RUNNER
from chaos.machine import Fleet, Machine, machine, until
from chaos.plans import counted
from system.streams import errands

from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import ModelResponded, RunSubmitted, StepClaimed, StepReleased
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.views import Event

pytestmark = [pytest.mark.system, pytest.mark.long]

WAIT_SECONDS = 90.0
# What is promised. A busy machine is given more, by what a new run's step takes from its submission to its claim on the
# same machine at the same time: it goes the same way, behind the same steps that were in line before it.
TYPICAL_GAP_SECONDS = 2.0
MOST_GAPS = 2
NEWCOMERS = 3
# A message that is stuck shows: nobody sends it again before that, and the process does not end before its script.
UNCLAIMED_SECONDS = 15.0
LONG_SECONDS = 6.0
# To say goodbye and to tear an interpreter down takes one second on an idle machine, and six at a load of twenty.
MOST_EXIT_SECONDS = 30.0
CALL_SECONDS = 0.4
AGENTS = [f"agent{number:02}" for number in range(10)]
SCRIPTS = [f"script{number}" for number in range(6)]
SMALL_SCRIPTS = 100
# Of several each process has one.
LONG = [f"long{number}" for number in range(4)]


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
    """Agents of many turns, scripts of a second, some of several, and small ones; under way when it returns."""
    large = Plan.of(
        [
            *(counted(key, seconds=LONG_SECONDS) for key in LONG),
            *(errands(key, errands=["post"] * 10, seconds=0.2) for key in AGENTS),
            *(counted(key, seconds=1.0) for key in SCRIPTS),
        ]
    )
    small = Plan.of([counted(f"small{number:03}", seconds=0.05) for number in range(SMALL_SCRIPTS)])
    run = laptop.client.submit("Run errands", plan=large, roles=[RUNNER])
    until(lambda: set(laptop.statuses(run).values()) == {"running"}, WAIT_SECONDS, "all are at work")
    packed = laptop.client.submit(plan=small)
    until(lambda: len(laptop.ledger.effects(packed.run_id)) > 10, WAIT_SECONDS, "packs are under way")
    return [(run, large), (packed, small)]


def streams_of(run: RunHandle) -> dict[str, list[Event]]:
    """step → its events in order; the run's own are under the empty key."""
    keys = {step.step_id: step.key for step in run.steps()}
    streams: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(run.events(follow=False), key=lambda event: event.seq):
        streams[keys.get(event.step_id, "")].append(event)
    return streams


def gaps_of(streams: dict[str, list[Event]], pid: int) -> dict[str, float]:
    """step → seconds between its release by that process and the next claim, by another one."""
    gaps: dict[str, float] = {}
    for key, events in streams.items():
        rows = [event for event in events if isinstance(event.fact, StepClaimed | StepReleased)]
        for claimed, released, again in zip(rows, rows[1:], rows[2:], strict=False):
            if isinstance(released.fact, StepReleased):
                assert released.fact.reason == "drain"
                assert claimed.fact.holder.endswith(f":{pid}")
                assert not again.fact.holder.endswith(f":{pid}")
                gaps[key] = (again.at - released.at).total_seconds()
    return gaps


def newcomers_gap(run: RunHandle) -> float:
    """Seconds between a run's submission and the first claim of one of its steps."""
    streams = streams_of(run)

    def first(key: str, kind: type) -> datetime:
        return next(event.at for event in streams[key] if isinstance(event.fact, kind))

    return (first("new", StepClaimed) - first("", RunSubmitted)).total_seconds()


def busiest(laptop: Machine, run: RunHandle) -> str:
    """The process that holds the most agents now."""
    holders = Tally((step.holder or "").rpartition(":")[2] for step in run.steps() if step.key in AGENTS)
    return max(laptop.laptop.processes.pids().items(), key=lambda item: holders[str(item[1])])[0]


def test_a_process_that_is_told_to_stop_under_load_leaves_in_order(laptop):
    loaded = load(laptop)
    run = loaded[0][0]
    leaving = busiest(laptop, run)
    offset = len(laptop.log(leaving))

    pid = laptop.signal(leaving, signal.SIGTERM)
    newcomers = [laptop.client.submit(plan=Plan.of([counted("new")])) for _ in range(NEWCOMERS)]
    exit_seconds = until(lambda: laptop.laptop.processes.pids().get(leaving) != pid, WAIT_SECONDS, "the process ends")
    for each in (*(each for each, _ in loaded), *newcomers):
        laptop.wait(each, WAIT_SECONDS)

    # Nothing was lost, nothing was done twice, and nobody was taken for dead.
    for each, plan in loaded:
        assert laptop.objections(each, plan) == []
        assert {step.crashes for step in each.steps()} == {0}
    streams = [streams_of(each) for each, _ in loaded]
    asked = Tally((call.step, call.prompt_hash) for call in laptop.ledger.calls(run.run_id))
    assert set(asked.values()) == {1}
    answers = [event for key in AGENTS for event in streams[0][key] if isinstance(event.fact, ModelResponded)]
    assert asked.total() == len(answers)
    posted = Tally(knock.key for each, _ in loaded for knock in laptop.ledger.knocks(each.run_id))
    assert set(posted.values()) == {1}
    # What it could hand back was with the other one at once; its scripts ran to their end.
    gaps = {key: gap for each in streams for key, gap in gaps_of(each, pid).items()}
    assert gaps.keys() & {*AGENTS}
    assert not gaps.keys() & {*LONG, *SCRIPTS}
    new = [newcomers_gap(each) for each in newcomers]
    typical = max(TYPICAL_GAP_SECONDS, MOST_GAPS * statistics.median(new))
    assert statistics.median(gaps.values()) < typical, (gaps, new)
    assert max(gaps.values()) < MOST_GAPS * typical, (gaps, new)
    assert exit_seconds < LONG_SECONDS + MOST_EXIT_SECONDS
    assert "Traceback" not in laptop.log(leaving)[offset:]

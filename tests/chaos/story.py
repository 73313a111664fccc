"""One story from its first submission to the checker's verdict: work, strikes, healing, draining, judging."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from chaos.case import Case
from chaos.checker import judge
from chaos.clock import DAY_SECONDS
from chaos.diary import Diary
from chaos.evidence import Evidence, gather, leftovers
from chaos.machine import OFFLINE_MODEL, TWIN, Fleet, Machine, machine, until
from chaos.model import HEALED
from chaos.nemesis import Nemesis
from chaos.people import People
from chaos.recovery import Gap, gaps
from chaos.submitter import Submitter, make_workspace, plans_of
from chargehand.orchestrator.auditkey import audit_key
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import SOLO

OPEN_RUNS = 8
CUSTOMER = "customer"
# Fewer threads than a laptop has, so that messages wait in their queues and can be lost there.
THREADS = 6
CALL_SECONDS = 0.15
# Endless pings and servers that never answer are given up after this.
MODEL_TIMEOUT_SECONDS = 8.0
# Dollars for a million tokens: money has to be counted to be lost.
PRICES = json.dumps({OFFLINE_MODEL: [0.1, 0.5]})
LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much happens."""

    steps: int
    faults: int
    pause_seconds: float = 2.0
    """About how long one of the nemesis's hands rests at least."""
    seconds_a_step: float = 1.0
    """Most seconds of a script or of one errand."""
    drain_seconds: float = 300.0
    """After healing, everything has ended within this; under faults, something goes on within this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a story ended."""

    seed: int
    scale: Scale
    seconds: float
    drained_seconds: float
    """From the healing to the end of the last run."""
    outcomes: dict[str, int]
    strikes: dict[str, int]
    deeds: dict[str, int]
    """What people did."""
    steps: int
    claims: int
    """More than steps: the difference was taken over or handed back."""
    knocks: int
    effects: int
    outcomes_of_calls: dict[str, int]
    gaps: Sequence[Gap]
    objections: tuple[str, ...]


def play(
    home: Path, *, seed: int, scale: Scale, fleet: Fleet | None = None, say: Callable[[str], None] = lambda line: None
) -> Verdict:
    """Run the story of this seed in `home`."""
    chance = random.Random(seed)
    plans = plans_of(chance, scale.steps, seconds=scale.seconds_a_step)
    with ExitStack() as stack:
        running = stack.enter_context(
            machine(home, fleet or storm_fleet(seed), model_timeout_seconds=MODEL_TIMEOUT_SECONDS)
        )
        if running.disk is None:
            say("no disk is filled up: only root may mount a small one")
        say(f"up; {scale.steps} steps in {len(plans)} runs, {scale.faults} faults, seed {seed}")
        assert running.wires is not None
        away = running.wires.endpoints(CUSTOMER)
        customer = stack.enter_context(Client(away.database_url, away.redis_url, settings=running.settings))
        submitter = Submitter(
            client=customer,
            wire=running.wires.postgres[CUSTOMER],
            workspace=make_workspace(home),
            plans=plans,
            chance=random.Random(chance.random()),
        )
        stack.enter_context(idle_transaction(running))
        diary = stack.enter_context(Diary(running))
        people = People(
            client=customer,
            ledger=running.ledger,
            open_runs=submitter.open_runs,
            chance=random.Random(chance.random()),
        )
        nemesis = Nemesis(
            machine=running,
            diary=diary,
            open_runs=submitter.open_runs,
            progress=submitter.progress,
            chance=random.Random(chance.random()),
            faults=scale.faults,
            pause_seconds=scale.pause_seconds,
            say=say,
        )
        began = time.time()
        with people:
            with nemesis:
                _work(submitter, nemesis, scale.drain_seconds)
            people.leave()
            running.ledger.open(HEALED)
            healed = time.time()
            say("healed")
            _drain(submitter, scale.drain_seconds)
            drained = time.time()
        say("drained")
        # The zombies of the last strike have their say first.
        until(running.is_whole, 90, "everything is up again")
        evidence = _gathered(running, nemesis)
        case = Case(evidence)
        return Verdict(
            seed=seed,
            scale=scale,
            seconds=drained - began,
            drained_seconds=drained - healed,
            outcomes=_tally(run.status for run in evidence.runs),
            strikes=dict(nemesis.tally),
            deeds={**people.deeds, "submitted again": submitter.tries - len(plans)},
            steps=len(evidence.steps),
            claims=sum(step.epoch for step in evidence.steps),
            knocks=len(evidence.knocks),
            effects=len(evidence.effects),
            outcomes_of_calls=_tally(call.outcome or "undecided" for call in evidence.calls),
            gaps=sorted(gaps(case), key=lambda gap: gap.undisturbed_seconds),
            objections=(*judge(evidence), *_unasked(evidence, submitter)),
        )


def storm_fleet(seed: int) -> Fleet:
    """Everything that can break; the second process of the audit pool lives a day ahead."""
    return Fleet(
        pools=(*POOLS, SOLO),
        twins=("supervisor", "audit"),
        threads=dict.fromkeys(POOLS, THREADS),
        ahead={f"audit{TWIN}": DAY_SECONDS},
        call_seconds=CALL_SECONDS,
        weather=seed,
        prices=PRICES,
        wired=True,
        small_disk=True,
    )


@contextmanager
def idle_transaction(running: Machine) -> Iterator[None]:
    """Somebody sits in a transaction in another database of the cluster while the block runs, and begins it again."""
    server = running.laptop.services.postgres
    assert server is not None
    over = threading.Event()

    def sit() -> None:
        while not over.is_set():
            with suppress(psycopg.OperationalError), psycopg.connect(server.url_of("postgres")) as connection:
                # An id of its own: whoever waits for the oldest transaction of the cluster waits for this one.
                connection.execute("SELECT pg_current_xact_id()")
                while not over.wait(LOOK_SECONDS):
                    connection.execute("SELECT 1")
            over.wait(LOOK_SECONDS)

    thread = threading.Thread(target=sit, name="idle transaction")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _work(submitter: Submitter, nemesis: Nemesis, patience_seconds: float) -> None:
    """Submit everything, and stay until the last strike, or the end of all work.

    Work that does not go on for so long under faults gets its chance without them.
    """
    progress, moved_at = 0.0, time.monotonic()
    while len(submitter.runs) < len(submitter.plans) or (submitter.open_runs() and not nemesis.is_over):
        if submitter.progress() > progress:
            progress, moved_at = submitter.progress(), time.monotonic()
        if time.monotonic() - moved_at > patience_seconds:
            return
        if len(submitter.runs) < len(submitter.plans) and len(submitter.open_runs()) < OPEN_RUNS:
            submitter.submit_next()
        with suppress(Unavailable):
            submitter.look()
        time.sleep(LOOK_SECONDS)


def _drain(submitter: Submitter, timeout_seconds: float) -> None:
    def ended() -> bool:
        with suppress(Unavailable):
            submitter.look()
        return not submitter.open_runs()

    with suppress(AssertionError):
        # Whatever has not ended by then is the checker's to name.
        until(ended, timeout_seconds)


def _gathered(running: Machine, nemesis: Nemesis) -> Evidence:
    processes = running.laptop.processes
    return gather(
        running.laptop.services.endpoints.database_url,
        running.ledger,
        # Also what nobody was told of: a request that became two runs shows as one too many.
        accepted=None,
        audit_key=audit_key(running.settings),
        lease_seconds=running.settings.lease_seconds,
        max_crashes=running.settings.max_crashes,
        strikes=nemesis.strikes(),
        leftovers=leftovers(running.settings.home, expected=processes.pids().values()),
    )


def _unasked(evidence: Evidence, submitter: Submitter) -> Iterator[str]:
    told = {run.run_id for run in submitter.runs}
    for run in evidence.runs:
        if run.id not in told:
            yield f"run {run.id} was made and nobody was told of it"
    if len(told) != len(submitter.runs):
        yield f"{len(submitter.runs)} requests became {len(told)} runs"


def _tally(words: Iterator[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for word in words:
        counted[word] = counted.get(word, 0) + 1
    return counted

"""One story from its first submission to the checker's verdict: work, strikes, healing, draining, judging."""

import json
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path

import psycopg

from chaos.clock import DAY_SECONDS
from chaos.diary import Diary
from chaos.evidence import leftovers
from chaos.machine import OFFLINE_MODEL, TWIN, Fleet, Machine, machine, until
from chaos.model import HEALED
from chaos.nemesis import Nemesis
from chaos.patrol import SETTLED_SECONDS, Patrol
from chaos.people import LOOK_SECONDS as PEOPLE_LOOK_SECONDS
from chaos.people import People
from chaos.recovery import Gap
from chaos.submitter import Submitter, make_workspace, plans_of
from chaos.trial import STEPS_A_PART, Findings, Witness, judge_story
from chargehand.orchestrator.auditkey import audit_key
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.workers import sandbox

CUSTOMER = "customer"
# Fewer threads than a laptop has, so that messages wait in their queues and can be lost there.
THREADS = 6
CALL_SECONDS = 0.15
# Endless pings and servers that never answer are given up after this.
MODEL_TIMEOUT_SECONDS = 8.0
# Dollars for a million tokens: money has to be counted to be lost.
PRICES = json.dumps({OFFLINE_MODEL: [0.1, 0.5]})
LOOK_SECONDS = 0.2
REPORT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much happens."""

    steps: int
    faults: int
    kills: int = 0
    """So many of the strikes that kill come beside the faults, and none of these is one; 0: they are among them."""
    wide_share: float = 0.0
    """Which part of the steps is in runs with a wide fan-out of short scripts."""
    open_runs: int = 8
    """Another run is submitted while fewer are open."""
    submitters: int = 1
    """So many at a time: a submission brings a repository along, and may be asked for again and again."""
    twins: tuple[str, ...] = ("supervisor", "audit")
    threads: int = THREADS
    look_seconds: float = LOOK_SECONDS
    """How often whoever submits, and people, look at every open run; each look is a query of each."""
    forged: bool = False
    """Workers are forked ready-made: a kill then costs no three seconds of a core."""
    pause_seconds: float = 2.0
    """About how long one of the nemesis's hands rests at least."""
    seconds_a_step: float = 1.0
    """Most seconds of a script or of one errand."""
    drain_seconds: float = 300.0
    """After healing, everything has ended within this; under faults, something goes on within this."""
    steps_a_part: int = STEPS_A_PART
    """So many are judged at a time."""
    most_seconds: float = inf
    """Nothing more is submitted after this, and nothing struck: a story that is cut short is judged as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a story ended."""

    seed: int
    scale: Scale
    seconds: float
    drained_seconds: float
    """From the healing to the end of the last run."""
    judged_seconds: float
    most_megabytes: float
    """The most memory that this process, or one that judged, had."""
    outcomes: dict[str, int]
    strikes: dict[str, int]
    made: dict[str, int]
    """Strikes that kill (of several processes at once: one), `others`, and the processes and servers `killed`."""
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
    plans = plans_of(chance, scale.steps, seconds=scale.seconds_a_step, wide_share=scale.wide_share)
    with ExitStack() as stack:
        running = stack.enter_context(
            machine(home, fleet or storm_fleet(seed, scale), model_timeout_seconds=MODEL_TIMEOUT_SECONDS)
        )
        if running.disk is None:
            say("no disk is filled up: only root may mount a small one")
        if not sandbox.available().ok:
            say(f"nothing runs in a sandbox: {sandbox.available().reason}")
        say(f"up; {scale.steps} steps in {len(plans)} runs, {scale.kills} kills, {scale.faults} faults, seed {seed}")
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
            look_seconds=max(PEOPLE_LOOK_SECONDS, scale.look_seconds),
        )
        nemesis = Nemesis(
            machine=running,
            diary=diary,
            open_runs=submitter.open_runs,
            progress=submitter.progress,
            chance=random.Random(chance.random()),
            faults=scale.faults,
            kills=scale.kills,
            pause_seconds=scale.pause_seconds,
            say=say,
        )
        witness = _witness(running, scale)
        patrol = Patrol(witness=witness, ended_runs=partial(submitter.ended_runs, for_seconds=SETTLED_SECONDS), say=say)
        reporter = Reporter(submitter=submitter, nemesis=nemesis, patrol=patrol, scale=scale, say=say)
        began = time.time()
        with people:
            with patrol, nemesis, submitter.submitting(scale.submitters, most_open=scale.open_runs):
                _work(submitter, nemesis, scale, reporter)
            people.leave()
            running.ledger.open(HEALED)
            healed = time.time()
            say("healed")
            _drain(submitter, scale.drain_seconds)
            drained = time.time()
        say("drained")
        # The zombies of the last strike have their say first.
        until(running.is_whole, 90, "everything is up again")
        left = leftovers(running.settings.home, expected=running.expected_pids())
        judging = time.time()
        found = judge_story(
            witness, strikes=nemesis.strikes(), leftovers=left, say=say, steps_a_part=scale.steps_a_part
        )
        return Verdict(
            seed=seed,
            scale=scale,
            seconds=drained - began,
            drained_seconds=drained - healed,
            judged_seconds=time.time() - judging,
            most_megabytes=_most_megabytes(),
            outcomes=dict(found.outcomes),
            strikes=dict(nemesis.tally),
            made=nemesis.made,
            deeds={**people.deeds, "submitted again": submitter.tries - len(submitter.runs)},
            steps=found.steps,
            claims=found.claims,
            knocks=found.knocks,
            effects=found.effects,
            outcomes_of_calls=dict(found.calls),
            gaps=sorted(found.gaps, key=lambda gap: gap.undisturbed_seconds),
            objections=(*found.objections, *_unasked(found, submitter)),
        )


def storm_fleet(seed: int, scale: Scale) -> Fleet:
    """Everything that can break; the second process of the audit pool lives a day ahead."""
    return Fleet(
        pools=(*POOLS, SOLO),
        twins=scale.twins,
        threads=dict.fromkeys(POOLS, scale.threads),
        ahead={f"audit{TWIN}": DAY_SECONDS},
        call_seconds=CALL_SECONDS,
        weather=seed,
        prices=PRICES,
        wired=True,
        small_disk=True,
        forged=scale.forged,
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


def _work(submitter: Submitter, nemesis: Nemesis, scale: Scale, reporter: "Reporter") -> None:
    """Stay until everything is submitted and the last strike was made, or all work has ended.

    Work that does not go on for so long under faults gets its chance without them.
    """
    progress, began = 0.0, time.monotonic()
    moved_at = began
    while len(submitter.runs) < len(submitter.plans) or (submitter.open_runs() and not nemesis.is_over):
        if nemesis.failure is not None:
            # It is raised where the block ends; without strikes the rest of the work shows nothing.
            return
        if submitter.progress() > progress:
            progress, moved_at = submitter.progress(), time.monotonic()
        if time.monotonic() - moved_at > scale.drain_seconds or time.monotonic() - began > scale.most_seconds:
            return
        with suppress(Unavailable):
            submitter.look()
        reporter.report()
        time.sleep(scale.look_seconds)


@dataclass(kw_only=True)
class Reporter:
    """Says once a minute how far a story is, and when it will be over."""

    submitter: Submitter
    nemesis: Nemesis
    patrol: Patrol
    scale: Scale
    say: Callable[[str], None]
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    def report(self) -> None:
        """Say it, when a minute is over."""
        now = time.monotonic()
        if now - self._said < REPORT_SECONDS:
            return
        self._said = now
        ended, made, patrol = self.submitter.steps_ended(), self.nemesis.made, self.patrol
        whole_seconds = (now - self._began) / max(self.submitter.progress(), 1e-9)
        left = min(whole_seconds, self.scale.most_seconds) - (now - self._began)
        self.say(
            f"progress: {ended} of {self.submitter.steps} steps, {made['kills']} of {self.scale.kills} kills, "
            f"{made['others']} other strikes, {len(self.submitter.open_runs())} runs open; of {patrol.judged} that "
            f"ended {len(patrol.objections)} objections so far; about {left / 60:.0f} minutes to go"
        )


def _drain(submitter: Submitter, timeout_seconds: float) -> None:
    def ended() -> bool:
        with suppress(Unavailable):
            submitter.look()
        return not submitter.open_runs()

    with suppress(AssertionError):
        # Whatever has not ended by then is the checker's to name.
        until(ended, timeout_seconds)


def _witness(running: Machine, scale: Scale) -> Witness:
    return Witness(
        database_url=running.laptop.services.endpoints.database_url,
        ledger=running.ledger.folder,
        audit_key=audit_key(running.settings),
        lease_seconds=running.settings.lease_seconds,
        max_crashes=running.settings.max_crashes,
        places=scale.threads * (2 if POOLS[0] in scale.twins else 1),
    )


def _most_megabytes() -> float:
    """Of this process, and of those that it has waited for; the judges are among them."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _unasked(found: Findings, submitter: Submitter) -> Iterator[str]:
    told = {run.run_id for run in submitter.runs}
    for run in sorted(found.runs - told):
        yield f"run {run} was made and nobody was told of it"
    for run in sorted(told - found.runs):
        yield f"run {run} was accepted and is gone"
    if len(told) != len(submitter.runs):
        yield f"{len(submitter.runs)} requests became {len(told)} runs"

"""One simulated world: its conditions from a seed, production's decisions in it, and what it comes to."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from greenlet import greenlet

from chargehand.orchestrator.errors import ConcurrencyConflict
from chargehand.orchestrator.facts import OnConflict
from chargehand.orchestrator.plan import POOLS, Plan, step_id
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.workers import attempt, executor
from simulation import writers
from simulation.broker import Broker, Manners
from simulation.choices import Choices, Tapes
from simulation.clock import Clock, Fiber
from simulation.graph_rules import DEADLINE
from simulation.ledger import Ledger
from simulation.nemesis import Malice, Nemesis
from simulation.people import People
from simulation.plans import random_plan
from simulation.processes import RESTART_SECONDS, Process, Supervisor, Worker
from simulation.rules import Rules
from simulation.story import told_by
from simulation.tables import Entry, RunIsLocked, StepLine, Tables
from simulation.their_app import Habits, TheirApp
from simulation.work import ROLE_VERSIONS, STAGE, ModelManners, SimulatedReader, finish_of

TAPE = "world"
# What has not moved for so long since the end of the trouble never will.
PATIENCE_SECONDS = 600.0
# What still moves by then goes round for ever.
LONGEST_SECONDS = 3_600.0
SETTINGS = Settings(home=Path("/nowhere"), roles_dir=Path("/nowhere"))
TENANTS = (UUID(int=1), UUID(int=2))
NAMES = "abcdefg"
# The tamest is none.
KEYS = (None, "k", "k", "k", "l")
ON_CONFLICT: tuple[OnConflict, ...] = ("queue", "queue", "queue", "cancel_older", "reject")
# The last run comes when so much of the trouble is over.
LAST_SUBMISSION = 0.7
SUBMIT_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What kind of world it is."""

    temper: str
    supervisors: int
    slots: int
    """Of each worker."""
    workers_a_pool: int
    has_solo: bool
    runs: int
    most_steps: int
    troubled_seconds: float
    slowest_statement_seconds: float
    manners: Manners
    malice: Malice
    model: ModelManners
    their_habits: Habits
    flurries: int
    poison: bool
    agents: bool
    tight_budget: bool
    deadlines: bool
    keys: bool
    """Runs come one after the other, and some of them with the same concurrency key."""
    most_replans: int


# The first is the tamest. Each of the others is about one kind of trouble, and the last about all of them.
TEMPERS = (
    "calm",
    "broker",
    "commits",
    "strikes",
    "people",
    "poison",
    "money",
    "all",
    "commits",
    "people",
    "all",
    "all",
)


def draw_conditions(choices: Choices) -> Conditions:
    """The conditions of a seed."""
    temper = choices.one_of(TAPE, TEMPERS)
    everything = temper == "all"
    some = choices.one_of(TAPE, (0.0, 0.3, 0.6, 1.0, 1.0, 1.0))
    keys = choices.happens(TAPE, 0.25)
    return Conditions(
        keys=keys,
        most_replans=choices.one_of(TAPE, (0, 0, 1, 2, 3)),
        temper=temper,
        supervisors=1 + choices.number(TAPE, 3),
        slots=1 + choices.number(TAPE, 4),
        workers_a_pool=1 + choices.number(TAPE, 2),
        has_solo=bool(choices.number(TAPE, 2)) or temper == "poison",
        runs=2 + choices.number(TAPE, 5) if keys else 1 + choices.number(TAPE, 3),
        most_steps=3 + choices.number(TAPE, 6 if keys else 14),
        troubled_seconds=20.0 + 20.0 * choices.number(TAPE, 4),
        slowest_statement_seconds=choices.one_of(TAPE, (0.02, 0.02, 0.1, 0.5)),
        manners=Manners(
            lose=0.25 * some if temper == "broker" or everything else 0.0,
            double=0.4 * some if temper == "broker" or everything else 0.05,
            shuffle=temper == "broker" or everything,
            most_delay_seconds=2.0 if temper == "broker" else 0.05,
        ),
        malice=Malice(
            at_commit=0.06 * some if temper == "commits" or everything else 0.0,
            strikes=8 if temper in {"strikes", "all"} else 2 if temper == "people" else 0,
        ),
        model=ModelManners(trouble=0.3 * some if temper in {"money", "all"} else 0.0),
        their_habits=Habits(
            lose=0.2 * some if temper == "broker" or everything else 0.0,
            double=0.3 * some if temper == "broker" or everything else 0.05,
            die=0.2 * some if temper == "strikes" or everything else 0.0,
            refuse=0.2 * some if temper == "broker" or everything else 0.0,
        ),
        flurries={"calm": 0, "people": 10, "all": 7}.get(temper, 6),
        poison=temper == "poison" or (everything and choices.happens(TAPE, 0.3)),
        agents=temper != "calm" or bool(choices.number(TAPE, 2)),
        tight_budget=temper == "money" or (everything and choices.happens(TAPE, 0.3)),
        deadlines=choices.happens(TAPE, 0.25),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of a world."""

    seed: int
    objection: str
    """What did not hold; empty when all is well."""
    tapes: Tapes
    story: tuple[str, ...]
    conditions: Conditions
    statuses: Counter[str]
    """Of the runs."""
    steps: int
    kinds: Counter[str]
    """Steps that began, by their kind; and how many of them were colleagues, or were superseded."""
    deeds: Counter[str]
    """What people did, whether it changed anything or not."""
    interleavings: tuple[str, ...]
    """Of what people did and deadlines ended, one for each run that was raced for."""
    lasted_seconds: float
    """Virtual, in all."""
    settled_after_seconds: float
    """Virtual, from the end of the trouble to the end of the last run."""

    @property
    def rule(self) -> str:
        """The objection without what differs from story to story."""
        return " ".join(
            word for word in self.objection.split() if not any(letter.isdigit() or letter in "'()[]" for letter in word)
        )


class World:
    """Everything there is."""

    def __init__(self, choices: Choices, *, tells: bool = False) -> None:
        """Submit the runs and start the processes."""
        self.choices = choices
        self.settings = SETTINGS
        self.clock = Clock()
        self.conditions = draw_conditions(choices)
        self.ledger = Ledger()
        self.tables = Tables(self.clock)
        self.rules = Rules(
            self.tables,
            self.ledger,
            self.settings,
            self.object_,
            slowest_statement_seconds=self.conditions.slowest_statement_seconds,
        )
        self.tables.on_fact = self._on_fact
        self.tables.on_emission = self.rules.on_emission
        self.broker = Broker(self.clock, choices, self.conditions.manners)
        self.fibers: dict[greenlet, tuple[Process, Fiber]] = {}
        self.workers: list[Worker] = []
        self.supervisors: list[Supervisor] = []
        self.postgres_is_down = False
        self.down_until: dict[str, float] = {}
        self.objection = ""
        self._born = 0
        self._story: list[str] | None = [] if tells else None
        self._began = self.clock.now
        self._is_troubled = True
        self._to_come = 0
        """Runs that are not submitted yet."""
        self.nemesis = Nemesis(self, self.conditions.malice)
        self.their_app = TheirApp(self, self.conditions.their_habits)
        self._submit()
        for _ in range(self.conditions.supervisors):
            self._start_supervisor()
        for pool in POOLS:
            for _ in range(self.conditions.workers_a_pool):
                self._start_worker(pool)
        if self.conditions.has_solo:
            self._start_worker(SOLO)
        self.people = People(self, flurries=self.conditions.flurries)
        self._tick()

    def _submit(self) -> None:
        conditions, choices = self.conditions, self.choices
        for number in range(conditions.runs):
            name = NAMES[number]
            steps = random_plan(
                choices,
                name=name,
                most=conditions.most_steps,
                poison=conditions.poison and number == 0,
                agents=conditions.agents,
                replans=conditions.most_replans > 0,
            )
            request = RunRequest(
                run_id=UUID(int=(choices.seed % 2**32) * 16 + number + 1),
                goal=name,
                plan=Plan.of(steps),
                budget_microusd=3_000 + 1_000 * choices.number(TAPE, 20) if conditions.tight_budget else 1_000_000,
                priority=choices.number(TAPE, 2),
                idempotency_key=name,
                deadline_seconds=choices.between(TAPE, 10.0, 200.0) if conditions.deadlines else None,
                concurrency_key=choices.one_of(TAPE, KEYS) if conditions.keys else None,
                on_conflict=choices.one_of(TAPE, ON_CONFLICT) if conditions.keys else "queue",
                replans=choices.number(TAPE, conditions.most_replans + 1),
            )
            times = 1 + choices.number(TAPE, 2)
            tenant = TENANTS[0 if conditions.keys else number % 2]
            if conditions.keys and number:
                self._to_come += 1
                when = choices.between(TAPE, 0.0, LAST_SUBMISSION * conditions.troubled_seconds)
                self.clock.after(when, lambda of=(tenant, request, times): self._accept_later(*of))  # type: ignore[misc]
            else:
                self._accept(tenant, request, times)

    def _accept_later(self, tenant: UUID, request: RunRequest, times: int) -> None:
        """Its client tries again while Postgres is away, and waits while somebody holds what it has to end."""
        try:
            if self.postgres_is_down:
                raise RunIsLocked
            self._accept(tenant, request, times)
        except RunIsLocked:
            self.clock.after(SUBMIT_AGAIN_SECONDS, lambda: self._accept_later(tenant, request, times))
            return
        self._to_come -= 1
        self.on_commit()

    def _accept(self, tenant: UUID, request: RunRequest, times: int) -> None:
        key, runs = request.concurrency_key, self.tables.runs
        ahead = [
            run
            for run in runs.values()
            if key is not None and run.concurrency_key == key and run.status not in RUN_ENDINGS
        ]
        known = len(runs)
        try:
            given = [writers.accept(self.tables, tenant, request, ROLE_VERSIONS) for _ in range(times)]
        except ConcurrencyConflict:
            self.say(f"run {request.goal} is refused")
            self.rules.fleet.on_rejected(request.goal, request.on_conflict, ahead)
            return
        if set(given) != {request.run_id} or len(runs) != known + 1:
            self.object_("a run was submitted twice and accepted twice")
        self.rules.fleet.on_submitted(runs[request.run_id], request.on_conflict, ahead)
        self.broker.ring(request.run_id)

    # --- processes

    def _start_supervisor(self) -> None:
        self._born += 1
        self.supervisors.append(Supervisor(self, f"supervisor-{self._born}"))

    def _start_worker(self, pool: str) -> None:
        self._born += 1
        slots = 1 if pool == SOLO else self.conditions.slots
        self.workers.append(Worker(self, f"{pool}-{self._born}", pool, slots))

    def restart(self, process: Process) -> None:
        """Somebody starts it anew, unless its pool is to be down for now."""
        if isinstance(process, Worker):
            self.workers.remove(process)
            pool = process.pool
            wait = max(self.down_until.get(pool, 0.0) - self.clock.now, RESTART_SECONDS)
            self.clock.after(wait, lambda: self._start_worker(pool))
        elif isinstance(process, Supervisor):
            self.supervisors.remove(process)
            self.clock.after(RESTART_SECONDS, self._start_supervisor)

    def start_postgres(self) -> None:
        """It is back."""
        self.postgres_is_down = False

    def current_fiber(self) -> Fiber:
        """Whose code runs."""
        return self.fibers[greenlet.getcurrent()][1]

    def is_current(self, fiber: Fiber) -> bool:
        """Whether it is this one's."""
        known = self.fibers.get(greenlet.getcurrent())
        return known is not None and known[1] is fiber

    def current_worker(self) -> Worker:
        """The process whose code runs."""
        process = self.fibers[greenlet.getcurrent()][0]
        assert isinstance(process, Worker)
        return process

    # --- what is watched

    def object_(self, what: str) -> None:
        """Something does not hold; the first such thing ends the world."""
        if not self.objection:
            self.objection = what
            self.say(f"OBJECTION: {what}")
            self.clock.stop()

    def on_commit(self) -> None:
        """A transaction has committed."""
        for line in self.tables.drift():
            self.object_(line)
        self.rules.on_commit()

    def _on_fact(self, run: UUID, step: UUID | None, entry: Entry) -> None:
        if self._story is not None:
            self.say(told_by(entry.fact), step)
        if DEADLINE in (getattr(entry.fact, "reason", ""), getattr(entry.fact, "error", "")):
            self.people.note(run, "deadline", was="running")
        self.rules.on_fact(run, step, entry)

    def _tick(self) -> None:
        somebody_watches = not self.postgres_is_down and any(
            not supervisor.is_frozen for supervisor in self.supervisors
        )
        self.rules.on_tick(somebody_watches=somebody_watches, broker=self.broker)
        if not self._is_troubled and self._is_over():
            self.clock.stop()
        else:
            self.clock.after(1.0, self._tick)

    def say(self, what: str, step: UUID | None = None, **about: object) -> None:
        """A line of the story, if somebody wants to hear it."""
        if self._story is None:
            return
        row = self.tables.steps.get(step) if step is not None else None
        details = ", ".join(
            f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in about.items()
        )
        line = f"{self.clock.now - self._began:7.2f} s  {row.key if row else '':<6}  {what}"
        self._story.append(f"{line}: {details}" if details else line)

    # --- its time

    def live(self, *, most_seconds: float = math.inf) -> Verdict:
        """Trouble, then peace; gives what became of it. Whoever waits for a known objection need not see the end."""
        with production_in(self):
            end = self._began + most_seconds
            self.clock.run(min(self._began + self.conditions.troubled_seconds, end))
            peace = self.clock.now
            if not self.objection and peace < end:
                self._make_peace()
                self._wait_for_the_end(min(peace + LONGEST_SECONDS, end))
            if not self.objection and self.clock.now < end:
                self.rules.at_the_end(answered=self.their_app.answered_in_time)
            settled_after = self.clock.now - peace
            for process in [*self.workers, *self.supervisors]:
                process.is_alive = False
                for fiber in process._fibers:
                    fiber.kill()
        return Verdict(
            seed=self.choices.seed,
            objection=self.objection,
            tapes=self.choices.drawn,
            story=tuple(self._story or ()),
            conditions=self.conditions,
            statuses=Counter(run.status for run in self.tables.runs.values()),
            steps=len(self.tables.steps),
            kinds=self._kinds(),
            deeds=self.people.deeds,
            interleavings=tuple(self.people.interleavings),
            lasted_seconds=self.clock.now - self._began,
            settled_after_seconds=settled_after,
        )

    def _wait_for_the_end(self, longest: float) -> None:
        """Let it go on as long as something happens: a slow world with rounds within rounds needs its time."""
        facts = -1
        while not self.objection and not self._is_over() and self.clock.now < longest:
            before, facts = facts, sum(len(stream) for stream in self.tables.journal.values())
            if facts == before:
                return
            self.clock.run(min(self.clock.now + PATIENCE_SECONDS, longest))

    def _is_over(self) -> bool:
        return not self._to_come and self.tables.all_over()

    def _kinds(self) -> Counter[str]:
        began = [row for row in self.tables.steps.values() if row.head_seq]
        kinds = Counter(row.spec.kind for row in began)
        kinds["colleague"] = sum(self._is_colleague(row) for row in began)
        kinds["planner"] = sum(row.spec.role == REPLANNER for row in began)
        kinds["superseded"] = sum(row.status == "superseded" for row in began)
        return kinds

    def _is_colleague(self, row: StepLine) -> bool:
        parent = row.spec.parent
        return (
            parent is not None
            and row.spec.role != REPLANNER
            and self.tables.steps[step_id(row.run, parent)].spec.kind == "agent"
        )

    def _make_peace(self) -> None:
        self.say("from here on nothing goes wrong, and people answer")
        self._is_troubled = False
        self.nemesis.stop()
        self.postgres_is_down = False
        self.broker.is_down = False
        self.broker.manners = Manners()
        self.their_app.habits = Habits()
        self.people.settle_down()
        for process in [*self.workers, *self.supervisors]:
            if process.is_frozen:
                process._thaw()
        for worker in self.workers:
            worker.after(0.0, worker.poke)
        for supervisor in self.supervisors:
            supervisor.after(0.0, supervisor._poke)


class _VirtualTime:
    """Stands in for the module `time` where production measures."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def monotonic(self) -> float:
        """The world's clock."""
        return self._clock.now


@contextmanager
def production_in(world: World) -> Iterator[None]:
    """Production's worker code, with the world's clock, dice and readers instead of its own."""
    dice = random.Random(world.choices.seed)

    def new_id() -> UUID:
        return UUID(int=dice.getrandbits(128))

    changes: dict[Any, dict[str, Any]] = {
        attempt: {
            "RunReader": SimulatedReader,
            "finish_tool": finish_of,
            "random": dice,
            "new_wait_id": new_id,
            "run_agent": partial(
                attempt.run_agent, sleep=lambda seconds: world.current_fiber().sleep(seconds), new_call_id=new_id
            ),
        },
        executor: {"RunReader": SimulatedReader, "time": _VirtualTime(world.clock)},
    }
    kept = {module: {name: getattr(module, name) for name in names} for module, names in changes.items()}
    for module, names in changes.items():
        vars(module).update(names)
    STAGE.world = world
    try:
        yield
    finally:
        STAGE.world = None
        for module, names in kept.items():
            vars(module).update(names)


def simulate(seed: int, *, tapes: Tapes | None = None, tells: bool = False, most_seconds: float = math.inf) -> Verdict:
    """Let the world of a seed happen; with `tapes` its decisions are read from them."""
    return World(Choices(seed, tapes), tells=tells).live(most_seconds=most_seconds)

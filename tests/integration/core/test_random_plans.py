"""Random plans on real Postgres under a broker that duplicates, reorders and loses messages, and workers that die.

The broker is a list made from the emissions; claims, finishes, advance, admit and watch are production's own.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.orchestrator import runs, steps, views
from chargehand.orchestrator.canvas import Chord, Emission, Line, Link, Pack
from chargehand.orchestrator.errors import LeaseLost, NothingToClaim
from chargehand.orchestrator.facts import StepFinished, StepWaiting
from chargehand.orchestrator.plan import POOLS, Step, step_id
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

LEASE_SECONDS = 0.3
# Generous: other work on the machine makes each commit ten times as slow.
DEADLINE_SECONDS = 300.0


@dataclass
class Counting:
    """A chord's header that counts down."""

    parts: int


@dataclass(frozen=True)
class Message:
    """The rest of a chain; without links it is the bell."""

    run_id: UUID
    links: tuple[Link, ...] = ()
    chord: Counting | None = None
    is_pack: bool = False


@dataclass
class Chaos:
    """How badly the world behaves."""

    duplicate: float = 0.0
    lose: float = 0.0
    kill: float = 0.0
    fail: float = 0.0


@dataclass
class Broker:
    """Messages in no order, some twice, some never."""

    dice: random.Random
    chaos: Chaos
    waiting: list[Message] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Message) -> None:
        with self.guard:
            if self.dice.random() >= self.chaos.lose:
                self.waiting.append(message)
            if self.dice.random() < self.chaos.duplicate:
                self.waiting.append(message)

    def take(self) -> Message | None:
        with self.guard:
            return self.waiting.pop(self.dice.randrange(len(self.waiting))) if self.waiting else None

    def chance(self, share: float) -> bool:
        with self.guard:
            return self.dice.random() < share

    def publish(self, run_id: UUID, emissions: Sequence[Emission]) -> None:
        for emission in emissions:
            lines: tuple[Line, ...] = emission.header if isinstance(emission, Chord) else (emission,)
            counting = Counting(len(lines)) if isinstance(emission, Chord) else None
            for line in lines:
                self.send(Message(run_id, line.links, counting, is_pack=isinstance(line, Pack)))


class Simulation:
    """Workers and supervisors on one broker, and a ledger that knows nothing of the database."""

    def __init__(self, house: "House", run_ids: Sequence[UUID], broker: Broker) -> None:
        self.house = house
        self.broker = broker
        self.run_ids = list(run_ids)
        self.settings: Settings = house.settings.model_copy(
            update={"unclaimed_seconds": 0.05, "ring_age_seconds": 0.02}
        )
        self.before = {
            step_id(run, step.key): {step_id(run, key) for key in step.after}
            for run in run_ids
            for step in self._plan(run)
        }
        self.joins = {step_id(run, step.key): step.join for run in run_ids for step in self._plan(run)}
        self.attempts: Counter[tuple[UUID, int]] = Counter()
        self.finished: Counter[UUID] = Counter()
        self.succeeded: set[UUID] = set()
        self.too_early: list[UUID] = []
        self.guard = threading.Lock()

    def _plan(self, run_id: UUID) -> list[Step]:
        rows = self.house.execute("SELECT spec FROM steps WHERE run = :run", {"run": run_id})
        return [Step.model_validate(spec) for (spec,) in rows]

    def over(self) -> bool:
        rows = self.house.execute("SELECT status FROM runs WHERE id = ANY(:runs)", {"runs": self.run_ids})
        return all(status in RUN_ENDINGS for (status,) in rows)

    def supervise(self) -> None:
        found = self.house.watch(self.settings)
        for run_id in found.runs:
            self.house.advance(run_id)
        self.admit()
        self.answer_people()

    def admit(self) -> None:
        for one in self.house.admit():
            self.broker.publish(one.run_id, one.emissions)

    def answer_people(self) -> None:
        with self.house.as_tenant() as session:
            for asked in views.escalations(session):
                runs.answer(
                    session,
                    self.house.tenant,
                    run_id=asked.run_id,
                    step=asked.step_id,
                    wait_id=asked.wait_id,
                    choice="retry",
                )

    def deliver(self, message: Message) -> None:
        if not message.links:
            if self.house.advance(message.run_id):
                self.admit()
            return
        goes_on = self.run_pack(message) if message.is_pack else self.run_link(message)
        if not goes_on:
            return
        rest = () if message.is_pack else message.links[1:]
        if rest:
            self.broker.send(Message(message.run_id, rest, message.chord))
        elif message.chord is None:
            self.broker.send(Message(message.run_id))
        else:
            with self.guard:
                message.chord.parts -= 1
                rings = message.chord.parts == 0
            if rings:
                self.broker.send(Message(message.run_id))

    def run_link(self, message: Message) -> bool:
        """Whether Celery goes on to the next link."""
        link = message.links[0]
        try:
            claimed = steps.claim(
                self.house.connections,
                tenant=self.house.tenant,
                step_id=link.step_id,
                holder="w",
                lease_seconds=LEASE_SECONDS,
                solo_pool=link.pool == SOLO,
            )
        except NothingToClaim as nothing:
            return nothing.ended
        self.note_claim(claimed.step_id, claimed.epoch)
        if self.broker.chance(self.broker.chaos.kill):
            # The message dies with its worker, or is delivered again.
            if self.broker.chance(0.5):
                self.broker.send(message)
            return False
        held = HeldStep(self.house.connections, claimed)
        self.fold_answers(held)
        failed = self.broker.chance(self.broker.chaos.fail)
        with self.guard:
            if not failed:
                self.succeeded.add(claimed.step_id)
        try:
            held.finish(StepFinished(outcome="failed" if failed else "succeeded", error="dice" if failed else ""))
        except LeaseLost:
            # Slow machines lose leases: this attempt did not count.
            return False
        with self.guard:
            self.finished[claimed.step_id] += 1
        if held.a_join_is_open():
            self.broker.send(Message(message.run_id))
        return True

    def run_pack(self, message: Message) -> bool:
        """Whether a chord counts the pack."""
        wanted = [link.step_id for link in message.links]
        claims = steps.claim_many(
            self.house.connections, tenant=self.house.tenant, step_ids=wanted, holder="w", lease_seconds=LEASE_SECONDS
        )
        done: list[tuple[HeldStep, StepFinished]] = []
        for claimed in claims:
            self.note_claim(claimed.step_id, claimed.epoch)
            if self.broker.chance(self.broker.chaos.kill / len(message.links)):
                # In the middle: what was done is not recorded.
                return False
            held = HeldStep(self.house.connections, claimed)
            self.fold_answers(held)
            done.append((held, StepFinished(outcome="succeeded")))
        with self.guard:
            self.succeeded |= {held.claim.step_id for held, _ in done}
        finished = steps.finish_many(self.house.connections, done) if done else set()
        with self.guard:
            self.finished.update(finished)
        if steps.joins_are_open(self.house.connections, tenant=self.house.tenant, step_ids=list(finished)):
            self.broker.send(Message(message.run_id))
        return len(finished) == len(wanted)

    def fold_answers(self, held: HeldStep) -> None:
        if held.claim.epoch == 1:
            return
        history = StepRecorder(self.house.connections, held, lease_seconds=LEASE_SECONDS).history
        open_waits = [fact.wait_id for fact in history if isinstance(fact, StepWaiting)]
        for wait_id in open_waits[-1:]:
            if not any(
                getattr(fact, "wait_id", None) == wait_id and fact.kind == "signal.received" for fact in history
            ):
                held.fold_signal(wait_id)

    def note_claim(self, step: UUID, epoch: int) -> None:
        before = self.before[step]
        with self.guard:
            self.attempts[step, epoch] += 1
            if self.joins[step] == "all" and not before <= self.succeeded:
                self.too_early.append(step)
        if before:
            rows = self.house.execute("SELECT status FROM steps WHERE id = ANY(:steps)", {"steps": list(before)})
            wanted = {"succeeded"} if self.joins[step] == "all" else STEP_ENDINGS
            if not {status for (status,) in rows} <= wanted:
                self.too_early.append(step)

    def drive(self, threads: int) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                message = self.broker.take()
                if message is None:
                    stop.wait(0.005)
                else:
                    self.deliver(message)

        def supervise() -> None:
            try:
                while not self.over():
                    assert time.monotonic() < deadline, [self.house.statuses(run_id) for run_id in self.run_ids]
                    self.supervise()
                    stop.wait(0.01)
            finally:
                stop.set()

        with ThreadPoolExecutor(threads + 1) as pool:
            working = [pool.submit(supervise), *(pool.submit(work) for _ in range(threads))]
        for one in working:
            one.result()

    def drive_alone(self) -> None:
        """The same in one thread, so that a seed always gives the same story."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        # Only the bell ends a run.
        rang = True
        while not (rang and self.over()):
            assert time.monotonic() < deadline, [self.house.statuses(run_id) for run_id in self.run_ids]
            message = self.broker.take()
            rang = message is None or not message.links
            if message is not None:
                self.deliver(message)
            if message is None or self.broker.chance(0.05):
                self.supervise()


def random_plan(dice: random.Random, most: int) -> list[Step]:
    planned: list[Step] = []
    for number in range(dice.randint(1, most)):
        earlier = [step.key for step in planned[-8:]]
        # Many single predecessors make lines, some more make joins and fans.
        count = min(len(earlier), dice.choice([0, 1, 1, 1, 1, 2, 3]))
        planned.append(
            Step(
                key=f"s{number}",
                kind="script",
                script="work",
                pool=dice.choice(POOLS),
                after=tuple(dice.sample(earlier, count)),
                join=dice.choice(["all", "all", "all", "settled"]),
            )
        )
    return planned


def fan(dice: random.Random, width: int) -> list[Step]:
    """Far more scripts than a small pool has places, and a join of all."""
    first = Step(key="first", kind="script", script="work", pool="audit")
    wide = [
        Step(key=f"w{n}", kind="script", script="work", pool=dice.choice(("audit", "coding")), after=("first",))
        for n in range(width)
    ]
    last = Step(key="last", kind="script", script="work", pool="audit", after=tuple(step.key for step in wide))
    return [first, *wide, last]


def check(house: "House", simulation: Simulation) -> None:
    assert simulation.too_early == []
    assert [attempt for attempt, claims in simulation.attempts.items() if claims != 1] == []
    assert [step for step, ends in simulation.finished.items() if ends != 1] == []
    for run_id in simulation.run_ids:
        statuses: dict[str, Any] = house.statuses(run_id)
        assert set(statuses.values()) <= STEP_ENDINGS
        for key, status in statuses.items():
            ends = house.kinds(run_id, key).count("step.finished")
            assert ends == (0 if status == "skipped" else 1), key
            assert simulation.finished[step_id(run_id, key)] == ends
        assert house.drift(run_id) == []
        assert house.objections(run_id) == []
        assert house.kinds(run_id)[-1] == "run.finished"


CALM = Chaos()
CHAOS = {
    "calm": CALM,
    "duplicated": Chaos(duplicate=0.5),
    "lost": Chaos(lose=0.3),
    "killed": Chaos(kill=0.15),
    "everything": Chaos(duplicate=0.3, lose=0.2, kill=0.1, fail=0.05),
}


@pytest.mark.parametrize(
    ("weather", "threads"),
    [("duplicated", 0), ("everything", 0), ("calm", 3), ("duplicated", 3), ("lost", 3), ("killed", 3)],
)
def test_random_plans_end_with_every_step_done_once_and_in_order(house: "House", weather: str, threads: int) -> None:
    dice = random.Random(f"{weather} {threads}")
    for pool in (*POOLS, SOLO):
        house.open_pool(pool, slots=6)
    run_ids = [house.submit(*random_plan(dice, most)) for most in (25, 10)]
    simulation = Simulation(house, run_ids, Broker(dice, CHAOS[weather]))

    if threads:
        simulation.drive(threads)
    else:
        simulation.drive_alone()

    check(house, simulation)
    if CHAOS[weather].fail == 0:
        assert all(house.run_row(run_id).status == "succeeded" for run_id in run_ids)


def test_with_every_message_lost_the_watch_loop_alone_would_not_run_a_step_but_loses_none(house: "House") -> None:
    for pool in POOLS:
        house.open_pool(pool)
    run_id = house.submit(*random_plan(random.Random(7), 10))
    broker = Broker(random.Random(7), Chaos(lose=1.0))
    simulation = Simulation(house, [run_id], broker)
    for _ in range(10):
        simulation.supervise()
    assert "running" not in house.statuses(run_id).values()

    broker.chaos = CALM
    simulation.drive_alone()

    check(house, simulation)


def test_sixty_steps_in_the_worst_weather(house: "House") -> None:
    dice = random.Random(60)
    for pool in (*POOLS, SOLO):
        house.open_pool(pool, slots=6)
    planned = random_plan(dice, 60)
    while len(planned) < 50:
        planned = random_plan(dice, 60)
    simulation = Simulation(house, [house.submit(*planned)], Broker(dice, CHAOS["everything"]))

    simulation.drive(4)

    check(house, simulation)


@pytest.mark.parametrize(("weather", "threads"), [("calm", 0), ("everything", 0), ("killed", 3), ("lost", 3)])
def test_packs_end_with_every_step_done_once_and_in_order(house: "House", weather: str, threads: int) -> None:
    dice = random.Random(f"packs {weather} {threads}")
    for pool in (*POOLS, SOLO):
        house.open_pool(pool, slots=2)
    run_ids = [house.submit(*fan(dice, 90)), house.submit(*fan(dice, 40))]
    simulation = Simulation(house, run_ids, Broker(dice, CHAOS[weather]))

    if threads:
        simulation.drive(threads)
    else:
        simulation.drive_alone()

    check(house, simulation)

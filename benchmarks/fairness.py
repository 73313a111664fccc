"""A noisy tenant beside quiet ones: how long the quiet ones wait, and whether all get the same when all have work.

Admission decides, on Postgres; eight threads take what it queued in the order it was queued, as workers take messages
from a broker, hold each step as long as a short call, and finish it. Only the work itself is a sleep.
"""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from benchmarks.figures import Figure, percentile
from benchmarks.ground import LEASE_SECONDS, Ground, execute
from chargehand.memory.database import tenant_session
from chargehand.orchestrator import canvas, runs, steps
from chargehand.orchestrator.errors import NothingToClaim
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor.admit import admit

SLOTS = 8
WORK_SECONDS = 0.15
QUIET_TENANTS = 5
# Of each quiet tenant, one step each; the noisy one has a hundred times as many steps.
QUIET_RUNS = 12
NOISE = 100
# Between two runs of a quiet tenant: together they use a third of the slots.
PAUSE_SECONDS = 0.3
# Steps of each tenant where all have more than they can get.
BACKLOG = 60
TARGET_RATIO = 2.0
TARGET_JAIN = 0.98
SEED = 1
ROLE = """\
---
name: worker
description: Works.
pool: research
tier: small
output: submit_answer
---
Work.
"""


@dataclass
class Shop:
    """Workers, a supervisor, and when each run of one step was over."""

    ground: Ground
    messages: "queue.Queue[tuple[UUID, UUID, UUID]]" = field(default_factory=queue.Queue)
    ended: dict[UUID, float] = field(default_factory=dict)
    done: "Counter[UUID]" = field(default_factory=Counter)
    stopping: threading.Event = field(default_factory=threading.Event)
    bell: threading.Event = field(default_factory=threading.Event)

    def submit(self, tenant: UUID, count: int) -> UUID:
        """A run of so many agents that wait for nothing; its steps are ready when this returns."""
        planned = [Step(key=f"s{number}", kind="agent", role="worker", instruction="Work.") for number in range(count)]
        request = RunRequest(
            run_id=runs.new_run_id(),
            goal="Measure this",
            plan=Plan.of(planned),
            budget_microusd=1_000_000,
            role_texts={"worker": ROLE},
        )
        with tenant_session(self.ground.application, tenant) as session:
            run_id = runs.accept(session, tenant, request, [])
        self.ground.advance(run_id)
        self.bell.set()
        return run_id

    def supervise(self) -> None:
        """Admit whenever something has changed."""
        while not self.stopping.is_set():
            self.bell.wait(0.05)
            self.bell.clear()
            for one in admit(self.ground.supervisor, self.ground.graphs):
                for line in canvas.lines_of(one.emissions):
                    for link in line.links:
                        self.messages.put((one.tenant, one.run_id, link.step_id))

    def work(self) -> None:
        """Take messages in their order."""
        while not self.stopping.is_set():
            try:
                tenant, run_id, step = self.messages.get(timeout=0.05)
            except queue.Empty:
                continue
            try:
                claimed = steps.claim(
                    self.ground.connections, tenant=tenant, step_id=step, holder="bench", lease_seconds=LEASE_SECONDS
                )
            except NothingToClaim:
                continue
            time.sleep(WORK_SECONDS)
            HeldStep(self.ground.connections, claimed).finish(StepFinished(outcome="succeeded"))
            self.ended[run_id] = time.perf_counter()
            self.done[tenant] += 1
            self.bell.set()

    def open(self) -> "ThreadPoolExecutor":
        """Start everybody."""
        execute(
            self.ground.supervisor,
            "INSERT INTO pools (holder, pool, slots, seen_at) "
            "VALUES ('bench-research', 'research', :slots, clock_timestamp() + interval '1 h') "
            "ON CONFLICT (holder) DO UPDATE SET slots = excluded.slots, seen_at = excluded.seen_at",
            slots=SLOTS,
        )
        pool = ThreadPoolExecutor(SLOTS + 1)
        pool.submit(self.supervise)
        for _ in range(SLOTS):
            pool.submit(self.work)
        return pool


def measure(ground: Ground) -> Iterator[Figure]:
    """The quiet tenants alone, beside a noisy one, and all with more than they can get."""
    solo = latencies(ground, noise=0)
    beside = latencies(ground, noise=NOISE)
    solo_p99, beside_p99 = percentile(solo, 99), percentile(beside, 99)
    yield Figure(name="quiet_tenants_solo_p99_s", value=solo_p99, unit="s")
    yield Figure(name="quiet_tenants_beside_noise_p99_s", value=beside_p99, unit="s")
    yield Figure(name="quiet_tenants_p99_ratio", value=beside_p99 / solo_p99, unit="ratio", target=TARGET_RATIO)
    shares = contended(ground)
    yield Figure(name="tenants_jain_index", value=jain(shares), unit="index", target=TARGET_JAIN, better="higher")


def latencies(ground: Ground, *, noise: int, quiet_runs: int = QUIET_RUNS) -> list[float]:
    """Seconds from the submission to the end of each quiet tenant's run; a noisy one has `noise` times their steps."""
    shop = Shop(ground)
    if noise:
        shop.submit(uuid4(), quiet_runs * noise)
    workers = shop.open()
    began: dict[UUID, float] = {}

    def tenant_submits(number: int) -> None:
        chance, tenant = random.Random(SEED + number), uuid4()
        for _ in range(quiet_runs):
            time.sleep(PAUSE_SECONDS * chance.uniform(0.5, 1.5))
            moment = time.perf_counter()
            began[shop.submit(tenant, 1)] = moment

    with ThreadPoolExecutor(QUIET_TENANTS) as people:
        list(people.map(tenant_submits, range(QUIET_TENANTS)))
    while not began.keys() <= shop.ended.keys():
        time.sleep(0.02)
    shop.stopping.set()
    workers.shutdown()
    _clear(ground)
    return [shop.ended[run] - moment for run, moment in began.items()]


def contended(ground: Ground, *, backlog: int = BACKLOG) -> list[int]:
    """Steps done of each tenant while all have work, one of them a hundred times as much."""
    shop = Shop(ground)
    noisy, quiet = uuid4(), [uuid4() for _ in range(QUIET_TENANTS)]
    shop.submit(noisy, min(backlog * NOISE, 1_500))
    for tenant in quiet:
        shop.submit(tenant, backlog)
    workers = shop.open()
    # Until the first of them has no more: from then on the shares are not admission's.
    while max(shop.done[tenant] for tenant in quiet) < backlog * 0.8:
        time.sleep(0.02)
    shares = [shop.done[tenant] for tenant in (noisy, *quiet)]
    shop.stopping.set()
    workers.shutdown()
    _clear(ground)
    return shares


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all get the same, 1/n when one gets everything (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _clear(ground: Ground) -> None:
    """What is left is no longer there for the next measurement."""
    execute(ground.supervisor, "UPDATE steps SET status = 'cancelled' WHERE status NOT IN ('succeeded', 'cancelled')")

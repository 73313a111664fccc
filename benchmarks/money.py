"""Reservations: 64 racing workers that crash.

A crash is a worker that stops between its reservation and its answer; its lease runs out, and what the watch loop then
does is what it does in production. At the end nothing may be overspent, and nothing may be held by anybody.
"""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from uuid import UUID, uuid4

from benchmarks.figures import Figure
from benchmarks.ground import LEASE_SECONDS, Ground, execute, script_steps
from chargehand.memory.database import tenant_session
from chargehand.orchestrator import runs
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, Fenced, NothingToClaim
from chargehand.orchestrator.facts import CallAbandoned, ModelRequested, ModelResponded, StepFinished, Usage
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor.settling import settle_late_answers
from chargehand.orchestrator.supervisor.watch import recover
from chargehand.orchestrator.turns import StepRecorder

WORKERS = 64
RESERVATIONS = 100_000
RUNS = 8
NEED_MICROUSD = 1_000
# Every other run may spend a part of this only: its money runs out in the middle of the race, while the others go on.
CAP_MICROUSD = 6_000_000
SMALL_CAPS_PART = 4
CRASH_CHANCE = 0.002
LATE_CHANCE = 0.5
# DESIGN: after so long nobody holds anything that nobody spends.
SETTLED_WITHIN_SECONDS = 30.0
SEED = 1


@dataclass
class Race:
    """What the workers of a race count together."""

    most: int
    made: int = 0
    crashes: int = 0
    refused: int = 0
    lock: Lock = field(default_factory=Lock)
    crashing: Lock = field(default_factory=Lock)
    """Supervisors have few connections: one crash at a time is looked after."""

    def take(self) -> bool:
        """Whether another reservation is to be made."""
        with self.lock:
            if self.made >= self.most:
                return False
            self.made += 1
            return True

    def give_back(self) -> None:
        """One that was taken was not made after all."""
        with self.lock:
            self.made -= 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a race came to."""

    race: Race
    overspent_microusd: int
    leaked_microusd: int
    settled_seconds: float


def measure(ground: Ground, *, reservations: int = RESERVATIONS) -> Iterator[Figure]:
    """What the race has come to."""
    found = race(ground, reservations=reservations)
    yield Figure(name="reservations_made", value=found.race.made, unit="reservations")
    yield Figure(name="workers_out_of_money", value=found.race.refused, unit="workers")
    yield Figure(name="reservation_crashes", value=found.race.crashes, unit="crashes")
    yield Figure(name="budget_overspent_microusd", value=found.overspent_microusd, unit="microusd", target=0)
    yield Figure(name="budget_leaked_microusd", value=found.leaked_microusd, unit="microusd", target=0)
    yield Figure(
        name="reservations_settled_after_s", value=found.settled_seconds, unit="s", target=SETTLED_WITHIN_SECONDS
    )


def race(ground: Ground, *, reservations: int, workers: int = WORKERS, cap_microusd: int = CAP_MICROUSD) -> Outcome:
    """Workers reserve, settle and crash until so many reservations are made or no money is left."""
    shared = Race(most=reservations)
    caps = [cap_microusd // (SMALL_CAPS_PART if number % 2 else 1) for number in range(RUNS)]
    run_ids = [_run(ground, workers // RUNS, cap) for cap in caps]
    places = [(run_id, f"work-{number}") for run_id in run_ids for number in range(workers // RUNS)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda one: _work(ground, shared, *one), places))
    began = time.perf_counter()
    _tidy(ground, run_ids)
    settled = time.perf_counter() - began
    return Outcome(
        race=shared,
        overspent_microusd=_overspent(ground, run_ids),
        leaked_microusd=_leaked(ground, run_ids),
        settled_seconds=settled,
    )


def _run(ground: Ground, agents: int, cap_microusd: int) -> UUID:
    request = RunRequest(
        run_id=runs.new_run_id(),
        goal="Race",
        plan=Plan.of(script_steps(agents)),
        budget_microusd=cap_microusd,
    )
    with tenant_session(ground.application, ground.tenant) as session:
        runs.accept(session, ground.tenant, request, [])
    ground.advance(request.run_id)
    ground.admit()
    return request.run_id


def _work(ground: Ground, shared: Race, run_id: UUID, key: str) -> None:
    chance = random.Random(f"{SEED} {run_id} {key}")
    held = ground.claim(run_id, key)
    mine = StepRecorder(ground.connections, held, lease_seconds=LEASE_SECONDS)
    while shared.take():
        asked = _requested(chance)
        try:
            mine.request([], asked)
        except BudgetBusy:
            shared.give_back()
            time.sleep(0.01)
            continue
        except BudgetExceeded:
            shared.give_back()
            shared.refused += 1
            break
        answer = _responded(asked, chance)
        if chance.random() < CRASH_CHANCE:
            held, mine = _crash(ground, shared, chance, mine, answer, run_id, key)
            continue
        mine.respond(answer)
    held.finish(StepFinished(outcome="succeeded"))


def _crash(
    ground: Ground,
    shared: Race,
    chance: random.Random,
    dead: StepRecorder,
    answer: ModelResponded,
    run_id: UUID,
    key: str,
) -> tuple[HeldStep, StepRecorder]:
    """The worker is gone with a call in flight, another takes the step up; the dead one may still hear the answer."""
    with shared.crashing:
        return _taken_over(ground, shared, chance, dead, answer, run_id, key)


def _taken_over(
    ground: Ground,
    shared: Race,
    chance: random.Random,
    dead: StepRecorder,
    answer: ModelResponded,
    run_id: UUID,
    key: str,
) -> tuple[HeldStep, StepRecorder]:
    shared.crashes += 1
    while True:
        # Nobody beats here: without a process that lives nothing is said to be a crash.
        execute(
            ground.supervisor,
            "UPDATE pools SET seen_at = clock_timestamp(), since = clock_timestamp() - interval '1 h'",
        )
        execute(
            ground.supervisor,
            "UPDATE steps SET lease_until = clock_timestamp() - interval '1 s' "
            "WHERE run = :run AND key = :key AND status = 'running'",
            run=run_id,
            key=key,
        )
        recover(ground.supervisor, ground.settings)
        # Whoever crashes often runs alone: here that is the same thread.
        execute(
            ground.supervisor,
            "UPDATE steps SET status = 'queued', solo = false, crashes = 0, wait_id = NULL, wait_reason = NULL "
            "WHERE run = :run AND key = :key AND status IN ('ready', 'pending', 'waiting')",
            run=run_id,
            key=key,
        )
        try:
            held = ground.claim(run_id, key)
            break
        except NothingToClaim:
            time.sleep(0.01)
    again = StepRecorder(ground.connections, held, lease_seconds=LEASE_SECONDS)
    for call, reserved in again.open_reservations().items():
        again.abandon(CallAbandoned(call_id=call, charged_microusd=reserved))
    if chance.random() < LATE_CHANCE:
        with suppress(Fenced):
            dead.respond(answer)
    return held, again


def _tidy(ground: Ground, run_ids: list[UUID]) -> None:
    deadline = time.perf_counter() + SETTLED_WITHIN_SECONDS
    while time.perf_counter() < deadline:
        settle_late_answers(ground.supervisor)
        for run_id in run_ids:
            ground.advance(run_id)
        if _leaked(ground, run_ids) == 0:
            return
        time.sleep(0.05)


def _overspent(ground: Ground, run_ids: list[UUID]) -> int:
    return _sum(
        ground,
        run_ids,
        "SELECT coalesce(sum(greatest(0, s.spent - b.cap_microusd)), 0) FROM budgets b JOIN (SELECT run, "
        "sum(spent_microusd) AS spent FROM steps GROUP BY run) s ON s.run = b.run WHERE b.run = ANY(%(runs)s)",
    )


def _leaked(ground: Ground, run_ids: list[UUID]) -> int:
    """What is drawn or reserved and not spent."""
    return _sum(
        ground,
        run_ids,
        "SELECT coalesce(sum(abs(b.drawn_microusd - s.spent) + s.reserved), 0) FROM budgets b JOIN (SELECT run, "
        "sum(spent_microusd) AS spent, sum(reserved_microusd) AS reserved FROM steps GROUP BY run) s "
        "ON s.run = b.run WHERE b.run = ANY(%(runs)s)",
    )


def _sum(ground: Ground, run_ids: list[UUID], statement: str) -> int:
    with ground.supervisor.connect() as connection:
        return int(connection.exec_driver_sql(statement, {"runs": run_ids}).scalar_one())


def _requested(chance: random.Random) -> ModelRequested:
    return ModelRequested(
        call_id=uuid4(),
        turn=1,
        model="m",
        tier="small",
        routed_because="bench",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=chance.randint(1, NEED_MICROUSD),
    )


def _responded(asked: ModelRequested, chance: random.Random) -> ModelResponded:
    return ModelResponded(
        call_id=asked.call_id,
        model="m",
        content=({"type": "text", "text": "x"},),
        stop_reason="end_turn",
        usage=Usage(),
        cost_microusd=chance.randint(0, asked.reserved_microusd),
    )

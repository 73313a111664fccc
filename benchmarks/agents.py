"""Two hundred agents at once, of one run and of two hundred: what a turn costs when they share a machine, and a budget.

Two processes of a hundred threads each, as workers are: a pool of twelve connections, a heartbeat, and in each thread
an agent whose model takes 50 to 200 ms, asleep. What a turn takes beyond the call is its overhead. The crews work by
turns, so that whatever else the machine does meets all of them. The third is of one run, too, and shares no commits:
it shows what sharing them gives.
"""

import multiprocessing
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, repeat
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from uuid import UUID

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground, script_steps
from benchmarks.turn import facts_of_a_turn
from chargehand.orchestrator import steps
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.heartbeat import Heartbeat
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.turns import StepRecorder

PROCESSES = 2
THREADS = 100
CALL_SECONDS = (0.05, 0.2)
# Each crew works this long, then the other one, so many times; before that, both once without being counted.
SECONDS = 4.0
ROUNDS = 3
WARM_UP_SECONDS = 1.0
# A worker's default.
LEASE_SECONDS = 15.0
START_SECONDS = 60.0
SEED = 1

TARGET_SHARE_OF_IDEAL = 0.95
TARGET_RATIO = 1.5

ONE_RUN, MANY_RUNS, UNSHARED = "one_run", "many_runs", "unshared"
Crews = Mapping[str, Sequence[UUID]]


@dataclass(kw_only=True, slots=True)
class Turns:
    """Turns of one crew in seconds: the call of the model, and all of it."""

    calls: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """What they took of their processes' CPU, all together."""

    def add(self, others: "Turns") -> None:
        """Count those of others, too."""
        self.calls += others.calls
        self.walls += others.walls
        self.cpu_seconds += others.cpu_seconds

    @property
    def overheads(self) -> list[float]:
        """What each took beyond its call."""
        return [wall - call for call, wall in zip(self.calls, self.walls, strict=True)]

    def per_second(self, agents: int) -> float:
        """Turns a second of so many agents, each as fast as the average one."""
        return agents * len(self.walls) / sum(self.walls)

    @property
    def share_of_ideal(self) -> float:
        """Their rate as a part of what it would be without overhead."""
        return sum(self.calls) / sum(self.walls)


def measure(
    ground: Ground, *, threads: int = THREADS, seconds: float = SECONDS, rounds: int = ROUNDS
) -> Iterator[Figure]:
    """Rate and overhead of both crews, and how far apart they are."""
    agents = PROCESSES * threads
    crews = work(ground, crews_of(ground, agents), seconds=seconds, rounds=rounds)
    rates = {name: turns.per_second(agents) for name, turns in crews.items()}
    tails = {name: percentile(turns.overheads, 99) * 1000 for name, turns in crews.items()}
    for name, turns in crews.items():
        yield Figure(name=f"agents_{name}_turns_per_second", value=rates[name], unit="1/s", better="higher")
        yield Figure(
            name=f"agents_{name}_share_of_ideal",
            value=turns.share_of_ideal,
            unit="x",
            target=None if name == UNSHARED else TARGET_SHARE_OF_IDEAL,
            better="higher",
        )
        yield Figure(name=f"agents_{name}_overhead_p50_ms", value=percentile(turns.overheads, 50) * 1000, unit="ms")
        yield Figure(name=f"agents_{name}_overhead_p99_ms", value=tails[name], unit="ms")
        own_cpu_ms = turns.cpu_seconds / len(turns.walls) * 1000
        yield Figure(name=f"agents_{name}_own_cpu_ms", value=own_cpu_ms, unit="ms", durability="memory")
    yield Figure(name="agents_rates_apart", value=apart(rates), unit="x", target=TARGET_RATIO)
    yield Figure(name="agents_p99_apart", value=apart(tails), unit="x", target=TARGET_RATIO)


def apart(values: Mapping[str, float]) -> float:
    """The larger value of those of one run and of many as a multiple of the smaller."""
    both = values[ONE_RUN], values[MANY_RUNS]
    return max(both) / min(both)


def crews_of(ground: Ground, agents: int) -> dict[str, list[UUID]]:
    """Queued steps for as many agents of one run, of a run each, and of one run again."""
    one, again = (ground.submit(*script_steps(agents)) for _ in range(2))
    many = [ground.submit(*script_steps(1)) for _ in range(agents)]
    for run_id in (one, again, *many):
        ground.advance(run_id)
    ground.admit()
    return {
        ONE_RUN: [step_id(one, f"work-{index}") for index in range(agents)],
        MANY_RUNS: [step_id(run_id, "work-0") for run_id in many],
        UNSHARED: [step_id(again, f"work-{index}") for index in range(agents)],
    }


def work(ground: Ground, crews: Crews, *, seconds: float, rounds: int) -> dict[str, Turns]:
    """Let processes of their own work; the turns of each crew."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    total = {name: Turns() for name in crews}
    receivers = []
    for index in range(PROCESSES):
        mine = {name: step_ids[index::PROCESSES] for name, step_ids in crews.items()}
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=worker,
            args=(ground.database_url, ground.tenant, index, mine, barrier, sender),
            kwargs={"seconds": seconds, "rounds": rounds},
            daemon=True,
        )
        process.start()
        # Only the child holds it now: its death is the end of the pipe.
        sender.close()
        receivers.append((process, receiver))
    for process, receiver in receivers:
        for name, turns in receiver.recv().items():
            total[name].add(turns)
        process.join()
    return total


def worker(
    database_url: str,
    tenant: UUID,
    index: int,
    crews: Crews,
    barrier: Barrier,
    sender: Connection,
    *,
    seconds: float,
    rounds: int,
) -> None:
    """One process: claim its agents' steps, then let the crews work by turns, at the same time as the others."""
    sharing, unshared = Connections(database_url), Connections(database_url, lanes=THREADS)
    holder = f"bench-agents-{index}"
    heartbeat = Heartbeat(database_url, holder=holder, pool="coding", slots=THREADS, lease_seconds=LEASE_SECONDS)
    heartbeat.start()
    recorders: dict[str, list[StepRecorder]] = {name: [] for name in crews}
    for name, step_ids in crews.items():
        connections = unshared if name == UNSHARED else sharing
        for step in step_ids:
            claimed = steps.claim(connections, tenant=tenant, step_id=step, holder=holder, lease_seconds=LEASE_SECONDS)
            heartbeat.hold(step, claimed.epoch, lambda: None)
            held = HeldStep(connections, claimed)
            recorders[name].append(StepRecorder(connections, held, lease_seconds=LEASE_SECONDS))
    total = {name: Turns() for name in crews}
    with ThreadPoolExecutor(max(len(crew) for crew in recorders.values())) as pool:
        for number, length in enumerate([WARM_UP_SECONDS, *[seconds] * rounds]):
            for name, crew in recorders.items():
                barrier.wait(START_SECONDS)
                cpu_started = time.process_time()
                together = Turns()
                for turns in pool.map(agent, crew, chances(name, index, number), repeat(length)):
                    together.add(turns)
                together.cpu_seconds = time.process_time() - cpu_started
                if number:
                    total[name].add(together)
    sender.send(total)
    heartbeat.stop()
    for connections in (sharing, unshared):
        connections.close()


def chances(*names: object) -> Iterator[random.Random]:
    """A source of call lengths for each agent of a crew, the same ones in every run."""
    return (random.Random(f"{SEED} {names} {agent}") for agent in count())


def agent(recorder: StepRecorder, chance: random.Random, seconds: float) -> Turns:
    """Turns of one agent until the time is over."""
    turns = Turns()
    deadline = time.perf_counter() + seconds
    # Agents do not begin their calls in the same instant.
    time.sleep(chance.uniform(0, CALL_SECONDS[1]))
    while (started := time.perf_counter()) < deadline:
        call_seconds = chance.uniform(*CALL_SECONDS)
        request, response = facts_of_a_turn(len(turns.calls))
        recorder.request([], request)
        time.sleep(call_seconds)
        recorder.respond(response)
        turns.walls.append(time.perf_counter() - started)
        turns.calls.append(call_seconds)
    return turns

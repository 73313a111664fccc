"""What one durable turn of an agent costs beside two bare commits, measured in turns on the same server."""

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg

from benchmarks.figures import Figure, percentile
from benchmarks.ground import LEASE_SECONDS, Ground, make_floor_table, script_steps
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, Usage
from chargehand.orchestrator.turns import StepRecorder

# DESIGN.md section 3: a turn is two statements, each little more than the commit that makes it durable.
TARGET_RATIO = 1.6
TARGET_CPU_P50_MS = 0.5
TARGET_CPU_P99_MS = 1.0
# On a disk that commits a row in this time or less a turn must stay below the target; on a slower one nobody promised.
FAST_COMMIT_MS = 0.27
TARGET_FAST_TURN_MS = 1.0
ROUNDS = 1_500
WARM_UP_ROUNDS = 100
# One shows what waking up costs; the others, what agents of one process cost each other.
THREADS = (1, 16, 50)
ROUNDS_PER_THREAD = 40
ANSWER_BYTES = 2_000
# The rest of the fact has 250 bytes.
ANSWER_TEXT = "x" * (ANSWER_BYTES - 250)
SEED = 1
RESERVED_MICROUSD = 500
COST_MICROUSD = 120

FLOOR_INSERT = "INSERT INTO public.bench_floor (body) VALUES (%s)"


@dataclass(kw_only=True, slots=True)
class Timings:
    """Seconds of each repetition, by the wall and on our own CPU."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall_started: float, cpu_started: float) -> None:
        """Count one repetition that ends now."""
        self.wall.append(time.perf_counter() - wall_started)
        self.cpu.append(time.thread_time() - cpu_started)


def measure(ground: Ground, *, rounds: int = ROUNDS, threads: Sequence[int] = THREADS) -> Iterator[Figure]:
    """The turn in a tight loop against its floor, then from waiting threads with a row each."""
    make_floor_table(ground)
    floor, turn = tight_loop(ground, rounds=rounds)
    floor_ms = percentile(floor.wall, 50) * 1000
    turn_ms = percentile(turn.wall, 50) * 1000
    is_fast = floor_ms / 2 <= FAST_COMMIT_MS
    yield Figure(name="turn_floor_p50_ms", value=floor_ms, unit="ms")
    yield Figure(name="turn_floor_p99_ms", value=percentile(floor.wall, 99) * 1000, unit="ms")
    yield Figure(name="turn_p50_ms", value=turn_ms, unit="ms", target=TARGET_FAST_TURN_MS if is_fast else None)
    yield Figure(name="turn_p99_ms", value=percentile(turn.wall, 99) * 1000, unit="ms")
    for percent, target_ms in ((50, TARGET_CPU_P50_MS), (99, TARGET_CPU_P99_MS)):
        yield Figure(
            name=f"turn_own_cpu_p{percent}_ms",
            value=percentile(turn.cpu, percent) * 1000,
            unit="ms",
            target=target_ms,
            durability="memory",
        )
    yield Figure(name="turn_overhead_ratio", value=turn_ms / floor_ms, unit="x", target=TARGET_RATIO)
    for count in threads:
        waiting = from_threads(ground, threads=count)
        yield Figure(name=f"turn_{count}_threads_p50_ms", value=percentile(waiting.wall, 50) * 1000, unit="ms")
        yield Figure(name=f"turn_{count}_threads_p99_ms", value=percentile(waiting.wall, 99) * 1000, unit="ms")


def tight_loop(ground: Ground, *, rounds: int, warm_up: int = WARM_UP_ROUNDS) -> tuple[Timings, Timings]:
    """Floor and turn by turns in one thread, so that a slow minute of the disk meets both."""
    floor, turn = Timings(), Timings()
    recorder = open_recorders(ground, 1)[0]
    body = "x" * ANSWER_BYTES
    with psycopg.connect(ground.database_url, autocommit=True, prepare_threshold=0) as connection:
        for index in range(warm_up + rounds):
            times = (Timings(), Timings()) if index < warm_up else (floor, turn)
            wall, cpu = time.perf_counter(), time.thread_time()
            connection.execute(FLOOR_INSERT, [body])
            connection.execute(FLOOR_INSERT, [body])
            times[0].add(wall, cpu)
            request, response = facts_of_a_turn(index)
            wall, cpu = time.perf_counter(), time.thread_time()
            recorder.request([], request)
            recorder.respond(response)
            times[1].add(wall, cpu)
    return floor, turn


def from_threads(ground: Ground, *, threads: int, rounds: int = ROUNDS_PER_THREAD) -> Timings:
    """Turns of agents that wait for a model between them, each on a row of its own; the model takes no CPU."""
    recorders = open_recorders(ground, threads)
    # Each thread asks for about five turns a second, as agents do: this measures waiting, not throughput.
    pause_seconds = 0.2

    def agent(recorder: StepRecorder) -> Timings:
        times = Timings()
        chance = random.Random(f"{SEED} {recorder.seq} {id(recorder)}")
        for index in range(rounds):
            time.sleep(pause_seconds * chance.uniform(0.5, 1.5))
            request, response = facts_of_a_turn(index)
            wall, cpu = time.perf_counter(), time.thread_time()
            recorder.request([], request)
            recorder.respond(response)
            times.add(wall, cpu)
        return times

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(agent, recorders))
    return Timings(
        wall=[value for times in results for value in times.wall],
        cpu=[value for times in results for value in times.cpu],
    )


def open_recorders(ground: Ground, count: int) -> list[StepRecorder]:
    """Recorders of freshly claimed steps of one run."""
    run_id = ground.queued_run(*script_steps(count))
    return [
        StepRecorder(ground.connections, ground.claim(run_id, f"work-{index}"), lease_seconds=LEASE_SECONDS)
        for index in range(count)
    ]


def facts_of_a_turn(turn: int, text: str = ANSWER_TEXT) -> tuple[ModelRequested, ModelResponded]:
    """What a turn records; without a `text` of its own the answer is one of about two kilobytes."""
    call_id: UUID = uuid4()
    request = ModelRequested(
        call_id=call_id,
        turn=turn,
        model="offline-rules-1",
        tier="medium",
        routed_because="role",
        prompt_hash="0" * 64,
        max_tokens=4_096,
        reserved_microusd=RESERVED_MICROUSD,
        reads=("role:0123456789abcdef",),
    )
    response = ModelResponded(
        call_id=call_id,
        model="offline-rules-1",
        content=({"type": "text", "text": text},),
        stop_reason="tool_use",
        usage=Usage(input_tokens=900, output_tokens=400),
        cost_microusd=COST_MICROUSD,
        duration_ms=812,
    )
    return request, response

"""A journal has no ceiling: ten thousand turns of one step, and what the last ones cost beside those of a new step."""

import time
from collections.abc import Iterator

from benchmarks.core import DONE
from benchmarks.figures import Figure, percentile
from benchmarks.ground import LEASE_SECONDS, Ground, script_steps
from benchmarks.turn import facts_of_a_turn
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.conversation import fold

TURNS = 10_000
# Turns 10 to 210 of a new step beside the last 200 of the long one.
FIRST_COMPARED = 10
COMPARED = 200
TARGET_RATIO = 1.2


def measure(ground: Ground, *, turns: int = TURNS, compared: int = COMPARED) -> Iterator[Figure]:
    """How fast the turns went by, late ones beside early ones, and what a resume at the end of them takes."""
    run_id = ground.queued_run(*script_steps(2))
    held = ground.claim(run_id, "work-0")
    long = StepRecorder(ground.connections, held, lease_seconds=LEASE_SECONDS)
    new = StepRecorder(ground.connections, ground.claim(run_id, "work-1"), lease_seconds=LEASE_SECONDS)

    started = time.perf_counter()
    for index in range(turns - compared):
        turn_seconds(long, index)
    taken = time.perf_counter() - started
    yield Figure(name="linear_turns_per_second", value=(turns - compared) / taken, unit="1/s", better="higher")

    for index in range(FIRST_COMPARED):
        turn_seconds(new, index)
    early: list[float] = []
    late: list[float] = []
    # By turns: whatever else the machine does meets both.
    for index in range(compared):
        early.append(turn_seconds(new, FIRST_COMPARED + index))
        late.append(turn_seconds(long, turns - compared + index))
    early_ms, late_ms = (percentile(values, 50) * 1000 for values in (early, late))
    yield Figure(name=f"linear_turn_{FIRST_COMPARED}_p50_ms", value=early_ms, unit="ms")
    yield Figure(name=f"linear_turn_{turns}_p50_ms", value=late_ms, unit="ms")
    yield Figure(name="linear_late_over_early", value=late_ms / early_ms, unit="x", target=TARGET_RATIO)

    # What the next claimant does before it goes on: read and check every fact, then see what they amount to.
    started = time.perf_counter()
    resumed = StepRecorder(ground.connections, held, lease_seconds=LEASE_SECONDS)
    read = time.perf_counter()
    conversation = fold(resumed.history)
    folded = time.perf_counter()
    if len(conversation.exchanges) != turns or conversation.open_calls:
        raise RuntimeError(f"The journal has {len(conversation.exchanges)} answers after {turns} turns.")
    held.finish(DONE)
    yield Figure(name=f"linear_open_at_{turns}_turns_seconds", value=read - started, unit="s", durability="memory")
    yield Figure(name=f"linear_fold_at_{turns}_turns_seconds", value=folded - read, unit="s", durability="memory")


def turn_seconds(recorder: StepRecorder, index: int) -> float:
    """One turn, without the call of the model."""
    request, response = facts_of_a_turn(index)
    started = time.perf_counter()
    recorder.request([], request)
    recorder.respond(response)
    return time.perf_counter() - started

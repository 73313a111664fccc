"""The statements around a turn, one caller at a time: claim, finish, advance, and how fast messages are published."""

import time
from collections.abc import Iterator, Sequence
from uuid import UUID

import psycopg

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground, make_floor_table, script_steps
from benchmarks.turn import FLOOR_INSERT
from chargehand.orchestrator import broker
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import Step

CLAIMS = 400
ADVANCED_STEPS = (40, 300, 1_000)
ADVANCES = 20
PUBLISHED = 1_000

DONE = StepFinished.model_validate({"outcome": "succeeded", "result": {"answer": 42}})


def measure(
    ground: Ground, *, claims: int = CLAIMS, sizes: Sequence[int] = ADVANCED_STEPS, published: int = PUBLISHED
) -> Iterator[Figure]:
    """All figures of this module."""
    yield from claim_and_finish(ground, count=claims)
    for size in sizes:
        yield from advance(ground, size=size)
    yield publish(ground, count=published, joined=False)
    yield publish(ground, count=published, joined=True)


def claim_and_finish(ground: Ground, *, count: int) -> Iterator[Figure]:
    """One claim and one finish at a time, by turns with one bare commit."""
    make_floor_table(ground)
    run_id = ground.queued_run(*script_steps(count))
    floor: list[float] = []
    claims: list[float] = []
    finishes: list[float] = []
    with psycopg.connect(ground.database_url, autocommit=True, prepare_threshold=0) as connection:
        for index in range(count):
            started = time.perf_counter()
            connection.execute(FLOOR_INSERT, ["x" * 300])
            committed = time.perf_counter()
            held = ground.claim(run_id, f"work-{index}")
            claimed = time.perf_counter()
            held.finish(DONE)
            finished = time.perf_counter()
            floor.append(committed - started)
            claims.append(claimed - committed)
            finishes.append(finished - claimed)
    for name, values in (("commit_floor", floor), ("claim", claims), ("finish", finishes)):
        for percent in (50, 99):
            yield Figure(name=f"{name}_p{percent}_ms", value=percentile(values, percent) * 1000, unit="ms")


def advance(ground: Ground, *, size: int, rounds: int = ADVANCES) -> Iterator[Figure]:
    """One round of a run of `size` steps after one of them has finished."""
    # As many independent steps as rounds, a join behind them, and the rest behind that: about an edge a step.
    heads = script_steps(min(rounds, size - 1))
    join = _work("join", *(head.key for head in heads))
    rest = [_work(f"rest-{index}", join.key) for index in range(size - len(heads) - 1)]
    run_id = ground.queued_run(*heads, join, *rest)
    taken: list[float] = []
    for head in heads:
        ground.claim(run_id, head.key).finish(DONE)
        started = time.perf_counter()
        ground.advance(run_id)
        taken.append(time.perf_counter() - started)
    # The last round makes the join ready, which is another thing.
    yield Figure(name=f"advance_{size}_steps_p50_ms", value=percentile(taken[:-1] or taken, 50) * 1000, unit="ms")
    end(ground, run_id)


def publish(ground: Ground, *, count: int, joined: bool) -> Figure:
    """Messages of `count` steps a second: a chain each, or one chord when they are joined."""
    heads = script_steps(count)
    join = _work("join", *(step.key for step in heads))
    run_id = ground.submit(*heads, *([join] if joined else []))
    ground.advance(run_id)
    admitted = next(one for one in ground.admit() if one.run_id == run_id)
    started = time.perf_counter()
    accepted = broker.publish(
        ground.app, ground.settings, tenant=admitted.tenant, run_id=run_id, emissions=admitted.emissions
    )
    seconds = time.perf_counter() - started
    if not accepted:
        raise RuntimeError("The broker did not take the messages; see the log.")
    end(ground, run_id)
    name = "publish_chord_per_second" if joined else "publish_chains_per_second"
    return Figure(name=name, value=count / seconds, unit="1/s", better="higher", durability="memory")


def end(ground: Ground, run_id: UUID) -> None:
    """Take the run out of the way of the next figure: admission looks at all runs."""
    with psycopg.connect(ground.database_url) as connection:
        connection.execute("UPDATE chargehand.steps SET status = 'cancelled' WHERE run = %s", [run_id])
        connection.execute("UPDATE chargehand.runs SET status = 'cancelled' WHERE id = %s", [run_id])


def _work(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", pool="coding", after=after)

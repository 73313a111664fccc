"""Figures of graphs that grow: from a hand-off to the colleague's claim and to the answer, and a map of 1,000 items."""

import time
from collections.abc import Iterator

import psycopg

from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.fleet import RUN_TIMEOUT_SECONDS, Fleet, line, open_fleet
from benchmarks.ground import Ground, execute, open_ground
from chargehand.orchestrator.facts import StepFinished, StepWaiting
from chargehand.orchestrator.plan import Map, Plan, Step, step_id
from chargehand.orchestrator.steps import new_wait_id

HAND_OFFS = 100
REAL_HAND_OFFS = 30
WARM_UP = 10
ITEMS = 1_000
LANES = 100
# `Ground` has no roles installed; what makes a step wait for a colleague is its kind.
_MAKE_AGENT = """
UPDATE chargehand.steps SET spec = spec || '{"kind": "agent", "role": "asker"}' WHERE id = :step
"""
_KNOW_THE_ROLE = """UPDATE chargehand.runs SET role_versions = '{"asker": "0"}' WHERE id = :run"""
_WAITED_AND_CLAIMED = """
SELECT j.step, j.kind, j.at FROM chargehand.journal j
WHERE j.run = %s AND j.kind IN ('step.claimed', 'step.waiting', 'step.finished') ORDER BY j.at
"""
_ENDED_AT = "SELECT finished_at FROM chargehand.steps WHERE id = %s"


def measure() -> Iterator[Figure]:
    """All figures of this module: hand-offs in one process and between workers, and maps on a laptop."""
    with open_ground() as ground:
        yield from hand_offs(ground, count=HAND_OFFS)
    with open_fleet() as fleet:
        # The first run meets cold caches and connections that are not open yet.
        fleet.client.submit(plan=line(3)).wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        yield from hand_offs_of_workers(fleet, count=REAL_HAND_OFFS)
        yield from maps(fleet, items=ITEMS)


def hand_offs(ground: Ground, *, count: int, warm_up: int = WARM_UP) -> Iterator[Figure]:
    """From the commit of a hand-off to the colleague's claim, and from the colleague's end to the asker's claim.

    Worker and supervisor act by turns in one process, with their real statements and without the broker, whose hop
    `chain_hop` and `submit_to_first_claim` have.
    """
    there: list[float] = []
    back: list[float] = []
    for _ in range(warm_up + count):
        asked, answered = _hand_off(ground)
        there.append(asked)
        back.append(answered)
    for name, values in (("hand_off_to_claim", there[warm_up:]), ("answer_to_claim", back[warm_up:])):
        for percent in (50, 95):
            yield Figure(name=f"{name}_p{percent}_ms", value=percentile(values, percent) * 1000, unit="ms")


def hand_offs_of_workers(fleet: Fleet, *, count: int, warm_up: int = WARM_UP) -> Iterator[Figure]:
    """The same between real processes: an agent of the offline model hands its task to a colleague.

    By the database's clock, with the bell, the supervisor's rounds and the broker's hop in it.
    """
    there: list[float] = []
    back: list[float] = []
    asks = Step(key="asks", kind="agent", role="lead", pool="research", instruction="Where are passwords checked?")
    for _ in range(warm_up + count):
        run = fleet.client.submit(plan=Plan.of((asks,)))
        run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        asker, colleague = step_id(run.run_id, "asks"), step_id(run.run_id, "asks/researcher-1")
        with psycopg.connect(fleet.database_url) as connection:
            rows = connection.execute(_WAITED_AND_CLAIMED, [run.run_id]).fetchall()
        waited = next(at for step, kind, at in rows if (step, kind) == (asker, "step.waiting"))
        claimed = next(at for step, kind, at in rows if (step, kind) == (colleague, "step.claimed"))
        ended = next(at for step, kind, at in rows if (step, kind) == (colleague, "step.finished"))
        again = next(at for step, kind, at in rows if (step, kind) == (asker, "step.claimed") and at > ended)
        there.append((claimed - waited).total_seconds())
        back.append((again - ended).total_seconds())
    for name, values in (("hand_off_between_workers", there[warm_up:]), ("answer_between_workers", back[warm_up:])):
        for percent in (50, 95):
            yield Figure(name=f"{name}_p{percent}_ms", value=percentile(values, percent) * 1000, unit="ms")


def maps(fleet: Fleet, *, items: int) -> Iterator[Figure]:
    """A map over so many items, all at once and in lanes; from the caller's call to the map's end."""
    for name, width in (("map", None), (f"map_in_{LANES}_lanes", LANES)):
        body = (Step(key="do", kind="script", script="bench_nothing", pool="audit"),)
        each = Step(key="each", kind="map", map=Map(items=list(range(items)), body=body, max_parallel=width))
        called_at = time.time()
        run = fleet.client.submit(plan=Plan.of((each,)))
        run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        with psycopg.connect(fleet.database_url) as connection:
            row = connection.execute(_ENDED_AT, [step_id(run.run_id, "each")]).fetchone()
        if row is None:
            raise NotMeasured(f"{name}: the map has no row.")
        yield Figure(name=f"{name}_of_{items}_seconds", value=row[0].timestamp() - called_at, unit="s")


def _hand_off(ground: Ground) -> tuple[float, float]:
    run_id = ground.submit(Step(key="asker", kind="script", script="work", pool="coding"))
    execute(ground.supervisor, _MAKE_AGENT, step=step_id(run_id, "asker"))
    execute(ground.supervisor, _KNOW_THE_ROLE, run=run_id)
    ground.advance(run_id)
    ground.admit()
    held = ground.claim(run_id, "asker")
    child = Step(key="asker/helper-1", kind="script", script="work", pool="coding", parent="asker", join="settled")
    asked = StepWaiting(
        wait_id=new_wait_id(), reason="children", question="?", options=("override",), child=child, tool_use_id="t"
    )
    began = time.perf_counter()
    held.wait(asked)
    ground.advance(run_id)
    # The round that appends the colleague rings for the one that makes it ready.
    ground.advance(run_id)
    ground.admit()
    colleague = ground.claim(run_id, child.key)
    there = time.perf_counter() - began
    began = time.perf_counter()
    colleague.finish(StepFinished(outcome="succeeded", result="done"))
    ground.advance(run_id)
    ground.advance(run_id)
    ground.admit()
    again = ground.claim(run_id, "asker")
    back = time.perf_counter() - began
    again.fold_signal(asked.wait_id)
    again.finish(StepFinished(outcome="succeeded"))
    ground.advance(run_id)
    return there, back

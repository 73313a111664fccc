"""Figures of graphs that grow: from a hand-off to the colleague's claim and to the answer, and a map of 1,000 items."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg

from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.fleet import RUN_TIMEOUT_SECONDS, Fleet, line, open_fleet
from chargehand.orchestrator import broker, steps
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.facts import StepFinished, StepWaiting
from chargehand.orchestrator.plan import Map, Plan, Step, step_id
from chargehand.orchestrator.steps import HeldStep, new_wait_id

HAND_OFFS = 40
ITEMS = 1_000
LANES = 100
# The pool of the one who hands off: this process; its workers are nobody.
POOL = "bench"
ROLE = "researcher"
LEASE_SECONDS = 600.0
CLAIM_TIMEOUT_SECONDS = 30.0
LOOK_SECONDS = 0.002

_OPEN_POOL = """
INSERT INTO chargehand.pools (holder, pool, slots) VALUES ('bench', 'bench', 2000)
ON CONFLICT (holder) DO UPDATE SET seen_at = clock_timestamp()
"""
_STATUS = "SELECT status FROM chargehand.steps WHERE id = %s"
_AT = "SELECT kind, max(at) FROM chargehand.journal WHERE step = %s GROUP BY kind"
_READY_AT = "SELECT finished_at FROM chargehand.steps WHERE id = %s"


def measure(*, hand_offs: int = HAND_OFFS, items: int = ITEMS) -> Iterator[Figure]:
    """All figures of this module, on one laptop."""
    with open_fleet() as fleet:
        # The first run meets cold caches and connections that are not open yet.
        fleet.client.submit(plan=line(3)).wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        yield from colleagues(fleet, count=hand_offs)
        yield from maps(fleet, items=items)


def colleagues(fleet: Fleet, *, count: int) -> Iterator[Figure]:
    """From the commit by which a step hands off to the claim of the colleague's step by a worker.

    This process is the agent that hands off, with the same writes and the same ring; supervisors, broker and the
    colleague's worker are the real ones. The colleague is a script, so that no model is in the figure.
    """
    app = broker.make_app(fleet.client.settings, fleet.laptop.services.endpoints.redis_url)
    connections = Connections(fleet.database_url)

    def ring(run_id: UUID) -> None:
        broker.ring_bell(app, fleet.client.settings, run_id)

    latencies: list[float] = []
    returns: list[float] = []
    try:
        with psycopg.connect(fleet.database_url, autocommit=True) as connection:
            for _ in range(count):
                connection.execute(_OPEN_POOL)
                handed, back = _hand_off(fleet, connection, connections, ring)
                latencies.append(handed)
                returns.append(back)
    finally:
        connections.close()
        app.close()
    for name, values in (("hand_off_to_claim", latencies), ("answer_to_claim", returns)):
        for percent in (50, 95):
            yield Figure(name=f"{name}_p{percent}_ms", value=percentile(values, percent) * 1000, unit="ms")


def maps(fleet: Fleet, *, items: int) -> Iterator[Figure]:
    """A map over so many items, all at once and in lanes; from the caller's call to the end of its last step."""
    for name, width in (("map", None), (f"map_in_{LANES}_lanes", LANES)):
        body = (Step(key="do", kind="script", script="bench_nothing", pool="audit"),)
        each = Step(key="each", kind="map", map=Map(items=list(range(items)), body=body, max_parallel=width))
        called_at = time.time()
        run = fleet.client.submit(plan=Plan.of((each,)))
        result = run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        if not isinstance(result, list | dict):
            raise NotMeasured(f"{name}: the map gave {type(result).__name__}.")
        with psycopg.connect(fleet.database_url) as connection:
            row = connection.execute(_READY_AT, [step_id(run.run_id, "each")]).fetchone()
        if row is None:
            raise NotMeasured(f"{name}: the map has no row.")
        yield Figure(name=f"{name}_of_{items}_seconds", value=row[0].timestamp() - called_at, unit="s")


def _hand_off(
    fleet: Fleet, connection: psycopg.Connection, connections: Connections, ring: Callable[[UUID], object]
) -> tuple[float, float]:
    asker = Step(key="asker", kind="agent", role=ROLE, instruction="Ask.", pool=POOL)
    run = fleet.client.submit(plan=Plan.of((asker,)))
    own = step_id(run.run_id, "asker")
    held = _claim(fleet, connection, connections, own)
    child = Step(
        key="asker/colleague-1", kind="script", script="bench_nothing", pool="audit", parent="asker", join="settled"
    )
    wait_id = new_wait_id()
    held.wait(
        StepWaiting(
            wait_id=wait_id, reason="children", question="?", options=("override",), child=child, tool_use_id="t"
        )
    )
    ring(run.run_id)
    again = _claim(fleet, connection, connections, own)
    again.fold_signal(wait_id)
    again.finish(StepFinished(outcome="succeeded"))
    ring(run.run_id)
    mine = dict(connection.execute(_AT, [own]).fetchall())
    theirs = dict(connection.execute(_AT, [step_id(run.run_id, child.key)]).fetchall())
    return (
        (theirs["step.claimed"] - mine["step.waiting"]).total_seconds(),
        (mine["step.claimed"] - theirs["step.finished"]).total_seconds(),
    )


def _claim(fleet: Fleet, connection: psycopg.Connection, connections: Connections, step: UUID) -> HeldStep:
    deadline = time.monotonic() + CLAIM_TIMEOUT_SECONDS
    while (row := connection.execute(_STATUS, [step]).fetchone()) is None or row[0] != "queued":
        if time.monotonic() > deadline:
            raise NotMeasured(f"Step {step} was not queued within {CLAIM_TIMEOUT_SECONDS:.0f} s: {row}.")
        time.sleep(LOOK_SECONDS)
    claim = steps.claim(
        connections, tenant=fleet.client.tenant, step_id=step, holder="bench", lease_seconds=LEASE_SECONDS
    )
    return HeldStep(connections, claim)

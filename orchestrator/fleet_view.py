"""The fleet in one look, for `top` and for its page: pools, runs under way, what waits longest, what is left alone.

Every statement goes over partial indexes of what is under way, and looks at no more than `MOST_ROWS` rows one by one: a
look does not grow with history. A tenant's session counts the tenant's steps and runs; pools, queues, circuits and
switches are the whole fleet's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import redis
from sqlalchemy import case, func, select, text
from sqlalchemy.orm import Session

from chargehand.orchestrator import broker, circuits, limit_view, switches
from chargehand.orchestrator.circuits import CircuitView
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.facts import StepWaiting, parse_fact
from chargehand.orchestrator.limit_view import LimitView
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import POOL_SILENCE_SECONDS, SOLO
from chargehand.orchestrator.switches import Switch
from chargehand.orchestrator.tables import PoolRow, StepRow
from chargehand.orchestrator.telemetry.fleet import MOST_ROWS, READY_SINCE
from chargehand.orchestrator.transitions import STEP_ENDINGS

# The newest runs under way, and the oldest waits: more do not fit on a screen.
MOST_RUNS = 20
MOST_WAITS = 8
# Waits that only a person ends: those that `chargehand escalations` lists.
_ASKS = "(s.wait_reason IN ('human', 'gate') OR s.wait_reason = 'budget' AND s.run_after IS NULL)"
_UNANSWERED = "NOT EXISTS (SELECT FROM signals g WHERE g.tenant = s.tenant AND g.step = s.id AND g.wait_id = s.wait_id)"

_RUNS = """
WITH live AS (
    SELECT id, status, goal, created_at, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age,
        count(*) OVER () AS all
    FROM runs WHERE finished_at IS NULL ORDER BY created_at DESC, id DESC LIMIT :most
)
SELECT live.*, coalesce(b.cap_microusd, 0), counted.* FROM live LEFT JOIN budgets b ON b.run = live.id,
LATERAL (
    SELECT count(*), count(*) FILTER (WHERE status = ANY(:endings)), count(*) FILTER (WHERE status = 'running'),
        count(*) FILTER (WHERE status = 'waiting'), coalesce(sum(spent_microusd), 0)::bigint
    FROM steps WHERE steps.run = live.id
) AS counted ORDER BY live.created_at DESC, live.id DESC
"""
# A step that waits has written nothing since the row that says so; the bodies of the oldest few are read for the words.
_WAITS = f"""
WITH waits AS (
    SELECT s.run, s.id, s.key, s.head_seq, s.wait_reason AS reason, {_ASKS} AS asks,
        (SELECT at FROM journal j WHERE j.run = s.run AND j.step = s.id AND j.seq = s.head_seq) AS since
    FROM (
        SELECT * FROM steps WHERE status = 'waiting' AND wait_reason <> 'children' ORDER BY run LIMIT {MOST_ROWS}
    ) AS s
    JOIN runs r ON r.id = s.run WHERE r.finished_at IS NULL AND {_UNANSWERED}
    UNION ALL
    SELECT s.run, s.id, s.key, 0, s.status, false, s.queued_at FROM steps s WHERE s.status = 'queued'
    UNION ALL
    SELECT s.run, s.id, s.key, 0, 'ready', false, {READY_SINCE}
    FROM (SELECT * FROM steps WHERE status = 'ready' ORDER BY run LIMIT {MOST_ROWS}) AS s
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY asks ORDER BY since NULLS LAST) AS place,
        count(*) OVER (PARTITION BY asks) AS all
    FROM waits
)
SELECT run, key, reason, asks, extract(epoch FROM clock_timestamp() - since)::float8, ranked.all,
    (SELECT body FROM journal j WHERE j.run = ranked.run AND j.step = ranked.id AND j.seq = ranked.head_seq),
    (SELECT schema_version FROM journal j WHERE j.run = ranked.run AND j.step = ranked.id AND j.seq = ranked.head_seq)
FROM ranked WHERE place <= :most ORDER BY asks, place
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker process."""

    holder: str
    slots: int
    since: datetime
    seen_at: datetime
    is_alive: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """A pool, and the steps in it."""

    name: str
    workers: Sequence[Worker]
    queued: int | None
    """Messages of all tenants; None: Redis does not answer."""
    ready: int
    running: int

    @property
    def slots(self) -> int:
        """Of the processes that live."""
        return sum(worker.slots for worker in self.workers if worker.is_alive)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLine:
    """A run under way."""

    run_id: UUID
    status: str
    goal: str
    age_seconds: float
    steps: int
    steps_ended: int
    running: int
    waiting: int
    spent_microusd: int
    cap_microusd: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A step that does not go on."""

    run_id: UUID
    step_key: str
    reason: str
    """`ready`, `queued`, or why it waits."""
    seconds: float
    what: str
    """The question, or what it waits for in words; empty for what is on its way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetView:
    """The fleet at one moment, by the clock of Postgres."""

    at: datetime
    pools: Sequence[Pool]
    runs_under_way: int
    runs: Sequence[RunLine]
    """The newest `MOST_RUNS` of them."""
    questions_open: int
    questions: Sequence[Wait]
    """The oldest `MOST_WAITS` that people are asked."""
    waits: Sequence[Wait]
    """The oldest `MOST_WAITS` of all others that are ready, queued or wait; not those that wait for other steps."""
    paused: Sequence[Switch]
    circuits: Sequence[CircuitView]
    """Open ones first."""
    limits: Sequence[LimitView]
    """Of models; short ones first."""
    has_redis: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class InRedis:
    """What Redis knows of the fleet."""

    lengths: Mapping[str, int] | None
    """pool → messages; None: Redis does not answer."""
    circuits: Sequence[CircuitView] = ()
    limits: Sequence[LimitView] = ()


def look_at_fleet(services: Services, tenant: UUID) -> FleetView:
    """The fleet now, with this tenant's runs and steps; raises `Unavailable` when Postgres does not answer."""
    # Before the transaction: one that waits for a lost Redis would hold its snapshot open.
    seen = read_redis(services)
    with services.session(tenant) as session:
        return read_fleet_view(session, seen)


def read_redis(services: Services) -> InRedis:
    """Queues, circuits and the limits of models."""
    settings = services.settings
    try:
        client = services.redis()
        lengths = {pool: int(client.llen(broker.queue_name(settings, pool))) for pool in (*POOLS, SOLO)}
        return InRedis(
            lengths=lengths,
            circuits=circuits.look(client, key_prefix=settings.key_prefix),
            limits=limit_view.look(client, key_prefix=settings.key_prefix),
        )
    except (redis.RedisError, Unavailable):
        return InRedis(lengths=None)


def read_fleet_view(session: Session, seen: InRedis) -> FleetView:
    """The fleet as this session may see it."""
    at: datetime = session.scalars(select(func.clock_timestamp())).one()
    runs = session.execute(text(_RUNS), {"most": MOST_RUNS, "endings": sorted(STEP_ENDINGS)}).all()
    asked: list[Wait] = []
    others: list[Wait] = []
    questions_open = 0
    for run_id, key, reason, asks, seconds, count, body, version in session.execute(text(_WAITS), {"most": MOST_WAITS}):
        what = _said(body, version) if body is not None else ""
        wait = Wait(run_id=run_id, step_key=key, reason=reason, seconds=max(0.0, seconds or 0.0), what=what)
        (asked if asks else others).append(wait)
        questions_open = count if asks else questions_open
    return FleetView(
        at=at,
        pools=_pools(session, seen.lengths),
        runs_under_way=runs[0].all if runs else 0,
        runs=[
            RunLine(
                run_id=run_id,
                status=status,
                goal=goal,
                age_seconds=age,
                steps=steps,
                steps_ended=ended,
                running=running,
                waiting=waiting,
                spent_microusd=spent,
                cap_microusd=cap,
            )
            for run_id, status, goal, _, age, _, cap, steps, ended, running, waiting, spent in runs
        ],
        questions_open=questions_open,
        questions=asked,
        waits=others,
        paused=switches.listed(session),
        circuits=seen.circuits,
        limits=seen.limits,
        has_redis=seen.lengths is not None,
    )


def _said(body: str, version: int) -> str:
    fact = parse_fact(body, schema_version=version)
    return fact.question if isinstance(fact, StepWaiting) else ""


def _pools(session: Session, lengths: Mapping[str, int] | None) -> list[Pool]:
    alive_since = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, POOL_SILENCE_SECONDS)
    workers: dict[str, list[Worker]] = {pool: [] for pool in (*POOLS, SOLO)}
    for row, is_alive in session.execute(select(PoolRow, PoolRow.seen_at > alive_since).order_by(PoolRow.holder)):
        workers.setdefault(row.pool, []).append(
            Worker(holder=row.holder, slots=row.slots, since=row.since, seen_at=row.seen_at, is_alive=is_alive)
        )
    counted: dict[tuple[str, str], int] = {}
    pool_of = case((StepRow.solo, SOLO), else_=StepRow.pool)
    query = select(pool_of, StepRow.status, func.count()).where(StepRow.status.in_(["ready", "queued", "running"]))
    for pool, status, number in session.execute(query.group_by(pool_of, StepRow.status)):
        counted[pool, status] = number
    return [
        Pool(
            name=pool,
            workers=found,
            queued=None if lengths is None else lengths.get(pool, 0),
            ready=counted.get((pool, "ready"), 0) + counted.get((pool, "queued"), 0),
            running=counted.get((pool, "running"), 0),
        )
        for pool, found in workers.items()
    ]

"""`/fleet`: pools and their workers, queues, circuits, and what people have paused."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import redis
from fastapi import APIRouter, Request, Response
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from chargehand.orchestrator import broker, circuits, switches
from chargehand.orchestrator.api.state import ApiState, state_of
from chargehand.orchestrator.circuits import CircuitView
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.pages.rendering import page
from chargehand.orchestrator.pages.visitors import PageRoute, Reader
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import POOL_SILENCE_SECONDS, SOLO
from chargehand.orchestrator.tables import PoolRow, StepRow

router = APIRouter(route_class=PageRoute, include_in_schema=False)


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
    """A pool, and the steps of this tenant in it."""

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


@router.get("/fleet")
def fleet(request: Request, visitor: Reader) -> Response:
    """Everything that runs steps, and what stands in their way."""
    state = state_of(request)
    lengths, seen = _in_redis(state)
    with visitor.client.session() as session:
        now: datetime = session.scalars(select(func.clock_timestamp())).one()
        pools = _pools(session, lengths)
        paused = switches.listed(session)
    return page(
        "fleet.html",
        visitor=visitor,
        here="fleet",
        pools=pools,
        paused=paused,
        circuits=seen,
        has_redis=lengths is not None,
        now=now,
    )


def _in_redis(state: ApiState) -> tuple[dict[str, int] | None, Sequence[CircuitView]]:
    try:
        client = state.services.redis()
        lengths = {pool: int(client.llen(broker.queue_name(state.settings, pool))) for pool in (*POOLS, SOLO)}
        return lengths, circuits.look(client, key_prefix=state.settings.key_prefix)
    except (redis.RedisError, Unavailable):
        return None, ()


def _pools(session: Session, lengths: dict[str, int] | None) -> list[Pool]:
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

"""Who goes next: fill the pools' free places with ready steps of all runs, as chains and chords."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine, bindparam, func, select, text, update
from sqlalchemy.orm import Session

from chargehand.orchestrator import admission, canvas
from chargehand.orchestrator.admission import Candidate
from chargehand.orchestrator.canvas import Emission, Node
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.outline import Outline, outline
from chargehand.orchestrator.tables import EdgeRow, RunRow, StepRow

# A pool that has not been heard of for this many of its heartbeats is gone.
POOL_SILENCE_SECONDS = 15.0
# The queue of steps that crashed too often; a pool of one thread serves it.
SOLO = "solo"
# More candidates than any pool has places are not read.
MAX_CANDIDATES = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """What was admitted of one run."""

    tenant: UUID
    run_id: UUID
    emissions: tuple[Emission, ...]


def admit(engine: Engine) -> list[Admitted]:
    """Queue what the pools can take; the caller publishes it after this has committed.

    Each pool's admission is one supervisor's at a time; one that is being decided elsewhere is left alone.
    """
    with Session(engine) as session, session.begin():
        pools = [pool for pool in (*POOLS, SOLO) if _take_turn(session, pool)]
        slots = live_slots(session)
        chosen: list[Candidate] = []
        for pool in pools:
            if slots.get(pool, 0):
                chosen.extend(_choose(session, pool, slots[pool]))
        by_run: dict[UUID, list[Candidate]] = defaultdict(list)
        for candidate in chosen:
            by_run[candidate.run_id].append(candidate)
        return [_emit(session, run_id, candidates) for run_id, candidates in by_run.items()]


def live_slots(session: Session) -> dict[str, int]:
    """Threads of the live processes of each pool."""
    rows = session.execute(
        text(
            "SELECT pool, sum(slots) FROM pools WHERE seen_at > clock_timestamp() - make_interval(secs => :silence) "
            "GROUP BY pool"
        ),
        {"silence": POOL_SILENCE_SECONDS},
    )
    return {pool: int(slots) for pool, slots in rows}


def _take_turn(session: Session, pool: str) -> bool:
    return bool(
        session.execute(
            text("SELECT pg_try_advisory_xact_lock(hashtextextended('chargehand.admit.' || :pool, 0))"), {"pool": pool}
        ).scalar_one()
    )


def _choose(session: Session, pool: str, slots: int) -> list[Candidate]:
    is_solo = pool == SOLO
    of_pool: Sequence[Any] = [StepRow.solo] if is_solo else [StepRow.pool == pool, ~StepRow.solo]
    counted = session.execute(
        select(StepRow.tenant, func.count())
        .where(StepRow.status.in_(["queued", "running"]), *of_pool)
        .group_by(StepRow.tenant)
    )
    under_way: dict[UUID, int] = {tenant: count for tenant, count in counted.all()}  # noqa: C416 - typed rows
    limit = admission.places(slots=slots, under_way=sum(under_way.values()))
    if not limit:
        return []
    rows = session.execute(
        select(StepRow.id, StepRow.run, StepRow.tenant, RunRow.priority, RunRow.created_at, StepRow.ordinal)
        .join(RunRow, RunRow.id == StepRow.run)
        .where(StepRow.status == "ready", RunRow.status == "running", *of_pool)
        .where((StepRow.run_after.is_(None)) | (StepRow.run_after <= func.clock_timestamp()))
        .order_by(RunRow.priority.desc(), RunRow.created_at, StepRow.ordinal)
        .limit(MAX_CANDIDATES)
    )
    candidates = [
        Candidate(step_id=row[0], run_id=row[1], tenant=row[2], priority=row[3], submitted_at=row[4], ordinal=row[5])
        for row in rows
    ]
    return admission.choose(candidates, limit=limit, under_way=under_way)


def _emit(session: Session, run_id: UUID, candidates: Sequence[Candidate]) -> Admitted:
    outlines = outline(session, run_id)
    graph = _graph(session, run_id, outlines.values())
    admitted = sorted((candidate.step_id for candidate in candidates), key=lambda step: outlines[step].ordinal)
    followable = {
        one.step_id for one in outlines.values() if one.status == "pending" and one.kind != "gate" and not one.solo
    }
    emissions = canvas.compose(graph, admitted, followable=followable)
    _queue(session, emissions, outlines)
    return Admitted(tenant=candidates[0].tenant, run_id=run_id, emissions=tuple(emissions))


def _graph(session: Session, run_id: UUID, outlines: Iterable[Outline]) -> dict[UUID, Node]:
    before: dict[UUID, list[UUID]] = defaultdict(list)
    after: dict[UUID, list[UUID]] = defaultdict(list)
    for predecessor, successor in session.execute(
        select(EdgeRow.predecessor, EdgeRow.successor).where(EdgeRow.run == run_id)
    ):
        before[successor].append(predecessor)
        after[predecessor].append(successor)
    return {
        one.step_id: Node(
            step_id=one.step_id,
            pool=SOLO if one.solo else one.pool,
            label=label_of(one),
            before=tuple(before[one.step_id]),
            after=tuple(after[one.step_id]),
        )
        for one in outlines
    }


def label_of(one: Outline) -> str:
    """What people see of a step in Flower: `audit/triager`, `coding/tests`."""
    return f"{one.pool}/{one.name or one.kind}"


def _queue(session: Session, emissions: Sequence[Emission], outlines: Mapping[UUID, Outline]) -> None:
    """Write what is emitted: heads *queued*, followers *chained*, each knowing the next; locked in plan order."""
    rows: list[dict[str, Any]] = []
    for chain in canvas.chains_of(emissions):
        identity = uuid4() if len(chain.links) > 1 else None
        for position, link in enumerate(chain.links):
            rows.append(
                {
                    "step": link.step_id,
                    "chain": identity,
                    "next": chain.links[position + 1].step_id if position + 1 < len(chain.links) else None,
                    "was": "pending" if position else "ready",
                    "now": "chained" if position else "queued",
                }
            )
    statement = (
        update(StepRow)
        .where(StepRow.id == bindparam("step"), StepRow.status == bindparam("was"))
        .values(
            status=bindparam("now"),
            chain=bindparam("chain"),
            next_in_chain=bindparam("next"),
            queued_at=func.clock_timestamp(),
            emissions=StepRow.emissions + 1,
        )
    )
    session.connection().execute(statement, sorted(rows, key=lambda row: outlines[row["step"]].ordinal))

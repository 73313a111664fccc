"""Who goes next: fill the pools' free places with ready steps of all runs, as chains, packs and chords."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from chargehand.orchestrator import admission, canvas
from chargehand.orchestrator.admission import Candidate, Room
from chargehand.orchestrator.canvas import Emission, Node, Pack
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.rounds import UNATTENDED, Place, Standing
from chargehand.orchestrator.supervisor.graphs import Graphs, standings

# A pool that has not been heard of for this many of its heartbeats is gone.
POOL_SILENCE_SECONDS = 15.0
# A message that nobody claims is sent again after 1, 2, 4 and then every 8 times `unclaimed_seconds`: a pool that comes
# back with its queue gone must not wait for minutes.
MAX_BACKOFF = 8
# The queue of steps that crashed too often; a pool of one thread serves it.
SOLO = "solo"

# One statement tries every pool's lock: an admission is one supervisor's at a time.
_TAKE_TURNS = """
SELECT pool FROM unnest(%(pools)s::text[]) AS pool
WHERE pg_try_advisory_xact_lock(hashtextextended('chargehand.admit.' || pool, 0))
"""
# A chain has one step under way at a time, a pack is one message: both take one place.
_UNDER_WAY = """
SELECT CASE WHEN solo THEN 'solo' ELSE pool END, tenant, count(DISTINCT coalesce(chain, id)),
    extract(epoch FROM max(queued_at))
FROM steps WHERE status IN ('queued', 'running') GROUP BY 1, 2
"""
# So many of each tenant, that none can hide the others: more than a pool has places for are not read.
_CANDIDATES = """
SELECT id, run, tenant, priority, created_at, ordinal FROM (
    SELECT s.id, s.run, s.tenant, r.priority, r.created_at, s.ordinal,
        row_number() OVER (PARTITION BY s.tenant ORDER BY r.priority DESC, r.created_at, s.run, s.ordinal) AS place
    FROM steps s JOIN runs r ON r.id = s.run
    WHERE s.status = 'ready' AND r.status = 'running' AND CASE WHEN s.solo THEN 'solo' ELSE s.pool END = %(pool)s
      AND s.tenant <> ALL(%(left_out)s::uuid[]) AND (s.run_after IS NULL OR s.run_after <= clock_timestamp())
      AND NOT EXISTS (
          SELECT FROM switches w WHERE w.kind = 'all' OR w.kind = 'role' AND w.name = s.spec->>'role')
) AS ready WHERE place <= %(most)s
"""
_PLAN_VERSION = "SELECT plan_version FROM runs WHERE id = %(run)s"
# Heads become *queued*, followers *chained*, each knowing the next; locked in plan order.
_QUEUE = """
WITH given AS (
    SELECT * FROM unnest(%(steps)s::uuid[], %(chains)s::uuid[], %(nexts)s::uuid[], %(heads)s::boolean[])
        AS given(step, chain, next, head)
), mine AS (
    SELECT s.id, given.* FROM steps s JOIN given ON given.step = s.id
    WHERE s.status = CASE WHEN given.head THEN 'ready' ELSE 'pending' END
    ORDER BY s.ordinal FOR NO KEY UPDATE OF s
)
UPDATE steps s SET status = CASE WHEN mine.head THEN 'queued' ELSE 'chained' END, chain = mine.chain,
    next_in_chain = mine.next, queued_at = clock_timestamp(), emissions = s.emissions + 1
FROM mine WHERE s.id = mine.id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """What was admitted of one run."""

    tenant: UUID
    run_id: UUID
    emissions: tuple[Emission, ...]


class Nodes(Mapping[UUID, Node]):
    """A run's steps as the canvas sees them, each made when asked for: an admission looks at few of a thousand."""

    def __init__(self, places: Mapping[UUID, Place], standings: Mapping[UUID, Standing]) -> None:
        """Steps that stand somewhere; a place without a standing came later and is left out."""
        self._places, self._standings = places, standings
        self._after: dict[UUID, list[UUID]] = defaultdict(list)
        for place in places.values():
            if place.after and place.step_id in standings:
                for predecessor in place.after:
                    self._after[predecessor].append(place.step_id)

    def __getitem__(self, step_id: UUID) -> Node:
        """The step's node; `KeyError` if it is none of the run as this admission sees it."""
        place, standing = self._places[step_id], self._standings[step_id]
        after = tuple(self._after.get(step_id, ()))
        return Node(
            step_id=step_id,
            pool=SOLO if standing.solo else place.pool,
            label=label_of(place),
            before=place.after,
            after=after,
            packable=place.kind == "script"
            and not standing.solo
            and not (len(after) == 1 and len(self._places[after[0]].after) == 1),
        )

    def __contains__(self, step_id: object) -> bool:
        """Whether this admission sees the step."""
        return step_id in self._standings

    def __iter__(self) -> Iterator[UUID]:
        """The steps in plan order."""
        return (step for step in self._places if step in self._standings)

    def __len__(self) -> int:
        """How many steps there are."""
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run with steps that are ready, as this admission sees it."""

    places: Mapping[UUID, Place]
    standings: Mapping[UUID, Standing]
    nodes: Nodes


def admit(engine: Engine, graphs: Graphs) -> list[Admitted]:
    """Queue what the pools can take; the caller publishes it after this has committed.

    Each pool's admission is one supervisor's at a time; one that is being decided elsewhere is left alone.
    """
    with Session(engine) as session, session.begin():
        connection = session.connection()
        pools = [row[0] for row in connection.exec_driver_sql(_TAKE_TURNS, {"pools": [*POOLS, SOLO]})]
        slots = live_slots(session)
        under_way, served = _under_way(session)
        known: dict[UUID, _Run] = {}
        by_run: dict[UUID, list[Candidate]] = defaultdict(list)
        pack_sizes: dict[UUID, int] = {}
        for pool in pools:
            busy = under_way[pool]
            room = admission.room(slots=slots.get(pool, 0), under_way=sum(busy.values()))
            candidates = _candidates(session, pool, room, busy)
            for run_id in {candidate.run_id for candidate in candidates} - known.keys():
                known[run_id] = _read(session, graphs, run_id)
            # Patched in between: the next admission sees them.
            candidates = [one for one in candidates if one.step_id in known[one.run_id].nodes]
            packable = {one.step_id for one in candidates if known[one.run_id].nodes[one.step_id].packable}
            choice = admission.choose(
                candidates, room=room, under_way=busy, packable=packable, last_served=served[pool]
            )
            for candidate in choice.chosen:
                by_run[candidate.run_id].append(candidate)
                pack_sizes[candidate.run_id] = max(choice.pack_size, pack_sizes.get(candidate.run_id, 1))
        return [
            _emit(session, run_id, known[run_id], candidates, pack_sizes[run_id])
            for run_id, candidates in by_run.items()
        ]


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


def _under_way(session: Session) -> tuple[dict[str, dict[UUID, int]], dict[str, dict[UUID, float]]]:
    """Of each pool: the places that tenants have, and when they were last given one."""
    places: dict[str, dict[UUID, int]] = defaultdict(dict)
    served: dict[str, dict[UUID, float]] = defaultdict(dict)
    for pool, tenant, count, queued_at in session.connection().exec_driver_sql(_UNDER_WAY):
        places[pool][tenant], served[pool][tenant] = count, float(queued_at or 0)
    return places, served


def _candidates(session: Session, pool: str, room: Room, under_way: Mapping[UUID, int]) -> list[Candidate]:
    if not room.newcomers:
        return []
    # Those who have their share are not read, as long as there is room for newcomers only.
    left_out = [] if room.anybody else list(admission.with_their_share(under_way, slots=room.slots))
    rows = session.connection().exec_driver_sql(
        _CANDIDATES, {"pool": pool, "most": room.newcomers * admission.MOST_IN_PACK, "left_out": left_out}
    )
    return [
        Candidate(step_id=row[0], run_id=row[1], tenant=row[2], priority=row[3], submitted_at=row[4], ordinal=row[5])
        for row in rows
    ]


def _read(session: Session, graphs: Graphs, run_id: UUID) -> _Run:
    connection = session.connection()
    version: int = connection.exec_driver_sql(_PLAN_VERSION, {"run": run_id}).scalar_one()
    places = graphs.places(connection, run_id, version)
    standing = standings(connection, run_id, places)
    return _Run(places, standing, Nodes(places, standing))


def label_of(place: Place) -> str:
    """What people see of a step in Flower: `audit/triager`, `coding/tests`."""
    return f"{place.pool}/{place.name or place.kind}"


def _emit(session: Session, run_id: UUID, run: _Run, candidates: Sequence[Candidate], pack_size: int) -> Admitted:
    ordinal = {step: place.ordinal for step, place in run.places.items()}
    admitted = sorted((candidate.step_id for candidate in candidates), key=ordinal.__getitem__)
    followable = {
        step
        for step, standing in run.standings.items()
        if standing.status == "pending"
        and not standing.solo
        and run.places[step].kind not in UNATTENDED
        # Whether its way is taken is known when the branch has ended.
        and not run.places[step].when
    }
    emissions = canvas.compose(run.nodes, admitted, followable=followable, pack_size=pack_size)
    _queue(session, emissions)
    return Admitted(tenant=candidates[0].tenant, run_id=run_id, emissions=tuple(emissions))


def _queue(session: Session, emissions: Sequence[Emission]) -> None:
    """Write what is emitted."""
    steps: list[UUID] = []
    chains: list[UUID | None] = []
    nexts: list[UUID | None] = []
    heads: list[bool] = []
    for line in canvas.lines_of(emissions):
        is_pack = isinstance(line, Pack)
        identity = uuid4() if len(line.links) > 1 else None
        for position, link in enumerate(line.links):
            is_last = position + 1 == len(line.links)
            steps.append(link.step_id)
            chains.append(identity)
            nexts.append(None if is_pack or is_last else line.links[position + 1].step_id)
            heads.append(is_pack or position == 0)
    session.connection().exec_driver_sql(_QUEUE, {"steps": steps, "chains": chains, "nexts": nexts, "heads": heads})

"""The tables in memory: the columns that decide anything, under production's names, and a journal that is folded as it
grows.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from psycopg import errors as pg

from chargehand.orchestrator.canvas import Emission
from chargehand.orchestrator.facts import AnyFact, Fact, parse_fact
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.rounds import ON_THE_WAY, Place, Standing
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS, Recorded, RunState, apply


class Time(Protocol):
    """The database's clock."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...


class Transaction:
    """A transaction of several statements; by itself nobody acts in its middle."""

    def __init__(self) -> None:
        """It holds no lock yet."""
        self.is_cut_off = False
        self._held: list[Callable[[], None]] = []

    def point(self, where: str) -> None:
        """Between two of its statements: others may act here, and its process may die."""

    @contextmanager
    def holding(self, release: Callable[[], None]) -> Iterator[None]:
        """Hold a lock until the block ends, or the transaction is cut off."""
        self._held.append(release)
        try:
            yield
        finally:
            if release in self._held:
                self._held.remove(release)
                release()

    def cut_off(self) -> None:
        """Postgres ends the session, because it has sat in the transaction for too long."""
        self.is_cut_off = True
        held, self._held = self._held, []
        for release in held:
            release()


class RunIsLocked(Exception):
    """Somebody holds the run's row; in Postgres the caller would wait."""


@dataclass(slots=True)
class StepLine:
    """A row of `steps`."""

    id: UUID
    run: UUID
    tenant: UUID
    key: str
    ordinal: int
    pool: str
    spec: Step
    status: str = "pending"
    epoch: int = 0
    crashes: int = 0
    solo: bool = False
    taken_over: bool = False
    lease_until: float | None = None
    holder: str | None = None
    halt: str | None = None
    head_seq: int = 0
    chain: object = None
    next_in_chain: UUID | None = None
    emissions: int = 0
    queued_at: float | None = None
    run_after: float | None = None
    wait_id: UUID | None = None
    wait_reason: str | None = None
    wait_cause: str | None = None
    expires_at: float | None = None
    retries: int = 0
    turns: int = 0
    allotment_microusd: int = 0
    reserved_microusd: int = 0
    spent_microusd: int = 0
    returned_microusd: int = 0
    anchored: bool = False
    patched: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    label: str | None = None

    @property
    def has_ended(self) -> bool:
        """Nothing happens to it any more."""
        return self.status in STEP_ENDINGS

    @property
    def free_microusd(self) -> int:
        """Drawn, and neither spent nor reserved."""
        return self.allotment_microusd - self.spent_microusd - self.reserved_microusd


@dataclass(slots=True)
class RunLine:
    """A row of `runs`, with its row of `budgets`."""

    id: UUID
    tenant: UUID
    goal: str
    priority: int
    created_at: float
    role_versions: dict[str, str]
    cap_microusd: int
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    replans: int = 0
    status: str = "running"
    plan_version: int = 1
    head_seq: int = 0
    reason: str = ""
    finished_at: float | None = None
    deadline_at: float | None = None
    drawn_microusd: int = 0
    warned_percent: int = 0
    is_locked: bool = False
    is_anchored: bool = False


@dataclass(slots=True)
class PoolLine:
    """A row of `pools`."""

    pool: str
    slots: int
    seen_at: float
    since: float
    """When its heartbeat connected."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A row of `signals`."""

    choice: str
    body: object
    run: UUID
    sent_at: float
    sent_by: str = ""


@dataclass(slots=True)
class Settlement:
    """A row of `settlements`."""

    run: UUID
    step: UUID
    cost_microusd: int
    booked: str | None = None


@dataclass(slots=True)
class Entry:
    """A row of the journal."""

    seq: int
    epoch: int
    fact: AnyFact
    at: float
    written: str | None
    """The body as a worker wrote it; None: not needed yet."""

    @property
    def body(self) -> str:
        """The fact as JSON."""
        if self.written is None:
            self.written = self.fact.model_dump_json()
        return self.written


@dataclass
class Tables:
    """One database. Whoever changes it changes it between two commits, and nobody sees the middle."""

    clock: Time
    runs: dict[UUID, RunLine] = field(default_factory=dict)
    steps: dict[UUID, StepLine] = field(default_factory=dict)
    of_run: dict[UUID, list[StepLine]] = field(default_factory=dict)
    """The steps of a run by ordinal."""
    before: dict[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    parents: dict[UUID, StepLine] = field(default_factory=dict)
    """Of steps that another one appended and stands for."""
    after: dict[UUID, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    rings: dict[UUID, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """run → ring → when it rang."""
    signals: dict[tuple[UUID, UUID], Signal] = field(default_factory=dict)
    switches: dict[tuple[str, str], float] = field(default_factory=dict)
    """Kind and name → since when it is paused for the fleet."""
    settlements: dict[UUID, Settlement] = field(default_factory=dict)
    """By call."""
    pools: dict[str, PoolLine] = field(default_factory=dict)
    journal: dict[tuple[UUID, UUID | None], list[Entry]] = field(default_factory=lambda: defaultdict(list))
    told: dict[UUID, RunState] = field(default_factory=dict)
    """Each run as its journal tells it, by production's reducer."""
    admitting: set[str] = field(default_factory=set)
    """Pools whose advisory lock is held."""
    on_fact: Callable[[UUID, UUID | None, Entry], None] = lambda _run, _step, _entry: None
    on_emission: Callable[[UUID, Mapping[UUID, Standing], Sequence[Emission]], None] = (
        lambda _run, _standing, _emissions: None
    )
    _ring_ids: Iterator[int] = field(default_factory=itertools.count)
    _touched: list[StepLine] = field(default_factory=list)
    _places: dict[UUID, tuple[int, dict[UUID, Place]]] = field(default_factory=dict)
    """As production's `Graphs`: a graph of one version is never stale."""

    # --- writing

    @contextmanager
    def locked(self, run: RunLine, transaction: Transaction | None = None) -> Iterator[None]:
        """Hold the run's row; raises `RunIsLocked`."""
        if run.is_locked:
            raise RunIsLocked

        def release() -> None:
            run.is_locked = False

        run.is_locked = True
        with (transaction or Transaction()).holding(release):
            yield

    def ring(self, run: UUID) -> None:
        """Tell the supervisors, with this very commit, that something changed."""
        self.rings[run][next(self._ring_ids)] = self.clock.now

    def append(self, row: StepLine, fact: AnyFact, *, written: str | None = None) -> None:
        """The next fact of a step's stream, under its epoch."""
        row.head_seq += 1
        self._touched.append(row)
        self._append(row.run, row.id, row.head_seq, row.epoch, fact, written)

    def record(self, run: RunLine, fact: AnyFact) -> None:
        """The next fact of the run's own stream."""
        run.head_seq += 1
        self._append(run.id, None, run.head_seq, 0, fact, None)

    def _append(self, run: UUID, step: UUID | None, seq: int, epoch: int, fact: AnyFact, written: str | None) -> None:
        stream = self.journal[run, step]
        if stream and stream[-1].seq >= seq:
            raise pg.UniqueViolation(f"journal has row {seq} of this stream")
        entry = Entry(seq, epoch, fact, self.clock.now, written)
        stream.append(entry)
        state = self.told.get(run) or RunState(run_id=run)
        self.told[run], _ = apply(state, Recorded(step=step, seq=seq, epoch=epoch, fact=fact))
        self.on_fact(run, step, entry)

    # --- reading

    def open_rows(self) -> Iterator[StepLine]:
        """The steps of all runs that have not ended: no other step changes any more."""
        for run in self.runs.values():
            if run.status not in RUN_ENDINGS:
                yield from self.of_run[run.id]

    def run_of(self, row: StepLine) -> RunLine:
        """Its run."""
        return self.runs[row.run]

    def places(self, run: UUID) -> dict[UUID, Place]:
        """What never changes of the run's steps, in plan order."""
        version = self.runs[run].plan_version
        known = self._places.get(run)
        if known is None or known[0] != version:
            known = self._places[run] = (version, self._read_places(run))
        return known[1]

    def _read_places(self, run: UUID) -> dict[UUID, Place]:
        return {
            row.id: Place(
                step_id=row.id,
                key=row.key,
                ordinal=row.ordinal,
                pool=row.pool,
                kind=row.spec.kind,
                name=row.spec.role or row.spec.script,
                join=row.spec.join,
                after=self.before[row.id],
                when={step_id(run, key): label for key, label in row.spec.when.items()},
                parent=None if row.spec.parent is None else step_id(run, row.spec.parent),
            )
            for row in self.of_run[run]
        }

    def standings(self, run: UUID) -> dict[UUID, Standing]:
        """Where the run's steps stand now."""
        return {
            row.id: Standing(
                row.status,
                row.head_seq,
                row.solo,
                row.anchored,
                row.patched,
                row.reserved_microusd,
                row.label,
                row.status == "waiting" and row.wait_reason == "children",
            )
            for row in self.of_run[run]
        }

    def live_slots(self, silence_seconds: float) -> dict[str, int]:
        """Threads of the live processes of each pool."""
        slots: dict[str, int] = {}
        for line in self.pools.values():
            if line.seen_at > self.clock.now - silence_seconds:
                slots[line.pool] = slots.get(line.pool, 0) + line.slots
        return slots

    def there_since(self, silence_seconds: float) -> dict[str, float]:
        """When each pool that lives came, or came back."""
        since: dict[str, float] = {}
        for line in self.pools.values():
            if line.seen_at > self.clock.now - silence_seconds:
                since[line.pool] = min(line.since, since.get(line.pool, line.since))
        return since

    def say_alive(self, holder: str, pool: str, slots: int, *, anew: bool) -> None:
        """A heartbeat of a process; `anew`: it had to connect for it."""
        now, known = self.clock.now, self.pools.get(holder)
        since = now if known is None or anew else known.since
        self.pools[holder] = PoolLine(pool, slots, now, since)

    def renew(self, step: UUID, epoch: int, lease_seconds: float) -> bool:
        """Renew a lease; whether the step is still held under this epoch."""
        row = self.steps[step]
        is_held = row.epoch == epoch and row.status == "running"
        if is_held:
            row.lease_until = self.clock.now + lease_seconds
        return is_held

    def signal(self, row: StepLine) -> Signal | None:
        """The answer to what the step waits for."""
        return self.signals.get((row.id, row.wait_id)) if row.wait_id is not None else None

    def drift(self) -> list[str]:
        """Where what was written since the last look is not what the journal tells."""
        touched, self._touched = self._touched, []
        return [line for row in touched if (line := self.drift_of(row))]

    def drift_of(self, row: StepLine) -> str:
        """What the tables and the journal say differently of a step; empty when they agree."""
        run = self.told[row.run]
        told = run.steps.get(row.id)
        if told is None:
            return f"step {row.key!r} is not in the journal's plan"
        status = "open" if row.status in ON_THE_WAY else row.status
        tables = (status, row.epoch, row.head_seq, row.spent_microusd + row.reserved_microusd, row.label)
        money = told.spent_microusd + sum(told.reserved.values()) - run.returned.get(row.id, 0)
        journal = (told.status, told.epoch, told.seq, money, told.label)
        return "" if tables == journal else f"step {row.key!r}: tables {tables}, journal {journal}"

    def drift_of_run(self, run: RunLine) -> list[str]:
        """The same of the whole run."""
        told = self.told[run.id]
        found = [line for row in self.of_run[run.id] if (line := self.drift_of(row))]
        if (run.status, run.head_seq, run.plan_version) != (told.status, told.seq, told.plan_version):
            found.append(
                f"run: tables {(run.status, run.head_seq, run.plan_version)}, "
                f"journal {(told.status, told.seq, told.plan_version)}"
            )
        return found

    def facts(self, run: UUID, step: UUID | None) -> Sequence[AnyFact]:
        """A stream."""
        return [entry.fact for entry in self.journal[run, step]]

    def all_over(self) -> bool:
        """Every run has ended and is sealed."""
        return all(run.status in RUN_ENDINGS and run.is_anchored for run in self.runs.values())


def fact_in(body: str) -> AnyFact:
    """A body that a worker wrote."""
    return parse_fact(body, schema_version=1)


def kind_of(fact: Fact) -> str:
    """The fact's kind, as the journal's column has it."""
    return str(getattr(fact, "kind"))  # noqa: B009 - every fact has one; the base class cannot type it

"""The watch loop of every supervisor: finds what was lost and puts it back through the front door.

No leader is elected and no beat ticks: each round takes what `SKIP LOCKED` gives it. What a newer version of the code
has written to is left to a supervisor of that version, and takes no place in a batch.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Engine, case, delete, func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from chargehand.memory import journal, procedural
from chargehand.memory.database import bind_tenant
from chargehand.memory.procedural import Role
from chargehand.memory.tables import RUN_STREAM, JournalRow
from chargehand.orchestrator import runs
from chargehand.orchestrator.errors import ConcurrencyConflict
from chargehand.orchestrator.facts import SCHEMA_VERSION, StepFinished, StepRecovered, StepWaiting, parse_fact
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.questions import deadline_after, expiring, of_settings
from chargehand.orchestrator.recovery import RETURN, SILENCE, Cause, Evidence, cause_of, cut_off, judge
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import dispatch, gates
from chargehand.orchestrator.supervisor.admit import MAX_BACKOFF, POOL_SILENCE_SECONDS, SOLO, live_slots
from chargehand.orchestrator.supervisor.expiry import expire, is_answered
from chargehand.orchestrator.supervisor.queueing import start_queued
from chargehand.orchestrator.supervisor.settling import settle_late_answers
from chargehand.orchestrator.supervisor.sounding import Sounding
from chargehand.orchestrator.supervisor.sweeping import sweep_memories
from chargehand.orchestrator.supervisor.warning import warn
from chargehand.orchestrator.tables import PoolRow, RunRow, SignalRow, StepRow, SubmissionRow
from chargehand.orchestrator.telemetry import fact_metrics, meters, metrics
from chargehand.orchestrator.transitions import RUN_ENDINGS

log = logging.getLogger(__name__)

T = TypeVar("T")

# Rows that one round takes: a backlog is worked off in many short transactions, not in a long one.
BATCH = 100
# Of these a round of lost messages takes so many: all that a pool had may be lost at once, and waits.
LOST_BATCHES = 20
# No transaction that changes a run stands still for longer before its commit.
COMMIT_SECONDS = 5.0
# A solo pool that is restarted is back within this.
SOLO_PATIENCE_SECONDS = 60.0
HUMAN_OPTIONS = ("retry", "skip", "abort")
# A step's deadline counts from its first claim.
STARTED = ("running", "waiting", "ready", "queued")

# The longest forgotten first. Whether a run is ours is asked of the few that have old rings, not of all there are.
_OLD_RINGS = """
WITH old AS MATERIALIZED (
    SELECT run, min(rung_at) AS rung_at FROM rings
    WHERE rung_at < clock_timestamp() - make_interval(secs => :age) GROUP BY run
)
SELECT old.run FROM old JOIN runs ON runs.id = old.run AND runs.schema_version <= :version
WHERE NOT EXISTS (SELECT FROM steps WHERE steps.run = old.run AND steps.schema_version > :version)
ORDER BY old.rung_at LIMIT :most
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round of the watch loop found."""

    recovered: int
    unclaimed: int
    overdue: int
    runs: tuple[UUID, ...]
    """Runs to advance: just accepted, just woken, or with a ring that nobody answered, the oldest of them first."""


def watch(engine: Engine, settings: Settings, *, broker: Sounding | None) -> Round:
    """One round; each part commits on its own. `broker`: as it was just found; None: it does not answer."""
    none: list[UUID] = []
    accepted = _isolated(lambda: accept_submissions(engine, settings), none)
    recovered = _isolated(lambda: recover(engine, settings), 0)
    _isolated(lambda: release_from_solo(engine), 0)
    _isolated(lambda: settle_late_answers(engine), 0)
    _isolated(lambda: expire(engine), 0)
    _isolated(lambda: warn(engine), 0)
    _isolated(lambda: sweep_memories(engine), 0)
    woken = _isolated(lambda: wake(engine), none)
    overdue = _isolated(lambda: end_overdue(engine), 0)
    # After whatever ends runs: their keys are free.
    started = _isolated(lambda: start_queued(engine), none)
    return Round(
        recovered=recovered,
        unclaimed=_isolated(lambda: emit_again(engine, settings, broker), 0),
        overdue=overdue,
        runs=tuple(dict.fromkeys((*accepted, *started, *woken, *old_rings(engine, settings)))),
    )


def for_a_while(runs: Iterable[UUID], *, seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[UUID]:
    """These, until the time is up, and at least the first."""
    began = clock()
    for run_id in runs:
        yield run_id
        if clock() - began > seconds:
            return


def _isolated(part: Callable[[], T], nothing: T) -> T:
    """What the part found; a row that it cannot read must not stop the other parts for the whole fleet."""
    try:
        return part()
    except OperationalError:
        raise
    except Exception:
        log.exception("a part of the watch round failed")
        return nothing


def accept_submissions(engine: Engine, settings: Settings) -> list[UUID]:
    """Turn what callers wrote in their own transactions into runs; gives their ids."""
    accepted: list[UUID] = []
    while True:
        with Session(engine) as session, session.begin():
            row = session.scalars(
                select(SubmissionRow)
                .where(SubmissionRow.schema_version <= SCHEMA_VERSION)
                .order_by(SubmissionRow.submitted_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if row is None:
                return accepted
            bind_tenant(session, row.tenant)
            session.delete(row)
            savepoint = session.begin_nested()
            try:
                request = RunRequest.model_validate_json(row.request)
                installed = procedural.load_roles(*settings.role_folders).values()
                accepted.append(_accept(session, row.tenant, request, installed))
                savepoint.commit()
            except OperationalError:
                raise
            except Exception:
                # The caller's client checked it too; what fails here all the same must not block what waits behind it.
                savepoint.rollback()
                log.exception("submission refused", extra={"run_id": str(row.run)})


def _accept(session: Session, tenant: UUID, request: RunRequest, installed: Iterable[Role]) -> UUID:
    """Make the run; one that its concurrency key forbids is made and cancelled, so that its caller learns why."""
    savepoint = session.begin_nested()
    try:
        made = runs.accept(session, tenant, request, installed)
    except ConcurrencyConflict as conflict:
        savepoint.rollback()
        made = runs.accept(session, tenant, request.model_copy(update={"on_conflict": "queue"}), installed)
        runs.cancel(session, tenant, made, reason=str(conflict))
    else:
        savepoint.commit()
    return made


def _is_ours() -> ColumnElement[bool]:
    """Whether this version may move a step; the query joins it with its run."""
    return (StepRow.schema_version <= SCHEMA_VERSION) & (RunRow.schema_version <= SCHEMA_VERSION)


def recover(engine: Engine, settings: Settings) -> int:
    """Put steps whose lease expired back; those that crash too often run alone, and then go to a person."""
    with Session(engine) as session, session.begin():
        fleet_connected = _fleet_connected_seconds(session, settings)
        query = (
            select(StepRow, _age(StepRow.lease_until), _age(PoolRow.seen_at), _age(PoolRow.since))
            .join(RunRow, RunRow.id == StepRow.run)
            .outerjoin(PoolRow, PoolRow.holder == StepRow.holder)
            .where(StepRow.status == "running", StepRow.lease_until < func.clock_timestamp(), _is_ours())
        )
        if fleet_connected <= RETURN * settings.lease_seconds:
            # Nothing can be said of the others yet: they take no place in the batch.
            query = query.where(_age(PoolRow.seen_at) < SILENCE * settings.lease_seconds)
        found = session.execute(
            query.order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        solo_pool_lives = bool(found) and bool(live_slots(session).get(SOLO))
        recovered: list[StepRow] = []
        causes: list[Cause] = []
        for row, expired, heard, connected in found:
            evidence = Evidence(
                renewed=float(expired) + settings.lease_seconds,
                heard=None if heard is None else float(heard),
                connected=None if connected is None else float(connected),
                fleet_connected=fleet_connected,
            )
            cause = cause_of(evidence, lease_seconds=settings.lease_seconds)
            if cause is not None:
                _recover_step(session, row, settings, cause=cause, solo_pool_lives=solo_pool_lives)
                recovered.append(row)
                causes.append(cause)
        runs.return_allotments(session, [row for row in recovered if row.status == "waiting"])
    for cause in causes:
        meters.count(metrics.RECOVERIES, cause=cause)
    return len(recovered)


def _age(moment: ColumnElement[Any] | InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    return func.extract("epoch", func.clock_timestamp() - moment)


def _fleet_connected_seconds(session: Session, settings: Settings) -> float:
    """For how long the most settled of the processes that live has been connected."""
    alive = _age(PoolRow.seen_at) < SILENCE * settings.lease_seconds
    return float(session.scalar(select(func.max(_age(PoolRow.since))).where(alive)) or 0.0)


def _recover_step(session: Session, row: StepRow, settings: Settings, *, cause: Cause, solo_pool_lives: bool) -> None:
    back = _cut_off(session, row) if cause == "crash" and row.crashes else ()
    counted = row.crashes - len(back)
    verdict = judge(
        cause=cause,
        crashes=counted,
        # What was to run alone for a crash that was none need not any more.
        solo=row.solo and not (back and counted < settings.max_crashes),
        max_crashes=settings.max_crashes,
        solo_pool_lives=solo_pool_lives,
    )
    # The pool may have been taken down by this very step.
    was_alone = row.solo
    recovered = StepRecovered(crashes=verdict.crashes, solo=verdict.solo, cause=cause, cut_off=back)
    runs.record_in_step(session, row, [recovered])
    row.crashes, row.solo, row.taken_over = verdict.crashes, verdict.solo, True
    row.lease_until = row.holder = None
    # What a person has said, and no attempt has lived to hear, is not asked again.
    if verdict.asks_person and not _is_answered(session, row):
        where = "alone in a solo pool" if was_alone else "and no solo pool is running to try it alone"
        asked = StepWaiting(
            wait_id=new_wait_id(),
            reason="human",
            question=f"Step {row.key!r} took its worker down {row.crashes} times {where}. What shall be done?",
            options=HUMAN_OPTIONS,
            evidence=(f"{row.id}:{row.head_seq}",),
        )
        asked = expiring(asked, Step.model_validate(row.spec).expires, of_settings(settings))
        runs.record_in_step(session, row, [asked])
        row.expires_at = deadline_after(asked.expires_after_seconds)
        row.status, row.wait_id, row.wait_reason, row.run_after = "waiting", asked.wait_id, "human", None
    else:
        row.status = "ready"
    _unchain_followers(session, row)
    session.flush()
    runs.ring(session, row.tenant, row.run)


def _cut_off(session: Session, row: StepRow) -> tuple[int, ...]:
    """Epochs of the step that count as crashes and are none, as it turned out."""
    about = ("step.claimed", "step.recovered", "model.responded", "model.failed")
    stream = [
        (entry.epoch, entry.at, parse_fact(entry.body, schema_version=entry.schema_version))
        for entry in journal.read(session, row.run, step=row.id, kinds=about)
        if entry.body is not None
    ]
    connected = {holder: since for holder, since in session.execute(select(PoolRow.holder, PoolRow.since))}  # noqa: C416
    return cut_off(stream, connected)


def _is_answered(session: Session, row: StepRow) -> bool:
    return row.wait_id is not None and session.get(SignalRow, (row.tenant, row.id, row.wait_id)) is not None


def release_from_solo(engine: Engine) -> int:
    """Let steps that were to run alone go back to their own pools once no solo pool is there any more."""
    with Session(engine) as session, session.begin():
        if live_slots(session).get(SOLO):
            return 0
        written = (
            select(JournalRow.at)
            .where(JournalRow.run == StepRow.run, JournalRow.step == StepRow.id, JournalRow.seq == StepRow.head_seq)
            .scalar_subquery()
        )
        rows = session.scalars(
            select(StepRow)
            .join(RunRow, RunRow.id == StepRow.run)
            .where(StepRow.status.in_(("ready", "queued")), StepRow.solo, _is_ours())
            .where(func.extract("epoch", func.clock_timestamp() - written) > SOLO_PATIENCE_SECONDS)
            .order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        for row in rows:
            # Its next crash is put before a person: it stays counted.
            row.solo, row.status = False, "ready"
            _unchain_followers(session, row)
            log.warning("no solo pool", extra={"step_id": str(row.id), "crashes": row.crashes})
        return len(rows)


def _unchain_followers(session: Session, row: StepRow) -> None:
    # The members of a pack have no followers.
    if row.next_in_chain is not None:
        session.execute(
            update(StepRow)
            .where(StepRow.run == row.run, StepRow.chain == row.chain, StepRow.status == "chained")
            .values(status="pending", chain=None)
            .execution_options(synchronize_session=False)
        )
    row.chain = row.next_in_chain = None


def wake(engine: Engine) -> list[UUID]:
    """Make waiting steps ready whose time, answer or money has come; an answered gate ends right here.

    Gives the runs of these steps.
    """
    with Session(engine) as session, session.begin():
        # A step that waits has written nothing since the row that says so.
        asked_at = (
            select(JournalRow.at)
            .where(JournalRow.run == StepRow.run, JournalRow.step == StepRow.id, JournalRow.seq == StepRow.head_seq)
            .scalar_subquery()
        )
        rows = session.execute(
            select(StepRow, _age(asked_at))
            .join(RunRow, RunRow.id == StepRow.run)
            .where(StepRow.status == "waiting", RunRow.status == "running", _is_ours())
            # Of a user's own task the round and the dispatcher take care, once it may begin.
            .where((StepRow.spec["kind"].astext != dispatch.KIND) | (StepRow.wait_reason == "gate"))
            .where((StepRow.run_after <= func.clock_timestamp()) | is_answered() | _has_more_money())
            .order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        for row, _ in rows:
            if row.spec["kind"] == "gate":
                gates.end_gate(session, row)
            elif row.epoch == 0 and row.wait_reason == "gate":
                gates.let_begin(session, row)
            elif row.epoch == 0:
                gates.end_gate(session, row)
            else:
                row.status, row.run_after = "ready", None
            session.flush()
            runs.ring(session, row.tenant, row.run)
        waited = [(row.pool, row.spec, float(seconds or 0.0)) for row, seconds in rows]
        woken = [row.run for row, _ in rows]
    for pool, spec, seconds in waited:
        fact_metrics.waited(pool, spec, seconds=seconds)
    return woken


def _has_more_money() -> ColumnElement[bool]:
    """Whether the run's budget was raised while the step found it used up, or later."""
    raised, claimed = aliased(JournalRow), aliased(JournalRow)
    began = (
        select(func.max(claimed.at))
        .where(claimed.run == StepRow.run, claimed.step == StepRow.id, claimed.kind == "step.claimed")
        .scalar_subquery()
    )
    # A raise that was on its way to its commit when the step was claimed was not seen by it.
    on_its_way = func.make_interval(0, 0, 0, 0, 0, 0, COMMIT_SECONDS)
    return (StepRow.wait_reason == "budget") & (
        select(raised.seq)
        .where(raised.run == StepRow.run, raised.step == RUN_STREAM, raised.kind == "budget.raised")
        .where(raised.at > began - on_its_way)
        .exists()
    )


def emit_again(engine: Engine, settings: Settings, broker: Sounding | None) -> int:
    """Make steps ready again whose message is lost: with the broker, which was emptied, or as it seems.

    What was sent to a broker that was emptied later is lost for sure, and is sent again at once. Of the others nobody
    knows: a message that nobody claims is sent again, each time twice as patiently; but not while its queue is longer
    than its pool's window, then it is late, not lost. A pool that was away first gets the time to take what has waited
    for it. Nothing is sent while a pool has no live process, or the broker does not answer.
    """
    count = 0
    if broker is not None:
        for _ in range(LOST_BATCHES):
            found = _take_lost(engine, settings, broker)
            count += found
            if found < BATCH:
                break
    meters.count(metrics.MESSAGES_LOST, count)
    return count


def _take_lost(engine: Engine, settings: Settings, broker: Sounding) -> int:
    with Session(engine) as session, session.begin():
        live = live_slots(session)
        if not live:
            return 0
        patient = [pool for pool, slots in live.items() if broker.lengths.get(pool, 0) <= 2 * slots]
        there = (
            select(PoolRow.pool, func.min(PoolRow.since).label("since"))
            .where(_age(PoolRow.seen_at) < POOL_SILENCE_SECONDS)
            .group_by(PoolRow.pool)
            .subquery()
        )
        # An admission commits before it publishes: a message that is on its way is not lost.
        went_down = (StepRow.queued_at < func.to_timestamp(broker.whole_since)) & (
            _age(StepRow.queued_at) > settings.ring_age_seconds
        )
        waited = _age(func.greatest(StepRow.queued_at, there.c.since))
        patience = settings.unclaimed_seconds * func.least(
            func.power(2, func.greatest(StepRow.emissions, 1) - 1), MAX_BACKOFF
        )
        rows = session.scalars(
            select(StepRow)
            .join(RunRow, RunRow.id == StepRow.run)
            .join(there, there.c.pool == case((StepRow.solo, SOLO), else_=StepRow.pool))
            .where(StepRow.status == "queued", _is_ours())
            .where(went_down | ((waited > patience) & there.c.pool.in_(patient)))
            .order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        for row in rows:
            row.status = "ready"
            _unchain_followers(session, row)
            log.warning("message lost", extra={"step_id": str(row.id), "emissions": row.emissions})
        return len(rows)


def end_overdue(engine: Engine) -> int:
    """Fail runs, and steps that have started, whose deadline has passed."""
    with Session(engine) as session, session.begin():
        newer = select(StepRow.id).where(StepRow.run == RunRow.id, StepRow.schema_version > SCHEMA_VERSION).exists()
        overdue = session.scalars(
            select(RunRow)
            .where(RunRow.deadline_at < func.clock_timestamp(), RunRow.status.not_in(RUN_ENDINGS))
            .where(RunRow.schema_version <= SCHEMA_VERSION, ~newer)
            .order_by(RunRow.deadline_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True)
        ).all()
        for run in overdue:
            runs.end_run(session, run, outcome="failed", reason="its deadline has passed")
        return len(overdue) + _fail_overdue_steps(session)


def _fail_overdue_steps(session: Session) -> int:
    rows = session.scalars(
        select(StepRow)
        .join(RunRow, RunRow.id == StepRow.run)
        .where(StepRow.deadline_at < func.clock_timestamp(), StepRow.status.in_(STARTED), _is_ours())
        # A user's own task may have happened all the same: the dispatcher asks what became of it.
        .where(StepRow.spec["kind"].astext != dispatch.KIND)
        .order_by(StepRow.run, StepRow.ordinal)
        .limit(BATCH)
        .with_for_update(skip_locked=True, key_share=True, of=StepRow)
    ).all()
    for row in rows:
        # Its worker, if it has one, learns at its next write that the step is over.
        runs.record_in_step(session, row, [StepFinished(outcome="failed", error="its deadline has passed")])
        row.status, row.wait_id, row.wait_reason, row.halt = "failed", None, None, None
        row.lease_until = row.holder = None
        row.finished_at = func.clock_timestamp()
        _unchain_followers(session, row)
        session.flush()
        runs.ring(session, row.tenant, row.run)
    runs.return_allotments(session, rows)
    return len(rows)


def old_rings(engine: Engine, settings: Settings) -> Sequence[UUID]:
    """Runs with a ring that nobody answered within `ring_age_seconds`."""
    with Session(engine) as session, session.begin():
        values = {"age": settings.ring_age_seconds, "version": SCHEMA_VERSION, "most": BATCH}
        return session.scalars(text(_OLD_RINGS), values).all()


def forget_dead_pools(engine: Engine) -> None:
    """Remove processes that have long been silent."""
    with Session(engine) as session, session.begin():
        silence = func.make_interval(0, 0, 0, 0, 0, 0, POOL_SILENCE_SECONDS * 40)
        session.execute(delete(PoolRow).where(PoolRow.seen_at < func.clock_timestamp() - silence))

"""One round of a run: what its finished steps make possible, decided by `rounds`, written under the run's lock.

It runs for every step that ends, so its common path is five statements of the driver, whatever the plan's size.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import consolidating, races, rounds, runs
from chargehand.orchestrator.allotments import GIVE_BACK
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import (
    OVER_BUDGET,
    SCHEMA_VERSION,
    ReservationsCharged,
    RunFinished,
    RunOutcome,
    StepAnchor,
    StepFinished,
    StepsAnchored,
    StepsSkipped,
    parse_fact,
)
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.rounds import Place, Standing
from chargehand.orchestrator.supervisor import dispatch, gates, replans, unrolling
from chargehand.orchestrator.supervisor.graphs import Graphs, read_places, standings
from chargehand.orchestrator.supervisor.warning import record_passed
from chargehand.orchestrator.tables import RunRow, StepRow
from chargehand.orchestrator.telemetry import following, meters, metrics
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS

# The reason of a failed run names this many steps.
ERRORS_SHOWN = 3

# The rings go before anything is read: one that comes while we read is not ours to delete. Two supervisors may ask at
# once: one gets the run, the other nothing, and the rings stay for the watch loop.
_TAKE = """
WITH run AS (
    SELECT id, tenant, status, plan_version FROM runs WHERE id = %(run)s AND schema_version <= %(version)s
    FOR NO KEY UPDATE SKIP LOCKED
), answered AS (
    DELETE FROM rings USING run WHERE rings.run = run.id RETURNING 1
)
SELECT tenant, status, plan_version, (SELECT count(*) FROM answered) FROM run
"""
_HAS_RINGS = """
SELECT EXISTS (SELECT FROM rings WHERE run = %(run)s)
   AND EXISTS (SELECT FROM runs WHERE id = %(run)s AND schema_version <= %(version)s)
"""
# Rows of several steps are always locked in plan order. A chained step whose turn has come lost its chain: its message,
# if it still comes, finds it ready, not queued. `run_after` stays: a retry that is not due is not hastened by a pause.
_MAKE_READY = """
WITH mine AS (
    SELECT id FROM steps WHERE id = ANY(%(steps)s) AND status IN ('pending', 'chained')
    ORDER BY ordinal FOR NO KEY UPDATE
)
UPDATE steps s SET status = 'ready', chain = NULL, next_in_chain = NULL FROM mine WHERE s.id = mine.id
"""
_SKIP = """
UPDATE steps SET status = 'skipped', finished_at = clock_timestamp(), chain = NULL WHERE id = ANY(%(steps)s)
"""
_ANCHOR = """
UPDATE steps s SET anchored = true FROM journal j
WHERE s.id = ANY(%(steps)s) AND j.run = %(run)s AND j.step = s.id AND j.seq = s.head_seq
RETURNING s.id, j.seq, j.hash
"""
_CHARGE = """
UPDATE steps SET spent_microusd = spent_microusd + reserved_microusd, reserved_microusd = 0 WHERE id = ANY(%(steps)s)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """The run that a round has locked."""

    session: Session
    run_id: UUID
    tenant: UUID
    status: str
    plan_version: int

    @property
    def connection(self) -> Connection:
        return self.session.connection()

    def execute(self, statement: str, steps: Collection[UUID]) -> Any:
        return self.connection.exec_driver_sql(statement, {"run": self.run_id, "steps": list(steps)})


def advance(engine: Engine, graphs: Graphs, run_id: UUID, *, audit_key: bytes) -> bool:
    """Move the run as far as it goes now; whether steps may be admitted.

    Any number of supervisors may call it at once: one works, the others return at once. A run that a newer version has
    written to is left alone, with its rings.
    """
    with Session(engine) as session, session.begin():
        row = session.connection().exec_driver_sql(_TAKE, {"run": run_id, "version": SCHEMA_VERSION}).one_or_none()
        if row is None or not row[3]:
            # A thousand steps that end together ring a thousand times: the first round has seen them all.
            return False
        run = _Run(session=session, run_id=run_id, tenant=row[0], status=row[1], plan_version=row[2])
        places = graphs.places(run.connection, run_id, run.plan_version)
        if run.status == "running" and any(place.kind == dispatch.KIND for place in places.values()):
            dispatch.take_answers(session, run_id)
        standing = standings(run.connection, run_id, places)
        planners = _with_patches(places, standing)
        refused: dict[str, str] = {}
        if planners:
            run = _apply_patches(run, planners, refused)
            # Not kept: this transaction may still fail, and the next one number the plan anew.
            places = read_places(run.connection, run_id)
            standing = standings(run.connection, run_id, places)
        failed = replans.failed(places, standing)
        if (failed or refused) and run.status not in RUN_ENDINGS:
            row_of_run = session.get_one(RunRow, run_id)
            if replans.ask(session, row_of_run, failed, refused):
                session.flush()
                run = replace(run, plan_version=row_of_run.plan_version)
                places = read_places(run.connection, run_id)
            standing = standings(run.connection, run_id, places)
        found = rounds.decide(places, standing, run_status=run.status)
        _write(run, places, standing, found)
        ended = ""
        if found.outcome is not None or run.status in RUN_ENDINGS:
            ended = _close(run, places, standing, found, audit_key=audit_key)
    if ended:
        meters.count(metrics.RUNS_FINISHED, outcome=ended)
        following.tell_run_ended(engine, run_id)
    return found.may_admit


def has_rings(engine: Engine, run_id: UUID) -> bool:
    """Whether the run rang again; asked after a round has committed, so that who came too early is not forgotten.

    False for a run of a newer version, which this one does not move.
    """
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(_HAS_RINGS, {"run": run_id, "version": SCHEMA_VERSION}).scalar_one())


def _write(run: _Run, places: Mapping[UUID, Place], standing: Mapping[UUID, Standing], found: rounds.Round) -> None:
    """What the round found, but for the end of the run."""
    if found.skipped:
        run.execute(_SKIP, found.skipped)
        skipped = StepsSkipped(steps=found.skipped, reason="its predecessors did not succeed")
        runs.record(run.session, run.tenant, run.run_id, [skipped])
    if found.to_anchor:
        heads = {step: (seq, digest) for step, seq, digest in run.execute(_ANCHOR, found.to_anchor)}
        anchors = tuple(
            StepAnchor(step=step, seq=heads[step][0], hash=heads[step][1].hex())
            for step in found.to_anchor
            if step in heads
        )
        runs.record(run.session, run.tenant, run.run_id, [StepsAnchored(anchors=anchors)])
    if found.racing and (won := races.decide(run.session, run.run_id, found.racing)) is not None:
        runs.record(run.session, run.tenant, run.run_id, [won])
    for row in _locked(run, found.gates):
        gates.open_gate(run.session, row)
    for row in _locked(run, found.tasks[: dispatch.BATCH]):
        if gates.may_begin(run.session, row):
            dispatch.open_task(run.session, row)
    if len(found.tasks) > dispatch.BATCH:
        # A map of thousands holds its run's lock in many short rounds, and is sent meanwhile.
        runs.ring(run.session, run.tenant, run.run_id)
    if found.to_cancel:
        _cancel(run, found.to_cancel)
    if found.opened or found.to_look_at:
        owner = run.session.get_one(RunRow, run.run_id)
        for row in _locked(run, found.opened):
            if gates.may_begin(run.session, row):
                unrolling.open_step(run.session, owner, row)
        for row in _locked(run, found.to_look_at):
            unrolling.look_at(run.session, owner, row)
    if found.ready:
        run.execute(_MAKE_READY, found.ready)


def _locked(run: _Run, steps: Sequence[UUID]) -> Sequence[StepRow]:
    """Rows of these steps, locked in plan order."""
    if not steps:
        return ()
    return run.session.scalars(
        select(StepRow).where(StepRow.id.in_(steps)).order_by(StepRow.ordinal).with_for_update(key_share=True)
    ).all()


def _cancel(run: _Run, reasons: Mapping[UUID, str]) -> None:
    """End what nobody needs any more; a worker at it learns so at its next commit."""
    by_reason: dict[str, list[StepRow]] = defaultdict(list)
    for row in _locked(run, list(reasons)):
        if row.status not in STEP_ENDINGS:
            by_reason[reasons[row.id]].append(row)
    for reason, rows in by_reason.items():
        facts = runs.cancel_steps(run.session, rows, reason=reason)
        if facts:
            runs.record(run.session, run.tenant, run.run_id, facts)
    # The end of these may be what others wait for.
    runs.ring(run.session, run.tenant, run.run_id)


def _close(
    run: _Run,
    places: Mapping[UUID, Place],
    standing: Mapping[UUID, Standing],
    found: rounds.Round,
    *,
    audit_key: bytes,
) -> str:
    """The end of a run: money in flight, its last fact unless a person wrote it, its place in the tenant's chain.

    Gives how it ended, once.
    """
    outcome: RunOutcome | None = None
    if found.outcome is None and not _is_anchored(run) and _waits_for_batches(run):
        # It was ended from outside: what its batches cost is asked for, and goes into its stream before that is sealed.
        return ""
    if found.to_charge:
        run.execute(_CHARGE, found.to_charge)
        runs.record(run.session, run.tenant, run.run_id, [ReservationsCharged(charged_microusd=dict(found.to_charge))])
    if found.outcome is not None:
        # The watch loop looks now and then; a short run may be over by then.
        record_passed(run.session, run.tenant, run.run_id)
        outcome, reason = _ending(run, places, standing, found.outcome)
        runs.record(run.session, run.tenant, run.run_id, [RunFinished(outcome=outcome, reason=reason)])
        row = run.session.get_one(RunRow, run.run_id)
        row.status, row.reason = outcome, reason
        row.finished_at = func.clock_timestamp()
        if row.consolidate_microusd is not None:
            consolidating.ask(run.session, run.tenant, run.run_id, budget_microusd=row.consolidate_microusd)
        run.session.flush()
    elif _is_anchored(run):
        return ""
    # What it borrowed from its tenant and did not spend.
    run.execute(GIVE_BACK, ())
    journal.anchor_run(run.session, tenant=run.tenant, run=run.run_id, key=audit_key)
    return outcome or run.status


def _ending(
    run: _Run, places: Mapping[UUID, Place], standing: Mapping[UUID, Standing], outcome: RunOutcome
) -> tuple[RunOutcome, str]:
    """How a run ends that has nothing more to do, and why; over its budget it has failed, however far it came."""
    failed = [step for step in places if standing[step].status == "failed"]
    if not failed:
        return outcome, "" if outcome == "succeeded" else _why_failed(places, {})
    ends = _ends_of(run.session, run.run_id, failed)
    is_over = rounds.is_over_budget(end.error for end in ends.values() if end is not None)
    if outcome == "succeeded" and not is_over:
        return outcome, ""
    return "failed", _why_failed(places, ends)


def _waits_for_batches(run: _Run) -> bool:
    return bool(
        run.session.execute(
            text("SELECT EXISTS (SELECT FROM batched_calls WHERE run = :run)"), {"run": run.run_id}
        ).scalar_one()
    )


def _is_anchored(run: _Run) -> bool:
    return bool(
        run.session.execute(
            text("SELECT EXISTS (SELECT FROM run_anchors WHERE run = :run)"), {"run": run.run_id}
        ).scalar_one()
    )


def _why_failed(places: Mapping[UUID, Place], ends: Mapping[UUID, StepFinished | None]) -> str:
    # What the run failed by comes first, if it is the budget.
    errors = {step: end.error if end is not None else "" for step, end in ends.items()}
    told = sorted(errors, key=lambda step: not errors[step].startswith(OVER_BUDGET))[:ERRORS_SHOWN]
    over = OVER_BUDGET if any(errors[step].startswith(OVER_BUDGET) for step in told) else ""
    lines = [f"step {places[step].key!r} failed: {errors[step].removeprefix(OVER_BUDGET)}" for step in told]
    return over + ("; ".join(lines) or "not every final step was reached")


def _ends_of(session: Session, run_id: UUID, steps: Sequence[UUID]) -> dict[UUID, StepFinished | None]:
    """The last end of each."""
    found: dict[UUID, StepFinished | None] = dict.fromkeys(steps)
    for entry in journal.read(session, run_id, kinds=["step.finished"]):
        if entry.step in found and entry.body is not None:
            fact = parse_fact(entry.body, schema_version=entry.schema_version)
            found[entry.step] = fact if isinstance(fact, StepFinished) else None
    return found


def _end_of(session: Session, run_id: UUID, step: UUID) -> StepFinished | None:
    entries = journal.read(session, run_id, step=step, kinds=["step.finished"])
    if not entries or entries[-1].body is None:
        return None
    fact = parse_fact(entries[-1].body, schema_version=entries[-1].schema_version)
    return fact if isinstance(fact, StepFinished) else None


def _with_patches(places: Mapping[UUID, Place], standing: Mapping[UUID, Standing]) -> list[UUID]:
    """Agents that succeeded and whose end has not been looked at for a patch."""
    return [
        step
        for step, place in places.items()
        if place.kind == "agent" and standing[step].status == "succeeded" and not standing[step].patched
    ]


def _apply_patches(run: _Run, planners: Sequence[UUID], refused: dict[str, str]) -> _Run:
    """Append what finished planners decided; a patch that does not fit fails the run. Gives the run as it is then.

    A change of the plan that does not fit any more is `refused`, by the step that wanted it: the planner is asked anew.
    """
    session = run.session
    row = session.get_one(RunRow, run.run_id)
    for step in session.scalars(select(StepRow).where(StepRow.id.in_(planners)).order_by(StepRow.ordinal)).all():
        fact = _end_of(session, run.run_id, step.id)
        step.patched = True
        if fact is None or fact.patch is None or row.status in RUN_ENDINGS:
            continue
        if step.spec.get("role") == REPLANNER:
            session.flush()
            if why := replans.apply(session, row, step, fact):
                refused[step.key] = why
            continue
        savepoint = session.begin_nested()
        try:
            runs.patch(session, row, fact.patch, by_step=step.id)
            savepoint.commit()
        except InvalidPlan as error:
            savepoint.rollback()
            runs.end_run(session, row, outcome="failed", reason=f"the plan of step {step.key!r} does not fit: {error}")
    session.flush()
    return _Run(session=session, run_id=run.run_id, tenant=run.tenant, status=row.status, plan_version=row.plan_version)

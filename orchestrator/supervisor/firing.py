"""Makes the runs of schedules whose time has come, each tick's once, whoever else tries and whoever dies between.

The row's lock decides who fires; the run and the next time are written by one transaction, and the run's idempotency
key, made of schedule and tick, is the second guard. A workspace is copied before that, outside of any transaction, by
whoever has taken the schedule for a minute.
"""

import logging
import shutil
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from chargehand.memory import procedural
from chargehand.memory.artifacts import Artifacts, RepositoryUnreadable
from chargehand.memory.database import bind_tenant
from chargehand.memory.git import StorageFull
from chargehand.orchestrator import runs
from chargehand.orchestrator.cron import Cron, Due, check_missed, due
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.facts import SCHEMA_VERSION, WorkspaceRef
from chargehand.orchestrator.schedules import ScheduledRequest, ScheduleRow, idempotency_key, run_id_of
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.tables import RunRow

log = logging.getLogger(__name__)

# For so long a schedule is one supervisor's to copy its workspace; after a failure the next try comes after it.
HOLD_SECONDS = 60.0
# Runs of one round: a schedule that makes up for many ticks must not keep the others waiting.
MOST_A_ROUND = 100


def fire(engine: Engine, settings: Settings) -> list[UUID]:
    """Make the runs that are due; gives those of this call, for the caller to advance."""
    fired: list[UUID] = []
    # What needs no copy goes first: a clone may take minutes.
    for with_workspace in (False, True):
        for schedule_id in _due(engine):
            run_id = _fire(engine, settings, schedule_id, with_workspace=with_workspace)
            if run_id is not None:
                fired.append(run_id)
    return fired


def _due(engine: Engine) -> list[UUID]:
    with Session(engine) as session, session.begin():
        now = func.clock_timestamp()
        return list(
            session.scalars(
                select(ScheduleRow.id)
                .where(~ScheduleRow.paused, ScheduleRow.next_at <= now, ScheduleRow.schema_version <= SCHEMA_VERSION)
                .where(func.coalesce(ScheduleRow.held_until, ScheduleRow.next_at) <= now)
                .order_by(ScheduleRow.next_at)
                .limit(MOST_A_ROUND)
            )
        )


def _fire(engine: Engine, settings: Settings, schedule_id: UUID, *, with_workspace: bool) -> UUID | None:
    """The run of the schedule's tick, if it is still due and nobody else's."""
    with Session(engine) as session, session.begin():
        row, now = _taken(session, schedule_id)
        if row is None:
            return None
        request = ScheduledRequest.model_validate_json(row.request)
        if (request.workspace is not None) is not with_workspace:
            return None
        found = _found(row, now)
        if request.workspace is None or found.tick is None:
            return _accept(session, settings, row, request, found, None)
        row.held_until = now + timedelta(seconds=HOLD_SECONDS)
    return _fire_with_copy(engine, settings, schedule_id, request, found.tick)


def _fire_with_copy(
    engine: Engine, settings: Settings, schedule_id: UUID, request: ScheduledRequest, tick: datetime
) -> UUID | None:
    """Copy the workspace as it is now, then make the run, unless the schedule was changed meanwhile."""
    run_id = run_id_of(schedule_id, tick)
    artifacts = Artifacts(settings.artifacts)
    made: UUID | None = None
    try:
        imported = artifacts.import_repository(str(request.workspace), run_id=run_id)
        reference = WorkspaceRef(
            source=str(imported.top_level or request.workspace),
            commit=imported.commit,
            uncommitted=imported.uncommitted,
            submodules=imported.submodules,
        )
    except (RepositoryUnreadable, StorageFull, OSError) as error:
        _complain(engine, schedule_id, tick, f"its workspace cannot be copied: {error}")
        return None
    try:
        with Session(engine) as session, session.begin():
            row, _ = _taken(session, schedule_id, held=True)
            if row is not None and row.next_at <= tick:
                # Another tick may have come meanwhile: it has a run, and a copy, of its own.
                following = Cron(expression=row.cron, timezone=row.timezone).after(tick)
                made = _accept(session, settings, row, request, Due(tick=tick, next_at=following), reference)
    finally:
        if made is None and not _exists(engine, run_id):
            shutil.rmtree(artifacts.repository(run_id), ignore_errors=True)
    return made


def _taken(session: Session, schedule_id: UUID, *, held: bool = False) -> tuple[ScheduleRow | None, datetime]:
    """The schedule, locked, if it is due and free (`held`: or held by us), and the database's time."""
    now = func.clock_timestamp()
    query = select(ScheduleRow).where(ScheduleRow.id == schedule_id, ~ScheduleRow.paused, ScheduleRow.next_at <= now)
    if not held:
        query = query.where(func.coalesce(ScheduleRow.held_until, ScheduleRow.next_at) <= now)
    row = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
    return row, session.execute(select(func.clock_timestamp())).scalar_one()


def _found(row: ScheduleRow, now: datetime) -> Due:
    cron = Cron(expression=row.cron, timezone=row.timezone)
    return due(cron, next_at=row.next_at, now=now, missed=check_missed(row.missed))


def _accept(
    session: Session,
    settings: Settings,
    row: ScheduleRow,
    request: ScheduledRequest,
    found: Due,
    workspace: WorkspaceRef | None,
) -> UUID | None:
    """Make the run, if there is to be one, and move the schedule on; all in the caller's transaction."""
    row.next_at, row.held_until = found.next_at, None
    if found.tick is None:
        row.problem = "its last ticks were missed and skipped"
        return None
    row.last_tick = found.tick
    run_id = run_id_of(row.id, found.tick)
    asked = request.of_run(run_id=run_id, workspace=workspace, idempotency_key=idempotency_key(row.id, found.tick))
    bind_tenant(session, row.tenant)
    session.flush()
    savepoint = session.begin_nested()
    try:
        made = runs.accept(session, row.tenant, asked, procedural.load_roles(*settings.role_folders).values())
        savepoint.commit()
    except OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, people read it beside the schedule
        # Its next tick is not held up by what is wrong with this one.
        savepoint.rollback()
        row.problem = f"the tick of {found.tick:%Y-%m-%d %H:%M:%S} UTC has no run: {error}"[:1_000]
        log.log(
            logging.WARNING if isinstance(error, UserError) else logging.ERROR,
            "tick without a run",
            extra={"schedule": row.name, "why": str(error)},
        )
        return None
    row.last_run, row.problem = made, ""
    log.info("schedule fired", extra={"schedule": row.name, "tick": found.tick.isoformat(), "run_id": str(made)})
    return made


def _complain(engine: Engine, schedule_id: UUID, tick: datetime, problem: str) -> None:
    """Say why a tick has no run yet; it is tried again when the hold is over."""
    log.warning("tick without a run", extra={"schedule_id": str(schedule_id), "why": problem})
    with Session(engine) as session, session.begin():
        row = session.get(ScheduleRow, schedule_id, with_for_update={"skip_locked": True})
        if row is not None:
            row.problem = f"the tick of {tick:%Y-%m-%d %H:%M:%S} UTC has no run yet: {problem}"[:1_000]


def _exists(engine: Engine, run_id: UUID) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(select(func.count()).where(RunRow.id == run_id)).scalar_one())

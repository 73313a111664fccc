"""Starts runs that wait for their concurrency key, the longest waiting first, once the run before has ended."""

from uuid import UUID

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import SCHEMA_VERSION, RunStarted
from chargehand.orchestrator.tables import RunRow

# The heads of all lines whose key nobody has.
_NEXT = """
SELECT DISTINCT ON (q.tenant, q.concurrency_key) q.id FROM runs q
WHERE q.status = 'queued' AND NOT EXISTS (
    SELECT FROM runs h WHERE h.tenant = q.tenant AND h.concurrency_key = q.concurrency_key
      AND h.status IN ('running', 'paused'))
ORDER BY q.tenant, q.concurrency_key, q.created_at, q.id
"""


def start_queued(engine: Engine) -> list[UUID]:
    """Let the first of each line go whose key is free; gives the runs that start.

    Any number of supervisors may call it at once. A run of a newer version holds up its line until a supervisor of that
    version comes.
    """
    with engine.connect() as connection:
        heads = connection.scalars(text(_NEXT)).all()
    return [run_id for run_id in heads if _start(engine, run_id)]


def _start(engine: Engine, run_id: UUID) -> bool:
    # A transaction each: a line that cannot move must not hold up the others.
    with Session(engine) as session, session.begin():
        run = session.scalars(
            select(RunRow)
            .where(RunRow.id == run_id, RunRow.status == "queued", RunRow.schema_version <= SCHEMA_VERSION)
            .with_for_update(skip_locked=True, key_share=True)
        ).one_or_none()
        if run is None:
            return False
        run.status = "running"
        session.flush()
        runs.record(session, run.tenant, run.id, [RunStarted()])
        runs.ring(session, run.tenant, run.id)
        return True

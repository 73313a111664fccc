"""Questions that nobody answered come to what their policy says, by an answer like any other: the first one wins."""

from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import SCHEMA_VERSION, SignalReceived, StepWaiting, parse_fact
from chargehand.orchestrator.questions import EXPIRY, unattended_choice
from chargehand.orchestrator.tables import RunRow, SignalRow, StepRow

# Rows that one round takes.
BATCH = 100


def is_answered() -> ColumnElement[bool]:
    """Whether somebody has answered what a step waits for; for a query of steps."""
    return (
        select(SignalRow.step)
        # A supervisor sees every tenant's rows: only the step's own tenant answers it.
        .where(
            SignalRow.step == StepRow.id,
            SignalRow.wait_id == StepRow.wait_id,
            SignalRow.tenant == StepRow.tenant,
        )
        .exists()
    )


def expire(engine: Engine) -> int:
    """Answer what has expired by the database's clock; gives how many. A paused run's questions wait for its resume."""
    with Session(engine) as session, session.begin():
        rows = session.scalars(
            select(StepRow)
            .join(RunRow, RunRow.id == StepRow.run)
            .where(StepRow.status == "waiting", StepRow.expires_at <= func.clock_timestamp(), ~is_answered())
            .where(RunRow.status == "running")
            .where(StepRow.schema_version <= SCHEMA_VERSION, RunRow.schema_version <= SCHEMA_VERSION)
            .order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        return sum(_answer(session, row) for row in rows)


def _answer(session: Session, row: StepRow) -> bool:
    """Whether nobody was first: a person whose answer is on its way to its commit is waited for, and wins."""
    entries = journal.read(session, row.run, step=row.id, kinds=["step.waiting", "signal.received"])
    facts = [parse_fact(one.body, schema_version=one.schema_version) for one in entries if one.body is not None]
    asked = next((one for one in reversed(facts) if isinstance(one, StepWaiting) and one.wait_id == row.wait_id), None)
    if asked is None:
        return False
    retries = sum(isinstance(one, SignalReceived) and one.by == EXPIRY and one.choice == "retry" for one in facts)
    sent = session.execute(
        upsert(SignalRow)
        .values(
            tenant=row.tenant,
            step=row.id,
            wait_id=asked.wait_id,
            run=row.run,
            choice=unattended_choice(asked, retries),
            body=None,
            sent_by=EXPIRY,
        )
        .on_conflict_do_nothing()
        .returning(SignalRow.step)
    ).scalar_one_or_none()
    if sent is None:
        return False
    runs.ring(session, row.tenant, row.run)
    return True

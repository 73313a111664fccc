"""The steps of a run in the few columns that a round needs: a plan of a thousand is read for every finished step."""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chargehand.orchestrator.plan import Join
from chargehand.orchestrator.tables import StepRow


class Outline(NamedTuple):
    """One step."""

    step_id: UUID
    key: str
    ordinal: int
    pool: str
    kind: str
    name: str | None
    """Its role or its script."""
    join: Join
    status: str
    epoch: int
    head_seq: int
    solo: bool
    anchored: bool
    reserved_microusd: int


def outline(session: Session, run_id: UUID) -> dict[UUID, Outline]:
    """All steps of the run by id, in plan order, which is topological."""
    spec = StepRow.spec
    rows = session.execute(
        select(
            StepRow.id,
            StepRow.key,
            StepRow.ordinal,
            StepRow.pool,
            spec["kind"].astext,
            func.coalesce(spec["role"].astext, spec["script"].astext),
            spec["join"].astext,
            StepRow.status,
            StepRow.epoch,
            StepRow.head_seq,
            StepRow.solo,
            StepRow.anchored,
            StepRow.reserved_microusd,
        )
        .where(StepRow.run == run_id)
        .order_by(StepRow.ordinal)
    )
    return {row[0]: Outline._make(row) for row in rows}

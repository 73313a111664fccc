"""The rows that a question rests on, as they stand in the journal."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import tuple_
from sqlalchemy.orm import Session
from sqlalchemy.sql import select

from chargehand.memory.tables import JournalRow
from chargehand.orchestrator.facts import parse_fact
from chargehand.orchestrator.gist import gist
from chargehand.orchestrator.views import Escalation

MOST_ROWS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceRow:
    """One row of the journal."""

    step: UUID
    seq: int
    kind: str
    gist: str
    body: str | None


def evidence_of(session: Session, asked: Escalation) -> list[EvidenceRow]:
    """The rows that it names (`step:seq`), in order, as far as they are there."""
    named = [place for one in asked.evidence[:MOST_ROWS] if (place := _place(one)) is not None]
    if not named:
        return []
    rows = session.scalars(
        select(JournalRow)
        .where(JournalRow.run == asked.run_id, tuple_(JournalRow.step, JournalRow.seq).in_(named))
        .order_by(JournalRow.at, JournalRow.step, JournalRow.seq)
    )
    return [
        EvidenceRow(
            step=row.step,
            seq=row.seq,
            kind=row.kind,
            gist="(erased)" if row.body is None else gist(parse_fact(row.body, schema_version=row.schema_version)),
            body=row.body,
        )
        for row in rows
    ]


def _place(named: str) -> tuple[UUID, int] | None:
    step, _, seq = named.partition(":")
    try:
        return UUID(step), int(seq)
    except ValueError:
        return None

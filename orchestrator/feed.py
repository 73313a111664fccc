"""A run's journal as a feed: read on from a position, which says of each stream how far it was shown.

A position is a vector, not a moment: a row that commits late is behind the position of its own stream, so that it is
neither lost nor shown twice, and nobody waits for other transactions.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.errors import IllegalFact, NotFound, UserError
from chargehand.orchestrator.facts import AnyFact, parse_fact
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Event

# Rows of one page: a journal of ten thousand is not held at once for somebody who comes late.
PAGE_ROWS = 500
# Of a run's id, in each position: who mixes up two runs is told so.
_MARK_BYTES = 4

# Only streams that have grown are read, each from where it was; in one statement heads and rows are of one moment. A
# clock that was set back must not part the rows of one stream: each is shown at the latest time up to it.
_READ_ON = text("""
WITH streams AS (
    SELECT CAST(:nil AS uuid) AS step, 0 AS place, NULL AS key, coalesce((CAST(:seqs AS bigint[]))[1], 0) AS seen
    FROM runs WHERE id = :run AND head_seq > coalesce((CAST(:seqs AS bigint[]))[1], 0)
    UNION ALL
    SELECT id, ordinal + 1, key, coalesce((CAST(:seqs AS bigint[]))[ordinal + 2], 0)
    FROM steps WHERE run = :run AND head_seq > coalesce((CAST(:seqs AS bigint[]))[ordinal + 2], 0)
)
SELECT streams.place, streams.key, j.step, j.seq, j.at, j.kind, j.schema_version, j.body
FROM streams CROSS JOIN LATERAL (
    SELECT journal.*, max(at) OVER (ORDER BY seq) AS shown_at FROM journal
    WHERE run = :run AND step = streams.step AND seq > streams.seen ORDER BY seq LIMIT :most
) j
ORDER BY j.shown_at, j.step, j.seq LIMIT :most
""")
_HEADS = text("""
SELECT 0, head_seq FROM runs WHERE id = :run UNION ALL SELECT ordinal + 1, head_seq FROM steps WHERE run = :run
""")
_GROWN = text("""
SELECT r.id, r.status, r.head_seq + coalesce((SELECT sum(s.head_seq) FROM steps s WHERE s.run = r.id), 0)
FROM runs r WHERE r.id = ANY(CAST(:runs AS uuid[]))
""")


@dataclass(slots=True)
class Position:
    """How far each stream of a run was shown: the run's own first, then its steps by ordinal."""

    run_id: UUID
    seqs: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, run_id: UUID, written: str) -> Self:
        """The position that `str` wrote; raises `UserError` for what is none of this run."""
        try:
            raw = base64.urlsafe_b64decode(written.encode("ascii") + b"=" * (-len(written) % 4))
            if not raw.startswith(run_id.bytes[-_MARK_BYTES:]):
                raise ValueError("of another run")
            return cls(run_id, _numbers(raw[_MARK_BYTES:]))
        except (binascii.Error, ValueError) as error:
            raise UserError(
                f"Event id {written[:80]!r} is none of run {run_id}; leave it out to begin with the first event."
            ) from error

    def __str__(self) -> str:
        """As short as it can be: it goes with every event."""
        raw = self.run_id.bytes[-_MARK_BYTES:] + b"".join(map(_bytes, self.seqs))
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def has_shown(self, place: int, seq: int) -> bool:
        """Whether that row lies before the position."""
        return place < len(self.seqs) and seq <= self.seqs[place]

    def pass_by(self, place: int, seq: int) -> None:
        """The row was shown."""
        if place >= len(self.seqs):
            self.seqs += [0] * (place + 1 - len(self.seqs))
        self.seqs[place] = seq

    def copy(self) -> "Position":
        """One that goes its own way."""
        return Position(self.run_id, list(self.seqs))

    @property
    def rows(self) -> int:
        """How many rows lie before it."""
        return sum(self.seqs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A fact, and where it stands among the run's streams."""

    place: int
    step_key: str | None
    """None: of the run itself."""
    event: Event


def read_on(session: Session, position: Position, *, most: int = PAGE_ROWS) -> list[Shown]:
    """Up to `most` facts behind the position, by time, each stream in its order; the position does not move."""
    parameters = {"run": position.run_id, "nil": RUN_STREAM, "seqs": position.seqs, "most": most}
    return [
        Shown(
            place=place,
            step_key=key,
            event=Event(
                run_id=position.run_id,
                step_id=None if stream == RUN_STREAM else stream,
                seq=seq,
                at=at,
                kind=kind,
                fact=_fact(body, version),
            ),
        )
        for place, key, stream, seq, at, kind, version, body in session.execute(_READ_ON, parameters)
    ]


def has_ended(session: Session, run_id: UUID) -> bool:
    """Whether the run is over; to be asked before its rows are read. Raises `NotFound`."""
    status = session.execute(text("SELECT status FROM runs WHERE id = :run"), {"run": run_id}).scalar_one_or_none()
    if status is None:
        raise NotFound(f"There is no run {run_id}; `chargehand status` lists the runs.")
    return status in RUN_ENDINGS


def newest(session: Session, run_id: UUID) -> Position:
    """The position behind every row that is committed."""
    position = Position(run_id)
    for place, seq in session.execute(_HEADS, {"run": run_id}):
        position.pass_by(place, seq)
    return position


def grown(session: Session, run_ids: Sequence[UUID]) -> dict[UUID, tuple[bool, int]]:
    """Of each run whether it has ended and how many rows it has: one query tells of all who has something new."""
    rows = session.execute(_GROWN, {"runs": list(run_ids)})
    return {run_id: (status in RUN_ENDINGS, int(count)) for run_id, status, count in rows}


def _fact(body: str | None, schema_version: int) -> AnyFact | None:
    """None when it was erased, or is of a version that this process does not know: a feed goes on past it."""
    try:
        return None if body is None else parse_fact(body, schema_version=schema_version)
    except IllegalFact:
        return None


def _bytes(number: int) -> bytes:
    """Seven bits a byte, the last one without the high bit (LEB128)."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def _numbers(raw: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in raw:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
        elif shift > 56:
            raise ValueError("larger than any row")
    if shift:
        raise ValueError("cut off")
    return numbers

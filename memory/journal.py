"""The journal: append facts, read streams, verify that nothing was edited, removed or reordered.

Rows are linked by the database's trigger when they are inserted and checked here, by other code, from the rows alone.
A body's own hash may come with it from a writer in a hurry; the trigger makes those that do not come.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import psycopg
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from chargehand.memory.tables import RUN_STREAM, JournalRow, RunAnchor

SALT_BYTES = 16
_COPY_RUN = """
COPY (
    SELECT step, seq, kind, schema_version, epoch, at, body, salt, body_hash, hash, tenant
    FROM journal WHERE run = %(run)s ORDER BY step, seq
) TO STDOUT (FORMAT binary)
"""
_COPIED_TYPES = ["uuid", "int8", "text", "int2", "int4", "timestamptz", "text", "bytea", "bytea", "bytea", "uuid"]
_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the journal."""

    tenant: UUID
    run: UUID
    step: UUID
    """`RUN_STREAM` in the run's own stream."""
    seq: int
    kind: str
    schema_version: int
    epoch: int
    at: datetime
    body: str | None
    salt: bytes | None
    body_hash: bytes
    hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEntry:
    """A fact to append."""

    kind: str
    schema_version: int
    epoch: int
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """Something that verification found wrong."""

    run: UUID | None
    step: UUID | None
    seq: int
    what: str


def append(
    session: Session, *, tenant: UUID, run: UUID, step: UUID, after_seq: int, entries: Sequence[NewEntry]
) -> int:
    """Append facts to a stream whose last row is `after_seq`; gives the new last row.

    The caller holds the lock of the stream's subject. A row that is there already raises `IntegrityError`.
    """
    rows = [
        {
            "tenant": tenant,
            "run": run,
            "step": step,
            "seq": after_seq + offset,
            "kind": entry.kind,
            "schema_version": entry.schema_version,
            "epoch": entry.epoch,
            "body": entry.body,
        }
        for offset, entry in enumerate(entries, start=1)
    ]
    # The trigger looks at the row before: rows go in one statement, in order, and it fills what is not given here.
    if rows:
        session.execute(insert(JournalRow).values(rows))
    return after_seq + len(rows)


def salted_hash(body: str) -> tuple[bytes, bytes]:
    """A new salt for the body, and its hash under it."""
    salt = os.urandom(SALT_BYTES)
    return salt, _hash_of(salt, body)


def _hash_of(salt: bytes, body: str) -> bytes:
    return hashlib.sha256(salt + body.encode()).digest()


def read(session: Session, run: UUID, *, step: UUID | None = None, kinds: Iterable[str] | None = None) -> list[Entry]:
    """Entries of one stream, or of the whole run (its own stream first, then each step's), in order."""
    query = select(JournalRow).where(JournalRow.run == run).order_by(JournalRow.step, JournalRow.seq)
    if step is not None:
        query = query.where(JournalRow.step == step)
    if kinds is not None:
        query = query.where(JournalRow.kind.in_(list(kinds)))
    return [_entry(row) for row in session.scalars(query)]


def head(session: Session, run: UUID, step: UUID) -> tuple[int, bytes]:
    """Seq and hash of a stream's last row; `(0, b"")` of an empty one."""
    row = session.execute(
        select(JournalRow.seq, JournalRow.hash)
        .where(JournalRow.run == run, JournalRow.step == step)
        .order_by(JournalRow.seq.desc())
        .limit(1)
    ).one_or_none()
    return (row[0], row[1]) if row is not None else (0, b"")


def link(previous: bytes, entry: Entry) -> bytes:
    """The hash that `entry` must have after a row with hash `previous`."""
    delta = entry.at - datetime.fromtimestamp(0, tz=entry.at.tzinfo)
    at_microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    columns = (
        entry.tenant,
        entry.run,
        entry.step,
        entry.seq,
        entry.kind,
        entry.schema_version,
        entry.epoch,
        at_microseconds,
    )
    return hashlib.sha256(previous + entry.body_hash + "|".join(map(str, columns)).encode()).digest()


@dataclass(frozen=True, slots=True)
class StreamNames:
    """The columns that are the same in all rows of a stream, as the hash has them."""

    prefix: str

    @classmethod
    def of(cls, entry: Entry) -> "StreamNames":
        """Those of the entry's stream."""
        return cls(f"{entry.tenant}|{entry.run}|{entry.step}|")

    def link(self, previous: bytes, entry: Entry) -> bytes:
        """What `link` gives, for many rows of one stream."""
        delta = entry.at - _EPOCH
        at_microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        columns = f"{self.prefix}{entry.seq}|{entry.kind}|{entry.schema_version}|{entry.epoch}|{at_microseconds}"
        return hashlib.sha256(previous + entry.body_hash + columns.encode()).digest()


def scan(session: Session, run: UUID) -> Iterator[Entry]:
    """Every entry of the run as `read` gives them, for journals of any length: a few rows are held at a time.

    The connection is busy until the last one was read.
    """
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"A journal is read through psycopg; this connection is a {type(connection)}.")
    # A copy in binary has half the price of a cursor in text, and goes on while the reader is at work.
    with connection.cursor(binary=True) as cursor, cursor.copy(_COPY_RUN, {"run": run}) as copied:
        copied.set_types(_COPIED_TYPES)
        for step, seq, kind, version, epoch, at, body, salt, body_hash, digest, tenant in copied.rows():
            yield Entry(
                tenant=tenant,
                run=run,
                step=step,
                seq=seq,
                kind=kind,
                schema_version=version,
                epoch=epoch,
                at=at,
                body=body,
                salt=salt,
                body_hash=body_hash,
                hash=digest,
            )


def verify_stream(entries: Sequence[Entry]) -> Iterator[Objection]:
    """What is wrong with the rows of one stream: edited, deleted, inserted or reordered ones."""
    previous = b""
    for position, entry in enumerate(entries, start=1):
        where = partial(Objection, run=entry.run, step=entry.step, seq=entry.seq)
        if entry.seq != position:
            yield Objection(what=f"row {position} is missing", run=entry.run, step=entry.step, seq=position)
            return
        if entry.body is not None and entry.salt is not None:
            if _hash_of(entry.salt, entry.body) != entry.body_hash:
                yield where(what="the body was edited")
        elif entry.body is not None or entry.salt is not None:
            yield where(what="the body was half erased")
        if link(previous, entry) != entry.hash:
            yield where(what="the row does not follow from the one before")
            return
        previous = entry.hash


def verify_run(
    session: Session, run: UUID, *, heads: dict[UUID, int], anchors: dict[UUID, tuple[int, str]]
) -> list[Objection]:
    """What is wrong with a run's journal.

    `heads`: stream → the last row that the tables know of; `anchors`: finished step → seq and hash (hex) that the
    run's own stream recorded.
    """
    by_stream: dict[UUID, list[Entry]] = {stream: [] for stream in heads}
    for entry in read(session, run):
        by_stream.setdefault(entry.step, []).append(entry)
    objections: list[Objection] = []
    for stream, entries in by_stream.items():
        objections.extend(verify_stream(entries))
        last = entries[-1].seq if entries else 0
        if last < heads.get(stream, 0):
            objections.append(
                Objection(run=run, step=stream, seq=heads[stream], what=f"the stream ends at row {last}: truncated")
            )
        elif last > heads.get(stream, 0):
            objections.append(Objection(run=run, step=stream, seq=last, what="rows that the tables do not know of"))
    for stream, (seq, digest) in anchors.items():
        entries = by_stream.get(stream, [])
        if len(entries) < seq:
            objections.append(Objection(run=run, step=stream, seq=seq, what="the anchored last row is gone: truncated"))
        elif entries[seq - 1].hash.hex() != digest:
            objections.append(Objection(run=run, step=stream, seq=seq, what="the last row is not the anchored one"))
    return objections


def anchor_run(session: Session, *, tenant: UUID, run: UUID, key: bytes) -> RunAnchor:
    """Put an ended run's head into its tenant's chain, sealed with a key that the database does not know."""
    # One at a time for each tenant: the chain is linear.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(tenant), 0))))
    before = session.scalars(
        select(RunAnchor).where(RunAnchor.tenant == tenant).order_by(RunAnchor.seq.desc()).limit(1)
    ).one_or_none()
    run_seq, run_hash = head(session, run, RUN_STREAM)
    seq, previous = (before.seq, before.hash) if before is not None else (0, b"")
    digest = _anchor_hash(previous, tenant=tenant, seq=seq + 1, run=run, run_seq=run_seq, run_hash=run_hash)
    anchor = RunAnchor(
        tenant=tenant,
        seq=seq + 1,
        run=run,
        run_seq=run_seq,
        run_hash=run_hash,
        hash=digest,
        seal=hmac.digest(key, digest, "sha256"),
    )
    session.add(anchor)
    session.flush()
    return anchor


def verify_anchors(session: Session, tenant: UUID, *, key: bytes | None) -> list[Objection]:
    """What is wrong with a tenant's chain of ended runs: removed or altered runs and truncated ones."""
    objections: list[Objection] = []
    previous = b""
    anchors = session.scalars(select(RunAnchor).where(RunAnchor.tenant == tenant).order_by(RunAnchor.seq)).all()
    for position, anchor in enumerate(anchors, start=1):
        where = partial(Objection, run=anchor.run, step=None, seq=anchor.seq)
        if anchor.seq != position:
            objections.append(where(what=f"anchor {position} is missing"))
            break
        expected = _anchor_hash(
            previous,
            tenant=tenant,
            seq=anchor.seq,
            run=anchor.run,
            run_seq=anchor.run_seq,
            run_hash=anchor.run_hash,
        )
        if expected != anchor.hash:
            objections.append(where(what="the anchor does not follow from the one before"))
            break
        if key is not None and not hmac.compare_digest(hmac.digest(key, anchor.hash, "sha256"), anchor.seal):
            objections.append(where(what="the seal is not of this installation's key"))
        seq, digest = head(session, anchor.run, RUN_STREAM)
        if (seq, digest) != (anchor.run_seq, anchor.run_hash):
            objections.append(where(what=f"the run ends at row {seq}, not {anchor.run_seq}: truncated"))
        previous = anchor.hash
    return objections


def erase(session: Session, run: UUID, *, step: UUID | None = None) -> int:
    """Erase the bodies of a run, or of one stream; the chain stays verifiable. Gives the number of rows."""
    statement = update(JournalRow).where(JournalRow.run == run, JournalRow.body.is_not(None))
    if step is not None:
        statement = statement.where(JournalRow.step == step)
    return session.execute(statement.values(body=None, salt=None)).rowcount  # type: ignore[attr-defined, no-any-return]


def _anchor_hash(previous: bytes, *, tenant: UUID, seq: int, run: UUID, run_seq: int, run_hash: bytes) -> bytes:
    return hashlib.sha256(previous + run_hash + f"{tenant}|{seq}|{run}|{run_seq}".encode()).digest()


def _entry(row: JournalRow) -> Entry:
    return Entry(
        tenant=row.tenant,
        run=row.run,
        step=row.step,
        seq=row.seq,
        kind=row.kind,
        schema_version=row.schema_version,
        epoch=row.epoch,
        at=row.at,
        body=row.body,
        salt=row.salt,
        body_hash=row.body_hash,
        hash=row.hash,
    )

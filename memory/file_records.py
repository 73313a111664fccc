"""What is remembered of files, and how it gives way to what they say now."""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import AlreadySuperseded, MemoryItem, memory_id, supersede
from chargehand.memory.embedder import Embedder
from chargehand.memory.forgetting import forget_source
from chargehand.memory.semantic_tables import Embedding, Memory

# Grows when files are cut in another way: what was cut before is cut anew.
CUTTER = 2
# The kind of what is read in files.
PASSAGE = "passage"
# Beyond, it is cheaper to ask for all sources of a scope than to name them.
FEW = 100

OpenSession = Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """Where passages are kept, and who makes their vectors."""

    open_session: OpenSession
    """A transaction bound to the tenant, fenced if the writer has a lease."""
    tenant: UUID
    scope: str
    embedder: Embedder | None
    """None: what is read is found by its words only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """What is remembered of a file."""

    blob: str | None
    """Of the content that all of its passages are from; None: of several, or not all of them are there."""
    passages: int
    embedded: int


def read_records(session: Session, library: Library, sources: Set[str], owned: str | None) -> dict[str, FileRecord]:
    """What is remembered of these sources, and of all that begin with `owned`."""
    embedder = library.embedder
    blob, number, cutter = (Memory.details[key].astext for key in ("blob", "of", "cutter"))
    rows = session.execute(
        select(
            Memory.source,
            func.min(blob).label("blob"),
            func.max(blob).label("other_blob"),
            func.min(cutter).label("cutter"),
            func.max(number.cast(Integer)).label("number"),
            func.count().label("passages"),
            func.count(Embedding.memory).label("embedded"),
        )
        .outerjoin(
            Embedding,
            (Embedding.tenant == Memory.tenant)
            & (Embedding.memory == Memory.id)
            & (Embedding.model_id == (embedder.model_id if embedder is not None else "")),
        )
        .where(
            Memory.tenant == library.tenant,
            Memory.scope == library.scope,
            Memory.kind == PASSAGE,
            Memory.superseded_by.is_(None),
            *_among(sources, owned),
        )
        .group_by(Memory.source)
    )
    known = {}
    for row in rows:
        if row.source in sources or (owned is not None and row.source.startswith(owned)):
            is_whole = row.blob == row.other_blob and row.passages == row.number and row.cutter == str(CUTTER)
            known[row.source] = FileRecord(
                blob=row.blob if is_whole else None, passages=row.passages, embedded=row.embedded
            )
    return known


def _among(sources: Set[str], owned: str | None) -> list[ColumnElement[bool]]:
    if owned is not None:
        return [Memory.source.startswith(owned, autoescape=True)]
    return [Memory.source.in_(sources)] if len(sources) <= FEW else []


def roots_of(session: Session, library: Library, owned: str) -> set[str]:
    """The folders that sources which begin so were read from."""
    root = Memory.details["root"].astext
    rows = session.scalars(
        select(root)
        .where(Memory.tenant == library.tenant, Memory.scope == library.scope, Memory.superseded_by.is_(None))
        .where(Memory.source.startswith(owned, autoescape=True), root.is_not(None))
        .distinct()
    )
    return {found for found in rows if found is not None}


def replace(session: Session, library: Library, source: str, items: Sequence[MemoryItem]) -> int:
    """Let these passages supersede what else was read in the file, and give how much; without any it is forgotten."""
    tenant, scope = library.tenant, library.scope
    if not items:
        return len(forget_source(session, tenant=tenant, source=source, scope=scope))
    newer = {memory_id(tenant=tenant, scope=scope, item=item) for item in items}
    old = session.execute(
        select(Memory.id, Memory.line_start)
        .where(
            Memory.tenant == tenant,
            Memory.scope == scope,
            Memory.source == source,
            Memory.kind == PASSAGE,
            Memory.superseded_by.is_(None),
            Memory.id.not_in(newer),
        )
        .order_by(Memory.id)
    ).all()
    for row in old:
        at_its_place = next((item for item in items if item.line_end >= row.line_start), items[-1])
        # Somebody else who reads the same change may have been first.
        with suppress(AlreadySuperseded):
            supersede(
                session,
                tenant=tenant,
                scope=scope,
                memory_id=row.id,
                item=at_its_place,
                embedder=library.embedder,
            )
    return len(old)


def mark_content(session: Session, library: Library, items: Mapping[UUID, MemoryItem]) -> None:
    """Let passages that a change of their file has left alone say that they are of its new content."""
    by_mark: dict[str, list[UUID]] = {}
    for key, item in items.items():
        by_mark.setdefault(json.dumps(dict(item.details), sort_keys=True), []).append(key)
    for ids in by_mark.values():
        mark = literal(dict(items[ids[0]].details), JSONB)
        session.execute(
            update(Memory)
            .where(Memory.tenant == library.tenant, Memory.id.in_(ids), ~Memory.details.contains(mark))
            .values(details=Memory.details.concat(mark))
            .execution_options(synchronize_session=False)
        )

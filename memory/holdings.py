"""How much is remembered: by scope, kind and model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from chargehand.memory.semantic_tables import Embedding, Memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What is remembered in one scope."""

    scope: str
    sources: int
    memories: int
    """Those that are valid now."""
    kinds: Mapping[str, int]
    """How many of them, by kind."""
    superseded: int
    """Those that newer ones have taken the place of."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """How many of the valid ones have a vector, by model; the others are found by their words only."""
    newest_at: datetime | None = None


def sources_below(session: Session, *, tenant: UUID, beginning: str, scope: str | None = None) -> tuple[str, ...]:
    """The sources that begin so, also those of which nothing is valid any more."""
    chosen = (
        select(Memory.source)
        .where(Memory.tenant == tenant, Memory.source.startswith(beginning, autoescape=True))
        .distinct()
    )
    if scope is not None:
        chosen = chosen.where(Memory.scope == scope)
    return tuple(session.scalars(chosen.order_by(Memory.source)))


def holdings(session: Session, *, tenant: UUID) -> tuple[Holding, ...]:
    """What is remembered in each scope, in the order of their names."""
    valid = Memory.superseded_by.is_(None) & ((Memory.expires_at.is_(None)) | (Memory.expires_at > func.now()))
    totals = session.execute(
        select(
            Memory.scope,
            func.count(distinct(Memory.source)).filter(valid).label("sources"),
            func.count().filter(valid).label("memories"),
            func.count().filter(~valid).label("superseded"),
            func.max(Memory.created_at).label("newest_at"),
        )
        .where(Memory.tenant == tenant)
        .group_by(Memory.scope)
        .order_by(Memory.scope)
    ).all()
    kinds: dict[str, dict[str, int]] = {}
    for scope, kind, number in session.execute(
        select(Memory.scope, Memory.kind, func.count())
        .where(Memory.tenant == tenant, valid)
        .group_by(Memory.scope, Memory.kind)
        .order_by(Memory.scope, Memory.kind)
    ):
        kinds.setdefault(scope, {})[kind] = number
    vectors: dict[str, dict[str, int]] = {}
    for scope, model, number in session.execute(
        select(Memory.scope, Embedding.model_id, func.count())
        .join(Embedding, (Embedding.tenant == Memory.tenant) & (Embedding.memory == Memory.id))
        .where(Memory.tenant == tenant, valid)
        .group_by(Memory.scope, Embedding.model_id)
        .order_by(Memory.scope, Embedding.model_id)
    ):
        vectors.setdefault(scope, {})[model] = number
    return tuple(
        Holding(
            scope=row.scope,
            sources=row.sources,
            memories=row.memories,
            kinds=kinds.get(row.scope, {}),
            superseded=row.superseded,
            vectors=vectors.get(row.scope, {}),
            newest_at=row.newest_at,
        )
        for row in totals
    )

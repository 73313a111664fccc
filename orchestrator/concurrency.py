"""Concurrency keys: at most one run of a tenant and key is under way; a second one waits, is refused, or replaces it.

A run that waits is *queued*: it can be cancelled, its deadline counts, and nothing of it starts. Who ends a run need
not know of keys: the watch loop starts the longest waiting run of each key that is free (`supervisor/queueing.py`).
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chargehand.orchestrator.errors import ConcurrencyConflict
from chargehand.orchestrator.facts import OnConflict
from chargehand.orchestrator.tables import RunRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS

# These have the key; those queued stand in line for it.
UNDER_WAY = ("running", "paused")
LIVE = ("queued", *UNDER_WAY)

_TAKE_NUMBER = "SELECT pg_advisory_xact_lock(hashtextextended('chargehand.key.' || :tenant || '.' || :key, 0))"


def stand_in_line(session: Session, tenant: UUID, key: str) -> None:
    """Let requests with this key be accepted one after the other, until the transaction ends."""
    session.execute(text(_TAKE_NUMBER), {"tenant": str(tenant), "key": key})


def others(session: Session, run: RunRow) -> Sequence[RunRow]:
    """The runs that have this one's key or wait for it, first come first; whoever stands in line may ask."""
    return session.scalars(
        select(RunRow)
        .where(RunRow.tenant == run.tenant, RunRow.concurrency_key == run.concurrency_key, RunRow.id != run.id)
        .where(RunRow.status.in_(LIVE))
        .order_by(RunRow.created_at, RunRow.id)
    ).all()


def refusal(key: str, other: RunRow) -> ConcurrencyConflict:
    """What to say to a request that must not wait."""
    return ConcurrencyConflict(
        f"Concurrency key {key!r} is taken by run {other.id}, which is {other.status}; wait for its end, cancel it, or "
        "let this one wait (on_conflict 'queue')."
    )


def lock_to_end(session: Session, rows: Sequence[RunRow]) -> Sequence[RunRow]:
    """Lock these runs and then all their live steps, so that they can be ended; gives those that have not ended.

    All runs before any step, and all steps before any budget, as everybody does who locks several.
    """
    locked = session.scalars(
        select(RunRow)
        .where(RunRow.id.in_([row.id for row in rows]), RunRow.status.in_(LIVE))
        .order_by(RunRow.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    session.execute(
        select(StepRow.id)
        .where(StepRow.run.in_([row.id for row in locked]), StepRow.status.not_in(STEP_ENDINGS))
        .order_by(StepRow.run, StepRow.ordinal)
        .with_for_update(key_share=True)
    )
    return locked


def must_wait(on_conflict: OnConflict, ahead: Sequence[RunRow]) -> bool:
    """Whether a request is queued behind these; raises `ConcurrencyConflict` when it is not to be."""
    if ahead and on_conflict == "reject":
        raise refusal(str(ahead[-1].concurrency_key), ahead[0])
    return bool(ahead) and on_conflict == "queue"

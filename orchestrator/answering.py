"""The answer to a question, and to all others of its run that are about the same cause."""

from dataclasses import dataclass
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs
from chargehand.orchestrator.tables import StepRow

# A result by hand is one step's; every other answer is about the cause.
ONE_STEP = frozenset({"override"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What an answer did."""

    first: bool
    """False: somebody else was first, or the step has ended."""
    with_it: tuple[str, ...] = ()
    """Keys of other steps that it was taken for too."""


def answer(
    session: Session,
    tenant: UUID,
    *,
    run_id: UUID,
    step: UUID,
    wait_id: UUID,
    choice: str,
    body: JsonValue = None,
    by: str = "",
    only: bool = False,
) -> Answered:
    """Answer a waiting step and, unless `only`, those of its run that wait for the same cause; the caller commits.

    For each step the first answer wins. Raises `NotFound` as `runs.answer` does.
    """
    cause = session.execute(
        select(StepRow.wait_cause).where(
            StepRow.id == step, StepRow.run == run_id, StepRow.tenant == tenant, StepRow.wait_id == wait_id
        )
    ).scalar_one_or_none()
    given = {"run_id": run_id, "choice": choice, "body": body, "by": by}
    if not runs.answer(session, tenant, step=step, wait_id=wait_id, **given):  # type: ignore[arg-type]
        return Answered(first=False)
    if not cause or only or choice in ONE_STEP:
        return Answered(first=True)
    others = session.execute(
        select(StepRow.id, StepRow.key, StepRow.wait_id)
        .where(StepRow.run == run_id, StepRow.tenant == tenant, StepRow.id != step)
        .where(StepRow.status == "waiting", StepRow.wait_cause == cause)
        .order_by(StepRow.ordinal)
    ).all()
    taken = [
        key
        for other, key, waits in others
        if waits is not None and runs.answer(session, tenant, step=other, wait_id=waits, **given)  # type: ignore[arg-type]
    ]
    return Answered(first=True, with_it=tuple(taken))

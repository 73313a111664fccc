"""What the runs of a conversation were told and answered, as their journals have it.

A run continues those of its conversation that had ended when it was accepted. Their ids are in its `run.submitted`:
what an ended run was told and answered does not change any more, so every step reads the same, whenever it reads.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import views
from chargehand.orchestrator.facts import RunFinished, RunSubmitted, RunTold, parse_fact
from chargehand.orchestrator.tables import RunRow

# More runs of a conversation are not looked at; an agent is shown as many as fit into its window anyway.
MOST_RUNS = 50
# What one run adds at most; a result is for reading, not for carrying around.
MOST_CHARACTERS = 8_000
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """What an earlier run was told and answered."""

    run_id: UUID
    ended_at_microseconds: int
    """Since 1970, by the database: the order of a conversation."""
    said: tuple[str, ...]
    """Its goal, and what people told it."""
    outcome: str
    answered: str
    """Its result as JSON, or why it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """The conversation that a run is part of, as far as it is shown it."""

    conversation_id: str
    runs: tuple[UUID, ...]
    """Oldest first."""


def earlier(session: Session, tenant: UUID, conversation_id: str | None) -> tuple[UUID, ...]:
    """The newest runs of the conversation that have ended, oldest first; none without a conversation."""
    if conversation_id is None:
        return ()
    newest = session.scalars(
        select(RunRow.id)
        .where(RunRow.tenant == tenant, RunRow.conversation_id == conversation_id)
        .where(RunRow.finished_at.is_not(None), RunRow.erased_at.is_(None))
        .order_by(RunRow.finished_at.desc(), RunRow.id.desc())
        .limit(MOST_RUNS)
    ).all()
    return tuple(reversed(newest))


def continued_by(session: Session, run_id: UUID) -> Continued | None:
    """What the run continues, by its own journal; None: nothing."""
    entries = journal.read(session, run_id, step=RUN_STREAM, kinds=["run.submitted"])
    if not entries or entries[0].body is None:
        return None
    fact = parse_fact(entries[0].body, schema_version=entries[0].schema_version)
    if not isinstance(fact, RunSubmitted) or fact.conversation_id is None or not fact.continues:
        return None
    # Redis may still hold what those said that were erased meanwhile: nobody is shown it.
    erased = set(session.scalars(select(RunRow.id).where(RunRow.id.in_(fact.continues), RunRow.erased_at.is_not(None))))
    left = tuple(one for one in fact.continues if one not in erased)
    return Continued(conversation_id=fact.conversation_id, runs=left) if left else None


def conversation_name(tenant: UUID, conversation_id: str) -> str:
    """Under which Redis holds it: two tenants may choose the same name."""
    return f"{tenant}:{conversation_id}"


def episodes(session: Session, runs: Sequence[UUID]) -> list[Episode]:
    """What each of these runs was told and answered."""
    return [_episode(session, run_id) for run_id in runs]


def _episode(session: Session, run_id: UUID) -> Episode:
    said: list[str] = []
    outcome, answered, ended_at = "erased", "", _BEGINNING
    kinds = ["run.submitted", "run.told", "run.finished"]
    for entry in journal.read(session, run_id, step=RUN_STREAM, kinds=kinds):
        ended_at = entry.at
        if entry.body is None:
            continue
        match parse_fact(entry.body, schema_version=entry.schema_version):
            case RunSubmitted(goal=goal):
                said.append(_shortened(goal))
            case RunTold(message=message):
                said.append(_shortened(message))
            case RunFinished() as end:
                outcome = end.outcome
                answered = end.reason if end.outcome != "succeeded" else _result(session, run_id)
            case _:
                pass
    return Episode(
        run_id=run_id,
        ended_at_microseconds=(ended_at - _BEGINNING) // timedelta(microseconds=1),
        said=tuple(one for one in said if one),
        outcome=outcome,
        answered=_shortened(answered),
    )


def _result(session: Session, run_id: UUID) -> str:
    value: JsonValue = views.result_of(session, run_id)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text)} characters)"

"""Erases what runs say, wherever it was copied to; every chain of the journal still verifies afterwards.

Reached: the journals of the runs, of their forks and of the runs that consolidated them; goals, instructions, arguments
and answers in the tables; what was remembered of them and whatever was concluded from that; their repositories, their
artifacts, their conversations in Redis, the values that their agents shared; and, where it is asked for, later runs of
the conversation that were shown them, and what is remembered of a source or mentions a subject, notes added by hand
among it. Not reached: runs that recalled what is forgotten now and, unless asked for, those that were shown it
(`Erased.shown_to` names both), what tools did elsewhere, backups.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import ColumnElement, Engine, delete, func, or_, select, text, update
from sqlalchemy.orm import Session

from chargehand.memory import episodic, journal
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.forgetting import Forgotten, forget
from chargehand.memory.keyspace import Keyspace
from chargehand.memory.semantic_tables import Memory
from chargehand.memory.state_tables import SharedState
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.consolidating import key_of
from chargehand.orchestrator.episodes import conversation_name
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import RunSubmitted, StepFinished, parse_fact
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.shared_views import scope_of
from chargehand.orchestrator.tables import RunRow, SignalRow, StepRow, SubmissionRow
from chargehand.orchestrator.transitions import RUN_ENDINGS

# Of a run that was erased its index has this scope, see `workers.scripts.index`.
RUN_SCOPE = "run:{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """What the transaction has erased, and what is left to remove outside of Postgres."""

    runs: tuple[UUID, ...]
    """With their forks and what consolidated them."""
    rows: int
    """Of the journal, whose bodies are gone now."""
    forgotten: Forgotten
    conversations: tuple[str, ...]
    artifacts: tuple[str, ...]
    """Hashes that no other run names."""
    under_way_seconds: float
    """For how long the longest of the fleet's running steps has been at work; what it has put it has not named yet."""
    shown_to: tuple[UUID, ...]
    """Later runs whose agents were shown what these were told and answered, or recalled what is forgotten now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Also:
    """What is erased beside the runs that are named, their forks and what consolidated them."""

    later: bool = False
    """Later runs of their conversations that were shown them, and those that were shown these."""
    sources: tuple[str, ...] = ()
    """What was read there, whoever added it, and what rests on it: a path, a URL, whose word a note is."""
    subjects: tuple[str, ...] = ()
    """Whatever is remembered with these words in it, in whatever case, and what was concluded from it."""


NOTHING_ELSE = Also()


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    """What was erased, and what could not be."""

    runs: tuple[UUID, ...]
    rows: int
    memories: int
    believed_again: tuple[UUID, ...]
    artifacts: int
    artifacts_left: tuple[str, ...]
    """Put since the longest of the fleet's running steps began, maybe by one that will name them; erase once more."""
    conversations_left: tuple[str, ...]
    """Redis did not answer: they are not shown any more, and gone within a week; erase once more to be sure."""
    shown_to: tuple[UUID, ...]


def erase(
    engine: Engine,
    tenant: UUID,
    run_ids: Collection[UUID],
    *,
    artifacts: Artifacts,
    client: "redis.Redis | None",
    keyspace: Keyspace,
    also: Also = NOTHING_ELSE,
) -> Erased:
    """Erase these runs and what was copied from them; done again it removes what was left. `engine`: a supervisor's.

    Raises `NotFound`, and `UserError` when one of them, or of their copies, has not ended.
    """
    before = artifacts.moment()
    with open_session(engine, tenant) as session:
        traces = erase_rows(session, tenant, run_ids, also)
    put_before = before - traces.under_way_seconds
    # After the commit: what is made anew from the journal finds nothing there.
    for run_id in traces.runs:
        artifacts.remove_repository(run_id)
    left = tuple(digest for digest in traces.artifacts if not artifacts.remove(digest, put_before=put_before))
    with open_session(engine, tenant) as session:
        # A second erasure cannot read them from the journal any more.
        session.execute(update(RunRow).where(RunRow.id.in_(traces.runs)).values(erased_artifacts=list(left) or None))
    return Erased(
        runs=traces.runs,
        rows=traces.rows,
        memories=len(traces.forgotten.memories),
        believed_again=traces.forgotten.believed_again,
        artifacts=len(traces.artifacts) - len(left),
        artifacts_left=left,
        conversations_left=_end_conversations(client, keyspace, tenant, traces.conversations),
        shown_to=traces.shown_to,
    )


def runs_of_conversation(session: Session, tenant: UUID, conversation_id: str) -> tuple[UUID, ...]:
    """All runs of a conversation; raises `NotFound` when there is none."""
    found = session.scalars(
        select(RunRow.id).where(RunRow.tenant == tenant, RunRow.conversation_id == conversation_id).order_by(RunRow.id)
    ).all()
    if not found:
        raise NotFound(f"There is no run of conversation {conversation_id!r}.")
    return tuple(found)


def erase_rows(session: Session, tenant: UUID, run_ids: Collection[UUID], also: Also = NOTHING_ELSE) -> Traces:
    """The part of `erase` that is Postgres's, in the caller's transaction; for a session that sees all tenants."""
    rows = _lock_family(session, tenant, run_ids)
    while also.later and (later := _shown_to(session, tenant, sorted(rows))):
        rows = _lock_family(session, tenant, [*rows, *later])
    family = tuple(sorted(rows))
    under_way = next((row for row in rows.values() if row.status not in RUN_ENDINGS), None)
    if under_way is not None:
        raise UserError(f"Run {under_way.id} is {under_way.status}; cancel it, or wait for its end, then erase.")
    artifacts = _artifacts_of(session, family) | {one for row in rows.values() for one in row.erased_artifacts or ()}
    shown_to = _shown_to(session, tenant, family)
    erased = sum(journal.erase(session, run_id) for run_id in family)
    session.flush()
    _empty_tables(session, tenant, family)
    forgotten = _forget(session, tenant, family, also)
    # Before it is asked who names what: a step that has ended by then is heard there.
    under_way_seconds = _under_way_seconds(session)
    unnamed = _named_by_nobody(session, artifacts)
    session.execute(update(RunRow).where(RunRow.id.in_(family)).values(erased_artifacts=list(unnamed) or None))
    return Traces(
        runs=family,
        rows=erased,
        forgotten=forgotten,
        conversations=tuple(sorted({row.conversation_id for row in rows.values() if row.conversation_id is not None})),
        artifacts=unnamed,
        under_way_seconds=under_way_seconds,
        shown_to=tuple(sorted({*shown_to, *_recalled_by(session, tenant, forgotten.memories, family)})),
    )


def _lock_family(session: Session, tenant: UUID, run_ids: Collection[UUID]) -> dict[UUID, RunRow]:
    """The runs, their forks and what consolidated any of them, locked.

    A fork holds the run that it leaves until it commits: it is waited for, and found when one looks again.
    """
    family: dict[UUID, RunRow] = {}
    named: ColumnElement[bool] = RunRow.id.in_(run_ids)
    while True:
        found = session.scalars(
            select(RunRow)
            .where(RunRow.tenant == tenant, named, RunRow.id.not_in(list(family)))
            .order_by(RunRow.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()
        if not found:
            break
        family |= {row.id: row for row in found}
        keys = [key_of(run_id) for run_id in family]
        # What nobody has accepted yet is not made any more; what somebody is accepting is waited for, and found.
        key_of_request = text("CAST(request AS jsonb) ->> 'idempotency_key' = ANY (:keys)").bindparams(keys=keys)
        session.execute(delete(SubmissionRow).where(SubmissionRow.tenant == tenant, key_of_request))
        named = or_(RunRow.forked_from.in_(list(family)), RunRow.idempotency_key.in_(keys))
    missing = next((run_id for run_id in run_ids if run_id not in family), None)
    if missing is not None:
        raise NotFound(f"There is no run {missing}; `chargehand status` lists the runs.")
    return family


def _artifacts_of(session: Session, family: Sequence[UUID]) -> set[str]:
    digests: set[str] = set()
    for run_id in family:
        for entry in journal.read(session, run_id, kinds=["step.finished"]):
            if entry.body is not None:
                fact = parse_fact(entry.body, schema_version=entry.schema_version)
                digests |= set(fact.artifacts.values()) if isinstance(fact, StepFinished) else set()
    return digests


def _under_way_seconds(session: Session) -> float:
    age = func.extract("epoch", func.clock_timestamp() - StepRow.started_at)
    return float(session.scalar(select(func.max(age)).where(StepRow.status == "running")) or 0.0)


def _named_by_nobody(session: Session, digests: Iterable[str]) -> tuple[str, ...]:
    """Those that no journal of any tenant names any more: equal bytes are kept once for all."""
    unnamed = session.scalars(
        text(
            "SELECT digest FROM unnest(CAST(:digests AS text[])) digest WHERE NOT EXISTS ("
            "SELECT FROM chargehand.journal WHERE kind IN ('step.finished', 'tool.finished') "
            "AND body LIKE '%' || digest || '%') ORDER BY digest"
        ),
        {"digests": sorted(digests)},
    )
    return tuple(unnamed)


def _shown_to(session: Session, tenant: UUID, family: Sequence[UUID]) -> tuple[UUID, ...]:
    later = session.scalars(
        select(RunRow.id).where(
            RunRow.tenant == tenant,
            RunRow.id.not_in(family),
            RunRow.conversation_id.in_(select(RunRow.conversation_id).where(RunRow.id.in_(family))),
        )
    ).all()
    shown: list[UUID] = []
    for run_id in later:
        for entry in journal.read(session, run_id, step=RUN_STREAM, kinds=["run.submitted"]):
            if entry.body is not None:
                fact = parse_fact(entry.body, schema_version=entry.schema_version)
                if isinstance(fact, RunSubmitted) and not set(family).isdisjoint(fact.continues):
                    shown.append(run_id)
    return tuple(sorted(shown))


def _recalled_by(session: Session, tenant: UUID, memories: Sequence[UUID], family: Sequence[UUID]) -> tuple[UUID, ...]:
    """Other runs whose agents recalled one of these memories; their journals have its words."""
    if not memories:
        return ()
    found = session.scalars(
        text(
            "SELECT DISTINCT run FROM chargehand.journal WHERE tenant = :tenant AND kind = 'tool.finished' "
            "AND run <> ALL (CAST(:family AS uuid[])) AND body LIKE '%memory:%' AND EXISTS (SELECT FROM "
            "regexp_matches(body, 'memory:([0-9a-f-]{36})@', 'g') named WHERE named[1] = ANY (:memories)) ORDER BY run"
        ),
        {"tenant": tenant, "family": list(family), "memories": [str(memory) for memory in memories]},
    )
    return tuple(found)


def _empty_tables(session: Session, tenant: UUID, family: Sequence[UUID]) -> None:
    """Take out of the tables what people and agents wrote; what each step was, and how it ended, stays."""
    quietly: dict[str, Any] = {"synchronize_session": False}
    for row in session.scalars(select(StepRow).where(StepRow.run.in_(family)).order_by(StepRow.run, StepRow.ordinal)):
        row.spec = emptied(Step.model_validate(row.spec)).model_dump(mode="json")
    session.flush()
    shared = [scope_of(run_id) for run_id in family]
    session.execute(
        update(SharedState)
        .where(SharedState.tenant == tenant, SharedState.scope.in_(shared))
        .values(value=None)
        .execution_options(**quietly)
    )
    session.execute(
        update(SignalRow).where(SignalRow.run.in_(family)).values(body=None, sent_by="").execution_options(**quietly)
    )
    session.execute(
        update(RunRow)
        .where(RunRow.id.in_(family))
        .values(goal="", reason="", workspace=None, erased_at=func.coalesce(RunRow.erased_at, func.clock_timestamp()))
        .execution_options(**quietly)
    )


def emptied(step: Step) -> Step:
    """The step without the words that somebody chose for it; its key, its kind and its place stay. Pure."""
    without: Mapping[str, Any] = {"title": "", "instruction": "", "arguments": {}}
    if step.map is not None:
        body = tuple(emptied(one) for one in step.map.body)
        without = {**without, "map": step.map.model_copy(update={"items": [], "body": body})}
    if step.repeat is not None:
        body = tuple(emptied(one) for one in step.repeat.body)
        without = {**without, "repeat": step.repeat.model_copy(update={"body": body})}
    return step.model_copy(update=dict(without))


def _forget(session: Session, tenant: UUID, family: Sequence[UUID], also: Also) -> Forgotten:
    gone: set[UUID] = set()
    again: set[UUID] = set()
    parts = [forget(session, tenant=tenant, runs=family)] if family else []
    parts += [forget(session, tenant=tenant, scope=RUN_SCOPE.format(run_id)) for run_id in family]
    parts += [forget(session, tenant=tenant, source=source) for source in also.sources]
    mentioning = [memory for subject in also.subjects for memory in _mentioning(session, tenant, subject)]
    parts += [forget(session, tenant=tenant, memories=mentioning)] if mentioning else []
    for part in parts:
        gone |= set(part.memories)
        again |= set(part.believed_again)
    return Forgotten(memories=tuple(sorted(gone)), believed_again=tuple(sorted(again - gone)))


def _mentioning(session: Session, tenant: UUID, subject: str) -> Sequence[UUID]:
    """Memories with these words, however they are spaced; of those that end as words do: Ada is not in Adam."""
    words = subject.split()
    if not words:
        raise UserError("A subject has to have words in it; name the person as the notes do.")
    pattern = r"\s+".join(re.sub(r"(\W)", r"\\\1", word) for word in words)
    # Only where a word begins or ends can its edge be asked for.
    pattern = (r"\m" if re.match(r"\w", words[0]) else "") + pattern + (r"\M" if re.search(r"\w\Z", words[-1]) else "")
    return session.scalars(
        select(Memory.id)
        .where(Memory.tenant == tenant, or_(Memory.text.op("~*")(pattern), Memory.source.op("~*")(pattern)))
        .order_by(Memory.id)
    ).all()


def _end_conversations(
    client: "redis.Redis | None", keyspace: Keyspace, tenant: UUID, conversations: Sequence[str]
) -> tuple[str, ...]:
    """Remove them from Redis, where they are made anew from the journal when somebody asks; gives those that stay."""
    left: list[str] = []
    for name in conversations:
        try:
            if client is None:
                left.append(name)
            else:
                episodic.end(client, keyspace, conversation_name(tenant, name))
        except redis.RedisError:
            left.append(name)
    return tuple(left)

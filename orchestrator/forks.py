"""The writer of forks: a new run from where another one stood, which is read and never written.

What is taken over is in the fork's own journal: a step that had ended has its `step.finished` there, which says where
it comes from. So nothing of the fork needs the other run, and a result is where it always is.
"""

import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Engine, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from chargehand.memory import journal, procedural
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.git import StorageFull
from chargehand.memory.journal import Entry
from chargehand.memory.procedural import Role
from chargehand.memory.tables import RUN_STREAM, JournalRow
from chargehand.orchestrator import races, runs
from chargehand.orchestrator.errors import NotFound, Unavailable, UserError
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    AnyFact,
    ForkedFrom,
    JoinsWon,
    Origin,
    PlanPatched,
    RunSubmitted,
    StepFact,
    StepFinished,
    StepForked,
    StepWaiting,
    parse_fact,
)
from chargehand.orchestrator.forking import Beginning, Change, Cut, before_turn, cut, history
from chargehand.orchestrator.plan import Plan, step_id
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.tables import BudgetRow, RunRow, StepRow

# Rows of one insert: a plan has two thousand steps, their results may be long.
ROWS_AT_ONCE = 200
NO_CHANGE = Change()


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkRequest:
    """A fork somebody asks for."""

    run_id: UUID
    """Of the fork."""
    source: UUID
    at: str
    """Key of the step that is done anew."""
    turn: int | None = None
    """Of an agent: the first turn that is done anew; None: the first of all."""
    change: Change = NO_CHANGE
    roles: tuple[Role, ...] = ()
    """Other versions of roles, for what is done anew."""
    budget_microusd: int | None = None
    """None: as much as the run that is left was given."""
    idempotency_key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that the fork's transaction writes."""

    request: ForkRequest
    submitted: RunSubmitted
    cut: Cut
    first_facts: Mapping[str, StepFact]
    """step key → the fact that its stream in the fork begins with."""
    winners: Mapping[str, str]
    """Of the `any` joins that have begun already, and go on with the same."""
    has_repository: bool


def fork(engine: Engine, tenant: UUID, artifacts: Artifacts, request: ForkRequest) -> UUID:
    """Make the fork; gives its id, or that of the run which has its idempotency key already.

    The other run is read in one snapshot, so it may go on meanwhile. Raises `NotFound`, `UserError`, `Unavailable`.
    """
    with open_session(engine.execution_options(isolation_level="REPEATABLE READ"), tenant) as session:
        prepared = prepare(session, request)
    copied = False
    try:
        # After the snapshot: a commit that a fact names is in the repository before that fact is.
        copied = prepared.has_repository and artifacts.fork_repository(request.source, run_id=request.run_id)
        with open_session(engine, tenant) as session:
            made = accept(session, tenant, prepared)
    except StorageFull as error:
        raise Unavailable(str(error)) from error
    except Unavailable:
        # Whether it was committed is not known, and then the fork needs what was copied for it.
        raise
    except BaseException:
        if copied:
            shutil.rmtree(artifacts.repository(request.run_id), ignore_errors=True)
        raise
    if made != request.run_id and copied:
        shutil.rmtree(artifacts.repository(request.run_id), ignore_errors=True)
    return made


def place_of(named: str, keys: Collection[str]) -> tuple[str, int | None]:
    """`STEP[:TURN]` as key and turn; a key may hold colons and digits itself."""
    key, _, turn = named.rpartition(":")
    return (key, int(turn)) if named not in keys and key in keys and turn.isdecimal() else (named, None)


def prepare(session: Session, request: ForkRequest) -> Prepared:
    """Read what the fork takes over; all in the caller's one snapshot, whether the run has ended or goes on.

    Raises `NotFound`, and `UserError` (`InvalidPlan`) when the run cannot be left there or the change does not fit.
    """
    row = session.get(RunRow, request.source)
    if row is None:
        raise NotFound(f"There is no run {request.source}; `chargehand status` lists the runs.")
    stream = [_parsed(entry) for entry in journal.read(session, request.source, step=RUN_STREAM)]
    submitted = stream[0]
    if not isinstance(submitted, RunSubmitted):
        raise UserError(f"Run {request.source} does not begin with its plan; it cannot be left.")
    steps = session.scalars(select(StepRow).where(StepRow.run == request.source).order_by(StepRow.ordinal)).all()
    grown = history(
        submitted.plan.steps,
        [fact for fact in stream if isinstance(fact, PlanPatched)],
        {one.key: one.status for one in steps},
        {one.id: one.key for one in steps},
    )
    beginning = _beginning(session, request)
    found = cut(grown, request.at, kept=beginning.colleagues if beginning is not None else ())
    changed = tuple(request.change.of(step) if step.key == request.at else step for step in found.steps)
    unknown = next((role.name for role in request.roles if role.name not in row.role_versions), None)
    if unknown is not None:
        known = ", ".join(sorted(row.role_versions))
        raise UserError(f"The run has no role {unknown!r} of which this could be another version; it has: {known}.")
    role_versions = {**row.role_versions, **{role.name: role.blob_hash for role in request.roles}}
    plan = Plan.of(changed, roles=role_versions.keys())
    first_facts = _taken_over(session, request.source, found)
    first_facts |= {
        key: StepWaiting(wait_id=step_id(request.run_id, key), reason="children", question="") for key in found.reopened
    }
    if beginning is not None and beginning.facts:
        first_facts[request.at] = _forked(session, request, beginning)
    cap = session.scalar(select(BudgetRow.cap_microusd).where(BudgetRow.run == request.source))
    return Prepared(
        request=request,
        submitted=submitted.model_copy(
            update={
                "plan": plan,
                "budget_microusd": request.budget_microusd or cap or submitted.budget_microusd,
                "idempotency_key": request.idempotency_key,
                "role_versions": role_versions,
                # Whoever tries something out does not stand in line for it.
                "concurrency_key": None,
                "forked_from": ForkedFrom(run=request.source, at=request.at, turn=request.turn),
            }
        ),
        cut=replace(found, steps=changed),
        first_facts=first_facts,
        winners={join: won for join, won in races.winners(session, request.source).items() if join in found.reopened},
        has_repository=submitted.workspace is not None,
    )


def _parsed(entry: Entry) -> AnyFact:
    if entry.body is None:
        raise UserError(f"Run {entry.run} was erased; it cannot be left.")
    return parse_fact(entry.body, schema_version=entry.schema_version)


def _beginning(session: Session, request: ForkRequest) -> Beginning | None:
    if request.turn is None:
        return None
    stream = [
        _parsed(entry) for entry in journal.read(session, request.source, step=step_id(request.source, request.at))
    ]
    return before_turn(stream, request.turn)  # type: ignore[arg-type]


def _forked(session: Session, request: ForkRequest, beginning: Beginning) -> StepForked:
    identity = step_id(request.source, request.at)
    last = journal.read(session, request.source, step=identity)[beginning.last_row]
    return StepForked(origin=_origin(last), facts=beginning.facts)


def _origin(entry: Entry) -> Origin:
    return Origin(run=entry.run, step=entry.step, seq=entry.seq, hash=entry.hash.hex())


def _taken_over(session: Session, source: UUID, found: Cut) -> dict[str, StepFact]:
    """How each of them ended, without what it would set off: its patch is in the fork's plan."""
    names = {step_id(source, key): key for key in found.taken}
    facts: dict[str, StepFact] = {}
    for entry in journal.read(session, source, kinds=["step.finished"]):
        if entry.step in names:
            fact = _parsed(entry)
            if isinstance(fact, StepFinished):
                # Where it was first worked for: a fork of a fork points there too.
                origin = fact.copied_from or _origin(entry)
                # An approval is given once: what the fork does behind a gate is put before a person again.
                approved: dict[str, str] | None = None if fact.approved is None else {}
                facts[names[entry.step]] = fact.model_copy(
                    update={"patch": None, "approved": approved, "copied_from": origin}
                )
    return facts


def accept(session: Session, tenant: UUID, prepared: Prepared) -> UUID:
    """Write the fork; gives its id, or that of the run which has its idempotency key already."""
    request, submitted = prepared.request, prepared.submitted
    # Held until this commits: whoever erases it waits, and finds the fork; or it is erased, and nothing is copied.
    left = select(RunRow.erased_at).where(RunRow.id == request.source).with_for_update(read=True, key_share=True)
    if session.scalar(left) is not None:
        raise UserError(f"Run {request.source} was erased; it cannot be left.")
    made = session.execute(
        upsert(RunRow)
        .values(
            id=request.run_id,
            tenant=tenant,
            goal=submitted.goal,
            tier=submitted.tier,
            model=submitted.model,
            priority=submitted.priority,
            idempotency_key=request.idempotency_key,
            workspace=submitted.workspace.model_dump(mode="json") if submitted.workspace else None,
            role_versions=submitted.role_versions,
            forked_from=request.source,
            deadline_at=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, submitted.deadline_seconds)
            if submitted.deadline_seconds
            else None,
        )
        .on_conflict_do_nothing()
        .returning(RunRow.id)
    ).scalar_one_or_none()
    if made is None:
        return runs.same_request(session, tenant, request.run_id, request.idempotency_key)
    procedural.pin_roles(session, tenant=tenant, roles=request.roles)
    runs.open_budget(
        session,
        tenant,
        made,
        cap_microusd=submitted.budget_microusd,
        on_exceeded=submitted.on_budget,
        max_calls=submitted.max_calls,
        max_tokens=submitted.max_tokens,
    )
    runs.add_steps(session, tenant, made, submitted.plan.steps, first_ordinal=0)
    _begin_streams(session, tenant, made, prepared.first_facts)
    won = [JoinsWon(winners=dict(prepared.winners))] if prepared.winners else []
    runs.record(session, tenant, made, [submitted, *won])
    runs.ring(session, tenant, made)
    return made


def _begin_streams(session: Session, tenant: UUID, run_id: UUID, facts: Mapping[str, StepFact]) -> None:
    """The first row of these steps' streams, which no claim stands before, and what it says of their state."""
    rows = [
        {
            "tenant": tenant,
            "run": run_id,
            "step": step_id(run_id, key),
            "seq": 1,
            "kind": fact.kind,
            "schema_version": SCHEMA_VERSION,
            "epoch": 0,
            "body": fact.model_dump_json(),
        }
        for key, fact in facts.items()
    ]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        session.execute(insert(JournalRow).values(rows[start : start + ROWS_AT_ONCE]))
    finished = {key: fact for key, fact in facts.items() if isinstance(fact, StepFinished)}
    session.execute(
        text(
            "UPDATE steps s SET head_seq = 1, status = given.status, label = given.label, patched = true, "
            "finished_at = clock_timestamp() "
            "FROM unnest(CAST(:steps AS uuid[]), CAST(:statuses AS text[]), CAST(:labels AS text[])) "
            "AS given(step, status, label) WHERE s.id = given.step"
        ),
        {
            "steps": [step_id(run_id, key) for key in finished],
            "statuses": [fact.outcome for fact in finished.values()],
            "labels": [fact.label for fact in finished.values()],
        },
    )
    for key in _of(facts, StepWaiting):
        session.execute(
            update(StepRow)
            .where(StepRow.id == step_id(run_id, key))
            .values(
                head_seq=1,
                status="waiting",
                wait_id=step_id(run_id, key),
                wait_reason="children",
                started_at=func.clock_timestamp(),
            )
        )
    for key in _of(facts, StepForked):
        session.execute(update(StepRow).where(StepRow.id == step_id(run_id, key)).values(head_seq=1))


def _of(facts: Mapping[str, StepFact], kind: type[StepFact]) -> Iterable[str]:
    return [key for key, fact in facts.items() if isinstance(fact, kind)]


def lineage(session: Session, run_id: UUID) -> list[UUID]:
    """The run and those that it comes from, the newest first."""
    rows = session.execute(
        text(
            "WITH RECURSIVE line AS (SELECT id, forked_from, 0 AS depth FROM runs WHERE id = :run UNION ALL "
            "SELECT r.id, r.forked_from, depth + 1 FROM runs r JOIN line ON r.id = line.forked_from) "
            "SELECT id FROM line ORDER BY depth"
        ),
        {"run": run_id},
    )
    return [identity for (identity,) in rows]

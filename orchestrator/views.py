"""Read-only answers about runs, for the client, the command line and the report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import Text, cast, func, select, text
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM, JournalRow
from chargehand.orchestrator.approval import Guarded
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    AnyFact,
    CallAbandoned,
    ModelFailed,
    ModelResponded,
    ReservationsCharged,
    ReservationsReturned,
    RunSubmitted,
    StepFinished,
    StepWaiting,
    parse_fact,
)
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.tables import BudgetRow, RunRow, SignalRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """A run in one line."""

    run_id: UUID
    status: str
    goal: str
    priority: int
    steps: int
    steps_ended: int
    spent_microusd: int
    cap_microusd: int
    created_at: datetime
    finished_at: datetime | None
    reason: str
    forked_from: UUID | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """A step as people look at it."""

    step_id: UUID
    key: str
    title: str
    kind: str
    pool: str
    label: str
    """Role or script."""
    status: str
    epoch: int
    crashes: int
    turns: int
    spent_microusd: int
    after: tuple[str, ...]
    holder: str | None
    wait_reason: str | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str
    solo: bool = False
    """Took its worker down: only a pool of one thread runs it."""
    schema_version: int = SCHEMA_VERSION
    """What a worker must know to run it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphView:
    """The graph of a run."""

    steps: tuple[Step, ...]
    """In plan order."""
    statuses: Mapping[str, str]
    """By key."""
    ways: Mapping[str, str]
    """The labels that branches took, by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Escalation:
    """A question that a step waits for."""

    run_id: UUID
    step_id: UUID
    step_key: str
    wait_id: UUID
    reason: str
    question: str
    options: tuple[str, ...]
    evidence: tuple[str, ...]
    asked_at: datetime
    guards: tuple[Guarded, ...] = ()
    """gate: what would be done, with which arguments, each under its hash."""
    attached: tuple[str, ...] = ()
    """Keys of other steps of the run that wait for the same cause: one answer is taken for all."""
    expires_at: datetime | None = None
    expires_then: str = ""
    """What it comes to when nobody has answered by then."""
    wants_fix: bool = False
    """The answer has to be a repair of one line, see `line_fixes`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One fact as a follower of the run sees it."""

    run_id: UUID
    step_id: UUID | None
    """None: of the run itself."""
    seq: int
    at: datetime
    kind: str
    fact: AnyFact | None
    """None when its body was erased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a run cost and did, counted from its journal."""

    calls: int
    calls_failed: int
    models: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_microusd: int
    duration_seconds: float
    head_hash: str
    """Of the run's own stream."""


def view_run(session: Session, run_id: UUID) -> RunView:
    """One run; raises `NotFound`."""
    row = session.get(RunRow, run_id, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no run {run_id}; `chargehand status` lists the runs.")
    total, ended, spent = session.execute(
        select(
            func.count(),
            func.count().filter(StepRow.status.in_(STEP_ENDINGS)),
            func.coalesce(func.sum(StepRow.spent_microusd), 0),
        ).where(StepRow.run == run_id)
    ).one()
    cap = session.scalar(select(BudgetRow.cap_microusd).where(BudgetRow.run == run_id)) or 0
    return RunView(
        run_id=row.id,
        status=row.status,
        goal=row.goal,
        priority=row.priority,
        steps=total,
        steps_ended=ended,
        spent_microusd=int(spent),
        cap_microusd=cap,
        created_at=row.created_at,
        finished_at=row.finished_at,
        reason=row.reason,
        forked_from=row.forked_from,
        conversation_id=row.conversation_id,
    )


def find_run(session: Session, name: str) -> UUID:
    """The run whose id is, or uniquely begins or ends with, `name`; raises `NotFound`."""
    wanted = name.lower().replace("-", "")
    digits = func.replace(cast(RunRow.id, Text), "-", "")
    named = (digits.startswith(wanted, autoescape=True)) | (digits.endswith(wanted, autoescape=True))
    found = session.scalars(select(RunRow.id).where(named).limit(100)).all() if wanted else []
    if len(found) == 1:
        return found[0]
    problem = "no run" if not found else f"{len(found)} runs"
    raise NotFound(f"{name!r} names {problem}; `chargehand status` lists the ids.")


def view_steps(session: Session, run_id: UUID) -> list[StepView]:
    """The run's steps in plan order."""
    rows = session.scalars(
        select(StepRow).where(StepRow.run == run_id).order_by(StepRow.ordinal).execution_options(populate_existing=True)
    ).all()
    failed = {row.id for row in rows if row.status == "failed"}
    errors = _errors(session, run_id) if failed else {}
    views = []
    for row in rows:
        step = Step.model_validate(row.spec)
        views.append(
            StepView(
                step_id=row.id,
                key=row.key,
                title=step.title,
                kind=step.kind,
                pool=row.pool,
                label=step.role or step.script or (step.celery_task.task if step.celery_task else step.kind),
                status=row.status,
                epoch=row.epoch,
                crashes=row.crashes,
                turns=row.turns,
                spent_microusd=row.spent_microusd,
                after=step.after,
                holder=row.holder,
                wait_reason=row.wait_reason,
                started_at=row.started_at,
                finished_at=row.finished_at,
                error=errors.get(row.id, ""),
                solo=row.solo,
                schema_version=row.schema_version,
            )
        )
    return views


def view_graph(session: Session, run_id: UUID) -> GraphView:
    """The run's steps as they were planned, and where they stand."""
    rows = session.scalars(
        select(StepRow).where(StepRow.run == run_id).order_by(StepRow.ordinal).execution_options(populate_existing=True)
    ).all()
    return GraphView(
        steps=tuple(Step.model_validate(row.spec) for row in rows),
        statuses={row.key: row.status for row in rows},
        ways={row.key: row.label for row in rows if row.label is not None},
    )


def _errors(session: Session, run_id: UUID) -> dict[UUID, str]:
    errors: dict[UUID, str] = {}
    for entry in journal.read(session, run_id, kinds=["step.finished"]):
        if entry.body is not None:
            fact = parse_fact(entry.body, schema_version=entry.schema_version)
            if isinstance(fact, StepFinished):
                errors[entry.step] = fact.error
    return errors


def results(session: Session, run_id: UUID, keys: Sequence[str] | None = None) -> dict[str, StepFinished]:
    """How finished steps ended, by key; `keys`: only these."""
    query = select(JournalRow).where(JournalRow.run == run_id, JournalRow.kind == "step.finished")
    if keys is None:
        known = session.execute(select(StepRow.id, StepRow.key).where(StepRow.run == run_id)).all()
        names: dict[UUID, str] = {identity: key for identity, key in known}  # noqa: C416 - typed rows
    else:
        # The id of a step follows from its key: a run of a thousand steps is not read for two of them.
        names = {step_id(run_id, key): key for key in keys}
        query = query.where(JournalRow.step.in_(names))
    ended: dict[str, StepFinished] = {}
    for row in session.scalars(query):
        if row.body is None:
            continue
        fact = parse_fact(row.body, schema_version=row.schema_version)
        if isinstance(fact, StepFinished):
            ended[names[row.step]] = fact
    return ended


def artifacts(session: Session, run_id: UUID) -> dict[str, str]:
    """name → content hash of everything the run's steps kept; a later step's wins, a superseded one's is none."""
    named: dict[str, str] = {}
    ended = results(session, run_id)
    for view in view_steps(session, run_id):
        if view.key in ended and view.status != "superseded":
            named.update(ended[view.key].artifacts)
    return named


def replans(session: Session, run_id: UUID) -> int:
    """How often the plan of the run may be changed when a step has failed, all in all."""
    for entry in journal.read(session, run_id, step=RUN_STREAM, kinds=["run.submitted"]):
        fact = parse_fact(entry.body or "", schema_version=entry.schema_version)
        if isinstance(fact, RunSubmitted):
            return fact.replans
    return 0


def escalations(session: Session, run_id: UUID | None = None, *, each: bool = False) -> list[Escalation]:
    """What people are asked and nobody has answered, oldest first: of one run, or of the tenant.

    Questions of one run about the same cause are one, unless `each` is wanted.
    """
    # A budget that is in use frees itself: that wait has an end. One that is used up does not.
    asks = StepRow.wait_reason.in_(["human", "gate"]) | (
        (StepRow.wait_reason == "budget") & StepRow.run_after.is_(None)
    )
    answered = select(SignalRow.step).where(
        SignalRow.tenant == StepRow.tenant, SignalRow.step == StepRow.id, SignalRow.wait_id == StepRow.wait_id
    )
    query = select(StepRow).where(StepRow.status == "waiting", asks, ~answered.exists())
    if run_id is not None:
        query = query.where(StepRow.run == run_id)
    asked: list[Escalation] = []
    by_cause: dict[tuple[UUID, str], list[Escalation]] = defaultdict(list)
    for row in session.scalars(query.order_by(StepRow.run, StepRow.ordinal)):
        question = _question(session, row)
        if question is not None and row.wait_cause and not each:
            by_cause[row.run, row.wait_cause].append(question)
        elif question is not None:
            asked.append(question)
    for questions in by_cause.values():
        first, *others = sorted(questions, key=lambda one: one.asked_at)
        asked.append(replace(first, attached=tuple(one.step_key for one in others)))
    return sorted(asked, key=lambda one: one.asked_at)


def _question(session: Session, row: StepRow) -> Escalation | None:
    for entry in reversed(journal.read(session, row.run, step=row.id, kinds=["step.waiting"])):
        fact = parse_fact(entry.body or "", schema_version=entry.schema_version)
        if isinstance(fact, StepWaiting) and fact.wait_id == row.wait_id:
            return Escalation(
                run_id=row.run,
                step_id=row.id,
                step_key=row.key,
                wait_id=fact.wait_id,
                reason=fact.reason,
                question=fact.question,
                options=fact.options,
                evidence=fact.evidence,
                asked_at=entry.at,
                guards=fact.guards,
                expires_at=row.expires_at,
                expires_then=fact.expires_then,
                wants_fix=fact.wants_fix,
            )
    return None


def events_after(session: Session, run_id: UUID, seen: Mapping[UUID, int]) -> list[Event]:
    """Facts of a run behind the last seen row of each stream (`RUN_STREAM` for its own), by time.

    A row that commits late is not lost, because each stream is followed by its own numbers; nothing waits for other
    transactions.
    """
    rows = session.execute(
        text(
            "SELECT j.step, j.seq, j.at, j.kind, j.schema_version, j.body FROM journal j "
            "LEFT JOIN unnest(CAST(:streams AS uuid[]), CAST(:seqs AS bigint[])) AS seen(step, seq) USING (step) "
            "WHERE j.run = :run AND j.seq > coalesce(seen.seq, 0) ORDER BY j.at, j.step, j.seq"
        ),
        {"run": run_id, "streams": list(seen), "seqs": list(seen.values())},
    )
    return [
        Event(
            run_id=run_id,
            step_id=None if stream == RUN_STREAM else stream,
            seq=seq,
            at=at,
            kind=kind,
            fact=parse_fact(body, schema_version=version) if body is not None else None,
        )
        for stream, seq, at, kind, version, body in rows
    ]


def account(session: Session, run_id: UUID) -> Account:
    """Calls, tokens, cost and time of a run, from its journal."""
    kinds = ["model.responded", "model.failed", "call.abandoned", "reservations.charged", "reservations.returned"]
    facts = [
        parse_fact(entry.body, schema_version=entry.schema_version)
        for entry in journal.read(session, run_id, kinds=kinds)
        if entry.body is not None
    ]
    answered = [fact for fact in facts if isinstance(fact, ModelResponded)]
    failed = [fact for fact in facts if isinstance(fact, ModelFailed)]
    abandoned = [fact for fact in facts if isinstance(fact, CallAbandoned)]
    charged = [fact for fact in facts if isinstance(fact, ReservationsCharged)]
    returned = [fact for fact in facts if isinstance(fact, ReservationsReturned)]
    duration = session.execute(
        select(
            func.extract("epoch", func.coalesce(RunRow.finished_at, func.clock_timestamp()) - RunRow.created_at)
        ).where(RunRow.id == run_id)
    ).scalar_one_or_none()
    _, head = journal.head(session, run_id, RUN_STREAM)
    return Account(
        calls=len(answered),
        calls_failed=len(failed) + len(abandoned),
        models=tuple(sorted({fact.model for fact in answered})),
        input_tokens=sum(fact.usage.input_tokens for fact in answered),
        output_tokens=sum(fact.usage.output_tokens for fact in answered),
        cache_read_tokens=sum(fact.usage.cache_read_tokens for fact in answered),
        cache_write_tokens=sum(fact.usage.cache_write_tokens for fact in answered),
        cost_microusd=sum(fact.cost_microusd for fact in answered)
        + sum(fact.cost_microusd for fact in failed)
        + sum(fact.charged_microusd for fact in abandoned)
        + sum(sum(fact.charged_microusd.values()) for fact in charged)
        - sum(sum(fact.returned_microusd.values()) for fact in returned),
        duration_seconds=float(duration or 0.0),
        head_hash=head.hex(),
    )


def partial_of(session: Session, run_id: UUID) -> dict[str, JsonValue]:
    """What a run that did not succeed has all the same: results of succeeded steps that no succeeded one builds on."""
    graph = view_graph(session, run_id)
    done = [step for step in graph.steps if graph.statuses[step.key] == "succeeded" and step.parent is None]
    built_on = {key for step in done for key in step.after}
    ended = results(session, run_id, [step.key for step in done if step.key not in built_on])
    return {step.key: ended[step.key].result for step in done if step.key in ended}


def result_of(session: Session, run_id: UUID) -> JsonValue:
    """What the run's final steps gave: one result, or a mapping by key when there are several.

    For children their parent stands, and what was superseded does not count; neither does a change of the plan.
    """
    ended = results(session, run_id)
    graph = view_graph(session, run_id)
    counting = [
        step
        for step in graph.steps
        if step.parent is None and step.role != REPLANNER and graph.statuses[step.key] != "superseded"
    ]
    depended_on = {key for step in counting for key in step.after}
    final = {step.key: ended[step.key].result for step in counting if step.key in ended.keys() - depended_on}
    return next(iter(final.values())) if len(final) == 1 else dict(final)

"""Steps that are tasks of the user's own Celery app: sent after the commit, and ended by what comes back.

No worker of ours holds such a step: it waits. `run_after` says when it is looked at next. Until the message has left
this is a lease of whoever sends it: one who dies between the commit and the publish, or between the publish and the
note of it, is followed by another, who sends the same message under the same id.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Engine, func, or_, select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import celery_tasks, runs, switches
from chargehand.orchestrator.celery_tasks import Again, Answer, ArgumentsMissing, Call, Ended, Labels, Lost, Message
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    Fact,
    SignalReceived,
    StepFinished,
    StepWaiting,
    TaskRequested,
    TaskReturned,
    TaskSent,
    parse_fact,
)
from chargehand.orchestrator.plan import CeleryTask, Step, step_id
from chargehand.orchestrator.questions import deadline_after, expiring, why_ended
from chargehand.orchestrator.supervisor import unrolling
from chargehand.orchestrator.tables import RunRow, SignalRow, StepRow
from chargehand.orchestrator.task_brokers import TaskBrokers
from chargehand.orchestrator.telemetry.following import runs_traceparent

log = logging.getLogger(__name__)

KIND = "celery_task"
# So many messages leave within the lease of whoever sends them.
BATCH = 100
# Longer than a broker that does not answer takes to be given up.
LEASE_SECONDS = 15.0
GONE = ("cancelled", "superseded")


# --- under the run's lock ---------------------------------------------------------------------------------------------


def open_task(session: Session, row: StepRow) -> None:
    """Let the step wait for its task, which is sent once this has committed; the row is locked."""
    step, task = _spec(row)
    row.started_at = func.clock_timestamp()
    try:
        call = _call(session, row, step)
    except ArgumentsMissing as error:
        _end(session, row, Ended(outcome="failed", error=str(error)))
        runs.ring(session, row.tenant, row.run)
        return
    requested = TaskRequested(
        task=task.task,
        queue=task.queue,
        broker=task.broker,
        task_id=row.id,
        key=str(row.id),
        arguments_hash=call.digest,
        effect=task.effect,
        deadline_seconds=_deadline_seconds(step),
    )
    _wait(session, row, task, [requested])


def take_answers(session: Session, run_id: UUID) -> None:
    """End, send again or put before a person what was answered; called by a round, before it reads where steps stand.

    So no answer is missed: the round has taken the rings of those that it sees, and leaves the rings of the others.
    """
    answered = select(SignalRow.step).where(SignalRow.tenant == StepRow.tenant, SignalRow.step == StepRow.id).exists()
    rows = session.scalars(
        select(StepRow)
        .where(StepRow.run == run_id, StepRow.status == "waiting", StepRow.spec["kind"].astext == KIND)
        # One that a person has to approve first has no task yet.
        .where(answered, StepRow.wait_reason != "gate")
        .order_by(StepRow.ordinal)
        .with_for_update(key_share=True)
    ).all()
    for row in rows:
        _, task = _spec(row)
        found = celery_tasks.judge(
            task, step_id=row.id, wait_id=row.wait_id, sending=row.emissions, answers=_answers(session, row)
        )
        match found:
            case Ended():
                _end(session, row, found)
            case Again():
                _wait(session, row, task, [_heard(session, row)])
            case Lost(report=report):
                runs.record_in_step(session, row, [_returned("lost", report)])
                _give_up(session, row, task.when_lost, why=f"lost: {_said(report, 'error')}")
            case None:
                pass
    session.flush()


def _answers(session: Session, row: StepRow) -> dict[UUID, Answer]:
    signals = session.scalars(select(SignalRow).where(SignalRow.tenant == row.tenant, SignalRow.step == row.id))
    return {signal.wait_id: Answer(choice=signal.choice, body=signal.body) for signal in signals}


def _wait(session: Session, row: StepRow, task: CeleryTask, facts: Sequence[Fact]) -> None:
    """Let it wait for its task, which is due to be sent now."""
    asked = f"task {task.task!r} on queue {task.queue!r}"
    runs.record_in_step(session, row, [*facts, StepWaiting(wait_id=row.id, reason="celery_task", question=asked)])
    row.status, row.wait_id, row.wait_reason = "waiting", row.id, "celery_task"
    row.run_after, row.queued_at = func.clock_timestamp(), None
    # Nor has a question any time left that was asked before.
    row.deadline_at = row.expires_at = None
    session.flush()


def _give_up(session: Session, row: StepRow, move: Literal["ask", "fail"], *, why: str) -> None:
    """Nothing will come back: a person is asked what became of it, or the step fails."""
    step, task = _spec(row)
    if move == "fail":
        error = f"task {task.task!r} was sent and {why}: whether it has happened is not known"
        _end(session, row, Ended(outcome="failed", error=error))
        return
    wait_id = celery_tasks.asked_id(row.id, row.emissions)
    evidence = tuple(
        f"{row.id}:{entry.seq}"
        for entry in journal.read(session, row.run, step=row.id, kinds=["task.requested", "task.sent", "task.returned"])
    )
    asks = StepWaiting(
        wait_id=wait_id,
        reason="human",
        question=celery_tasks.question(task, why=why),
        options=celery_tasks.OPTIONS,
        evidence=evidence,
    )
    asks = expiring(asks, step.expires)
    runs.record_in_step(session, row, [asks])
    row.wait_id, row.wait_reason, row.run_after, row.deadline_at = wait_id, "human", None, None
    row.expires_at = deadline_after(asks.expires_after_seconds)
    session.flush()


def _end(session: Session, row: StepRow, found: Ended) -> None:
    facts: list[Fact] = []
    error = found.error
    if found.returned is not None:
        facts.append(_returned(found.outcome, found.returned))
    elif row.wait_reason == "human" and row.wait_id is not None:
        heard = _heard(session, row)
        facts.append(heard)
        error = why_ended(heard) if found.outcome == "failed" else ""
    # It has no worker that would pass the workspace on.
    commit = unrolling.inherited_commit(session, row)
    facts.append(StepFinished(outcome=found.outcome, result=found.result, error=error, commit=commit))
    runs.record_in_step(session, row, facts)
    row.status, row.wait_id, row.wait_reason = found.outcome, None, None
    row.run_after = row.deadline_at = row.expires_at = None
    row.finished_at = func.clock_timestamp()
    session.flush()


def _heard(session: Session, row: StepRow) -> SignalReceived:
    signal = session.get_one(SignalRow, (row.tenant, row.id, row.wait_id))
    return SignalReceived(
        wait_id=signal.wait_id, choice=signal.choice, body=signal.body, by=signal.sent_by, sent_at=signal.sent_at
    )


def _returned(outcome: Literal["succeeded", "failed", "lost"], answer: Answer) -> TaskReturned:
    body: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    return TaskReturned.model_validate(
        {
            "outcome": outcome,
            "by": str(body.get("by") or "client"),
            "detail": str(body.get("error") or ""),
            **{name: body[name] for name in ("retries", "duration_ms", "result_hash") if name in body},
        }
    )


def _said(answer: Answer, name: str) -> str:
    return str(answer.body.get(name) or "") if isinstance(answer.body, dict) else ""


def _call(session: Session, row: StepRow, step: Step) -> Call:
    def result(key: str) -> JsonValue:
        for entry in journal.read(session, row.run, step=step_id(row.run, key), kinds=["step.finished"]):
            fact = parse_fact(entry.body, schema_version=entry.schema_version) if entry.body is not None else None
            if isinstance(fact, StepFinished) and fact.outcome == "succeeded":
                return fact.result
        raise ArgumentsMissing(f"it takes the result of {key!r}, which gave none")

    return celery_tasks.called_with(step.arguments, result)


def _spec(row: StepRow) -> tuple[Step, CeleryTask]:
    step = Step.model_validate(row.spec)
    assert step.celery_task is not None, f"step {row.key!r} is no Celery task"
    return step, step.celery_task


def _deadline_seconds(step: Step) -> float:
    return step.deadline_seconds or celery_tasks.DEADLINE_SECONDS


# --- sending ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What one look has found."""

    messages: tuple[Message, ...] = ()
    """To be sent now, by whoever looked."""
    to_revoke: tuple[tuple[str, UUID], ...] = ()
    """Broker and task of steps that nobody wants any more."""
    moved: frozenset[UUID] = frozenset()
    """Runs whose steps were given up."""


class Dispatcher:
    """Sends what is due; any number of supervisors do so at once."""

    def __init__(self, engine: Engine, brokers: TaskBrokers) -> None:
        """Nothing is connected yet."""
        self._engine, self._brokers = engine, brokers

    def dispatch(self, run_id: UUID | None = None) -> frozenset[UUID]:
        """Send what is due, of one run or of all; gives the runs in which something changed."""
        moved: set[UUID] = set()
        while True:
            due = take_due(self._engine, self._brokers, run_id=run_id)
            sent = [message for message in due.messages if self._brokers.send(message)]
            to_revoke = [*due.to_revoke, *note_sent(self._engine, due.messages, sent)]
            for broker, task in to_revoke:
                self._brokers.revoke(broker, task)
            moved |= due.moved | {message.labels.run_id for message in sent}
            if len(due.messages) < BATCH:
                return frozenset(moved)


def take_due(engine: Engine, brokers: TaskBrokers, *, run_id: UUID | None = None) -> Due:
    """Take what is to be sent now, and give up what has been waited for too long; commits."""
    with Session(engine) as session, session.begin():
        broker = StepRow.spec["celery_task"]["broker"].astext
        left = func.extract("epoch", StepRow.deadline_at - func.clock_timestamp())
        query = (
            select(StepRow, left, func.clock_timestamp())
            .join(RunRow, RunRow.id == StepRow.run)
            .where(StepRow.status == "waiting", StepRow.run_after <= func.clock_timestamp())
            .where(StepRow.spec["kind"].astext == KIND, RunRow.status == "running")
            .where(StepRow.schema_version <= SCHEMA_VERSION, RunRow.schema_version <= SCHEMA_VERSION)
            # They take no place in the batch: what can be sent elsewhere is not held up.
            .where(or_(broker.not_in(brokers.away()), left <= 0))
            # A task that has answered is neither sent again nor given up, however late its answer is taken.
            .where(~_has_answered(), ~switches.is_everything_paused())
        )
        if run_id is not None:
            query = query.where(StepRow.run == run_id)
        rows = session.execute(
            query.order_by(StepRow.run, StepRow.ordinal)
            .limit(BATCH)
            .with_for_update(skip_locked=True, key_share=True, of=StepRow)
        ).all()
        messages: list[Message] = []
        moved: set[UUID] = set()
        traces = {run: runs_traceparent(session.connection(), run) for run in {row.run for row, _, _ in rows}}
        for row, seconds, at in rows:
            left_seconds = None if seconds is None else float(seconds)
            message = _take(session, row, known=brokers.known(), left_seconds=left_seconds, as_of=at)
            if message is not None:
                messages.append(replace(message, traceparent=traces[row.run]))
            else:
                moved.add(row.run)
                runs.ring(session, row.tenant, row.run)
        to_revoke = _take_unwanted(session, run_id) if run_id is not None else []
        return Due(messages=tuple(messages), to_revoke=tuple(to_revoke), moved=frozenset(moved))


def _has_answered() -> ColumnElement[bool]:
    own = select(SignalRow.step).where(
        SignalRow.tenant == StepRow.tenant, SignalRow.step == StepRow.id, SignalRow.wait_id == StepRow.id
    )
    return own.exists()


def _take(
    session: Session, row: StepRow, *, known: Collection[str], left_seconds: float | None, as_of: datetime
) -> Message | None:
    step, task = _spec(row)
    is_overdue = left_seconds is not None and left_seconds <= 0
    move = celery_tasks.when_due(task, is_sent=row.queued_at is not None, is_overdue=is_overdue)
    if move != "send":
        log.warning("task given up", extra={"step_id": str(row.id), "task": task.task, "sendings": row.emissions})
        _give_up(session, row, move, why=f"nothing came back within {_deadline_seconds(step):g} s")
        return None
    if task.broker not in known:
        names = ", ".join(sorted(known))
        error = (
            f"broker {task.broker!r} has no address; give it one in CHARGEHAND_CELERY_TASKS_BROKERS (known: {names})"
        )
        _end(session, row, Ended(outcome="failed", error=error))
        return None
    try:
        call = _call(session, row, step)
    except ArgumentsMissing as error:
        # Erased meanwhile: it was there when the step began.
        _end(session, row, Ended(outcome="failed", error=str(error)))
        return None
    row.run_after = func.clock_timestamp() + _seconds(LEASE_SECONDS)
    return Message(
        labels=Labels(tenant=row.tenant, run_id=row.run, step_id=row.id, sending=row.emissions + 1),
        task=task,
        call=call,
        deadline_seconds=_deadline_seconds(step),
        expires_seconds=_deadline_seconds(step) if left_seconds is None else left_seconds,
        as_of=as_of,
    )


def _take_unwanted(session: Session, run_id: UUID) -> list[tuple[str, UUID]]:
    """Tasks of this run that were sent and whose steps are cancelled or superseded, each once."""
    rows = session.scalars(
        select(StepRow)
        .where(StepRow.run == run_id, StepRow.status.in_(GONE), StepRow.wait_reason == "celery_task")
        .where(StepRow.emissions > 0)
        .order_by(StepRow.ordinal)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for row in rows:
        row.wait_reason = None
    return [(_spec(row)[1].broker, row.id) for row in rows]


def note_sent(engine: Engine, taken: Sequence[Message], sent: Sequence[Message]) -> list[tuple[str, UUID]]:
    """Write down what has left, and that the others are due again; commits. Gives what nobody wants any more."""
    if not taken:
        return []
    left = {message.labels.step_id: message for message in sent}
    to_revoke: list[tuple[str, UUID]] = []
    with Session(engine) as session, session.begin():
        rows = session.scalars(
            select(StepRow)
            .where(StepRow.id.in_([message.labels.step_id for message in taken]))
            .order_by(StepRow.run, StepRow.ordinal)
            .with_for_update(key_share=True)
        ).all()
        for row in rows:
            message = left.get(row.id)
            if row.status in GONE:
                if message is not None:
                    to_revoke.append((message.task.broker, row.id))
            elif row.status != "waiting" or row.wait_reason != "celery_task":
                # It is quicker than we are, and has answered.
                continue
            elif message is None:
                row.run_after = func.clock_timestamp()
            elif row.emissions < message.labels.sending:
                _note(session, row, message)
    return to_revoke


def _note(session: Session, row: StepRow, message: Message) -> None:
    sent = TaskSent(task_id=row.id, sending=message.labels.sending)
    runs.record_in_step(session, row, [sent])
    row.emissions = message.labels.sending
    now = func.clock_timestamp()
    # Counted from the first sending: a broker that was away is no reason to ask what became of the task.
    ends = func.coalesce(StepRow.deadline_at, now + _seconds(message.deadline_seconds))
    again = message.task.resend_seconds
    row.queued_at, row.deadline_at = now, ends
    row.run_after = ends if again is None else func.least(ends, now + _seconds(again))


def _seconds(count: float) -> Any:
    return func.make_interval(0, 0, 0, 0, 0, 0, count)

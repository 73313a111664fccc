"""Tasks of users' own Celery apps: the mirror of `orchestrator/supervisor/dispatch.py`, a transaction a function."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator import celery_tasks
from chargehand.orchestrator.celery_tasks import Again, Answer, ArgumentsMissing, Call, Ended, Labels, Lost, Message
from chargehand.orchestrator.facts import (
    AnyFact,
    SignalReceived,
    StepFinished,
    StepWaiting,
    TaskRequested,
    TaskReturned,
    TaskSent,
)
from chargehand.orchestrator.plan import CeleryTask, step_id
from chargehand.orchestrator.questions import expiring, why_ended
from chargehand.orchestrator.supervisor.dispatch import GONE, KIND, LEASE_SECONDS
from simulation import switching
from simulation.statements import result_of
from simulation.tables import StepLine, Tables


def has_tasks(tables: Tables, run_id: UUID) -> bool:
    """Whether anything of this run may have to be sent."""
    return any(row.spec.kind == KIND for row in tables.of_run[run_id])


# --- under the run's lock ---------------------------------------------------------------------------------------------


def open_task(tables: Tables, row: StepLine) -> None:
    """Let the step wait for its task, which is sent once this has committed."""
    task = _task(row)
    row.started_at = tables.clock.now
    try:
        call = _call(tables, row)
    except ArgumentsMissing as error:
        _end(tables, row, Ended(outcome="failed", error=str(error)))
        tables.ring(row.run)
        return
    requested = TaskRequested(
        task=task.task,
        queue=task.queue,
        broker=task.broker,
        task_id=row.id,
        key=str(row.id),
        arguments_hash=call.digest,
        effect=task.effect,
        deadline_seconds=_deadline_seconds(row),
    )
    _wait(tables, row, [requested])


def take_answers(tables: Tables, run_id: UUID) -> None:
    """End, send again or put before a person what was answered."""
    for row in tables.of_run[run_id]:
        if row.status != "waiting" or row.spec.kind != KIND or row.wait_reason == "gate":
            continue
        answers = answers_to(tables, row)
        task = _task(row)
        found = celery_tasks.judge(task, step_id=row.id, wait_id=row.wait_id, sending=row.emissions, answers=answers)
        match found:
            case Ended():
                _end(tables, row, found)
            case Again():
                _wait(tables, row, [_heard(tables, row)])
            case Lost(report=report):
                tables.append(row, _returned("lost", report))
                _give_up(tables, row, task.when_lost, why="lost: its worker was killed")
            case None:
                pass


def has_answered(tables: Tables, row: StepLine) -> bool:
    """Whether the task has said how it ended: the next round takes its word."""
    return (row.id, row.id) in tables.signals


def answers_to(tables: Tables, row: StepLine) -> dict[UUID, Answer]:
    """Whatever was signalled to the step."""
    return {
        wait: Answer(choice=signal.choice, body=signal.body)  # type: ignore[arg-type]
        for (step, wait), signal in tables.signals.items()
        if step == row.id
    }


def _wait(tables: Tables, row: StepLine, facts: Sequence[AnyFact]) -> None:
    task = _task(row)
    asked = f"task {task.task!r} on queue {task.queue!r}"
    for fact in (*facts, StepWaiting(wait_id=row.id, reason="celery_task", question=asked)):
        tables.append(row, fact)
    row.status, row.wait_id, row.wait_reason = "waiting", row.id, "celery_task"
    row.run_after, row.queued_at = tables.clock.now, None
    row.deadline_at = row.expires_at = None


def _give_up(tables: Tables, row: StepLine, move: Literal["ask", "fail"], *, why: str) -> None:
    task = _task(row)
    if move == "fail":
        error = f"task {task.task!r} was sent and {why}: whether it has happened is not known"
        _end(tables, row, Ended(outcome="failed", error=error))
        return
    wait_id = celery_tasks.asked_id(row.id, row.emissions)
    asks = StepWaiting(
        wait_id=wait_id, reason="human", question=celery_tasks.question(task, why=why), options=celery_tasks.OPTIONS
    )
    asks = expiring(asks, row.spec.expires)
    tables.append(row, asks)
    row.wait_id, row.wait_reason, row.run_after, row.deadline_at = wait_id, "human", None, None
    patience = asks.expires_after_seconds
    row.expires_at = None if patience is None else tables.clock.now + patience


def _end(tables: Tables, row: StepLine, found: Ended) -> None:
    error = found.error
    if found.returned is not None:
        tables.append(row, _returned(found.outcome, found.returned))
    elif row.wait_reason == "human" and row.wait_id is not None:
        heard = _heard(tables, row)
        tables.append(row, heard)
        error = why_ended(heard) if found.outcome == "failed" else ""
    tables.append(row, StepFinished(outcome=found.outcome, result=found.result, error=error))
    row.status, row.wait_id, row.wait_reason = found.outcome, None, None
    row.run_after = row.deadline_at = row.expires_at = None
    row.finished_at = tables.clock.now


def _heard(tables: Tables, row: StepLine) -> SignalReceived:
    assert row.wait_id is not None
    signal = tables.signals[row.id, row.wait_id]
    return SignalReceived.model_validate(
        {"wait_id": row.wait_id, "choice": signal.choice, "body": signal.body, "by": signal.sent_by}
    )


def _returned(outcome: Literal["succeeded", "failed", "lost"], answer: Answer) -> TaskReturned:
    body = answer.body if isinstance(answer.body, dict) else {}
    return TaskReturned(outcome=outcome, by=str(body.get("by")), detail=str(body.get("error") or ""))


def _call(tables: Tables, row: StepLine) -> Call:
    def result(key: str) -> JsonValue:
        fact = result_of(tables, row.run, step_id(row.run, key))
        if fact is None or fact.outcome != "succeeded":
            raise ArgumentsMissing(f"it takes the result of {key!r}, which gave none")
        return fact.result

    return celery_tasks.called_with(row.spec.arguments, result)


def _task(row: StepLine) -> CeleryTask:
    assert row.spec.celery_task is not None
    return row.spec.celery_task


def _deadline_seconds(row: StepLine) -> float:
    return row.spec.deadline_seconds or celery_tasks.DEADLINE_SECONDS


# --- sending ----------------------------------------------------------------------------------------------------------


def take_due(tables: Tables, run_id: UUID | None = None) -> list[Message]:
    """Take what is to be sent now, of one run or of all, and give up what has been waited for too long."""
    now = tables.clock.now
    messages: list[Message] = []
    if switching.off_since(tables, "all", "") is not None:
        return messages
    for row in list(tables.open_rows()):
        is_due = row.status == "waiting" and row.run_after is not None and row.run_after <= now
        if not is_due or row.spec.kind != KIND or tables.run_of(row).status != "running":
            continue
        if has_answered(tables, row):
            continue
        if run_id is None or row.run == run_id:
            messages += _take(tables, row)
    return messages


def _take(tables: Tables, row: StepLine) -> list[Message]:
    now, task = tables.clock.now, _task(row)
    left = None if row.deadline_at is None else row.deadline_at - now
    is_overdue = left is not None and left <= 0
    move = celery_tasks.when_due(task, is_sent=row.queued_at is not None, is_overdue=is_overdue)
    if move != "send":
        _give_up(tables, row, move, why=f"nothing came back within {_deadline_seconds(row):g} s")
        tables.ring(row.run)
        return []
    row.run_after = now + LEASE_SECONDS
    labels = Labels(tenant=row.tenant, run_id=row.run, step_id=row.id, sending=row.emissions + 1)
    seconds = _deadline_seconds(row)
    message = Message(
        labels=labels,
        task=task,
        call=_call(tables, row),
        deadline_seconds=seconds,
        expires_seconds=seconds if left is None else left,
        # Nobody reads it here.
        as_of=now,  # type: ignore[arg-type]
    )
    return [message]


def note_sent(tables: Tables, taken: Sequence[Message], sent: Sequence[Message]) -> list[UUID]:
    """Write down what has left, and that the others are due again; gives tasks that nobody wants any more."""
    left = {message.labels.step_id: message for message in sent}
    to_revoke: list[UUID] = []
    for row in [tables.steps[message.labels.step_id] for message in taken]:
        message = left.get(row.id)
        if row.status in GONE:
            to_revoke += [row.id] if message is not None else []
        elif row.status != "waiting" or row.wait_reason != "celery_task":
            continue
        elif message is None:
            row.run_after = tables.clock.now
        elif row.emissions < message.labels.sending:
            _note(tables, row, message)
    return to_revoke


def _note(tables: Tables, row: StepLine, message: Message) -> None:
    tables.append(row, TaskSent(task_id=row.id, sending=message.labels.sending))
    row.emissions = message.labels.sending
    now = tables.clock.now
    row.queued_at = now
    row.deadline_at = row.deadline_at if row.deadline_at is not None else now + message.deadline_seconds
    again = message.task.resend_seconds
    row.run_after = row.deadline_at if again is None else min(row.deadline_at, now + again)

"""What became of a user's own task, told to the step that waits for it: once, by whoever may write for its tenant.

An answer goes through Postgres, as the tenant that its login is bound to. What comes through a broker is never taken
for one: whoever reaches a broker could make it up.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import JsonValue, TypeAdapter
from pydantic_core import PydanticSerializationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import runs
from chargehand.orchestrator.celery_tasks import (
    MAX_ERROR_CHARACTERS,
    MAX_RESULT_BYTES,
    Labels,
    UnfitResult,
    changed_id,
    lost_id,
)
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import TaskRequested, parse_fact
from chargehand.orchestrator.tables import SignalRow, StepRow

_ANYTHING: TypeAdapter[object] = TypeAdapter(object)
_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a task, or somebody who knows, says of it."""

    outcome: Literal["succeeded", "failed"]
    by: str
    """Who says so."""
    result: JsonValue = None
    error: str = ""
    retries: int = 0
    duration_ms: int = 0

    def body(self) -> dict[str, JsonValue]:
        """As a signal carries it."""
        told: dict[str, JsonValue] = {"by": self.by, "retries": self.retries, "duration_ms": self.duration_ms}
        if self.outcome == "failed":
            return {**told, "error": clean(self.error)[:MAX_ERROR_CHARACTERS]}
        digest = hashlib.sha256(_JSON.dump_json(self.result)).hexdigest()
        return {**told, "result": self.result, "result_hash": digest}


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """What arrived at a worker, as far as it must be what was sent."""

    task: str
    arguments_hash: str


def complete(
    session: Session,
    tenant: UUID,
    *,
    run_id: UUID,
    step: UUID,
    completion: Completion,
    received: Received | None = None,
) -> bool:
    """Answer for the task of a step; False when it was answered before or has ended: the first answer counts.

    `received`: of a worker's callback. A message that somebody else has put on the queue under our headers runs there
    like any other; unless it is the very task and the very arguments that were sent, it does not answer. The caller
    commits. Raises `NotFound`, and `UserError` for a step that waits for no task or for another one.
    """
    requested = _requested(session, tenant, run_id, step)
    if received is not None:
        _compare(session, tenant, requested, received)
    return runs.answer(
        session,
        tenant,
        run_id=run_id,
        step=step,
        wait_id=requested.task_id,
        choice=completion.outcome,
        body=completion.body(),
    )


def note_change(session: Session, labels: Labels, *, received: Received, arguments_hash: str) -> bool:
    """Say that a task goes on with other arguments when it retries itself, so that it may answer then.

    The caller commits. Raises `UserError` when it was not itself called with what was sent.
    """
    requested = _requested(session, labels.tenant, labels.run_id, labels.step_id)
    _compare(session, labels.tenant, requested, received)
    return runs.answer(
        session,
        labels.tenant,
        run_id=labels.run_id,
        step=labels.step_id,
        wait_id=changed_id(labels.step_id, arguments_hash),
        choice="changed",
    )


def report_lost(session: Session, labels: Labels, *, by: str, why: str) -> bool:
    """Say that a worker was cut off in the middle of a task, or dropped it; False when that was said before.

    It takes nobody's place: should the task be delivered again and end, its answer counts. The caller commits.
    """
    return runs.answer(
        session,
        labels.tenant,
        run_id=labels.run_id,
        step=labels.step_id,
        wait_id=lost_id(labels.step_id, labels.sending),
        choice="lost",
        body={"by": by, "error": clean(why)[:MAX_ERROR_CHARACTERS]},
    )


def _compare(session: Session, tenant: UUID, requested: TaskRequested, received: Received) -> None:
    if received.task == requested.task:
        if received.arguments_hash == requested.arguments_hash:
            return
        changed = changed_id(requested.task_id, received.arguments_hash)
        if session.get(SignalRow, (tenant, requested.task_id, changed)) is not None:
            return
    raise UserError(
        f"Step {requested.task_id} did not send task {received.task!r} with these arguments: the message that this "
        "worker got is not ours; look who writes to its queue."
    )


def as_result(value: object) -> JsonValue:
    """What a task gave, as plain JSON; raises `UnfitResult`.

    Models, dataclasses, dates, decimals and ids become what pydantic makes of them.
    """
    try:
        encoded = _ANYTHING.dump_json(value)
        if len(encoded) > MAX_RESULT_BYTES:
            raise UnfitResult(
                f"The task succeeded, and its result has {len(encoded):,} bytes; at most {MAX_RESULT_BYTES:,} are "
                "kept: keep it elsewhere and return its name."
            )
        plain = _JSON.validate_json(encoded)
    except (PydanticSerializationError, ValueError) as error:
        raise UnfitResult(
            f"The task succeeded, and gave a {type(value).__name__}, which JSON cannot hold; return a pydantic "
            "model, a dataclass or JSON values."
        ) from error
    return _cleaned(plain)


def _cleaned(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(name): _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def clean(text: str) -> str:
    """The text as Postgres can hold it."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _requested(session: Session, tenant: UUID, run_id: UUID, step: UUID) -> TaskRequested:
    own = select(StepRow.key).where(StepRow.id == step, StepRow.run == run_id, StepRow.tenant == tenant)
    key = session.execute(own).scalar_one_or_none()
    if key is None:
        raise NotFound(f"Run {run_id} has no step {step}; `chargehand status` lists the runs.")
    for entry in reversed(journal.read(session, run_id, step=step, kinds=["task.requested"])):
        fact: Any = parse_fact(entry.body or "", schema_version=entry.schema_version)
        if isinstance(fact, TaskRequested):
            return fact
    raise UserError(f"Step {key!r} of run {run_id} waits for no task of a Celery app; answer it with `resolve`.")

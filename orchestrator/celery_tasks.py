"""A task of the user's own Celery app as a step: what it is sent, and what follows from what comes back; pure.

One id for everything: the step's is the task's id in Celery, its idempotency key, and what an answer is taken under.
So each copy of its message, and each answer to one, is known for what it is.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self
from uuid import UUID, uuid5

from pydantic import JsonValue

from chargehand.orchestrator.errors import ChargehandError, UserError
from chargehand.orchestrator.plan import ARGS, RESULT_OF, CeleryTask

# Of a step that names none: long for a task, short for a person who wonders why nothing happens.
DEADLINE_SECONDS = 3600.0
# A broker is no place for more; the task can fetch it by a name.
MAX_ARGUMENT_BYTES = 1_000_000
# As scripts have it: more belongs into an artifact, or stays where the task's own app keeps it.
MAX_RESULT_BYTES = 4_000_000
MAX_ERROR_CHARACTERS = 2_000
# What a person may answer when nobody knows what became of the task.
OPTIONS = ("retry", "skip", "override", "abort")
_PREFIX = "chargehand_"

Move = Literal["send", "ask", "fail"]


class ArgumentsMissing(ChargehandError):
    """The task cannot be called: a result that it takes is not there, or there is too much of it."""


class UnfitResult(UserError):
    """JSON cannot hold what the task gave, or it is too large to be kept."""


# --- what is sent -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What the task is called with, as JSON."""

    args: tuple[JsonValue, ...]
    kwargs: Mapping[str, JsonValue]

    @property
    def digest(self) -> str:
        """The same for the same arguments, here and where they arrive."""
        return arguments_hash(self.args, self.kwargs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Whose task it is: what travels in the headers of its message."""

    tenant: UUID
    run_id: UUID
    step_id: UUID
    sending: int
    """1 is the first."""

    @property
    def task_id(self) -> UUID:
        """Of Celery, and what an answer is taken under."""
        return self.step_id

    @property
    def idempotency_key(self) -> str:
        """The same however often the task is sent, delivered or retried."""
        return str(self.step_id)

    def headers(self) -> dict[str, str]:
        """As they are sent; `self.request.chargehand_idempotency_key` in a bound task."""
        return {
            f"{_PREFIX}tenant": str(self.tenant),
            f"{_PREFIX}run": str(self.run_id),
            f"{_PREFIX}step": str(self.step_id),
            f"{_PREFIX}wait": str(self.task_id),
            f"{_PREFIX}idempotency_key": self.idempotency_key,
            f"{_PREFIX}sending": str(self.sending),
        }

    @classmethod
    def read(cls, headers: Mapping[str, object], *, task_id: str) -> Self | None:
        """Those of a message that arrived; None for a task that is no step's.

        A task that another one has started may have been given its headers on the way; its id is not the step's.
        """
        if headers.get(f"{_PREFIX}wait") != task_id:
            return None
        try:
            return cls(
                tenant=UUID(str(headers[f"{_PREFIX}tenant"])),
                run_id=UUID(str(headers[f"{_PREFIX}run"])),
                step_id=UUID(str(headers[f"{_PREFIX}step"])),
                sending=int(str(headers[f"{_PREFIX}sending"])),
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One sending of one task."""

    labels: Labels
    task: CeleryTask
    call: Call
    deadline_seconds: float
    """Of the step, from the first sending."""
    expires_seconds: float
    """What is left of it: what has not begun by then does not begin."""
    as_of: datetime
    """When that was left, by Postgres's clock."""
    traceparent: str | None = None
    """The W3C header of the run, for an app that is traced."""

    def headers(self) -> dict[str, str]:
        """What travels beside the arguments."""
        trace = {} if self.traceparent is None else {"traceparent": self.traceparent}
        return {**self.labels.headers(), **trace}


def called_with(arguments: Mapping[str, JsonValue], results: Callable[[str], JsonValue]) -> Call:
    """What the arguments of a step come to; raises `ArgumentsMissing`.

    `results` gives what an earlier step gave, or raises `ArgumentsMissing`.
    """
    positional = arguments.get(ARGS, [])
    call = Call(
        args=tuple(_resolved(value, results) for value in positional) if isinstance(positional, list) else (),
        kwargs={name: _resolved(value, results) for name, value in arguments.items() if name != ARGS},
    )
    size = len(_canonical(call.args, call.kwargs))
    if size > MAX_ARGUMENT_BYTES:
        raise ArgumentsMissing(
            f"its arguments have {size:,} bytes, at most {MAX_ARGUMENT_BYTES:,} are sent; keep them where the task can "
            "fetch them, and pass their name"
        )
    return call


def _resolved(value: JsonValue, results: Callable[[str], JsonValue]) -> JsonValue:
    if isinstance(value, dict):
        if isinstance(key := value.get(RESULT_OF), str) and len(value) == 1:
            return results(key)
        return {name: _resolved(inner, results) for name, inner in value.items()}
    return [_resolved(inner, results) for inner in value] if isinstance(value, list) else value


def arguments_hash(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """SHA-256 of a call; of one that JSON cannot hold it is one that no message of ours has."""
    return hashlib.sha256(_canonical(args, kwargs)).hexdigest()


def _canonical(args: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
    return json.dumps([list(args), dict(kwargs)], sort_keys=True, separators=(",", ":"), default=repr).encode()


# --- what follows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A signal to the step."""

    choice: str
    body: JsonValue


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The step is over."""

    outcome: Literal["succeeded", "failed"]
    result: JsonValue = None
    error: str = ""
    returned: Answer | None = None
    """What the task itself said; None: a person decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """A person wants it sent once more, under its key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Its worker was cut off: nothing will come back, and what happened is not known."""

    report: Answer


def lost_id(step_id: UUID, sending: int) -> UUID:
    """What the report is taken under that a sending came to nothing; it takes no answer's place."""
    return uuid5(step_id, f"lost {sending}")


def asked_id(step_id: UUID, sending: int) -> UUID:
    """What a person's decision is taken under when nothing came back of this sending."""
    return uuid5(step_id, f"asked {sending}")


def changed_id(step_id: UUID, arguments_hash: str) -> UUID:
    """What it is written down under that the task retries itself with other arguments than it was sent with."""
    return uuid5(step_id, f"changed {arguments_hash}")


def when_due(task: CeleryTask, *, is_sent: bool, is_overdue: bool) -> Move:
    """What its time brings: it is sent, for the first time or again, or given up."""
    if is_sent and (is_overdue or task.resend_seconds is None):
        return task.when_lost
    return "send"


def judge(
    task: CeleryTask, *, step_id: UUID, wait_id: UUID | None, sending: int, answers: Mapping[UUID, Answer]
) -> Ended | Again | Lost | None:
    """What the signals to a waiting step mean; None: it goes on waiting.

    The task's own word counts also while a person is asked what became of it, and before what the person decided: it
    knows. `wait_id`: what the step waits for now; `sending`: how often it was sent.
    """
    own = answers.get(step_id)
    if own is not None:
        return _told(own)
    decided = answers.get(wait_id) if wait_id is not None else None
    if decided is not None:
        return _decided(decided)
    report = answers.get(lost_id(step_id, sending))
    if report is not None and wait_id == step_id and task.resend_seconds is None:
        return Lost(report=report)
    return None


def _told(answer: Answer) -> Ended:
    body = answer.body if isinstance(answer.body, dict) else {}
    if answer.choice == "succeeded":
        return Ended(outcome="succeeded", result=body.get("result"), returned=answer)
    return Ended(outcome="failed", error=str(body.get("error") or "the task failed"), returned=answer)


def _decided(answer: Answer) -> Ended | Again:
    match answer.choice:
        case "retry":
            return Again()
        case "skip":
            return Ended(outcome="succeeded")
        case "override":
            return Ended(outcome="succeeded", result=answer.body)
        case _:
            return Ended(outcome="failed", error=f"a person chose {answer.choice!r}")


def question(task: CeleryTask, *, why: str) -> str:
    """What a person is asked when nobody knows what became of it."""
    return (
        f"Task {task.task!r} was sent to queue {task.queue!r} and {why}: whether it has happened is not known. Look "
        "there under its id. retry: send it again under the same key; skip: go on without a result; override: give the "
        "result; abort: fail."
    )


def wait_in_words(task: CeleryTask, *, sending: int, sent_seconds_ago: float | None, left_seconds: float | None) -> str:
    """Why the step does not go on."""
    where = f"task {task.task!r} on queue {task.queue!r}"
    if sent_seconds_ago is None:
        again = " again" if sending else ""
        return f"waits for {where}, which is not sent{again} yet; does broker {task.broker!r} answer?"
    times = f" ({sending} times)" if sending > 1 else ""
    left = f", given up in {max(left_seconds, 0.0):.0f} s" if left_seconds is not None else ""
    return f"waits for {where}, sent {sent_seconds_ago:.0f} s ago{times}{left}"

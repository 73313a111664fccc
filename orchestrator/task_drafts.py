"""How a program writes a task of its own Celery app as a step: by the name under which that app knows it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import ValidationError

from chargehand.orchestrator.drafts import Draft
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import ARGS, CeleryTask

if TYPE_CHECKING:
    from collections.abc import Mapping


class Named(Protocol):
    """A task of Celery, as far as it has a name."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReference:
    """A task of the program's own Celery app; `step` makes a step of it."""

    spec: CeleryTask
    deadline_seconds: float | None

    def step(self, *arguments: object, **named: object) -> Draft:
        """A step of a plan that sends it, with these arguments; a step given as an argument stands for its result."""
        given: Mapping[str, object] = {**({ARGS: arguments} if arguments else {}), **named}
        return Draft(
            name=self.spec.task.rpartition(".")[2],
            fields={
                "kind": "celery_task",
                "celery_task": self.spec.model_dump(),
                "deadline_seconds": self.deadline_seconds,
            },
            arguments=given,
        )


def celery_task(
    task: str | Named,
    *,
    queue: str,
    broker: str = "default",
    effect: Literal["idempotent", "effectful"] = "effectful",
    resend_seconds: float | None = None,
    deadline_seconds: float | None = None,
    when_lost: Literal["ask", "fail"] = "ask",
) -> TaskReference:
    """A task of your own Celery app, on its own queue, as a step.

        refund = celery_task("billing.refund", queue="billing", deadline_seconds=120)
        plan = Plan(verdict >> gate("Refund?") >> refund.step(order))

    `task`: its name, or the task itself. Your workers answer by `connect_celery(app)`. `broker`: where your app's
    messages go, as the supervisors' settings name it. Nothing having come back after `deadline_seconds` (an hour), a
    person is asked, or (`when_lost`) the step fails; an `idempotent` task is sent again every `resend_seconds` until
    then, under the same key. Raises `InvalidPlan`.
    """
    name = task if isinstance(task, str) else task.name
    try:
        spec = CeleryTask(
            task=name, queue=queue, broker=broker, effect=effect, resend_seconds=resend_seconds, when_lost=when_lost
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidPlan(f"Celery task {name!r}: {problem['loc'][0]}: {problem['msg']}.") from error
    if resend_seconds is not None and effect != "idempotent":
        raise InvalidPlan(
            f"Celery task {name!r} has resend_seconds and is effectful; only an idempotent one is sent again."
        )
    return TaskReference(spec=spec, deadline_seconds=deadline_seconds)

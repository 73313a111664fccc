"""`/v1/runs/{run_id}/…`: a word to a run that goes on, and runs made from it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response, status
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chargehand.orchestrator.api.authentication import Operates
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.api.runs import Budget, Goal, RunId, dollars

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["steering"], responses=COMMON)

StepKey = Annotated[str, Path(min_length=1, max_length=200, description="Key of the step.")]


class ReasonBody(BaseModel):
    """Why, for the journal."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2_000)


class BudgetBody(BaseModel):
    """What the run may spend all in all."""

    model_config = ConfigDict(extra="forbid")

    budget_microusd: Budget


class MessageBody(BaseModel):
    """What agents should know."""

    model_config = ConfigDict(extra="forbid")

    message: Goal


class CompletionBody(BaseModel):
    """What became of a task."""

    model_config = ConfigDict(extra="forbid")

    step: str = Field(min_length=1, max_length=200)
    """Key or id of the step."""
    result: JsonValue = None
    error: str = Field(default="", max_length=10_000)
    """With one the task has failed."""
    by: str = Field(default="client", min_length=1, max_length=200)


class Changed(BaseModel):
    """Whether it made a difference."""

    changed: bool
    """False: it was so already."""


class Again(BaseModel):
    """What is done once more."""

    steps: list[str]
    """Keys of the new steps."""


@router.post("/cancel")
def cancel(client: Operates, run_id: RunId, body: ReasonBody | None = None) -> Changed:
    """End a run now; a call of a model that is in flight stays charged."""
    reason = (body.reason if body else "") or f"cancelled by {client.name}"
    return Changed(changed=client.run(run_id).cancel(reason))


@router.post("/pause")
def pause(client: Operates, run_id: RunId, body: ReasonBody | None = None) -> Changed:
    """Start nothing new in a run and stop its steps at their next turn."""
    return Changed(changed=client.run(run_id).pause(body.reason if body else ""))


@router.post("/resume")
def resume(client: Operates, run_id: RunId) -> Changed:
    """Let a paused run go on."""
    return Changed(changed=client.run(run_id).resume())


@router.post("/budget")
def raise_budget(client: Operates, run_id: RunId, body: BudgetBody) -> Changed:
    """Let a run spend this much all in all; a budget is never lowered."""
    return Changed(changed=client.run(run_id).raise_budget(dollars(body.budget_microusd)))


@router.post("/tell", status_code=status.HTTP_204_NO_CONTENT, response_class=Response)
def tell(client: Operates, run_id: RunId, body: MessageBody) -> None:
    """Leave a message for the agents of a run."""
    client.run(run_id).tell(body.message)


@router.post("/completions")
def complete(client: Operates, run_id: RunId, body: CompletionBody) -> Changed:
    """Say what became of the Celery task of a step; for whoever learns it without the callback."""
    done = client.complete(run_id, named(body.step), body.result, error=body.error, by=f"{body.by} ({client.name})")
    return Changed(changed=done)


@router.post("/steps/{step}/retry")
def retry(client: Operates, run_id: RunId, step: StepKey) -> Again:
    """Do a step once more, with all that was built on it; other finished work is kept."""
    return Again(steps=list(client.run(run_id).retry(step)))


def named(step: str) -> UUID | str:
    """A step by its id where it is one, else by its key."""
    try:
        return UUID(step)
    except ValueError:
        return step

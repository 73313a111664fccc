"""`/v1/escalations`: what agents ask people, and the answers; the first one is taken."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chargehand.orchestrator.answering import Answered
from chargehand.orchestrator.api.authentication import Operates, Reads
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.views import Escalation

router = APIRouter(prefix="/v1/escalations", tags=["escalations"], responses=COMMON)

WaitId = Annotated[UUID, Path(description="`wait_id` of the question.")]


class AnswerBody(BaseModel):
    """An answer to a question."""

    model_config = ConfigDict(extra="forbid")

    choice: str = Field(min_length=1, max_length=200)
    """One of the options that were offered."""
    body: JsonValue = None
    """What goes with it: a text, or a result for `override`."""
    by: str | None = Field(default=None, min_length=1, max_length=200)
    """Who answers, for the journal; the key's name stands beside it."""
    only: bool = False
    """Not for other steps that wait for the same cause."""


@router.get("")
def list_escalations(
    client: Reads,
    run_id: Annotated[UUID | None, Query(description="Only of this run.")] = None,
    each: Annotated[bool, Query(description="Questions about the same cause one by one.")] = False,
) -> list[Escalation]:
    """List what people are asked and nobody has answered, oldest first."""
    return client.escalations(run_id, each=each)


@router.get("/{wait_id}")
def read_escalation(client: Reads, wait_id: WaitId) -> Escalation:
    """Look at a question; one that was answered is not there any more."""
    return _question(client, wait_id)


@router.post("/{wait_id}/answer")
def answer(client: Operates, wait_id: WaitId, body: AnswerBody) -> Answered:
    """Answer a question; `first` is false when somebody else was quicker."""
    by = f"{body.by} ({client.name})" if body.by else client.name
    return client.resolve(_question(client, wait_id), body.choice, body.body, by=by, only=body.only)


def _question(client: Client, wait_id: UUID) -> Escalation:
    found = next((one for one in client.escalations(each=True) if one.wait_id == wait_id), None)
    if found is None:
        raise NotFound(f"Nobody asks {wait_id}; it was answered, or its step has ended.")
    return found

"""`/v1/erase`: what runs have said and what was copied from it, taken out of the journal and of memory."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from chargehand.orchestrator.api.authentication import Administers
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.api.runs import Name
from chargehand.orchestrator.erasure import Erased

router = APIRouter(prefix="/v1/erase", tags=["erasure"], responses=COMMON)

Word = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"\S")]
# One of them at least has to be there.
NAMED = ("run_id", "conversation_id", "sources", "subjects")


class EraseBody(BaseModel):
    """What to erase: a run, or a conversation, or what is remembered of a source or with some words in it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"anyOf": [{"required": [name]} for name in NAMED]},
    )

    run_id: UUID | None = None
    conversation_id: Name | None = None
    later: bool = False
    """Also later runs of its conversation that were shown it."""
    sources: list[Word] = Field(default=[], max_length=100)
    """Also what is remembered of these."""
    subjects: list[Word] = Field(default=[], max_length=100)
    """Also memories with these words in them."""


@router.post("")
def erase(client: Administers, body: EraseBody) -> Erased:
    """Erase for ever; every chain of the journal still verifies. Runs must have ended."""
    return client.erase(
        run=body.run_id,
        conversation_id=body.conversation_id,
        later=body.later,
        sources=body.sources,
        subjects=body.subjects,
    )

"""`/v1/memory`: what is remembered: search, add a note, forget."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from chargehand.memory.beliefs import LIBRARY
from chargehand.memory.forgetting import Forgotten
from chargehand.memory.holdings import Holding
from chargehand.memory.semantic import Recalled
from chargehand.orchestrator.api.authentication import Operates, Reads
from chargehand.orchestrator.api.problems import COMMON

router = APIRouter(prefix="/v1/memory", tags=["memory"], responses=COMMON)

Scope = Annotated[str, Query(min_length=1, max_length=200, pattern=r"\S")]
# As a passage, a fact or a note is called.
Kind = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern="^[a-z_]+$")]


class NoteBody(BaseModel):
    """Something to remember."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=8_000, pattern=r"\S")
    source: str = Field(min_length=1, max_length=1_000, pattern=r"\S")
    """Where it is from, so that it can be forgotten again."""
    scope: str = Field(default=LIBRARY, min_length=1, max_length=200, pattern=r"\S")


class Noted(BaseModel):
    """It is remembered."""

    memory_id: UUID


class ForgetBody(BaseModel):
    """What is to be forgotten: a source, or memories or what came of runs."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(default=None, min_length=1, max_length=1_000)
    """One that ends with `/` stands for all that begin so."""
    scope: str | None = Field(default=None, min_length=1, max_length=200)
    memories: list[UUID] = Field(default=[], max_length=1_000)
    runs: list[UUID] = Field(default=[], max_length=1_000)


@router.get("/search")
def search(
    client: Reads,
    query: Annotated[str, Query(min_length=1, max_length=2_000, pattern=r"\S")],
    scope: Scope = LIBRARY,
    kinds: Annotated[
        list[Kind] | None, Query(min_length=1, max_length=20, description="Of these kinds only; all otherwise.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 8,
    as_of: Annotated[AwareDatetime | None, Query(description="What was believed at that moment.")] = None,
) -> list[Recalled]:
    """What answers the query best, best first: always the nearest, however far."""
    moment: datetime | None = as_of
    return list(client.memory.search(query, scope=scope, kinds=kinds, limit=limit, as_of=moment))


@router.get("")
def stats(client: Reads) -> list[Holding]:
    """How much is remembered, by scope."""
    return list(client.memory.stats())


@router.post("/notes", status_code=status.HTTP_201_CREATED)
def note(client: Operates, body: NoteBody) -> Noted:
    """Remember a sentence or a page that somebody has written."""
    return Noted(memory_id=client.memory.note(body.text, source=body.source, scope=body.scope))


@router.post("/forget")
def forget(client: Operates, body: ForgetBody) -> Forgotten:
    """Delete what was read in a source, some memories, or what came of runs, and all that was concluded from them."""
    return client.memory.forget(body.source, scope=body.scope, memories=body.memories, runs=body.runs)

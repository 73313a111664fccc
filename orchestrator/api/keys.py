"""`/v1/keys`: who may use the API, and for what; for keys of the scope `admin`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, ConfigDict, Field

from chargehand.orchestrator.api.authentication import Administers
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.api.runs import Name
from chargehand.orchestrator.keys import Key

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=COMMON)

NamedKey = Annotated[
    str, Path(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$", description="Its prefix, its id or its name.")
]


class KeyBody(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    """Who or what uses it; answers to questions carry it."""
    scopes: list[Literal["read", "submit", "operate", "admin"]] = Field(
        default=["read", "submit", "operate"], min_length=1, max_length=4
    )
    """`admin` is all of them."""


@router.post("", status_code=status.HTTP_201_CREATED)
def add(client: Administers, body: KeyBody) -> Key:
    """Make a key of this tenant; its secret is in this answer and never again."""
    return client.keys.add(body.name, body.scopes)


@router.get("")
def list_keys(client: Administers) -> list[Key]:
    """List the keys, oldest first, those that were revoked too; none with its secret."""
    return client.keys.list()


@router.delete("/{key}")
def revoke(client: Administers, key: NamedKey) -> Key:
    """Make a key worthless; within two seconds every process refuses it."""
    return client.keys.revoke(key)

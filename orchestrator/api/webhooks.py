"""`/v1/webhooks` and `/v1/deliveries`: whom to tell of what, and whether they have heard it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, status
from pydantic import BaseModel, ConfigDict, Field

from chargehand.orchestrator.api.authentication import Administers
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.webhooks.outbox import Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=COMMON)
# Beside them, not below: the name of a webhook stands there.
delivered = APIRouter(prefix="/v1/deliveries", tags=["webhooks"], responses=COMMON)


class WebhookBody(BaseModel):
    """Where to POST to, and of what."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2_000)
    events: list[str] = Field(default=list(EVENTS), min_length=1)
    secret: str | None = Field(default=None, max_length=200)
    """Your own, `whsec_…`; a new one otherwise."""


class Again(BaseModel):
    """How many are tried again."""

    again: int


@router.post("", status_code=status.HTTP_201_CREATED)
def add(client: Administers, body: WebhookBody) -> Webhook:
    """Tell this URL, signed, of what happens from now on; the secret is in this answer and never again."""
    return client.add_webhook(body.url, events=body.events, secret=body.secret)


@router.get("")
def list_webhooks(client: Administers) -> list[Webhook]:
    """List the webhooks, oldest first."""
    return client.webhooks()


@delivered.get("")
def deliveries(
    client: Administers, failed: bool = False, limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> list[Delivery]:
    """List what webhooks were to hear, the newest first."""
    return client.deliveries(failed=failed, limit=limit)


@delivered.post("/again")
def redeliver(client: Administers) -> Again:
    """Try everything again that was given up."""
    return Again(again=client.redeliver())


@router.delete("/{webhook}")
def remove(client: Administers, webhook: Annotated[str, Path(pattern="^[0-9a-f-]{4,36}$")]) -> Webhook:
    """Forget a webhook by its id or a beginning of it."""
    return client.remove_webhook(webhook)

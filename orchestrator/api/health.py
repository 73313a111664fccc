"""`/healthz` and `/readyz`: whether this process lives, and whether it can serve."""

from typing import Literal

import redis
from fastapi import APIRouter, Request
from pydantic import BaseModel
from sqlalchemy import text

from chargehand.orchestrator.api.problems import documented
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.errors import Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What it needs is there."""

    status: Literal["ok"] = "ok"
    redis: bool
    """False: requests are served all the same, a little later and with limits of each process."""


@router.get("/healthz")
def health() -> Health:
    """Whether the process answers; nothing else is looked at."""
    return Health()


@router.get("/readyz", responses=documented(503))
def readiness(request: Request) -> Readiness:
    """Whether Postgres answers and has our tables."""
    services = state_of(request).services
    with services.session(services.settings.tenant) as session:
        session.execute(text("SELECT FROM api_keys LIMIT 1"))
    try:
        heard = bool(services.redis().ping())
    except (Unavailable, redis.RedisError):
        heard = False
    return Readiness(redis=heard)

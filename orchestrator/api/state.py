"""What the requests of one process share."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from chargehand.orchestrator.api.keyring import Keyring
from chargehand.orchestrator.api.limits import RateLimit
from chargehand.orchestrator.api.live import Live
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiState:
    """Connections, keys, limits and live feeds of one process."""

    settings: Settings
    services: Services
    keyring: Keyring
    rate_limit: RateLimit
    live: Live


def state_of(request: Request) -> ApiState:
    """The state of the app that serves this request."""
    return cast(ApiState, request.app.state.chargehand)

"""`/metrics`: what Prometheus reads, for whoever reaches the API where `CHARGEHAND_API_METRICS` says so.

It tells of all tenants together, so no tenant's key opens it; elsewhere `chargehand metrics --port` serves the same.
"""

from fastapi import APIRouter, Request, Response

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.api.problems import Refused
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.telemetry.exposition import CONTENT_TYPE, FleetCollector, render, shared_folder

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """The state of the fleet, and what the processes of this machine have counted."""
    state = state_of(request)
    settings = state.settings
    if not settings.api_metrics:
        raise Refused(404, "not_found", "Metrics are not served here; set CHARGEHAND_API_METRICS=true.")
    # Its connection is closed again: a scrape every fifteen seconds needs none in between.
    engine = open_engine(
        state.services.engine.url.render_as_string(hide_password=False),
        role=SUPERVISOR_ROLE,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        keeps_connections=False,
    )
    collector = FleetCollector(engine, lease_seconds=settings.lease_seconds)
    return Response(render(fleet=collector, folder=shared_folder()), media_type=CONTENT_TYPE)

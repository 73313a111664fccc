"""`/fleet`: pools and their workers, queues, the oldest waits, circuits, limits, and what people have paused."""

from fastapi import APIRouter, Request, Response

from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.fleet_view import look_at_fleet
from chargehand.orchestrator.pages.rendering import page
from chargehand.orchestrator.pages.visitors import PageRoute, Reader

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/fleet")
def fleet(request: Request, visitor: Reader) -> Response:
    """Everything that runs steps, and what stands in their way."""
    view = look_at_fleet(state_of(request).services, visitor.client.tenant)
    return page("fleet.html", visitor=visitor, here="fleet", fleet=view)

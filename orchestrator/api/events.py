"""`/v1/runs/{run_id}/events`: what happens in a run, as it happens."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from chargehand.orchestrator.api.authentication import Reads, still_may
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.api.runs import RunId
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.feed import Position

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["events"], responses=COMMON)

# A position of two thousand steps with a thousand rows each.
MAX_ID = 8_000
EventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=MAX_ID, pattern="^[A-Za-z0-9_-]*$")]


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `id` is the position to resume from, `event` the kind of the fact, "
            "`data` a JSON object; `event: end` is the last one of a run that has ended.",
            "content": {"text/event-stream": {}},
        }
    },
)
def stream(
    request: Request,
    client: Reads,
    run_id: RunId,
    last_event_id: EventId = None,
    after: Annotated[
        str | None,
        Query(max_length=MAX_ID, pattern="^[A-Za-z0-9_-]*$", description="As `Last-Event-ID`, which wins."),
    ] = None,
    follow: Annotated[bool, Query(description="Go on until the run ends.")] = True,
) -> StreamingResponse:
    """Stream the facts of a run, from the first one or behind an event's id, until the run has ended.

    Each fact comes once, each stream in its order. A connection that is cut, or has served its time, goes on with
    `Last-Event-ID`: nothing is lost and nothing comes twice.
    """
    resumed = last_event_id or after
    position = Position.parse(run_id, resumed) if resumed else Position(run_id)
    client.run(run_id)
    state = state_of(request)
    events = state.live.events(
        client.tenant,
        run_id,
        position,
        follow=follow,
        longest_seconds=state.settings.api_stream_seconds,
        may_go_on=lambda: still_may(request, "read"),
    )
    # Proxies that gather answers would hold events back.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)

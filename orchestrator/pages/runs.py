"""`/runs`: the list, one run as it lives, and what people do to it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from sqlalchemy import func, select

from chargehand.orchestrator.api.runs import workspace_of
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.facts import KINDS
from chargehand.orchestrator.feed import Position
from chargehand.orchestrator.listing import RunFilter
from chargehand.orchestrator.pages import looking
from chargehand.orchestrator.pages.rendering import page
from chargehand.orchestrator.pages.visitors import Operator, PageRoute, Posted, Reader, Submitter, is_still_in
from chargehand.orchestrator.tables import RUN_STATUSES

router = APIRouter(route_class=PageRoute, include_in_schema=False)

RUNS_A_PAGE = 50
ROWS_A_PAGE = 200
RunId = Annotated[UUID, Path()]
EventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=8_000)]


@router.get("/runs")
def all_runs(
    visitor: Reader,
    status: Annotated[str, Query(max_length=20)] = "",
    goal: Annotated[str, Query(max_length=200)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The newest runs, and a form for another one."""
    wanted = RunFilter(status=(status,) if status else (), goal=goal or None)
    found = visitor.client.page(wanted, limit=RUNS_A_PAGE, cursor=cursor)
    with visitor.client.session() as session:
        now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return page(
        "runs.html",
        visitor=visitor,
        here="runs",
        found=found,
        wanted=wanted,
        statuses=RUN_STATUSES,
        now=now,
        request_id=uuid4().hex,
    )


@router.post("/runs")
def submit(visitor: Submitter, form: Posted) -> Response:
    """Ask for a run."""
    run = visitor.client.submit(
        form.get("goal", ""),
        workspace=workspace_of(form.get("workspace", "").strip() or None, visitor.client),
        budget_usd=form.get("budget", "").strip() or None,
        # Of the form as it was given: sent twice, by a double click or a reload, it is one run.
        idempotency_key=form.get("request") or None,
    )
    return RedirectResponse(f"/runs/{run.run_id}", status_code=303)


@router.get("/runs/{run_id}")
def one_run(visitor: Reader, run_id: RunId) -> Response:
    """Everything about a run."""
    shown = looking.at_run(visitor.client, run_id).context()
    flower_url = visitor.client.services.settings.flower_url.rstrip("/")
    return page("run.html", shown, visitor=visitor, here="runs", kinds=KINDS, flower_url=flower_url)


@router.get("/runs/{run_id}/parts")
def parts_of_run(visitor: Reader, run_id: RunId) -> Response:
    """What changes on the page while the run goes on."""
    return page("run_parts.html", looking.at_run(visitor.client, run_id).context(), visitor=visitor, here="")


@router.get("/runs/{run_id}/steps/{step}")
def step_of_run(visitor: Reader, run_id: RunId, step: Annotated[str, Path(max_length=300)]) -> Response:
    """Why one step does not go on, in depth, as `chargehand explain RUN STEP` says it."""
    return page("step.html", visitor=visitor, here="runs", found=visitor.client.run(run_id).explain_step(step))


@router.get("/runs/{run_id}/money")
def money_of_run(visitor: Reader, run_id: RunId, as_claude: bool = False) -> Response:
    """Where its money went; by itself, because it reads every answer of a model."""
    run = visitor.client.run(run_id)
    return page(
        "money.html",
        visitor=visitor,
        here="runs",
        run=run.status(),
        spent=run.costs(as_claude=as_claude),
        as_claude=as_claude,
    )


@router.get("/runs/{run_id}/live")
def live(
    request: Request,
    visitor: Reader,
    run_id: RunId,
    after: Annotated[str | None, Query(max_length=8_000)] = None,
    last_event_id: EventId = None,
) -> Response:
    """The run's facts as they come, from where the page stood."""
    resumed = last_event_id or after
    position = Position.parse(run_id, resumed) if resumed else Position(run_id)
    visitor.client.run(run_id)
    state = state_of(request)
    events = state.live.events(
        visitor.client.tenant,
        run_id,
        position,
        follow=True,
        longest_seconds=state.settings.api_stream_seconds,
        may_go_on=lambda: is_still_in(request),
    )
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@router.get("/runs/{run_id}/journal")
def journal_of_run(
    visitor: Reader,
    run_id: RunId,
    after: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    verify: bool = False,
) -> Response:
    """The rows with their hashes, page by page, and whether they verify."""
    return page(
        "journal.html",
        looking.at_journal(visitor.client, run_id, skip=after, most=ROWS_A_PAGE, verify=verify).context(),
        visitor=visitor,
        here="runs",
    )


@router.get("/runs/{run_id}/files/{name}")
def file_of_run(visitor: Reader, run_id: RunId, name: Annotated[str, Path(max_length=300)]) -> Response:
    """What a step kept, to be downloaded: never shown as a page of ours, whatever is in it."""
    content = visitor.client.run(run_id).artifact(name)
    # What a header can hold: an other name is the browser's to make from the address.
    quoted = "".join(letter for letter in name if letter.isascii() and (letter.isalnum() or letter in "._-")) or "file"
    headers = {"Content-Disposition": f'attachment; filename="{quoted}"', "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.post("/runs/{run_id}/{deed}")
def act(visitor: Operator, form: Posted, run_id: RunId, deed: Annotated[str, Path(max_length=20)]) -> Response:
    """Cancel, pause, resume, tell, raise the budget, or do a step again."""
    known = DEEDS.get(deed)
    if known is None:
        raise UserError(f"Nobody can {deed!r} a run here; deeds are: {', '.join(DEEDS)}.")
    known(visitor.client.run(run_id), form.get("value", "").strip())
    return RedirectResponse(f"/runs/{run_id}", status_code=303)


DEEDS: dict[str, Callable[[RunHandle, str], object]] = {
    "cancel": lambda run, _: run.cancel("cancelled on its page"),
    "pause": lambda run, why: run.pause(why),
    "resume": lambda run, _: run.resume(),
    "tell": lambda run, message: run.tell(message),
    "budget": lambda run, dollars: run.raise_budget(dollars),
    "retry": lambda run, step: run.retry(step),
}

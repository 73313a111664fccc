"""`/v1/schedules`: runs that are asked for by the clock."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response, status
from pydantic import Field

from chargehand.orchestrator.api.authentication import Operates, Reads
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.api.runs import RunBody, options
from chargehand.orchestrator.api.steering import Changed
from chargehand.orchestrator.facts import OnConflict
from chargehand.orchestrator.schedules import Schedule

router = APIRouter(prefix="/v1/schedules", tags=["schedules"], responses=COMMON)

Name = Annotated[str, Path(min_length=1, max_length=100, description="Name of the schedule.")]


class ScheduleBody(RunBody):
    """What is to be asked for, and when."""

    cron: str = Field(min_length=1, max_length=200)
    """Five fields; a sixth, at the end, is seconds."""
    name: str | None = Field(default=None, min_length=1, max_length=100)
    timezone: str = Field(default="UTC", max_length=100)
    missed: Literal["skip", "once", "all"] = "once"
    on_conflict: OnConflict | None = None  # type: ignore[assignment]


@router.post("", status_code=status.HTTP_201_CREATED)
def add(client: Operates, body: ScheduleBody) -> Schedule:
    """Ask for a run at each tick of a cron expression."""
    return client.schedules.add(
        body.cron,
        body.goal or "",
        name=body.name,
        timezone=body.timezone,
        missed=body.missed,
        on_conflict=body.on_conflict,
        **options(body, client),
    )


@router.get("")
def list_schedules(client: Reads) -> list[Schedule]:
    """List the schedules by name."""
    return client.schedules.list()


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT, response_class=Response)
def remove(client: Operates, name: Name) -> None:
    """Forget a schedule; runs that it has made go on."""
    client.schedules.remove(name)


@router.post("/{name}/pause")
def pause(client: Operates, name: Name) -> Changed:
    """Make no more runs."""
    return Changed(changed=client.schedules.pause(name))


@router.post("/{name}/resume")
def resume(client: Operates, name: Name) -> Changed:
    """Go on with the next tick."""
    return Changed(changed=client.schedules.resume(name))

"""`/v1/runs`: ask for runs, list them, look at one."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Response, status
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from chargehand.memory.procedural import Role, parse_role
from chargehand.memory.sources import is_remote
from chargehand.orchestrator.api.authentication import Reads, Submits
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.charges import RunCosts
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import InvalidWorkspace
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.listing import RunFilter, RunPage
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.requests import MAX_KEY_CHARACTERS, MAX_REPLANS, MICROUSD
from chargehand.orchestrator.tables import RUN_STATUSES
from chargehand.orchestrator.telemetry.following import asked_from
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import RunView, StepView

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=COMMON)

RunId = Annotated[UUID, Path(description="Id of the run.")]
# A header is ASCII without control characters.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
        pattern=r"^[\x21-\x7e]+$",
        description="A second request with the same key gives the first one's run, whatever else it asks for.",
    ),
]
Traceparent = Annotated[
    str | None, Header(description="W3C Trace Context: the run goes on in this trace. One that is no such is left out.")
]
Budget = Annotated[int, Field(ge=1, le=1_000_000 * MICROUSD, description="In micro-dollars: 500000 are $0.50.")]
Name = Annotated[
    str, Field(min_length=1, max_length=MAX_KEY_CHARACTERS, pattern=r"^[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*$")
]
Goal = Annotated[str, Field(min_length=1, max_length=25_000, pattern=r"\S")]
PRIORITIES = 1_000


def _dated(value: object) -> object:
    """A moment as text is written; a number would be taken for seconds since 1970."""
    if isinstance(value, str) and not re.match(r"\d{4}-", value):
        raise ValueError("write a moment as 2026-11-26T08:00:00Z")
    return value


Moment = Annotated[datetime, BeforeValidator(_dated)]


class RunBody(BaseModel):
    """A run to be made: of a goal, which the planner decomposes, or of a plan."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"anyOf": [{"required": ["goal"]}, {"required": ["plan"]}]}
    )

    goal: Goal | None = None
    plan: Plan | None = None
    workspace: str | None = Field(default=None, min_length=1, max_length=2_000)
    """URL of a git repository; a path of the server's machine only where it allows that."""
    budget_microusd: Budget | None = None
    priority: int = Field(default=0, ge=-PRIORITIES, le=PRIORITIES)
    """Higher goes first."""
    deadline_seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    conversation_id: Name | None = None
    concurrency_key: Name | None = None
    on_conflict: OnConflict = "queue"
    replans: int | None = Field(default=None, ge=0, le=MAX_REPLANS)
    on_budget: OnBudget = "fail"
    max_calls: int | None = Field(default=None, ge=1, le=1_000_000)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000_000)
    consolidate_microusd: int | None = Field(default=None, ge=0, le=1_000_000 * MICROUSD)
    """What may be spent afterwards to keep in memory what it has taught; 0: nothing."""
    tier: Literal["small", "medium", "large"] | None = None
    """Of all its agents whose steps name none."""
    model: str | None = Field(default=None, min_length=1, max_length=200)
    roles: list[str] = Field(default=[], max_length=50)
    """Texts of roles that the request brings: Markdown with front matter."""


class Accepted(BaseModel):
    """The run is committed."""

    run_id: UUID
    url: str
    """Where it is looked at."""


class Result(BaseModel):
    """What a run came to, as far as it is."""

    status: str
    ended: bool
    reason: str
    result: JsonValue
    """What the final step gave, or a mapping by key of several."""
    partial: dict[str, JsonValue]
    """What its succeeded steps gave, by key, where no later one has built on it."""


class Waiting(BaseModel):
    """Why a step does not go on."""

    step: str
    why: str


class WaitingInDepth(Waiting):
    """Why a step does not go on, in depth."""

    run_id: UUID
    status: str
    details: dict[str, str]
    """Its pool, lease, message, money and attempts, as far as it has them."""
    behind: list[Waiting]
    """The steps at the bottom of what it waits for."""


def accepted(run_id: UUID, response: Response) -> Accepted:
    """The answer to a request whose run is committed."""
    url = f"/v1/runs/{run_id}"
    response.headers["Location"] = url
    return Accepted(run_id=run_id, url=url)


def brought(texts: list[str]) -> list[Role]:
    """The roles of a request; raises `InvalidRole`."""
    return [parse_role(text, origin=f"role {number} of the request") for number, text in enumerate(texts, start=1)]


def workspace_of(named: str | None, client: Client) -> str | None:
    """The workspace of a request; raises `InvalidWorkspace` for a path where those are not taken from afar."""
    if named is not None and not is_remote(named) and not client.settings.api_local_workspaces:
        raise InvalidWorkspace(
            f"Workspace {named[:200]!r} is a path; this server takes URLs only (CHARGEHAND_API_LOCAL_WORKSPACES)."
        )
    return named


def options(body: RunBody, client: Client) -> dict[str, Any]:
    """What a run and a schedule are asked for with, by the names of `Client.submit`."""
    return {
        "plan": body.plan,
        "workspace": workspace_of(body.workspace, client),
        "budget_usd": None if body.budget_microusd is None else dollars(body.budget_microusd),
        "priority": body.priority,
        "deadline_seconds": body.deadline_seconds,
        "conversation_id": body.conversation_id,
        "roles": brought(body.roles),
        "concurrency_key": body.concurrency_key,
        "replans": body.replans,
        "on_budget": body.on_budget,
        "max_calls": body.max_calls,
        "max_tokens": body.max_tokens,
        "consolidate_usd": None if body.consolidate_microusd is None else dollars(body.consolidate_microusd),
        "tier": body.tier,
        "model": body.model,
    }


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def submit(
    client: Submits,
    body: RunBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Accepted:
    """Ask for a run; 202 means that it is committed, whether the broker is up or not."""

    def asked() -> UUID:
        wanted = options(body, client)
        with asked_from(traceparent):
            return client.submit(
                body.goal or "", idempotency_key=idempotency_key, on_conflict=body.on_conflict, **wanted
            ).run_id

    # One thread for all of it: FastAPI would take another to check the answer.
    return accepted(await run_in_threadpool(asked), response)


@router.get("")
def list_runs(
    client: Reads,
    status: Annotated[list[str], Query(description=f"Any of: {', '.join(RUN_STATUSES)}.")] = [],  # noqa: B006
    named: Annotated[str | None, Query(pattern="^[0-9a-fA-F-]{1,36}$", description="Begins or ends the id.")] = None,
    goal: Annotated[str | None, Query(min_length=1, max_length=200, description="Words of the goal.")] = None,
    conversation_id: Annotated[str | None, Query(min_length=1, max_length=MAX_KEY_CHARACTERS)] = None,
    forked_from: UUID | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")] = None,
) -> RunPage:
    """List runs, the newest first; runs that are made meanwhile neither shift nor double a page."""
    wanted = RunFilter(
        status=tuple(status),
        named=named,
        goal=goal,
        conversation_id=conversation_id,
        forked_from=forked_from,
        created_after=created_after,
        created_before=created_before,
    )
    return client.page(wanted, limit=limit, cursor=cursor)


@router.get("/{run_id}")
def read_run(client: Reads, run_id: RunId) -> RunView:
    """Look at a run."""
    return client.run(run_id).status()


@router.get("/{run_id}/steps")
def read_steps(client: Reads, run_id: RunId) -> list[StepView]:
    """Look at the steps of a run, in plan order."""
    return client.run(run_id).steps()


@router.get("/{run_id}/result")
def read_result(client: Reads, run_id: RunId) -> Result:
    """What a run came to, or has come to so far."""
    run = client.run(run_id)
    view = run.status()
    return Result(
        status=view.status,
        ended=view.status in RUN_ENDINGS,
        reason=view.reason,
        result=run.given(),
        partial=run.partial(),
    )


@router.get("/{run_id}/explain")
def explain(client: Reads, run_id: RunId) -> list[Waiting]:
    """Why each step that has not ended does not go on."""
    return [Waiting(step=step, why=why) for step, why in client.run(run_id).explain()]


@router.get("/{run_id}/steps/{step}/explain")
def explain_step(
    client: Reads,
    run_id: RunId,
    step: Annotated[str, Path(min_length=1, max_length=250, description="Key of the step.")],
) -> WaitingInDepth:
    """Why one step does not go on, in depth: its pool, lease, message and money, and what is at the bottom of it."""
    found = client.run(run_id).explain_step(step)
    return WaitingInDepth(
        step=found.step,
        why=found.why,
        run_id=found.run_id,
        status=found.status,
        details=dict(found.details),
        behind=[Waiting(step=behind, why=why) for behind, why in found.behind],
    )


@router.get("/{run_id}/progress")
def read_progress(client: Reads, run_id: RunId) -> dict[str, str]:
    """What running steps say they are doing, by key; empty without Redis."""
    return client.run(run_id).progress()


@router.get("/{run_id}/costs")
def read_costs(
    client: Reads, run_id: RunId, as_claude: Annotated[bool, Query(description="At Claude's prices, by tier.")] = False
) -> RunCosts:
    """Where the money of a run went, and what caching and routing saved."""
    return client.run(run_id).costs(as_claude=as_claude)


@router.get("/{run_id}/artifacts")
def list_artifacts(client: Reads, run_id: RunId) -> dict[str, str]:
    """What the steps of a run kept: name → content hash."""
    return client.run(run_id).artifacts()


@router.get(
    "/{run_id}/artifacts/{digest}",
    response_class=Response,
    responses={200: {"description": "Its bytes.", "content": {"application/octet-stream": {}}}},
)
def read_artifact(
    client: Reads, run_id: RunId, digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="Its SHA-256.")]
) -> Response:
    """An artifact of a run, by content hash."""
    content = client.run(run_id).blob(digest)
    # What agents wrote is never shown as a page of this server.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def dollars(microusd: int) -> str:
    """Exactly."""
    return "0" if microusd == 0 else f"{microusd // MICROUSD}.{microusd % MICROUSD:06}"

"""`/v1/runs/{run_id}/fork`, `/replay` and `/journal`: a run done anew, done again, and taken along."""

import threading
from collections.abc import Iterator

from fastapi import APIRouter, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chargehand.memory.journal import Objection
from chargehand.orchestrator.api.authentication import Reads, Submits
from chargehand.orchestrator.api.problems import COMMON, Refused
from chargehand.orchestrator.api.runs import Accepted, Budget, IdempotencyKey, RunId, accepted, brought, dollars
from chargehand.orchestrator.auditing import Audit, as_line, rows_of
from chargehand.orchestrator.replay import Replay
from chargehand.orchestrator.verification import Verification

router = APIRouter(tags=["again"], responses=COMMON)

# Each is a process that folds a journal: more at once would take the machine from those who serve.
REPLAYS_AT_ONCE = 2
_replaying = threading.BoundedSemaphore(REPLAYS_AT_ONCE)


class ForkBody(BaseModel):
    """Where a fork leaves, and what is different there."""

    model_config = ConfigDict(extra="forbid")

    at: str = Field(min_length=1, max_length=250)
    """`STEP`, or `STEP:TURN`."""
    instruction: str | None = Field(default=None, max_length=100_000)
    arguments: dict[str, JsonValue] | None = None
    tier: str | None = Field(default=None, max_length=20)
    model: str | None = Field(default=None, max_length=200)
    budget_microusd: Budget | None = None
    roles: list[str] = Field(default=[], max_length=50)
    """Texts of other versions of its roles."""


class AuditResult(BaseModel):
    """Whether the journal is as it was written."""

    ok: bool
    runs: list[Verification]
    anchors: list[Objection]
    seals_checked: bool
    """False: the key that sealed the chain of ended runs is not on this server."""


@router.post("/v1/runs/{run_id}/fork", status_code=status.HTTP_202_ACCEPTED)
def fork(
    client: Submits, run_id: RunId, body: ForkBody, response: Response, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Make a run from where another one stood, with something changed; what had ended is taken over at no cost."""
    made = client.fork(
        run_id,
        body.at,
        roles=brought(body.roles),
        instruction=body.instruction,
        arguments=body.arguments,
        tier=body.tier,
        model=body.model,
        budget_usd=None if body.budget_microusd is None else dollars(body.budget_microusd),
        idempotency_key=idempotency_key,
    )
    return accepted(made.run_id, response)


@router.post("/v1/runs/{run_id}/replay")
def replay(client: Reads, run_id: RunId) -> Replay:
    """Do a run again from its journal, without models or effects, and name what comes out otherwise."""
    client.run(run_id)
    if not _replaying.acquire(blocking=False):
        raise Refused(503, "unavailable", "Other runs are being replayed; try again.", headers={"Retry-After": "5"})
    try:
        return client.run(run_id).replay()
    finally:
        _replaying.release()


@router.get(
    "/v1/runs/{run_id}/journal",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line: each row with its hashes, and the run's anchor last.",
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
        }
    },
)
def export(client: Reads, run_id: RunId) -> StreamingResponse:
    """Export the journal of a run, to be kept and verified elsewhere."""
    client.run(run_id)

    def lines() -> Iterator[str]:
        for row in rows_of(client, run_id):
            yield as_line(row) + "\n"

    return StreamingResponse(lines(), media_type="application/jsonl")


@router.post("/v1/runs/{run_id}/verify")
def verify_run(client: Reads, run_id: RunId) -> AuditResult:
    """Check every hash of a run, and the chain of ended runs."""
    return _result(client.run(run_id).verify())


@router.post("/v1/audit/verify")
def verify(client: Reads) -> AuditResult:
    """Check every hash of every run of the tenant, and the chain of ended runs."""
    return _result(client.verify())


def _result(found: Audit) -> AuditResult:
    return AuditResult(
        ok=not found.objections,
        runs=list(found.runs),
        anchors=list(found.anchors),
        seals_checked=found.seals_checked,
    )

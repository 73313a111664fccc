"""One attempt as monitoring follows it: its span, below the run's, and the run and step in every line it logs."""

from collections.abc import Iterator
from contextlib import contextmanager

from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.logs import working_on
from chargehand.orchestrator.steps import Claim
from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry import spans
from chargehand.orchestrator.telemetry.endings import noting_how_it_ends
from chargehand.orchestrator.telemetry.fact_metrics import role_of
from chargehand.orchestrator.telemetry.following import TRACEPARENT
from chargehand.orchestrator.telemetry.spans import RunTrace
from chargehand.workers.attempt import Attempt


@contextmanager
def followed(attempt: Attempt) -> Iterator[None]:
    """Follow the attempt while the block runs; a tracer reads once more from Postgres, nobody else pays anything."""
    claimed = attempt.claim
    trace = RunTrace(run_id=claimed.run_id, traceparent=lambda: _traceparent(attempt))
    with (
        working_on(run_id=str(claimed.run_id), step_id=str(claimed.step_id), step=claimed.step.key),
        spans.span(f"step {role_of(claimed.step)}", _attributes(claimed), trace) as span,
        noting_how_it_ends() as ending,
    ):
        try:
            yield
        finally:
            span.set(names.OUTCOME, ending.how)
            if ending.how in ("step_failed", "cut_off"):
                span.fail(ending.how)


def _attributes(claimed: Claim) -> dict[str, str | int | float | bool]:
    return {
        names.RUN: str(claimed.run_id),
        names.TENANT: str(claimed.tenant),
        names.STEP: str(claimed.step_id),
        names.STEP_KEY: claimed.step.key,
        names.POOL: claimed.step.pool,
        names.ROLE: role_of(claimed.step),
        names.EPOCH: claimed.epoch,
        names.TAKEN_OVER: claimed.taken_over,
        names.QUEUED_SECONDS: claimed.queued_seconds,
    }


def _traceparent(attempt: Attempt) -> str | None:
    try:
        row = attempt.shop.connections.run(attempt.claim.tenant, TRACEPARENT, {"run": attempt.claim.run_id})
    except Unavailable:
        return None
    return row["traceparent"] if row is not None else None

"""Whether this process exports traces, and which trace a run belongs to."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry import spans
from chargehand.orchestrator.telemetry.spans import RunTrace

TRACEPARENT = f"""
SELECT body::jsonb ->> 'traceparent' AS traceparent FROM journal
WHERE run = %(run)s AND step = '{RUN_STREAM}' AND seq = 1
"""
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values, version 00; ids of zeros are none.
_HEADER = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_caller: ContextVar[str | None] = ContextVar("caller", default=None)
_ENDED = text("SELECT tenant, status, created_at, finished_at FROM runs WHERE id = :run AND finished_at IS NOT NULL")


def follow_process(settings: Settings, service: str) -> None:
    """Export this process's spans if `CHARGEHAND_TRACES` asks for it.

    Raises `InvalidSettings` when the extra that does so is not installed. Without it no library of traces is imported.
    """
    if not settings.traces:
        return
    try:
        otlp = importlib.import_module("chargehand.orchestrator.telemetry.otlp")
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"CHARGEHAND_TRACES={settings.traces} needs {error.name}; pip install 'chargehand[tracing]'."
        ) from error
    otlp.follow(service)


@contextmanager
def asked_from(header: str | None) -> Iterator[None]:
    """Let what is submitted in this block belong to a caller's span elsewhere; a header that is none is left out."""
    is_one = header is not None and _HEADER.match(header) is not None
    token = _caller.set(header if is_one else None)
    try:
        yield
    finally:
        _caller.reset(token)


def callers_traceparent() -> str | None:
    """The W3C header of the span that asked for this: a caller's elsewhere, or that of the program that submits.

    The program's, if it uses OpenTelemetry; nothing is imported.
    """
    if (header := _caller.get()) is not None:
        return header
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def tell_run_ended(engine: Engine, run_id: UUID) -> None:
    """Say that the run is over, as Postgres dates it; nothing is read when nobody follows.

    At most once: a supervisor that dies between the run's end and this leaves a trace without its uppermost span.
    """
    if not spans.is_followed():
        return
    with engine.connect() as connection:
        row = connection.execute(_ENDED, {"run": run_id}).one_or_none()
        if row is None:
            return
        header = _submitted_from(connection, run_id)
    attributes = {names.RUN: str(run_id), names.TENANT: str(row.tenant), names.OUTCOME: row.status}
    trace = RunTrace(run_id=run_id, traceparent=lambda: header)
    spans.run_ended(trace, attributes, began=row.created_at, ended=row.finished_at)


def runs_traceparent(connection: Connection, run_id: UUID) -> str | None:
    """The W3C header that work for this run in somebody else's program belongs below; None: nobody traces it."""
    return spans.traceparent(RunTrace(run_id=run_id, traceparent=lambda: _submitted_from(connection, run_id)))


def _submitted_from(connection: Connection, run_id: UUID) -> str | None:
    header = connection.exec_driver_sql(TRACEPARENT, {"run": run_id}).scalar_one_or_none()
    return None if header is None else str(header)

"""Spans as OpenTelemetry knows them; imported only by processes that export traces (`CHARGEHAND_TRACES=otlp`)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry.spans import Attributes, RunTrace

_SCOPE = "chargehand"
_NANOSECONDS = 1_000_000_000
# Trace and span id of the next span of this thread, where they must be certain ones.
_wanted: ContextVar[tuple[int, int] | None] = ContextVar("wanted", default=None)


class RunIds(RandomIdGenerator):
    """Random ids, but for the span of a run."""

    def generate_span_id(self) -> int:
        """The run's, or a random one."""
        wanted = _wanted.get()
        return wanted[1] if wanted is not None else super().generate_span_id()

    def generate_trace_id(self) -> int:
        """The run's, or a random one."""
        wanted = _wanted.get()
        return wanted[0] if wanted is not None else super().generate_trace_id()


def ids_of(run_id: UUID) -> tuple[int, int]:
    """Trace and span id of a run that nobody's trace has submitted.

    Hashed, because samplers take the last bits of a trace id for chance, and those of an id of a run are not.
    """
    digest = hashlib.sha256(b"chargehand trace" + run_id.bytes).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


class OtelSpan:
    """A span of OpenTelemetry behind our protocol."""

    def __init__(self, span: trace.Span) -> None:
        """Around a span that has begun."""
        self._span = span

    def set(self, name: str, value: str | int | float | bool) -> None:
        """An attribute."""
        self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        """Status *error*, without words: they may be of a prompt."""
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))


class OtelTracer:
    """Follows this process; exports what `provider` exports."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider` must make its ids by `RunIds`."""
        self._provider = provider
        self._tracer = provider.get_tracer(_SCOPE)

    @contextmanager
    def span(self, name: str, attributes: Attributes, run: RunTrace | None) -> Iterator[OtelSpan]:
        """A span below the run's, or below the current one."""
        context = trace.set_span_in_context(NonRecordingSpan(self._run_context(run))) if run is not None else None
        kind = SpanKind.CONSUMER if run is not None else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            one = OtelSpan(span)
            try:
                yield one
            except BaseException as error:
                one.fail(type(error).__name__)
                raise

    def run_ended(self, run: RunTrace, attributes: Attributes, *, began: datetime, ended: datetime) -> None:
        """The span of the whole run, under the id that its steps already name as their parent."""
        own = self._run_context(run)
        caller = _remote(run.traceparent())
        context = trace.set_span_in_context(NonRecordingSpan(caller)) if caller is not None else Context()
        token = _wanted.set((own.trace_id, own.span_id))
        try:
            span = self._tracer.start_span(
                "run", context=context, attributes=dict(attributes), start_time=_nanoseconds(began)
            )
        finally:
            _wanted.reset(token)
        if attributes.get(names.OUTCOME) == "failed":
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(ended))

    def traceparent(self, run: RunTrace) -> str:
        """The W3C header of the run's span."""
        carrier: dict[str, str] = {}
        within = trace.set_span_in_context(NonRecordingSpan(self._run_context(run)), Context())
        TraceContextTextMapPropagator().inject(carrier, within)
        return carrier["traceparent"]

    def _run_context(self, run: RunTrace) -> SpanContext:
        trace_id, span_id = ids_of(run.run_id)
        caller = _remote(run.traceparent())
        if caller is not None:
            return SpanContext(caller.trace_id, span_id, is_remote=True, trace_flags=caller.trace_flags)
        # Each process decides alike: a sampler decides by the trace id.
        chosen = self._provider.sampler.should_sample(None, trace_id, "run").decision.is_sampled()
        flags = TraceFlags(TraceFlags.SAMPLED if chosen else TraceFlags.DEFAULT)
        return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _remote(header: str | None) -> SpanContext | None:
    if not header:
        return None
    context = TraceContextTextMapPropagator().extract({"traceparent": header}, context=Context())
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * _NANOSECONDS)

"""Sends spans to a collector by OTLP over HTTP; where to and how often is told by OpenTelemetry's own variables."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from chargehand.orchestrator.telemetry import spans
from chargehand.orchestrator.telemetry.otel import OtelTracer, RunIds


def follow(service: str) -> None:
    """Export the spans of this process, those of the model SDK too, under the name `service`."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "chargehand"}), id_generator=RunIds()
    )
    # In a thread of its own: a collector that is away costs spans, never time.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    spans.install(OtelTracer(provider))

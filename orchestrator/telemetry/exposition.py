"""Metrics in the text that Prometheus reads: of the whole fleet from Postgres, and of the processes of this machine.

Processes that find `PROMETHEUS_MULTIPROC_DIR` keep what they count in files of that folder, mapped into memory: a
process that is killed loses nothing, and whoever renders adds up what all of them have.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from chargehand.orchestrator.telemetry import dead_counts, metrics
from chargehand.orchestrator.telemetry.fleet import Labels, Snapshot, read_fleet
from chargehand.orchestrator.telemetry.metrics import Metric

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
# Read by prometheus_client when it is imported, so that it cannot be a setting of ours.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class ProcessMeter:
    """What this process counts; a sink of `meters`, made once."""

    def __init__(self) -> None:
        """Every metric of a process, at zero."""
        self.registry = CollectorRegistry()
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in metrics.ALL:
            if metric.kind == "counter":
                # The library appends `_total` itself.
                name = metric.name.removesuffix("_total")
                self._counters[metric] = Counter(name, metric.help, metric.labels, registry=self.registry)
            elif metric.kind == "histogram":
                self._histograms[metric] = Histogram(
                    metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets
                )

    def count(self, metric: Metric, amount: float, labels: dict[str, str]) -> None:
        """Add to a counter."""
        self._counters[metric].labels(**labels).inc(amount) if metric.labels else self._counters[metric].inc(amount)

    def observe(self, metric: Metric, seconds: float, labels: dict[str, str]) -> None:
        """Add to a histogram."""
        self._histograms[metric].labels(**labels).observe(seconds)


class FleetCollector(Collector):
    """The state of the fleet, read when it is asked for; that Postgres is away is a value, not an error."""

    def __init__(self, engine: Engine, *, lease_seconds: float) -> None:
        """`engine` acts as the supervisors' role."""
        self._engine, self._lease_seconds = engine, lease_seconds
        # Scrapers that pile up on a slow database would take its connections.
        self._one_at_a_time = threading.Lock()

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: to be registered must not ask Postgres."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of one snapshot."""
        with self._one_at_a_time:
            began = time.monotonic()
            try:
                snapshot = read_fleet(self._engine, lease_seconds=self._lease_seconds)
            except SQLAlchemyError:
                yield _gauge(metrics.DATABASE_UP, {(): 0.0})
                return
            took = time.monotonic() - began
        yield _gauge(metrics.DATABASE_UP, {(): 1.0})
        yield _gauge(metrics.FLEET_READ_SECONDS, {(): took})
        yield from families(snapshot)


def families(snapshot: Snapshot) -> Iterator[GaugeMetricFamily]:
    """A snapshot as Prometheus knows it."""
    for metric, values in snapshot.values.items():
        if metric not in (metrics.DATABASE_UP, metrics.FLEET_READ_SECONDS):
            yield _gauge(metric, values)


def _gauge(metric: Metric, values: Mapping[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def render(
    *, fleet: FleetCollector | None = None, folder: Path | None = None, meter: ProcessMeter | None = None
) -> bytes:
    """The text of one scrape.

    `fleet`: the state of the whole fleet. `folder`: what the processes of this machine have counted. `meter`: what this
    process has counted, if it is not in the folder.
    """
    parts = []
    if fleet is not None:
        registry = CollectorRegistry()
        registry.register(fleet)
        parts.append(generate_latest(registry))
    if folder is not None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder))
        dead_counts.fold(folder)
        with dead_counts.locked(folder):
            parts.append(generate_latest(registry))
    if meter is not None:
        parts.append(generate_latest(meter.registry))
    return b"".join(parts)


def shared_folder() -> Path | None:
    """The folder in which the processes of this machine keep what they count, if there is one."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named and Path(named).is_dir() else None

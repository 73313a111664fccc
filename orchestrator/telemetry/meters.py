"""Where code says that something happened; nobody hears it unless the process has a sink.

A process that exports metrics installs one. Everywhere else, as in a client's program, a call costs a look at an empty
tuple, and no library of metrics is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from chargehand.orchestrator.telemetry.metrics import Metric


class Sink(Protocol):
    """Takes what is counted and measured; called from any thread, and must not raise."""

    def count(self, metric: Metric, amount: float, labels: dict[str, str]) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: Metric, seconds: float, labels: dict[str, str]) -> None:
        """Add to a histogram."""
        ...


_sinks: tuple[Sink, ...] = ()


def install(sink: Sink) -> None:
    """Let `sink` hear everything from now on, for the life of this process."""
    global _sinks
    _sinks = (*_sinks, sink)


@contextmanager
def heard_by(sink: Sink) -> Iterator[None]:
    """Let `sink` hear what happens in this process while the block runs."""
    global _sinks
    install(sink)
    try:
        yield
    finally:
        _sinks = tuple(one for one in _sinks if one is not sink)


def is_heard() -> bool:
    """Whether anybody listens."""
    return bool(_sinks)


def count(metric: Metric, amount: float = 1.0, **labels: str) -> None:
    """Something happened, `amount` times."""
    for sink in _sinks:
        sink.count(metric, amount, labels)


def observe(metric: Metric, seconds: float, **labels: str) -> None:
    """Something took so long."""
    for sink in _sinks:
        sink.observe(metric, seconds, labels)

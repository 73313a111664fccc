"""Where code says what it is doing; nobody follows unless the process has a tracer.

All spans of a run are in one trace whose id follows from the run's id, or is that of the program which submitted it. So
any process finds the trace again, also after a recovery or a Redis that was emptied, and no message has to carry it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """A piece of work while it lasts."""

    def set(self, name: str, value: str | int | float | bool) -> None:
        """Say something of it that was not known before."""
        ...

    def fail(self, error_type: str) -> None:
        """It did not work out; the kind of error, never its words."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTrace:
    """The trace of a run."""

    run_id: UUID
    traceparent: Callable[[], str | None] = lambda: None
    """Of the program that submitted it (W3C Trace Context); asked for only when somebody follows."""


class Tracer(Protocol):
    """Follows what this process does."""

    def span(self, name: str, attributes: Attributes, run: RunTrace | None) -> AbstractContextManager[Span]:
        """A span below the run's, or below the current one."""
        ...

    def run_ended(self, run: RunTrace, attributes: Attributes, *, began: datetime, ended: datetime) -> None:
        """The span of a whole run, once it is over."""
        ...

    def traceparent(self, run: RunTrace) -> str:
        """The W3C header of the run's span, for work that goes on elsewhere."""
        ...


class _Nothing:
    def set(self, name: str, value: str | int | float | bool) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass


_NOTHING = _Nothing()
_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Let `tracer` follow everything from now on."""
    global _tracer
    _tracer = tracer


@contextmanager
def followed_by(tracer: Tracer) -> Iterator[None]:
    """Let `tracer` follow while the block runs."""
    before = _tracer
    install(tracer)
    try:
        yield
    finally:
        install(before)


def is_followed() -> bool:
    """Whether anybody follows."""
    return _tracer is not None


@contextmanager
def span(name: str, attributes: Attributes, run: RunTrace | None = None) -> Iterator[Span]:
    """Say that this block is one piece of work."""
    if _tracer is None:
        yield _NOTHING
        return
    with _tracer.span(name, attributes, run) as one:
        yield one


def run_ended(run: RunTrace, attributes: Attributes, *, began: datetime, ended: datetime) -> None:
    """Say that a run is over."""
    if _tracer is not None:
        _tracer.run_ended(run, attributes, began=began, ended=ended)


def traceparent(run: RunTrace) -> str | None:
    """The W3C header that somebody else's work for this run belongs below; None: nobody traces it.

    Of the run's span where this process exports it, or else of the span in which a program submitted the run: a span
    that nobody exports is no parent.
    """
    return run.traceparent() if _tracer is None else _tracer.traceparent(run)

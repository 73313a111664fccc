"""When the steps of a run worked: a lane a step, a bar for each model call and each tool; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

# Bars of one picture: more can neither be seen nor pointed at.
MOST_BARS = 2_000
_BEGINS = {"model.requested": "model", "tool.started": "tool", "step.waiting": "waiting", "step.claimed": "held"}
_ENDS = {
    "model.responded": "model",
    "model.failed": "model",
    "call.abandoned": "model",
    "tool.finished": "tool",
    "signal.received": "waiting",
}
KINDS = (*_BEGINS, *_ENDS, "step.finished", "step.released", "step.recovered")
"""The facts that a timeline is drawn from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A fact, as far as it says when something was done."""

    step: str
    kind: str
    at: datetime
    what: str = ""
    """The tool's or model's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """From when to when, in seconds from the beginning of the run."""

    kind: str
    """`held` by a worker, `model`, `tool` or `waiting`."""
    start: float
    end: float
    what: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """One step."""

    step: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """The lanes of the steps that have begun, in the order in which they did."""

    lanes: tuple[Lane, ...]
    seconds: float
    left_out: int = 0
    """Bars that are too many."""


@dataclass(slots=True)
class _Open:
    """Of a step: what has begun and not ended."""

    since: dict[str, tuple[float, str]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)

    def begin(self, kind: str, at: float, what: str) -> None:
        self.since[kind] = (at, what)

    def end(self, kind: str, at: float, what: str = "") -> None:
        start, named = self.since.pop(kind, (at, what))
        self.bars.append(Bar(kind=kind, start=start, end=max(start, at), what=what or named))

    def end_all(self, at: float) -> None:
        for kind in list(self.since):
            self.end(kind, at)


def timeline_of(marks: Iterable[Mark], *, began_at: datetime, until: datetime) -> Timeline:
    """The timeline of a run from its marks by time; what has not ended goes on until `until`."""
    steps: dict[str, _Open] = {}
    for mark in marks:
        at = max(0.0, (mark.at - began_at).total_seconds())
        step = steps.setdefault(mark.step, _Open())
        if mark.kind in _BEGINS:
            kind = _BEGINS[mark.kind]
            if kind == "waiting":
                step.end_all(at)
            step.begin(kind, at, mark.what)
        elif mark.kind in _ENDS:
            step.end(_ENDS[mark.kind], at, mark.what)
        else:
            step.end_all(at)
    end = max(0.0, (until - began_at).total_seconds())
    for step in steps.values():
        step.end_all(end)
    return _bounded(steps, seconds=max(end, *(bar.end for one in steps.values() for bar in one.bars), 0.001))


def _bounded(steps: dict[str, _Open], *, seconds: float) -> Timeline:
    lanes: list[Lane] = []
    room = MOST_BARS
    total = sum(len(one.bars) for one in steps.values())
    for key, one in steps.items():
        # What holds the others lies below them.
        bars: Sequence[Bar] = sorted(one.bars, key=lambda bar: (bar.kind != "held", bar.start))[:room]
        room -= len(bars)
        if bars:
            lanes.append(Lane(step=key, bars=tuple(bars)))
    return Timeline(lanes=tuple(lanes), seconds=seconds, left_out=total - (MOST_BARS - room))

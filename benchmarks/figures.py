"""A figure of a benchmark: one JSON line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class NotMeasured(Exception):
    """A suite cannot run here; the message says what is missing and how to get it."""


# fsync: every commit reached the disk. memory: nothing durable was measured.
Durability = Literal["fsync", "memory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured value, and what it should be where somebody has promised something."""

    name: str
    value: float
    unit: str
    durability: Durability = "fsync"
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def ok(self) -> bool | None:
        """Whether the promise is kept; None when there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target

    def line(self) -> str:
        """The figure as a line of JSON."""
        return json.dumps(
            {
                "figure": self.name,
                "value": round(self.value, 3),
                "unit": self.unit,
                "target": self.target,
                "better": self.better,
                "ok": self.ok,
                "class": self.durability,
            }
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]

"""What must not be used now, why, and when to look again; a value."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Not now."""

    reason: Literal["paused", "circuit"]
    why: str
    seconds: float
    """When to look again."""

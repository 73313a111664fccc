"""What a policy decides in one turn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One sentence and the tools to call."""

    says: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...]
    """Name and arguments of each call."""


def finish(tool: str, says: str, **arguments: Any) -> Move:
    """Call the finish tool."""
    return Move(says=says, calls=((tool, arguments),))

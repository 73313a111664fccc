"""What a file consists of, as far as it matters for cutting it into passages; a value that a child process tells."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """Where the syntax of a file lets it be cut; lines count from 0."""

    definitions: Sequence[tuple[int, int]]
    """First line and the line after the last one of functions, classes, methods and the like, decorators included."""
    statements: Sequence[tuple[int, int]]
    """First line and depth of what a long definition consists of: the shallower, the better a place to cut."""

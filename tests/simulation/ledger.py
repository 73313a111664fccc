"""What happened outside, noted when it happened, by somebody who reads no table: attempts, model calls, effects."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Call:
    """A model was asked."""

    call_id: UUID
    step: UUID
    turn: int
    """One more than the answers that the request quotes."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The world was changed."""

    step: UUID
    tool: str
    use: str
    """Which use of the tool: the same in every attempt."""
    key: str


@dataclass(slots=True)
class Ledger:
    """Everything that was noted."""

    attempts: Counter[tuple[UUID, int]] = field(default_factory=Counter)
    """How often each (step, epoch) began."""
    bodies: Counter[UUID] = field(default_factory=Counter)
    """How often the work of a step began."""
    calls: dict[UUID, Call] = field(default_factory=dict)
    billed: dict[UUID, int] = field(default_factory=dict)
    """call → what the provider will ask for it."""
    effects: dict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    """By key."""
    violent_losses: Counter[UUID] = field(default_factory=Counter)
    """How often a step was lost for no fault of any step: its process was killed or frozen by the nemesis."""
    answers: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    """step → what people chose, and was accepted."""
    planners_asked_again: Counter[UUID] = field(default_factory=Counter)
    """run → how often a person let its planner think again."""

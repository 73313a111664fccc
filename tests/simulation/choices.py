"""Every decision of a simulated world, drawn from its seed, or read from tapes that somebody has shortened.

Each kind of decision has a tape of its own, so that leaving one out does not shift all the others. Nought is always the
tamest decision: no fault, no delay, the first of several. A tape that has run out reads as noughts.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

Tapes = Mapping[str, Sequence[int]]
T = TypeVar("T")


class Choices:
    """Draws decisions and remembers them."""

    def __init__(self, seed: int, tapes: Tapes | None = None) -> None:
        """With `tapes` these are read and the seed draws nothing."""
        self.seed = seed
        self.drawn: dict[str, list[int]] = {}
        self._given = tapes
        self._dice: dict[str, random.Random] = {}

    def number(self, tape: str, below: int) -> int:
        """A number from nought to `below` - 1."""
        if below <= 1:
            return 0
        drawn = self.drawn.setdefault(tape, [])
        value = min(self._read(tape, len(drawn)), below - 1) if self._given is not None else self._roll(tape, below)
        drawn.append(value)
        return value

    def happens(self, tape: str, share: float) -> bool:
        """Whether something happens that happens in this share of all cases."""
        if share <= 0.0:
            return False
        drawn = self.drawn.setdefault(tape, [])
        if self._given is not None:
            value = min(self._read(tape, len(drawn)), 1)
        else:
            value = int(self._die(tape).random() < share)
        drawn.append(value)
        return bool(value)

    def one_of(self, tape: str, options: Sequence[T]) -> T:
        """One of them; the first is the tamest."""
        return options[self.number(tape, len(options))]

    def between(self, tape: str, least: float, most: float, *, steps: int = 64) -> float:
        """A duration or another measure, in so many steps."""
        return least + (most - least) * self.number(tape, steps + 1) / steps

    def _roll(self, tape: str, below: int) -> int:
        return int(self._die(tape).random() * below)

    def _die(self, tape: str) -> random.Random:
        die = self._dice.get(tape)
        if die is None:
            # Of a text, a generator's seed is the same on every machine.
            die = self._dice[tape] = random.Random(f"{self.seed}/{tape}")
        return die

    def _read(self, tape: str, position: int) -> int:
        given = (self._given or {}).get(tape, ())
        return given[position] if position < len(given) else 0

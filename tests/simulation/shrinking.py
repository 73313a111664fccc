"""The shortest world that still breaks the same rule: decisions are left out and lowered while it does."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from simulation.choices import Tapes
from simulation.world import Verdict, simulate

# The world and its plans first: whatever they leave out decides nothing any more.
ORDER = ("world", "plan", "people", "faults", "broker", "model", "work", "delays")

# A story may become so much longer while decisions are left out.
LONGER_SECONDS = 30.0

Copy = dict[str, tuple[int, ...]]


@dataclass
class Shrinking:
    """Tries shorter tapes until nothing helps, or its time is over."""

    best: Verdict
    until: float
    tries: int = 0
    _tapes: Copy = field(default_factory=dict)

    def run(self) -> Verdict:
        """The shortest that was found, with its story."""
        self._tapes = _stripped(self.best.tapes)
        while self._round() and time.monotonic() < self.until:
            pass
        return simulate(self.best.seed, tapes=self._tapes, tells=True)

    def _round(self) -> bool:
        """Large pieces of every tape first: what they leave out need not be looked at piece by piece."""
        before = _size(self._tapes)
        for parts in (2, 8, 32, 10_000):
            for tape in sorted(self._tapes, key=_rank):
                self._try(tape, partial(_without_pieces, parts=parts))
                self._try(tape, partial(_with_noughts, parts=parts))
        for tape in sorted(self._tapes, key=_rank):
            self._try(tape, _lowered)
        return _size(self._tapes) < before

    def _try(self, tape: str, change: "Change") -> None:
        """Take every change of a tape that helps; after one the tape is another, and its changes are counted anew."""
        position = 0
        while time.monotonic() < self.until:
            candidate = next(_from(change(self._tapes.get(tape, ())), position), None)
            if candidate is None:
                return
            position = position if self._helps({**self._tapes, tape: candidate}) else position + 1

    def _helps(self, tapes: Copy) -> bool:
        if _size(_stripped(tapes)) >= _size(self._tapes):
            return False
        self.tries += 1
        # What takes much longer to break is no shorter story.
        verdict = simulate(self.best.seed, tapes=tapes, most_seconds=self.best.lasted_seconds + LONGER_SECONDS)
        shorter = _stripped(verdict.tapes)
        if verdict.rule != self.best.rule or _size(shorter) >= _size(self._tapes):
            return False
        self.best, self._tapes = verdict, shorter
        return True


Change = Callable[[tuple[int, ...]], Iterator[tuple[int, ...]]]


def _with_noughts(tape: tuple[int, ...], *, parts: int) -> Iterator[tuple[int, ...]]:
    for start, end in _pieces(len(tape), parts):
        if any(tape[start:end]):
            yield (*tape[:start], *([0] * (end - start)), *tape[end:])


def _without_pieces(tape: tuple[int, ...], *, parts: int) -> Iterator[tuple[int, ...]]:
    yield ()
    for start, end in _pieces(len(tape), parts):
        yield (*tape[:start], *tape[end:])


def _lowered(tape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for position, value in enumerate(tape):
        for lower in (1, value // 2, value - 1):
            if 0 < lower < value:
                yield (*tape[:position], lower, *tape[position + 1 :])


def _pieces(length: int, parts: int) -> Iterator[tuple[int, int]]:
    """The tape in so many pieces, the last one first: it decides least."""
    size = max(length // parts, 1)
    for end in range(length, 0, -size):
        yield max(end - size, 0), end


def _from(changes: Iterator[tuple[int, ...]], position: int) -> Iterator[tuple[int, ...]]:
    for index, change in enumerate(changes):
        if index >= position:
            yield change


def _rank(tape: str) -> int:
    return ORDER.index(tape) if tape in ORDER else len(ORDER)


def _stripped(tapes: Tapes) -> Copy:
    """Without noughts at the end, which need not be said."""
    stripped: Copy = {}
    for tape, values in tapes.items():
        last = max((position for position, value in enumerate(values) if value), default=-1)
        if last >= 0:
            stripped[tape] = tuple(values[: last + 1])
    return stripped


def _size(tapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Decisions that are not the tamest, then all that are said, then how wild they are."""
    values = [value for tape in tapes.values() for value in tape]
    return sum(value > 0 for value in values), len(values), sum(values)


def shrink(verdict: Verdict, *, seconds: float = 30.0) -> Verdict:
    """The shortest world that breaks the same rule, with its story."""
    return Shrinking(best=verdict, until=time.monotonic() + seconds).run()

"""Runs that could not be advanced: each is left alone for ever more rounds, so that it costs the others nothing."""

from collections.abc import Sequence
from uuid import UUID

# About a minute of the watch loop. Rounds, and no clock: what is wrong with a run is not mended by the time.
MOST_ROUNDS = 128


class Setbacks:
    """Those of one watch loop. Each round is reported with `due`, each failure with `failed`."""

    def __init__(self) -> None:
        self._left_alone: dict[UUID, tuple[int, int]] = {}
        """run → how many rounds it is left alone, and how many of them are still to come."""

    def due(self, runs: Sequence[UUID]) -> list[UUID]:
        """Those to be tried in this round; a run that is not among them any more has got on."""
        still = set(runs)
        self._left_alone = {run: (rounds, left - 1) for run, (rounds, left) in self._left_alone.items() if run in still}
        return [run for run in runs if self._left_alone.get(run, (0, -1))[1] < 0]

    def failed(self, run: UUID) -> None:
        """It could not be advanced."""
        rounds = min(MOST_ROUNDS, 2 * self._left_alone.get(run, (0, 0))[0] or 1)
        self._left_alone[run] = (rounds, rounds)

"""Looks at runs that have ended while the story goes on, and says what it has found so far; the verdict comes later."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from chaos.companion import Companion
from chaos.trial import Witness, hear, judges, parts

# A run that has ended is not looked at before its last messages and zombies have had their say.
SETTLED_SECONDS = 45.0
LOOK_SECONDS = 15.0
# At a time: more would keep the machine from its work.
MOST_STEPS = 2_000
PATIENCE_SECONDS = 10.0


@dataclass(kw_only=True)
class Patrol(Companion):
    """Judges in a process of its own. A recovery is judged only when all strikes are known."""

    witness: Witness
    ended_runs: Callable[[], Mapping[UUID, int]]
    """Those that ended a while ago, in the order in which they did, and how many steps each has."""
    say: Callable[[str], None]
    objections: list[str] = field(default_factory=list)
    judged: int = 0
    """Runs."""

    def live(self) -> None:
        """Look at what has ended since the last look."""
        with judges(1) as pool:
            while not self._over.wait(LOOK_SECONDS):
                # In the order in which they ended: what was looked at is the beginning of the list.
                waiting = list(self.ended_runs().items())[self.judged :]
                for part in parts(dict(waiting), steps_a_part=MOST_STEPS):
                    if self._over.is_set() or not self._look(pool, part):
                        break

    def _look(self, pool: Executor, part: Sequence[UUID]) -> bool:
        try:
            objections = pool.submit(_look_at, self.witness, part).result()
        except psycopg.OperationalError:
            # Postgres has just been struck.
            return False
        self.judged += len(part)
        self.objections += objections
        for line in objections:
            self.say(f"objection so far: {line}")
        return True


def _look_at(witness: Witness, runs: Sequence[UUID]) -> list[str]:
    return hear(witness, runs, patience_seconds=PATIENCE_SECONDS).objections

"""The core of the engine on a real database, played by hand: two workers, a supervisor, a ledger, short leases.

Nothing is left to chance: who is late, who dies and who wakes up is what a story says, line by line.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from chaos.case import STEP_ENDINGS
from chaos.checker import judge
from chaos.evidence import gather
from chaos.hand import Hand
from chaos.ledger import Ledger
from chargehand.orchestrator import steps
from chargehand.orchestrator.errors import Fenced, NothingToClaim
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import HeldStep
from tests.integration.core.conftest import AUDIT_KEY, House

LEASE_SECONDS = 1.0
# More rounds than any story needs; a run that has not ended then never will.
MOST_ROUNDS = 20
# Between an effect and what is written after it, so that the ledger and the journal agree on their order.
APART_SECONDS = 0.1
DONE = StepFinished(outcome="succeeded")


class Stage:
    """One story's runs, in a database of its own."""

    def __init__(self, database_url: str, home: Path, ledger: Ledger, hands: tuple[Hand, Hand]) -> None:
        """Two workers are there, and nothing has happened."""
        self.ledger = ledger
        self.first, self.second = hands
        self.database_url = database_url
        settings = Settings(home=home, lease_seconds=LEASE_SECONDS, unclaimed_seconds=60, ring_age_seconds=0)
        self.house = House(database_url, settings)

    def close(self) -> None:
        """Give all connections back."""
        self.house.close()

    def start(self, *planned: Step, **fields: Any) -> UUID:
        """A run whose first steps are queued."""
        return self.house.start(*planned, **fields)

    # --- what workers do

    def claim(self, hand: Hand, run: UUID, key: str) -> HeldStep | None:
        """The step, held by this worker, which has begun its work; None: this message finds nothing to do."""
        house = self.house
        try:
            claimed = steps.claim(
                house.connections,
                tenant=house.tenant,
                step_id=step_id(run, key),
                holder=hand.holder,
                lease_seconds=LEASE_SECONDS,
            )
        except NothingToClaim:
            return None
        hand.knock(run, key, claimed.step_id)
        return HeldStep(house.connections, claimed)

    def do(self, hand: Hand, held: HeldStep | None) -> None:
        """Take effect and finish; whoever was overtaken learns it, and writes nothing more."""
        if held is None:
            return
        hand.take_effect(held.claim.run_id, held.claim.step.key, held.claim.step_id)
        time.sleep(APART_SECONDS)
        obeying_the_fence(lambda: held.finish(DONE))
        time.sleep(APART_SECONDS)

    def lose(self) -> None:
        """Let the leases run out, and the supervisor find it."""
        time.sleep(LEASE_SECONDS + APART_SECONDS)
        self.round()

    # --- what supervisors do

    def round(self) -> None:
        """One round of a watch loop."""
        # In a fleet that lives: where nobody does, nothing can be said of a worker that is silent.
        self.house.open_pool("audit")
        for run in self.house.watch().runs:
            self.house.advance(run)
        self.house.admit()

    def drain(self, run: UUID) -> None:
        """Supervise, and do what is queued, until the run has ended or clearly never will."""
        for _ in range(MOST_ROUNDS):
            self.round()
            for key, status in self.house.statuses(run).items():
                if status == "queued":
                    self.do(self.first, self.claim(self.first, run, key))
            if self.house.run_row(run).finished_at is not None:
                # Whoever ended it by hand has left a ring: its last advance closes it.
                self.round()
                return

    def has_ended(self, run: UUID, key: str) -> bool:
        """Whether the step has."""
        return self.house.statuses(run)[key] in STEP_ENDINGS

    # --- what the checker says

    def objections(self, run: UUID) -> list[str]:
        """Of this run."""
        settings = self.house.settings
        evidence = gather(
            self.database_url,
            self.ledger,
            accepted=[run],
            audit_key=AUDIT_KEY,
            lease_seconds=LEASE_SECONDS,
            max_crashes=settings.max_crashes,
            patience_seconds=0.5,
        )
        return judge(evidence)


def obeying_the_fence(write: Callable[[], object]) -> bool:
    """Whether the write was made; a worker that was overtaken goes home."""
    try:
        write()
    except Fenced:
        return False
    return True

"""The people of a story: they answer what is asked, look at runs, pause and resume them, and cancel a few.

Their way to Postgres breaks as everybody's does; what they cannot say now they say again.
"""

import random
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import JsonValue

from chaos.companion import Companion
from chaos.ledger import Ledger
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import ChargehandError, Unavailable, UserError
from chargehand.orchestrator.views import Escalation

LOOK_SECONDS = 0.3
# A pause is short: nothing else happens to its run meanwhile.
PAUSED_SECONDS = (0.5, 3.0)
# Of a hundred looks at an open run.
PAUSES_PERCENT, CANCELS_PERCENT, TELLS_PERCENT = 1, 0.05, 0.5
RETRIES, REFUSALS = 0.85, 0.05


@dataclass(kw_only=True)
class People(Companion):
    """Until `leave` with caprices, afterwards only with answers."""

    client: Client
    ledger: Ledger
    open_runs: Callable[[], Sequence[RunHandle]]
    chance: random.Random
    look_seconds: float = LOOK_SECONDS
    caprices: bool = True
    deeds: Tally[str] = field(default_factory=Tally)
    _paused: dict[RunHandle, float] = field(default_factory=dict)
    """Run → when it is resumed."""

    def leave(self) -> None:
        """Have no more caprices; what is paused is resumed."""
        self.caprices = False

    def live(self) -> None:
        """Answer what is asked, and do what comes to their minds."""
        while not self._over.wait(self.look_seconds):
            try:
                self._answer_all()
                self._resume()
                if self.caprices:
                    self._have_caprices()
            except Unavailable:
                continue

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answer_all(self) -> None:
        for asked in self.client.escalations():
            choice, body = self._decision(asked)
            try:
                if self.client.answer(asked, choice, body):
                    self.deeds[f"answered {asked.reason}: {choice}"] += 1
            except (UserError, Unavailable):
                # Somebody else was first, or the run has ended meanwhile, or the answer is given again.
                continue

    def _decision(self, asked: Escalation) -> tuple[str, JsonValue]:
        if asked.reason == "gate":
            return ("reject" if self.chance.random() < REFUSALS else "approve"), None
        if "retry" not in asked.options:
            return ("skip" if self.chance.random() > REFUSALS else "abort"), None
        # Whoever is asked whether an effect happened goes and looks.
        effects = [one for one in self.ledger.effects(asked.run_id) if one.step == asked.step_key]
        happened = any(one.key in asked.question or one.key == str(asked.step_id) for one in effects)
        if happened and "answer" in asked.options:
            return "answer", "It happened: I looked."
        if happened:
            return "skip", None
        return ("retry" if self.chance.random() < RETRIES else "skip"), None

    # --- caprices -----------------------------------------------------------------------------------------------------

    def _have_caprices(self) -> None:
        for run in self.open_runs():
            # Who looks makes agents stream.
            run.progress()
            drawn = self.chance.uniform(0, 100)
            if drawn < PAUSES_PERCENT and run not in self._paused:
                # Noted first: a pause whose reply is lost is one all the same.
                self._paused[run] = time.monotonic() + self.chance.uniform(*PAUSED_SECONDS)
                self._do("paused", run.pause)
            elif drawn < PAUSES_PERCENT + CANCELS_PERCENT:
                self._do("cancelled", run.cancel)
            elif drawn < PAUSES_PERCENT + CANCELS_PERCENT + TELLS_PERCENT:
                self._do("told", partial(run.tell, "Hurry up."))

    def _resume(self) -> None:
        for run, moment in list(self._paused.items()):
            if time.monotonic() > moment or not self.caprices:
                self._do("resumed", run.resume)
                del self._paused[run]

    def _do(self, what: str, act: Callable[[], object]) -> None:
        """Do something, sometimes twice; raises `Unavailable`, and then it may have happened."""
        for _ in range(self.chance.choice((1, 1, 2))):
            try:
                if act() is not False:
                    self.deeds[what] += 1
            except Unavailable:
                raise
            except ChargehandError:
                # The run has ended meanwhile.
                return

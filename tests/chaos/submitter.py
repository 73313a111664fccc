"""Who submits the runs of a story: some at once, each exactly once, whatever becomes of a reply."""

import random
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.errands import RUNNER
from chaos.plans import READER, random_work
from chaos.proxy import Link
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import RunView

STEPS_A_RUN = 25
# One COMMIT of a submission in so many is never heard of.
LOST_SUBMISSIONS = 3
BUDGETS_USD = ("0.50", "0.50", "0.50", "0.50", "0.012")
AGAIN_SECONDS = 0.2


@dataclass(kw_only=True)
class Submitter:
    """Submits the plans one after the other."""

    client: Client
    wire: Link
    """The client's way to Postgres."""
    workspace: Path
    plans: Sequence[Plan]
    chance: random.Random
    runs: list[RunHandle] = field(default_factory=list)
    tries: int = 0
    _views: dict[RunHandle, RunView] = field(default_factory=dict)
    """Each run as it was seen last."""

    def open_runs(self) -> list[RunHandle]:
        """Those that have not ended, as far as is known."""
        return [run for run in list(self.runs) if self._status(run) not in RUN_ENDINGS]

    def _status(self, run: RunHandle) -> str:
        view = self._views.get(run)
        return view.status if view is not None else "new"

    def look(self) -> None:
        """See how far they are; raises `Unavailable`."""
        for run in self.open_runs():
            self._views[run] = run.status()

    def progress(self) -> float:
        """Which part of all steps has ended."""
        ended = sum(view.steps_ended for view in list(self._views.values()))
        return ended / sum(len(plan.steps) for plan in self.plans)

    def submit_next(self) -> None:
        """One more run."""
        number, plan = len(self.runs), self.plans[len(self.runs)]
        budget = self.chance.choice(BUDGETS_USD)
        if self.chance.randrange(LOST_SUBMISSIONS) == 0:
            # The client asks once more by itself; after two it is the key that tells.
            self.wire.lose_replies(self.chance.randint(1, 2))
        while True:
            self.tries += 1
            with suppress(Unavailable):
                self.runs.append(
                    self.client.submit(
                        f"chaos {number}",
                        plan=plan,
                        workspace=self.workspace,
                        budget_usd=budget,
                        on_budget="ask",
                        idempotency_key=f"chaos {number}",
                        roles=[READER, RUNNER],
                    )
                )
                self.wire.heal()
                return
            time.sleep(AGAIN_SECONDS)


def plans_of(chance: random.Random, steps: int, *, seconds: float) -> list[Plan]:
    """So many steps in several plans."""
    count = max(2, steps // STEPS_A_RUN)
    sizes = [steps // count + (number < steps % count) for number in range(count)]
    return [random_work(chance, size, seconds=seconds) for size in sizes]


def make_workspace(home: Path) -> Path:
    """A git repository with a little to read."""
    folder = home / "workspace"
    folder.mkdir()
    (folder / "login.py").write_text("def check_password(shop, password):\n    return shop.password == password\n")
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm x"
    subprocess.run(commit, shell=True, cwd=folder, check=True)
    return folder

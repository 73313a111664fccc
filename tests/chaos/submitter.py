"""Who submits the runs of a story: some at once, each exactly once, whatever becomes of a reply."""

import random
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from chaos.errands import RUNNER
from chaos.plans import READER, random_work, wide_work
from chaos.proxy import Link
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import RunView

STEPS_A_RUN = 25
STEPS_A_WIDE_RUN = 250
# One COMMIT of a submission in so many is never heard of.
LOST_SUBMISSIONS = 3
BUDGETS_USD = ("0.50", "0.50", "0.50", "0.50", "0.012")
AGAIN_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ended:
    """A run that was seen to have ended."""

    at: float
    """By the monotonic clock."""
    steps: int


@dataclass(kw_only=True)
class Submitter:
    """Submits the plans one after the other, or several at a time."""

    client: Client
    wire: Link
    """The client's way to Postgres."""
    workspace: Path
    plans: Sequence[Plan]
    chance: random.Random
    runs: list[RunHandle] = field(default_factory=list)
    tries: int = 0
    _open: dict[RunHandle, RunView | None] = field(default_factory=dict)
    """Each run that has not ended as far as is known, as it was seen last."""
    _ended: dict[RunHandle, "_Ended"] = field(default_factory=dict)
    _steps_ended: int = 0
    """Of the runs that have ended."""
    _taken: int = 0
    """Plans that were submitted, or are about to be."""
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Count what there is to do, once."""
        self.steps = sum(len(plan.steps) for plan in self.plans)

    def open_runs(self) -> list[RunHandle]:
        """Those that have not ended, as far as is known."""
        return list(self._open)

    def ended_runs(self, *, for_seconds: float = 0.0) -> dict[UUID, int]:
        """Those that were seen to have ended so long ago, in the order in which they did, and their steps."""
        latest = time.monotonic() - for_seconds
        return {run.run_id: ended.steps for run, ended in list(self._ended.items()) if ended.at <= latest}

    def look(self) -> None:
        """See how far they are; raises `Unavailable`."""
        for run in self.open_runs():
            view = run.status()
            self._open[run] = view
            if view.status in RUN_ENDINGS:
                self._steps_ended += view.steps_ended
                self._ended[run] = _Ended(at=time.monotonic(), steps=view.steps_ended)
                del self._open[run]

    def steps_ended(self) -> int:
        """So many steps have ended."""
        return self._steps_ended + sum(view.steps_ended for view in list(self._open.values()) if view is not None)

    def progress(self) -> float:
        """Which part of all steps has ended."""
        return self.steps_ended() / self.steps

    @contextmanager
    def submitting(self, hands: int, *, most_open: int) -> Iterator[None]:
        """Submit whenever fewer runs are open, by so many hands, while the block runs; raises what went wrong here."""
        over = threading.Event()

        def submit() -> None:
            while not over.is_set():
                if not self.submit_next(most_open=most_open):
                    over.wait(AGAIN_SECONDS)

        with ThreadPoolExecutor(hands, thread_name_prefix="submitter") as pool:
            threads = [pool.submit(submit) for _ in range(hands)]
            try:
                yield
            finally:
                over.set()
        for thread in threads:
            thread.result()

    def submit_next(self, *, most_open: int) -> bool:
        """One more run, unless so many are open or there is none; whether there was."""
        with self._guard:
            number = self._taken
            if number == len(self.plans) or number - len(self._ended) >= most_open:
                return False
            self._taken += 1
            budget = self.chance.choice(BUDGETS_USD)
            lost = self.chance.randint(1, 2) if self.chance.randrange(LOST_SUBMISSIONS) == 0 else 0
        plan = self.plans[number]
        if lost:
            # The client asks once more by itself; after two it is the key that tells.
            self.wire.lose_replies(lost)
        while True:
            self.tries += 1
            with suppress(Unavailable):
                run = self.client.submit(
                    f"chaos {number}",
                    plan=plan,
                    workspace=self.workspace,
                    budget_usd=budget,
                    on_budget="ask",
                    idempotency_key=f"chaos {number}",
                    roles=[READER, RUNNER],
                )
                self.runs.append(run)
                self._open[run] = None
                self.wire.heal()
                return True
            time.sleep(AGAIN_SECONDS)


def plans_of(chance: random.Random, steps: int, *, seconds: float, wide_share: float = 0.0) -> list[Plan]:
    """So many steps in several plans; this share of them in plans with a wide fan-out, between the others."""
    wide = int(steps * wide_share) // STEPS_A_WIDE_RUN
    narrow_steps = steps - wide * STEPS_A_WIDE_RUN
    count = max(2, narrow_steps // STEPS_A_RUN)
    sizes = [narrow_steps // count + (number < narrow_steps % count) for number in range(count)]
    plans = [random_work(chance, size, seconds=seconds) for size in sizes]
    plans += [wide_work(chance, STEPS_A_WIDE_RUN, seconds=seconds) for _ in range(wide)]
    if wide:
        chance.shuffle(plans)
    return plans


def make_workspace(home: Path) -> Path:
    """A git repository with a little to read."""
    folder = home / "workspace"
    folder.mkdir()
    (folder / "login.py").write_text("def check_password(shop, password):\n    return shop.password == password\n")
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm x"
    subprocess.run(commit, shell=True, cwd=folder, check=True)
    return folder

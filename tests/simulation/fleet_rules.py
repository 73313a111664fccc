"""What must hold of the fleet's switches and of concurrency keys, said from the tables and the journal alone."""

from collections import defaultdict
from collections.abc import Callable
from uuid import UUID

from chargehand.orchestrator.facts import OnConflict, RunStarted, StepWaiting
from chargehand.orchestrator.switches import FRESH_SECONDS
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation.tables import Entry, RunLine, StepLine, Tables

# Postgres cuts off an admission that takes longer.
LONGEST_ADMISSION_SECONDS = 5.0
# Of a worker, between its look at the switches and what it does then.
STATEMENTS_OF_A_TURN = 12


class FleetRules:
    """Watches what is paused, and who has a key."""

    def __init__(
        self,
        tables: Tables,
        object_: Callable[[str], None],
        *,
        slack_seconds: float,
        slowest_statement_seconds: float,
    ) -> None:
        """`object_` is told what does not hold; `slack_seconds`: what a round of the watch loop may take."""
        self._tables = tables
        self._object = object_
        self._slack_seconds = slack_seconds
        self._hasty_seconds = FRESH_SECONDS + 0.5 + STATEMENTS_OF_A_TURN * slowest_statement_seconds
        self._all_on_since = 0.0
        self._idle_since: dict[UUID, float] = {}
        """When it was first seen that something could go on and did not."""

    # --- switches -----------------------------------------------------------------------------------------------------

    def on_switch(self) -> None:
        """Somebody has switched something off or on."""
        if not self._tables.switches:
            self._all_on_since = self._tables.clock.now

    def on_use(self, step: UUID, kind: str, name: str, *, blind_until: float) -> None:
        """A script begins (`all`), a model is asked, or a tool is called, by a worker that could not look before."""
        since = self._off_since(kind, name)
        if since is not None and self._tables.clock.now - max(since, blind_until) > self._hasty_seconds:
            ago = self._tables.clock.now - since
            what = f"{kind} {name}".strip()
            self._object(f"step {self._tables.steps[step].key!r} uses {what}, switched off {ago:.1f} s ago")

    def on_head(self, row: StepLine) -> None:
        """A message is sent for it."""
        since = self._off_since("role", row.spec.role or "")
        if since is not None and self._tables.clock.now - since > LONGEST_ADMISSION_SECONDS:
            self._object(f"step {row.key!r} was sent to a worker while {row.spec.role or 'everything'} is off")

    def _off_since(self, kind: str, name: str) -> float | None:
        places = {("all", ""), (kind, name)} & self._tables.switches.keys()
        return min((self._tables.switches[place] for place in places), default=None)

    # --- concurrency keys ---------------------------------------------------------------------------------------------

    def on_submitted(self, run: RunLine, on_conflict: OnConflict, ahead: list[RunLine]) -> None:
        """A request was accepted; `ahead`: who had its key, or waited for it, just before."""
        if on_conflict == "reject" and ahead:
            self._object(f"run {run.goal!r} was accepted, and {ahead[0].goal!r} has its key")
        if on_conflict == "cancel_older":
            left = [other.goal for other in ahead if other.status != "cancelled"]
            if left or run.status != "running":
                self._object(f"run {run.goal!r} replaces others, is {run.status}, and {left} have not ended")
        if on_conflict == "queue" and (run.status == "queued") != bool(ahead):
            self._object(f"run {run.goal!r} is {run.status} behind {[other.goal for other in ahead]}")

    def on_rejected(self, goal: str, on_conflict: OnConflict, ahead: list[RunLine]) -> None:
        """A request was refused."""
        if on_conflict != "reject" or not ahead:
            self._object(f"run {goal!r} was refused, and nobody has its key")

    def on_run_fact(self, run: RunLine, entry: Entry) -> None:
        """A row of the run's own stream."""
        if not isinstance(entry.fact, RunStarted):
            return
        order = list(self._tables.runs)
        for other in self._same_key(run):
            if other.status == "queued" and order.index(other.id) < order.index(run.id):
                self._object(f"run {run.goal!r} got its key, and {other.goal!r} has waited for longer")

    def on_step_fact(self, run: RunLine, row: StepLine, entry: Entry) -> None:
        """A row of a step's stream."""
        if run.status == "queued":
            self._object(f"step {row.key!r} of a run that waits for its key got a {entry.fact.kind}")

    def _same_key(self, run: RunLine) -> list[RunLine]:
        return [
            other
            for other in self._tables.runs.values()
            if run.concurrency_key is not None
            and (other.tenant, other.concurrency_key) == (run.tenant, run.concurrency_key)
        ]

    def on_commit(self) -> None:
        """At most one run has a key."""
        holders: dict[tuple[UUID, str], list[str]] = defaultdict(list)
        for run in self._tables.runs.values():
            if run.concurrency_key is not None and run.status in {"running", "paused"}:
                holders[run.tenant, run.concurrency_key].append(run.goal)
        for (_, key), goals in holders.items():
            if len(goals) > 1:
                self._object(f"key {key!r} is held by {goals}")

    # --- now and then -------------------------------------------------------------------------------------------------

    def on_tick(self, *, somebody_watches: bool) -> None:
        """What could go on goes on."""
        idle: dict[UUID, str] = {}
        for run in self._tables.runs.values():
            if run.status == "queued" and all(one.status in {"queued", *RUN_ENDINGS} for one in self._same_key(run)):
                idle[run.id] = f"run {run.goal!r} waits for a key that nobody has"
        for row in self._tables.open_rows():
            if self._could_go_on(row):
                idle[row.id] = f"step {row.key!r} waits for what is switched on again"
        now = self._tables.clock.now
        for identity in self._idle_since.keys() - (idle.keys() if somebody_watches else set()):
            del self._idle_since[identity]
        for identity, what in idle.items() if somebody_watches else ():
            if now - self._idle_since.setdefault(identity, now) > self._slack_seconds:
                self._object(what)

    def _could_go_on(self, row: StepLine) -> bool:
        """Who began to wait when all was on again has just missed it, and looks again by itself."""
        if row.status != "waiting" or row.wait_reason != "paused" or self._tables.switches:
            return False
        asked = [entry.at for entry in self._tables.journal[row.run, row.id] if isinstance(entry.fact, StepWaiting)]
        return self._tables.run_of(row).status == "running" and asked[-1] < self._all_on_since

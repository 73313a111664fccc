"""What must hold of plans that a planner changes, said from its answers and the journal alone."""

from collections.abc import Callable, Collection
from typing import Any

from chargehand.orchestrator.facts import OVER_BUDGET, PlanPatched, StepFinished
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.replanning import REPLANNER
from simulation.ledger import Ledger
from simulation.statements import result_of
from simulation.tables import Entry, RunLine, StepLine, Tables


class PlanRules:
    """Watches the planners of one world."""

    def __init__(self, tables: Tables, ledger: Ledger, object_: Callable[[str], None]) -> None:
        """`object_` is told what does not hold."""
        self._tables = tables
        self._ledger = ledger
        self._object = object_

    # --- with every fact ----------------------------------------------------------------------------------------------

    def on_run_fact(self, run: RunLine, entry: Entry) -> None:
        """A row of the run's own stream."""
        fact = entry.fact
        if not isinstance(fact, PlanPatched):
            return
        rows = self._tables.of_run[run.id]
        # Whoever lets it think again is a person, who has wanted just that.
        asked = sum(row.spec.role == REPLANNER for row in rows) - self._ledger.planners_asked_again[run.id]
        if asked > run.replans:
            self._object(f"the planner of run {run.goal!r} was asked {asked} times, at most {run.replans} it may be")
        for step in fact.patch.add:
            if step.role == REPLANNER and step.parent is None:
                self._check_reasons(run, step)
        wish = self._wish(run, fact)
        if wish is not None:
            self._check_kept(run, rows, wish, fact.patch)

    def on_step_fact(self, run: RunLine, row: StepLine, entry: Entry) -> None:
        """A row of a step's stream."""
        if isinstance(entry.fact, StepFinished) and entry.fact.outcome == "succeeded":
            gone = [
                self._tables.steps[one].key
                for one in self._tables.before[row.id]
                if self._tables.steps[one].status == "superseded"
            ]
            if gone:
                self._object(f"the result of step {row.key!r}, which rests on superseded {gone}, was accepted")

    def _check_reasons(self, run: RunLine, asked: Step) -> None:
        reasons: Any = asked.arguments["reasons"]
        for one in reasons:
            end = result_of(self._tables, run.id, step_id(run.id, str(one["step"])))
            if end is not None and end.outcome == "failed" and end.error.lower().startswith("a person "):
                self._object(f"the planner is asked about step {one['step']!r}, which a person has ended")

    def _wish(self, run: RunLine, fact: PlanPatched) -> PlanPatch | None:
        """What a planner had said, if the patch is its."""
        row = self._tables.steps.get(fact.by_step) if fact.by_step is not None else None
        if row is None or row.spec.role != REPLANNER:
            return None
        end = result_of(self._tables, run.id, row.id)
        return end.patch if end is not None else None

    def _check_kept(self, run: RunLine, rows: list[StepLine], wish: PlanPatch, done: PlanPatch) -> None:
        """What has succeeded and rests on nothing that the planner named is not thrown away."""
        ended = {row.key for row in rows if self._has_succeeded(row)}
        # Who needs what is dropped and has not begun comes again without it.
        needed = {
            row.key
            for row in rows
            if row.spec.join == "all" and not row.head_seq and not wish_drops_nothing(row, wish, ended)
        }
        touched = self._built_on(rows, {*wish.again, *wish.supersede, *needed})
        touched |= self._within(rows, {key for key in wish.drop if key not in ended})
        for key in done.supersede:
            if key in ended and key not in touched:
                self._object(f"step {key!r} of run {run.goal!r} had succeeded, was valid, and was thrown away")
        for row in rows:
            if row.key in wish.drop and row.key not in ended and not (row.has_ended or row.key in touched):
                self._object(f"step {row.key!r} of run {run.goal!r} was dropped and is {row.status}")
        for key in {*wish.again, *wish.supersede} - set(done.supersede):
            self._object(f"step {key!r} of run {run.goal!r} was to be done again, and counts")

    def _has_succeeded(self, row: StepLine) -> bool:
        end = result_of(self._tables, row.run, row.id)
        return end is not None and end.outcome == "succeeded"

    def _built_on(self, rows: list[StepLine], roots: Collection[str]) -> set[str]:
        reached = set(roots)
        for row in rows:
            if row.spec.parent in reached or not reached.isdisjoint(row.spec.after):
                reached.add(row.key)
        return reached

    def _within(self, rows: list[StepLine], owners: Collection[str]) -> set[str]:
        inside: set[str] = set()
        for row in rows:
            if row.spec.parent in owners or row.spec.parent in inside:
                inside.add(row.key)
        return inside

    # --- at the end ---------------------------------------------------------------------------------------------------

    def at_the_end(self, run: RunLine) -> None:
        """The run is over."""
        rows = self._tables.of_run[run.id]
        by_key = {row.key: row for row in rows}
        for row in rows:
            base, _, number = row.key.rpartition("~")
            before = base if number == "2" else f"{base}~{int(number) - 1}" if number.isdigit() else ""
            if before in by_key and by_key[before].status != "superseded":
                self._object(f"step {row.key!r} was done again, and {before!r} counts all the same")
        asked = [row for row in rows if row.spec.role == REPLANNER]
        rounds = len(asked) - self._ledger.planners_asked_again[run.id]
        if run.status == "failed" and not run.reason and rounds < run.replans:
            told = {str(one["step"]) for row in asked for one in self._reasons(row)}
            silent = [row.key for row in rows if self._is_a_reason(row) and row.key not in told]
            if silent:
                self._object(f"run {run.goal!r} failed with {silent}, and its planner was not asked about it")
        if run.status in {"succeeded", "failed"} and not run.reason and rounds < run.replans:
            self._check_misfits(run, asked)

    def _check_misfits(self, run: RunLine, asked: list[StepLine]) -> None:
        """A change that did not fit is a reason, too, however the run ended."""
        told = {str(one["step"]) for row in asked for one in self._reasons(row)}
        applied = {fact.by_step for fact in self._tables.facts(run.id, None) if isinstance(fact, PlanPatched)}
        for row in asked:
            end = result_of(self._tables, run.id, row.id)
            wanted = end is not None and end.patch is not None and row.status == "succeeded"
            if wanted and row.id not in applied and row.key not in told:
                self._object(f"the change that step {row.key!r} wanted was forgotten")

    def _reasons(self, row: StepLine) -> Any:
        return row.spec.arguments["reasons"]

    def _is_a_reason(self, row: StepLine) -> bool:
        """Failed for good, and nobody has decided it."""
        if (
            row.status != "failed"
            or row.spec.parent is not None
            or row.spec.kind == "gate"
            or row.spec.role == REPLANNER
        ):
            return False
        end = result_of(self._tables, row.run, row.id)
        error = end.error if end is not None else ""
        return not error.lower().startswith("a person ") and not error.startswith(OVER_BUDGET)


def wish_drops_nothing(row: StepLine, wish: PlanPatch, ended: Collection[str]) -> bool:
    """Whether nothing that the step waits for is dropped; what has succeeded is not."""
    return not any(key in wish.drop and key not in ended for key in row.spec.after)

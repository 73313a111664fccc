"""What must hold of a graph that grows and goes back: branches, maps, repeats, merges, races, colleagues, retries.

Said from the plan and the journal alone, without production's own words for it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from chargehand.orchestrator.facts import (
    ModelFailed,
    ModelRequested,
    ModelResponded,
    RunTold,
    SignalReceived,
    StepClaimed,
    StepFinished,
    StepTold,
    StepWaiting,
)
from chargehand.orchestrator.plan import RESULT_OF, step_id
from chargehand.orchestrator.transitions import STEP_ENDINGS
from simulation.statements import result_of
from simulation.tables import Entry, RunLine, StepLine, Tables

# An agent is told so instead of what a colleague says.
REFUSED = re.compile("children do not fit|the plan may be changed")
LOST = ("failed", "cancelled")
DEADLINE = "its deadline has passed"


class GraphRules:
    """Watches the graphs of one world."""

    def __init__(self, tables: Tables, object_: Callable[[str], None]) -> None:
        """`object_` is told what does not hold."""
        self._tables = tables
        self._object = object_
        self._finished: set[UUID] = set()
        self._folded: set[UUID] = set()
        """Waits whose answer was folded in."""
        self._began: list[StepLine] = []
        """Since the last commit."""

    # --- with every fact ----------------------------------------------------------------------------------------------

    def on_fact(self, run: RunLine, row: StepLine, entry: Entry) -> None:
        """A row of a step's stream is written."""
        fact = entry.fact
        status = self._tables.told[run.id].steps[row.id].status
        is_end = isinstance(fact, StepFinished)
        if status in STEP_ENDINGS and not (is_end and status == getattr(fact, "outcome", "")):
            self._object(f"step {row.key!r} was {status} and got a {fact.kind}")
        match fact:
            case StepClaimed():
                self._on_start(row)
            case StepWaiting(reason="gate" | "celery_task"):
                self._on_start(row)
            case StepWaiting(reason="children", child=None):
                self._on_start(row)
            case ModelRequested():
                self._check_heard(run, row)
            case SignalReceived():
                self._on_signal(row, fact)
            case StepFinished():
                self._on_end(row, fact)
            case _:
                pass

    def _on_start(self, row: StepLine) -> None:
        if not self.may_start(row):
            before = [self._tables.steps[one].status for one in self._tables.before[row.id]]
            self._object(f"step {row.key!r} ({row.spec.join}) began while its predecessors were {before}")
        self._began.append(row)
        parent = self._parent(row)
        if parent is not None and parent.spec.map is not None and parent.spec.map.max_parallel is not None:
            self._check_lanes(parent, parent.spec.map.max_parallel)
        if parent is not None and parent.spec.repeat is not None:
            self._check_round(parent, number=int(self._name(row).split("/")[0]))

    def _check_heard(self, run: RunLine, row: StepLine) -> None:
        """What people said before the newest answer, or before the claim, has reached the agent by now."""
        entries = self._tables.journal[run.id, row.id]
        news = (StepClaimed, ModelResponded, ModelFailed)
        looked = max(entry.at for entry in entries if isinstance(entry.fact, news))
        heard = max((entry.fact.run_seq for entry in entries if isinstance(entry.fact, StepTold)), default=0)
        for entry in self._tables.journal[run.id, None]:
            if isinstance(entry.fact, RunTold) and entry.at < looked and entry.seq > heard:
                self._object(f"step {row.key!r} asks a model and has not heard {entry.fact.message!r}")

    def _on_signal(self, row: StepLine, fact: SignalReceived) -> None:
        if fact.wait_id in self._folded:
            self._object(f"step {row.key!r} has heard one answer twice")
        self._folded.add(fact.wait_id)
        waited = [one for one in self._facts(row) if isinstance(one, StepWaiting) and one.wait_id == fact.wait_id]
        if not waited or waited[-1].child is None:
            return
        colleague = self._tables.steps.get(step_id(row.run, waited[-1].child.key))
        end = self._end_of(colleague)
        if colleague is None or colleague.status not in STEP_ENDINGS:
            if not isinstance(fact.body, dict) or not REFUSED.search(str(fact.body.get("error"))):
                self._object(f"step {row.key!r} was answered by a colleague that has not ended")
        elif end is not None and end.outcome == "succeeded":
            if (fact.choice, fact.body) != (waited[-1].options[0], end.result):
                self._object(f"step {row.key!r} was told {fact.body}, its colleague gave {end.result}")
        elif fact.choice != "answer":
            self._object(f"step {row.key!r} has handed off to a colleague that {colleague.status}, and took its word")

    def _on_end(self, row: StepLine, fact: StepFinished) -> None:
        if row.id in self._finished:
            self._object(f"step {row.key!r} has ended twice")
        self._finished.add(row.id)
        if fact.outcome == "succeeded":
            self._check_result(row, fact)
        elif row.spec.map is not None and " items failed" in fact.error:
            failed = sum(self._has_failed(item) for item in self._items_of(row))
            if failed <= row.spec.map.tolerated_failures:
                self._object(f"map {row.key!r} failed for {failed} failures, which it tolerates")

    # --- when a step may begin ----------------------------------------------------------------------------------------

    def may_start(self, row: StepLine) -> bool:
        """Whether its predecessors, as they stand, let it."""
        before = [self._tables.steps[one] for one in self._tables.before[row.id]]
        if not before:
            return True
        statuses = [one.status for one in before]
        if "superseded" in statuses:
            return False
        taken = [one for one in before if self._is_taken(one, row)]
        match row.spec.join:
            case "settled":
                return STEP_ENDINGS.issuperset(statuses)
            case "any":
                return any(one.status == "succeeded" for one in taken)
            case _:
                return (
                    len(taken) == len(before)
                    and any(one.status == "succeeded" for one in before)
                    and all(one.status == "succeeded" or self._was_not_reached(one) for one in before)
                )

    def _is_taken(self, before: StepLine, row: StepLine) -> bool:
        label = row.spec.when.get(before.key)
        return label is None or before.status == "skipped" or before.label == label

    def _was_not_reached(self, row: StepLine) -> bool:
        """Skipped because no way led to it; not because what it needed failed."""
        return row.status == "skipped" and not any(
            self._is_lost(self._tables.steps[one]) for one in self._tables.before[row.id]
        )

    def _is_lost(self, row: StepLine) -> bool:
        return row.status in LOST or (row.status == "skipped" and not self._was_not_reached(row))

    # --- races --------------------------------------------------------------------------------------------------------

    def on_commit(self) -> None:
        """Whoever has won a race is not raced any more."""
        began, self._began = self._began, []
        for row in began:
            if row.spec.join != "any":
                continue
            for before in (self._tables.steps[one] for one in self._tables.before[row.id]):
                waiting = (self._tables.steps[one] for one in self._tables.after[before.id] if one != row.id)
                # Its own children are no reason to go on either: they have the winner.
                if not before.has_ended and all(one.spec.parent == row.key for one in waiting):
                    self._object(f"step {row.key!r} goes on and {before.key!r}, which nobody needs, is {before.status}")

    # --- children -----------------------------------------------------------------------------------------------------

    def _check_lanes(self, owner: StepLine, most: int) -> None:
        under_way = sum(
            any(child.head_seq for child in item) and not all(child.has_ended for child in item)
            for item in self._items_of(owner)
        )
        if under_way > most:
            self._object(f"map {owner.key!r} has {under_way} items under way, at most {most} may be")

    def _check_round(self, owner: StepLine, *, number: int) -> None:
        before = self._items_of(owner)[: number - 1]
        if not all(child.has_ended for round_ in before for child in round_):
            self._object(f"round {number} of {owner.key!r} began before the one before it was over")
        if any(self._passed(owner, round_) for round_ in before):
            self._object(f"round {number} of {owner.key!r} began although it had passed")

    def _check_result(self, row: StepLine, fact: StepFinished) -> None:
        match row.spec.kind:
            case "branch":
                self._check_branch(row, fact)
            case "map":
                self._check_map(row, fact)
            case "repeat":
                self._check_repeat(row, fact)
            case "merge":
                self._check_merge(row)
            case "gate":
                self._check_gate(row, fact)
            case _:
                pass

    def _check_branch(self, row: StepLine, fact: StepFinished) -> None:
        branch, result = row.spec.branch, fact.result
        assert branch is not None
        assert isinstance(result, dict)
        if fact.label not in branch.labels or fact.label != result["label"]:
            self._object(f"branch {row.key!r} took way {fact.label!r} and says {result}")
        odds = result.get("odds")
        if isinstance(odds, dict) and fact.label is not None:
            if branch.choose == "argmax" and not (odds[fact.label] == max(odds.values()) >= branch.threshold):
                self._object(f"branch {row.key!r} took way {fact.label!r} of {odds}")
            told: Any = self._result_at(row, str(result["chosen_by"]))
            if abs(told["odds"][fact.label] / sum(told["odds"].values()) - odds[fact.label]) > 1e-9:
                self._object(f"branch {row.key!r} decided by {odds}, it was told {told}")

    def _check_map(self, row: StepLine, fact: StepFinished) -> None:
        mapping = row.spec.map
        assert mapping is not None
        last, items = mapping.body[-1].key, self._items_of(row)
        given = mapping.items
        if isinstance(given, dict):
            source = self._end_of(self._tables.steps[step_id(row.run, str(given[RESULT_OF]))])
            given = source.result if source is not None else None
        if not isinstance(given, list) or len(given) != len(items):
            self._object(f"map {row.key!r} over {given} has {len(items)} items")
            return
        failed = sum(self._has_failed(item) for item in items)
        if failed > mapping.tolerated_failures:
            self._object(f"map {row.key!r} succeeded with {failed} failures")
        expected = []
        for number, item in enumerate(given):
            child = self._tables.steps[step_id(row.run, f"{row.key}/{number}/{last}")]
            if child.spec.arguments.get("item", item) != item:
                self._object(f"item {number} of map {row.key!r} was given {child.spec.arguments['item']}")
            expected.append(self._result_at(row, f"{number}/{last}"))
        if fact.result != expected:
            self._object(f"map {row.key!r} gave {fact.result}, its items {expected}")

    def _check_repeat(self, row: StepLine, fact: StepFinished) -> None:
        repeat, rounds = row.spec.repeat, self._items_of(row)
        assert repeat is not None
        assert isinstance(fact.result, dict)
        if fact.result["rounds"] != len(rounds) or len(rounds) > repeat.max_rounds:
            self._object(f"repeat {row.key!r} had {len(rounds)} rounds of {repeat.max_rounds} and says {fact.result}")
        if not self._passed(row, rounds[-1]):
            self._object(f"repeat {row.key!r} succeeded and its last round has not passed")

    def _check_merge(self, row: StepLine) -> None:
        tried: Any = self._result_at(row, "try")
        resolved = self._tables.steps.get(step_id(row.run, f"{row.key}/resolve"))
        conflicts = isinstance(tried, dict) and tried.get("conflicts")
        if bool(conflicts) != (resolved is not None and resolved.status == "succeeded"):
            self._object(f"merge {row.key!r} found conflicts {conflicts}, resolved: {resolved and resolved.status}")

    def _check_gate(self, row: StepLine, fact: StepFinished) -> None:
        signal = self._tables.signals.get((row.id, row.id))
        choice = fact.result.get("choice") if isinstance(fact.result, dict) else None
        if signal is None or signal.choice != choice:
            self._object(f"gate {row.key!r} ended with {choice!r}, which nobody has said")

    # --- at the end ---------------------------------------------------------------------------------------------------

    def at_the_end(self, run: RunLine) -> None:
        """The run is over."""
        rows = self._tables.of_run[run.id]
        for row in rows:
            if row.status == "superseded":
                continue
            gone = [one for one in self._tables.before[row.id] if self._tables.steps[one].status == "superseded"]
            parent = self._parent(row)
            if gone or (parent is not None and parent.status == "superseded"):
                self._object(f"step {row.key!r} counts and rests on what was superseded")
        for (step, wait_id), signal in self._tables.signals.items():
            row = self._tables.steps[step]
            if row.run == run.id:
                self._check_answer(row, wait_id, signal.choice)
        self._check_outcome(run, rows)

    def _check_answer(self, row: StepLine, wait_id: UUID, choice: str) -> None:
        """An answer that was taken was heard, unless the step was ended meanwhile."""
        heard = [one for one in self._facts(row) if isinstance(one, SignalReceived) and one.wait_id == wait_id]
        if heard:
            if heard[0].choice != choice:
                self._object(f"step {row.key!r} was told {choice!r} and heard {heard[0].choice!r}")
            return
        if row.spec.kind == "celery_task" and (choice == "lost" or (row.id, row.id) in self._tables.signals):
            # The task's own word counts before a report and before what a person decided; of it asks the rule of tasks.
            return
        end = self._end_of(row)
        if row.status in {"cancelled", "superseded"} or (end is not None and end.error == DEADLINE):
            return
        result = end.result if end is not None else None
        if row.spec.kind != "gate" or not isinstance(result, dict) or result.get("choice") != choice:
            self._object(f"the answer {choice!r} to step {row.key!r} was lost")

    def _check_outcome(self, run: RunLine, rows: Sequence[StepLine]) -> None:
        """A run succeeds when everything that nothing builds on did, and fails when something did not."""
        counting = [row for row in rows if row.status != "superseded"]
        built_on = {one for row in counting for one in self._tables.before[row.id]}
        ends = [row for row in counting if row.id not in built_on and row.spec.parent is None]
        went_well = all(row.status == "succeeded" or self._was_not_reached(row) for row in ends)
        if run.status == "succeeded" and not went_well:
            self._object(f"run {run.goal!r} succeeded with {[(row.key, row.status) for row in ends]}")
        if run.status == "failed" and not run.reason and went_well:
            self._object(f"run {run.goal!r} failed and all its ends are well")

    # --- looking ------------------------------------------------------------------------------------------------------

    def _facts(self, row: StepLine) -> Sequence[Any]:
        return self._tables.facts(row.run, row.id)

    def _end_of(self, row: StepLine | None) -> StepFinished | None:
        return None if row is None else result_of(self._tables, row.run, row.id)

    def _parent(self, row: StepLine) -> StepLine | None:
        return self._tables.parents.get(row.id)

    def _name(self, row: StepLine) -> str:
        return row.key.removeprefix(f"{row.spec.parent}/")

    def _items_of(self, owner: StepLine) -> list[list[StepLine]]:
        """The children of each item or round, in order."""
        numbered: dict[int, list[StepLine]] = {}
        for row in self._tables.of_run[owner.run]:
            if row.spec.parent == owner.key:
                numbered.setdefault(int(self._name(row).split("/")[0]), []).append(row)
        return [children for _, children in sorted(numbered.items())]

    def _has_failed(self, children: Sequence[StepLine]) -> bool:
        return any(child.status in LOST for child in children)

    def _result_at(self, owner: StepLine, name: str) -> object:
        child = self._tables.steps[step_id(owner.run, f"{owner.key}/{name}")]
        end = self._end_of(child)
        return end.result if end is not None and child.status == "succeeded" else None

    def _passed(self, owner: StepLine, children: Sequence[StepLine]) -> bool:
        assert owner.spec.repeat is not None
        number = self._name(children[0]).split("/")[0]
        verdict = self._result_at(owner, f"{number}/{owner.spec.repeat.until}")
        return isinstance(verdict, dict) and verdict.get("passed") is True

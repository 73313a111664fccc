"""A run's journal, read again by the code that wrote it: bodies, order, growth, decisions, outcome; pure.

Nothing is asked of a model, a tool or a table. What a worker makes of an agent's stream is `workers/replay.py`'s.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from chargehand.memory import journal
from chargehand.memory.journal import Entry
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import control, races
from chargehand.orchestrator.control import Child, End, Grow
from chargehand.orchestrator.errors import IllegalFact, NewerVersion
from chargehand.orchestrator.facts import (
    AnyFact,
    JoinsWon,
    PlanPatched,
    RunFinished,
    RunSubmitted,
    StepFact,
    StepFinished,
    StepsAnchored,
    StepsSkipped,
    parse_fact,
)
from chargehand.orchestrator.plan import CONTROL_KINDS, Step, step_id, topological
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.replay import Divergence
from chargehand.orchestrator.rounds import is_over_budget
from chargehand.orchestrator.transitions import Recorded, RunState, StepState, apply, apply_to_step, settle


@dataclass(frozen=True, slots=True)
class Row:
    """A row that could be read, with its fact."""

    entry: Entry
    fact: AnyFact


@dataclass(frozen=True, slots=True)
class Found:
    """A divergence, with the time of its row, by which the first is told."""

    at: datetime
    divergence: Divergence


@dataclass(slots=True)
class Retraced:
    """A whole run."""

    run_id: UUID
    state: RunState
    run_rows: list[Row] = field(default_factory=list)
    step_rows: dict[UUID, list[Row]] = field(default_factory=dict)
    planned: dict[UUID, Step] = field(default_factory=dict)
    """Every step that was ever planned, in plan order."""
    found: list[Found] = field(default_factory=list)
    rows: int = 0
    erased: set[UUID] = field(default_factory=set)
    """Streams with bodies that were erased: their hashes are checked, and nothing that rests on what they said."""
    decisions: int = 0
    digest: str = ""

    @property
    def submitted(self) -> RunSubmitted | None:
        """Its first fact."""
        first = self.run_rows[0].fact if self.run_rows else None
        return first if isinstance(first, RunSubmitted) else None

    def diverges(self, entry: Entry, name: str, *, expected: Any, found: Any) -> None:
        """Keep that a row comes out otherwise."""
        step = self.planned.get(entry.step)
        key = None if entry.step == RUN_STREAM else step.key if step is not None else str(entry.step)
        divergence = Divergence(
            step=key, seq=entry.seq, kind=entry.kind, field=name, expected=_json(expected), found=_json(found)
        )
        self.found.append(Found(entry.at, divergence))


def retrace(run_id: UUID, entries: Iterable[Entry]) -> Retraced:
    """Read the rows again: the run's own stream first, then each step's, all in order."""
    run = Retraced(run_id=run_id, state=RunState(run_id=run_id))
    digest = hashlib.sha256()
    steps: dict[UUID, StepState] | None = None
    # By its number: a UUID is compared in Python.
    for _, group in groupby(entries, key=attrgetter("step.int")):
        rows = list(group)
        stream = rows[0].step
        said = _read_stream(run, rows, digest)
        if stream == RUN_STREAM:
            _fold_run(run, said)
            continue
        steps = dict(run.state.steps) if steps is None else steps
        _fold_step(run, steps, stream, said)
    if steps is not None:
        run.state = replace(run.state, steps=steps)
    run.digest = digest.hexdigest()
    _retrace_graph(run)
    return run


def _read_stream(run: Retraced, entries: Iterable[Entry], digest: Any) -> Iterator[Row]:
    """The rows of a stream that say something, as far as each follows from the one before."""
    previous = b""
    names: journal.StreamNames | None = None
    # Without its plan no stream says anything.
    is_erased = RUN_STREAM in run.erased
    for entry in entries:
        run.rows += 1
        names = names or journal.StreamNames.of(entry)
        if not _is_whole(run, entry, previous, names):
            return
        previous = entry.hash
        if entry.body is None:
            run.erased.add(entry.step)
            is_erased = True
        fact = _read(run, entry, digest)
        if fact is not None and not is_erased:
            yield Row(entry, fact)


def _fold_run(run: Retraced, said: Iterable[Row]) -> None:
    for row in said:
        entry, fact = row.entry, row.fact
        try:
            run.state, _ = apply(run.state, Recorded(step=None, seq=entry.seq, epoch=entry.epoch, fact=fact))
        except IllegalFact as error:
            run.diverges(entry, "order", expected=entry.kind, found=str(error))
            return
        run.run_rows.append(row)
        _plan(run, fact)


def _fold_step(run: Retraced, steps: dict[UUID, StepState], stream: UUID, said: Iterable[Row]) -> None:
    rows: list[Row] = []
    state = steps.get(stream)
    for row in said:
        entry = row.entry
        try:
            if state is None:
                raise IllegalFact(f"no step {stream} was planned")
            state, _ = apply_to_step(state, Recorded(step=stream, seq=entry.seq, epoch=entry.epoch, fact=row.fact))
        except IllegalFact as error:
            run.diverges(entry, "order", expected=entry.kind, found=str(error))
            break
        rows.append(row)
    if state is not None:
        steps[stream] = state
    if rows:
        run.step_rows[stream] = rows


def _is_whole(run: Retraced, entry: Entry, previous: bytes, names: "journal.StreamNames") -> bool:
    if entry.body is not None and entry.salt is not None:
        digest = hashlib.sha256(entry.salt + entry.body.encode()).digest()
        if digest != entry.body_hash:
            run.diverges(entry, "body", expected=entry.body_hash.hex(), found=digest.hex())
    linked = names.link(previous, entry)
    if linked != entry.hash:
        run.diverges(entry, "hash", expected=entry.hash.hex(), found=linked.hex())
        return False
    return True


def _read(run: Retraced, entry: Entry, digest: Any) -> AnyFact | None:
    """The fact, whose body this code would write to the byte; None for an erased one and for one that is none."""
    body = entry.body
    if body is None:
        return None
    try:
        fact = parse_fact(body, schema_version=entry.schema_version)
    except (IllegalFact, NewerVersion) as error:
        run.diverges(entry, "body", expected=body[:200], found=str(error))
        return None
    written = fact.model_dump_json()
    digest.update(body.encode())
    if written != body:
        # Claims are written by SQL, with blanks; a field that came later has its default.
        _compare(run, entry, json.loads(body), json.loads(written), fact)
    return fact


def _compare(run: Retraced, entry: Entry, body: dict[str, Any], written: dict[str, Any], fact: AnyFact) -> None:
    for name in [*body, *(name for name in written if name not in body)]:
        if name not in body:
            default = type(fact).model_fields[name].get_default(call_default_factory=True)
            if getattr(fact, name) != default:
                run.diverges(entry, name, expected=None, found=written[name])
        elif body[name] != written.get(name):
            run.diverges(entry, name, expected=body[name], found=written.get(name))


def _plan(run: Retraced, fact: AnyFact) -> None:
    planned = fact.plan.steps if isinstance(fact, RunSubmitted) else ()
    added = fact.patch.add if isinstance(fact, PlanPatched) else planned
    own = {step.key for step in added}
    inner = [step.model_copy(update={"after": tuple(key for key in step.after if key in own)}) for step in added]
    by_key = {step.key: step for step in added}
    run.planned |= {step_id(run.run_id, one.key): by_key[one.key] for one in topological(inner)}


# --- the graph --------------------------------------------------------------------------------------------------------


def _retrace_graph(run: Retraced) -> None:
    ends = {
        identity: next((row for row in reversed(rows) if isinstance(row.fact, StepFinished)), None)
        for identity, rows in run.step_rows.items()
    }
    graph = _Graph(run=run, ends={identity: row for identity, row in ends.items() if row is not None})
    for row in run.run_rows:
        graph.look_at(row)
    for identity, row in graph.ends.items():
        step = run.planned.get(identity)
        if step is not None and step.kind in CONTROL_KINDS:
            graph.check_end(step, row)
    graph.check_anchors()


@dataclass(slots=True)
class _Graph:
    """The decisions of `advance`, made again on what was known at their time."""

    run: Retraced
    ends: Mapping[UUID, Row]
    children: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    """Those appended so far, by their parent's key."""
    closed: dict[UUID, tuple[datetime, str]] = field(default_factory=dict)
    """Steps that the run's stream has ended, when and how."""
    winners: dict[str, str] = field(default_factory=dict)
    """Of `any` joins that have begun so far, by key."""

    def look_at(self, row: Row) -> None:
        """One row of the run's stream, in order."""
        fact, at = row.fact, row.entry.at
        match fact:
            case RunSubmitted():
                self._grow(fact.plan.steps)
            case PlanPatched():
                self._check_growth(row, fact)
                for keys, status in ((fact.patch.drop, "cancelled"), (fact.patch.supersede, "superseded")):
                    self.closed |= {step_id(self.run.run_id, key): (at, status) for key in keys}
                self._grow(fact.patch.add)
            case StepsSkipped():
                self.closed |= dict.fromkeys(fact.steps, (at, fact.outcome))
                if fact.outcome == "skipped":
                    self._check_skipped(row, fact)
            case JoinsWon():
                self._check_winners(row, fact)
                self.winners |= fact.winners
            case RunFinished():
                self._check_outcome(row, fact)
            case _:
                pass

    def _grow(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.parent is not None:
                self.children[step.parent].append(step)

    def _check_growth(self, row: Row, fact: PlanPatched) -> None:
        by = self.run.planned.get(fact.by_step) if fact.by_step is not None else None
        if by is None or self._is_erased(by) or by.role == REPLANNER:
            # What a change of the plan came to follows from where each step stood just then, which no row tells.
            return
        if by.kind in CONTROL_KINDS:
            found = self._proceed(by, row.entry.at)
            self.run.decisions += 1
            if not isinstance(found, Grow) or found.add != fact.patch.add:
                added = [step.model_dump(mode="json") for step in fact.patch.add]
                self.run.diverges(row.entry, "patch.add", expected=added, found=_told(found))
        elif (end := self.ends.get(step_id(self.run.run_id, by.key))) is not None:
            patch = end.fact.patch if isinstance(end.fact, StepFinished) else None
            if patch is not None:
                self.run.decisions += 1
                if patch != fact.patch:
                    self.run.diverges(
                        row.entry,
                        "patch",
                        expected=fact.patch.model_dump(mode="json"),
                        found=patch.model_dump(mode="json"),
                    )

    def check_end(self, step: Step, row: Row) -> None:
        """A control step's own end is what its children had come to."""
        fact = row.fact
        if not isinstance(fact, StepFinished) or fact.outcome == "cancelled" or fact.copied_from is not None:
            return
        if self._is_erased(step):
            return
        found = self._proceed(step, row.entry.at)
        self.run.decisions += 1
        if isinstance(found, Grow) and fact.outcome == "failed":
            # Its children did not fit the plan.
            return
        if not isinstance(found, End):
            self.run.diverges(row.entry, "outcome", expected=fact.outcome, found=_told(found))
            return
        for name in ("outcome", "result", "label", "error"):
            if getattr(found, name) != getattr(fact, name):
                self.run.diverges(row.entry, name, expected=getattr(fact, name), found=getattr(found, name))

    def _is_erased(self, step: Step) -> bool:
        """Whether what it decided rests on something that cannot be read any more."""
        rests_on = {step.key, *step.after, *(child.key for child in self.children[step.key])}
        return not self.run.erased.isdisjoint(step_id(self.run.run_id, key) for key in rests_on)

    def _proceed(self, step: Step, at: datetime) -> Grow | End | None:
        step = races.with_winner(step, self.winners)
        before = {key: self.ends.get(step_id(self.run.run_id, key)) for key in step.after}
        given: dict[str, JsonValue] = {
            key: row.fact.result
            for key, row in before.items()
            if row is not None and isinstance(row.fact, StepFinished) and row.fact.outcome == "succeeded"
        }
        # Of rounds that came later it could not know.
        known = [self._child(child, at) for child in self.children[step.key]]
        return control.proceed(step, known, given=given, seed=step_id(self.run.run_id, step.key))

    def _child(self, step: Step, at: datetime) -> Child:
        identity = step_id(self.run.run_id, step.key)
        end, closed = self.ends.get(identity), self.closed.get(identity)
        if end is not None and end.entry.at <= at and isinstance(end.fact, StepFinished):
            fact = end.fact
            return Child(step=step, status=fact.outcome, result=fact.result, error=fact.error, commit=fact.commit)
        return Child(step=step, status=closed[1] if closed is not None and closed[0] <= at else "open")

    def _check_skipped(self, row: Row, fact: StepsSkipped) -> None:
        if self.run.erased:
            return
        # What was superseded later was skipped on other grounds than those that count now.
        steps = {one for one in fact.steps if self.run.state.steps[one].status == "skipped"}
        self.run.decisions += 1
        unexpected = steps - self._settled(opened=steps).skipped
        if unexpected:
            keys = sorted(self.run.planned[one].key for one in unexpected)
            self.run.diverges(row.entry, "steps", expected=keys, found="they can run")

    def _check_winners(self, row: Row, fact: JoinsWon) -> None:
        """Whoever has won was waited for and had succeeded by then."""
        for join, winner in fact.winners.items():
            identity = step_id(self.run.run_id, winner)
            if identity in self.run.erased:
                continue
            self.run.decisions += 1
            step, end = self.run.planned.get(step_id(self.run.run_id, join)), self.ends.get(identity)
            has_won = end is not None and isinstance(end.fact, StepFinished) and end.fact.outcome == "succeeded"
            if step is None or winner not in step.after or not has_won:
                self.run.diverges(
                    row.entry, "winners", expected=winner, found="it was not waited for, or had not succeeded"
                )

    def _check_outcome(self, row: Row, fact: RunFinished) -> None:
        if fact.outcome == "cancelled" or self.run.erased:
            return
        self.run.decisions += 1
        outcome = self._settled().outcome
        if outcome == "succeeded" and is_over_budget(self._errors()):
            outcome = "failed"
        if outcome != fact.outcome:
            self.run.diverges(row.entry, "outcome", expected=fact.outcome, found=outcome)

    def _errors(self) -> Iterator[str]:
        """Of the steps that failed and were not done again."""
        for step in self.run.planned:
            rows = self.run.step_rows.get(step)
            if self.run.state.steps[step].status == "failed" and rows and isinstance(rows[-1].fact, StepFinished):
                yield rows[-1].fact.error

    def _settled(self, opened: Iterable[UUID] = ()) -> Any:
        steps = self.run.state.steps
        status: dict[UUID, str] = {one: steps[one].status for one in self.run.planned}
        status |= dict.fromkeys(opened, "open")
        labels = {one: label for one in self.run.planned if (label := steps[one].label) is not None}
        return settle({one: steps[one] for one in self.run.planned}, status, labels)

    def check_anchors(self) -> None:
        """The heads that the run's stream has of its steps'."""
        for row in self.run.run_rows:
            if not isinstance(row.fact, StepsAnchored):
                continue
            for anchor in row.fact.anchors:
                rows = self.run.step_rows.get(anchor.step, [])
                head = next((one.entry.hash.hex() for one in rows if one.entry.seq == anchor.seq), None)
                if head != anchor.hash and anchor.step not in self.run.erased:
                    self.run.diverges(row.entry, "anchors", expected=anchor.hash, found=head)


def facts_of(rows: Iterable[Row]) -> list[StepFact]:
    """The facts of a step's rows."""
    return [row.fact for row in rows]  # type: ignore[misc]


def _told(found: Grow | End | None) -> Any:
    match found:
        case Grow():
            return [step.model_dump(mode="json") for step in found.add]
        case End():
            return {"outcome": found.outcome, "result": found.result, "error": found.error}
        case _:
            return "it waits for its children"


def _json(value: Any) -> JsonValue:
    text = json.dumps(value, default=str)
    # A result may have megabytes; the beginning tells what it is.
    return json.loads(text) if len(text) <= 2_000 else f"{text[:2_000]} …"

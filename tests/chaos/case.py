"""The evidence in order: whose stream a row is of, which call it speaks of, who held a step and until when; pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from chaos.evidence import Evidence, Row, Run, Step

RUN_STREAM = UUID(int=0)
RUN_ENDINGS = frozenset({"succeeded", "failed", "cancelled"})
STEP_ENDINGS = frozenset({"succeeded", "failed", "cancelled", "skipped"})
# After these rows nobody holds the step.
LETS_GO = frozenset({"step.released", "step.waiting", "step.finished", "step.recovered"})
# Of fewer steps nothing can be said of what is usual.
LEAST_WAITS = 5
# Two that wait for a place, and one that has it.
MESSAGES_A_PLACE = 3
ANSWERS = frozenset({"model.responded", "model.failed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenure:
    """One claim of a step, as far as its stream tells."""

    step: Step
    claimed: Row
    rows: Sequence[Row]
    """From the claim to the last row of its epoch, the claim included."""
    ended: Row | None
    """The row that let go of the step, or the next claim; None: it holds the step to this day."""

    @property
    def holder_pid(self) -> int | None:
        """The process that claimed it: holders are called `<pool>@<host>:<pid>`."""
        _, _, pid = str(self.claimed.fact.get("holder", "")).rpartition(":")
        return int(pid) if pid.isdecimal() else None

    def held_at(self, moment: float) -> bool:
        """Whether the step was held under this claim then."""
        return seconds(self.claimed.at) <= moment and (self.ended is None or seconds(self.ended.at) > moment)


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalCall:
    """A call of a model as a step's stream tells it."""

    step: Step
    requested: Row
    answers: Sequence[Row]
    """`model.responded` or `model.failed`; one, if all is well."""
    abandoned: Sequence[Row]

    @property
    def call_id(self) -> str:
        """As the journal names it."""
        return str(self.requested.fact["call_id"])

    @property
    def name(self) -> str:
        """As a person finds it again."""
        return f"call {self.call_id} of step {self.step.key!r}"

    @property
    def reserved_microusd(self) -> int:
        """What was set aside for it."""
        return int(self.requested.fact["reserved_microusd"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """One use of a tool as a step's stream tells it."""

    step: Step
    announced: Sequence[Row]
    """`tool.started`; none of a pure tool, more than one when a person let it happen again."""
    results: Sequence[Row]

    @property
    def keys(self) -> frozenset[str]:
        """The idempotency keys it was announced with."""
        return frozenset(str(row.fact["key"]) for row in self.announced)


class Case:
    """The evidence, sorted once for all rules."""

    def __init__(self, evidence: Evidence) -> None:
        """Sort the rows by stream."""
        self.evidence = evidence
        self.runs: Mapping[UUID, Run] = {run.id: run for run in evidence.runs}
        self.steps: Mapping[UUID, Step] = {step.id: step for step in evidence.steps}
        self.steps_of: dict[UUID, list[Step]] = defaultdict(list)
        for step in evidence.steps:
            self.steps_of[step.run].append(step)
        self.streams: dict[tuple[UUID, UUID], list[Row]] = defaultdict(list)
        for row in evidence.journal:
            self.streams[row.run, row.step].append(row)
        self.named: Mapping[tuple[str, str], Step] = {(str(step.run), step.key): step for step in evidence.steps}
        self.before: dict[UUID, list[UUID]] = defaultdict(list)
        for predecessor, successor in evidence.edges:
            self.before[successor].append(predecessor)
        self.depended_on = frozenset(predecessor for predecessor, _ in evidence.edges)

    def of_run(self, run: Run) -> list[Row]:
        """The run's own stream."""
        return self.streams.get((run.id, RUN_STREAM), [])

    def of_step(self, step: Step) -> list[Row]:
        """A step's stream."""
        return self.streams.get((step.run, step.id), [])

    @cached_property
    def tenures(self) -> list[Tenure]:
        """Every claim of every step."""
        return [tenure for step in self.evidence.steps for tenure in self.tenures_of[step.id]]

    @cached_property
    def tenures_of(self) -> dict[UUID, list[Tenure]]:
        """step → its claims, in order."""
        return {step.id: list(_tenures(step, self.of_step(step))) for step in self.evidence.steps}

    @cached_property
    def tenures_by_pid(self) -> dict[int | None, list[Tenure]]:
        """process → its claims."""
        by_pid: dict[int | None, list[Tenure]] = defaultdict(list)
        for tenure in self.tenures:
            by_pid[tenure.holder_pid].append(tenure)
        return by_pid

    def turn(self, step: Step, *, struck: float, mended: float, again: float) -> float:
        """Seconds that a step which was lost at `struck` may have waited for its turn before it ran `again`.

        `mended`: when the last strike in its way was over.
        """
        found = [
            seconds(row.at)
            for row in self.of_step(step)
            if row.kind == "step.recovered" and struck <= seconds(row.at) < again
        ]
        ready = max([mended, *found])
        return max(
            self.usual_wait(step, since=struck, again=again),
            self.queue_wait(step, since=min(ready, again), again=again),
        )

    def usual_wait(self, step: Step, *, since: float, again: float) -> float:
        """Seconds that half of the steps of its pool waited at least that were claimed for the first time meanwhile.

        From the end of the last step that they wait for. What else keeps a step from its turn (its run was paused, its
        worker was killed) is that of single ones, and does not move the middle. What its pool took together with the
        step, `again`, or within a recovery of that, excuses nothing: it may have stood still for the same reason.
        """
        until = again - self.recovery_seconds
        waits = self._first_waits[step.spec.get("pool")]
        first = bisect_left(waits, (since, 0.0))
        meanwhile = sorted(waited for at, waited in waits[first : bisect_left(waits, (until, 0.0))])
        return meanwhile[len(meanwhile) // 2] if len(meanwhile) >= LEAST_WAITS else 0.0

    def queue_wait(self, step: Step, *, since: float, again: float) -> float:
        """Seconds that the messages took which may lie before that of a step that is ready again since then.

        A pool has up to two messages for each of its places, and may be refilled by others once more before it is the
        step's turn. It must go on taking them: a pause as long as the margin of a recovery ends what is excused.
        """
        pool = step.spec.get("pool")
        taken = self._messages_taken[pool]
        first = bisect_right(taken, since)
        turn = since
        for at in taken[first : first + MESSAGES_A_PLACE * self.evidence.places]:
            if at >= again or at - turn > self.evidence.recovery_margin_seconds:
                break
            turn = at
        return turn - since

    @cached_property
    def _messages_taken(self) -> dict[Any, list[float]]:
        """pool → when each message was taken, in order; the scripts of a pack are claimed at one moment."""
        taken: dict[Any, set[tuple[float, Any]]] = defaultdict(set)
        for tenure in self.tenures:
            taken[tenure.step.spec.get("pool")].add((seconds(tenure.claimed.at), tenure.claimed.fact.get("holder")))
        return defaultdict(list, {pool: sorted(at for at, _ in messages) for pool, messages in taken.items()})

    @property
    def recovery_seconds(self) -> float:
        """Within so long a step runs again after its process was killed, if nothing is in its way."""
        return self.evidence.lease_seconds + self.evidence.recovery_margin_seconds

    @cached_property
    def _first_waits(self) -> dict[Any, list[tuple[float, float]]]:
        """pool → when each step was claimed for the first time, and how long it had been ready by then; by time."""
        waits: dict[Any, list[tuple[float, float]]] = defaultdict(list)
        for step in self.evidence.steps:
            before = [self.of_step(self.steps[one]) for one in self.before[step.id] if one in self.steps]
            ended = [seconds(rows[-1].at) for rows in before if rows and rows[-1].kind == "step.finished"]
            claimed = self.tenures_of[step.id][:1]
            # One that waits for nothing was ready when its run began, which is earlier than its turn in a long queue.
            if claimed and before and len(ended) == len(before):
                at = seconds(claimed[0].claimed.at)
                waits[step.spec.get("pool")].append((at, max(0.0, at - max(ended))))
        for found in waits.values():
            found.sort()
        return waits

    @cached_property
    def calls(self) -> dict[str, JournalCall]:
        """call id → every call that was ever requested."""
        found: dict[str, JournalCall] = {}
        for step in self.evidence.steps:
            rows = self.of_step(step)
            about = _by_call(rows)
            for row in rows:
                if row.kind == "model.requested":
                    call_id = str(row.fact["call_id"])
                    found[call_id] = JournalCall(
                        step=step,
                        requested=row,
                        answers=[other for other in about[call_id] if other.kind in ANSWERS],
                        abandoned=[other for other in about[call_id] if other.kind == "call.abandoned"],
                    )
        return found

    @cached_property
    def charged(self) -> dict[UUID, int]:
        """step → micro-dollars that its run charged for calls in flight when it ended."""
        return self._of_steps("reservations.charged", "charged_microusd")

    @cached_property
    def returned(self) -> dict[UUID, int]:
        """step → micro-dollars that its run gave back when an answer came late."""
        return self._of_steps("reservations.returned", "returned_microusd")

    def _of_steps(self, kind: str, field: str) -> dict[UUID, int]:
        amounts: dict[UUID, int] = defaultdict(int)
        for run in self.evidence.runs:
            for row in self.of_run(run):
                if row.kind == kind:
                    for step, amount in row.fact[field].items():
                        amounts[UUID(step)] += amount
        return amounts

    def tool_uses(self, step: Step) -> list[ToolUse]:
        """Every use of a tool; its id is unique in the answer that it is of."""
        announced: dict[tuple[str, str], list[Row]] = defaultdict(list)
        results: dict[tuple[str, str], list[Row]] = defaultdict(list)
        call = ""
        for row in self.of_step(step):
            if row.kind == "model.responded":
                call = str(row.fact["call_id"])
            elif row.kind == "tool.started":
                announced[call, row.fact["tool_use_id"]].append(row)
            elif row.kind == "tool.finished":
                results[call, row.fact["tool_use_id"]].append(row)
        uses = dict.fromkeys((*announced, *results))
        return [ToolUse(step=step, announced=announced[use], results=results[use]) for use in uses]

    def was_answered(self, step: Step, *choices: str) -> int:
        """How often a person chose one of these (or anything) for the step."""
        rows = [row for row in self.of_step(step) if row.kind == "signal.received"]
        return sum(not choices or row.fact["choice"] in choices for row in rows)


def seconds(moment: datetime) -> float:
    """Seconds since the epoch, as the ledger counts them."""
    return moment.timestamp()


def short(run: UUID | str) -> str:
    """A run as `chargehand status` names it."""
    return str(run)[-12:]


def _tenures(step: Step, rows: Sequence[Row]) -> Iterator[Tenure]:
    claims = [position for position, row in enumerate(rows) if row.kind == "step.claimed"]
    for number, position in enumerate(claims):
        last = claims[number + 1] if number + 1 < len(claims) else len(rows)
        own = rows[position:last]
        ended = next((row for row in own if row.kind in LETS_GO), rows[last] if last < len(rows) else None)
        yield Tenure(step=step, claimed=rows[position], rows=own, ended=ended)


def _by_call(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    about: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        call_id: Any = row.fact.get("call_id") if row.kind in ANSWERS or row.kind == "call.abandoned" else None
        if call_id is not None:
            about[str(call_id)].append(row)
    return about

"""What facts mean: the one reducer that production, replay, simulation and the pages share.

`fold` gives the state that a journal describes; `settle` decides what follows from a state. Neither does I/O.

The journal does not record how far a step is on its way to a worker (*pending, ready, queued, chained*): that follows
from its predecessors and from messages that may be lost, so all four are `open` here. Nor does it record that a wait is
over before somebody claims the step: that follows from the clock, from `signals` and from the budget. A run's streams
may be folded in any order that keeps each stream's own, because a fact touches nothing but its own stream's subject.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, Protocol
from uuid import UUID

from chargehand.orchestrator.copying import changed
from chargehand.orchestrator.errors import IllegalFact
from chargehand.orchestrator.facts import (
    AnyFact,
    BatchSubmitted,
    BreakerTripped,
    BudgetRaised,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    PlanPatched,
    ReservationsCharged,
    ReservationsReturned,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    RunSubmitted,
    SignalReceived,
    StateRefreshed,
    StepClaimed,
    StepFinished,
    StepForked,
    StepRecovered,
    StepReleased,
    StepsAnchored,
    StepsSkipped,
    StepTold,
    StepWaiting,
    TaskRequested,
    TaskReturned,
    TaskSent,
    ToolFinished,
    ToolStarted,
    WaitReason,
)
from chargehand.orchestrator.plan import Join, Step, step_id

StepStatus = Literal["open", "running", "waiting", "succeeded", "failed", "cancelled", "skipped", "superseded"]
RunStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Effect = Literal["ring", "anchor", "apply_patch", "unchain"]

STEP_ENDINGS = frozenset({"succeeded", "failed", "cancelled", "skipped", "superseded"})
NO_LABELS: Mapping[UUID, str] = MappingProxyType({})
RUN_ENDINGS = frozenset({"succeeded", "failed", "cancelled"})


# Without slots: see `copying`.
@dataclass(frozen=True, kw_only=True)
class StepState:
    """One step as its stream tells it."""

    step_id: UUID
    key: str
    after: tuple[UUID, ...]
    join: Join
    status: StepStatus = "open"
    epoch: int = 0
    crashes: int = 0
    seq: int = 0
    turns: int = 0
    spent_microusd: int = 0
    reserved: Mapping[UUID, int] = field(default_factory=dict)
    """Calls in flight or of unknown outcome: call id → micro-dollars."""
    wait_id: UUID | None = None
    wait_reason: WaitReason | None = None
    error: str = ""
    when: Mapping[UUID, str] = field(default_factory=dict)
    parent: UUID | None = None
    label: str | None = None
    """The way that a branch chose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run as its journal tells it."""

    run_id: UUID
    status: RunStatus = "running"
    seq: int = 0
    budget_microusd: int = 0
    plan_version: int = 0
    steps: Mapping[UUID, StepState] = field(default_factory=dict)
    anchored: frozenset[UUID] = frozenset()
    returned: Mapping[UUID, int] = field(default_factory=dict)
    """What late answers have given back: step → micro-dollars, to be taken off what its own stream spent."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A fact with its place in the journal."""

    step: UUID | None
    """None in the run's own stream."""
    seq: int
    epoch: int
    fact: AnyFact


def apply(state: RunState, recorded: Recorded) -> tuple[RunState, tuple[Effect, ...]]:
    """The state after one more fact, and what must happen because of it.

    Raises `IllegalFact` when the fact does not follow: a gap in the stream, an older epoch, a write after the end.
    """
    if recorded.step is None:
        return _apply_to_run(state, recorded)
    step = state.steps.get(recorded.step)
    if step is None:
        raise IllegalFact(f"Run {state.run_id} has no step {recorded.step}; its plan was not recorded.")
    after, effects = apply_to_step(step, recorded)
    return replace(state, steps={**state.steps, recorded.step: after}), effects


def fold(run_id: UUID, journal: Iterable[Recorded]) -> RunState:
    """The state that a whole journal describes; rows of one stream in their order, the streams in any."""
    rows = sorted(journal, key=lambda recorded: recorded.step is not None)
    state = RunState(run_id=run_id)
    steps: dict[UUID, StepState] | None = None
    for recorded in rows:
        if recorded.step is None:
            state, _ = _apply_to_run(state, recorded)
            continue
        if steps is None:
            steps = dict(state.steps)
        if recorded.step not in steps:
            raise IllegalFact(f"Run {run_id} has no step {recorded.step}; its plan was not recorded.")
        steps[recorded.step], _ = apply_to_step(steps[recorded.step], recorded)
    return state if steps is None else replace(state, steps=steps)


def _apply_to_run(state: RunState, recorded: Recorded) -> tuple[RunState, tuple[Effect, ...]]:
    if recorded.seq != state.seq + 1:
        raise IllegalFact(f"Run {state.run_id} is at row {state.seq}; row {recorded.seq} does not follow.")
    fact = recorded.fact
    state = replace(state, seq=recorded.seq)
    match fact:
        case RunSubmitted():
            steps = _states(state.run_id, fact.plan.steps)
            return replace(state, steps=steps, budget_microusd=fact.budget_microusd, plan_version=1), ("ring",)
        case PlanPatched():
            dropped = {step_id(state.run_id, key) for key in fact.patch.drop}
            superseded = {step_id(state.run_id, key) for key in fact.patch.supersede}
            kept = {
                key: replace(step, status="cancelled")
                if key in dropped
                else replace(step, status="superseded")
                if key in superseded
                else step
                for key, step in state.steps.items()
            }
            steps = {**kept, **_states(state.run_id, fact.patch.add)}
            return replace(state, steps=steps, plan_version=fact.plan_version), ("ring",)
        case RunPaused():
            return replace(state, status="paused"), ()
        case RunQueued():
            return replace(state, status="queued"), ()
        case RunResumed() | RunStarted():
            return replace(state, status="running"), ("ring",)
        case BudgetRaised():
            return replace(state, budget_microusd=fact.budget_microusd), ()
        case StepsSkipped():
            ended = {step: replace(state.steps[step], status=fact.outcome) for step in fact.steps}
            return replace(state, steps={**state.steps, **ended}), ("ring",)
        case StepsAnchored():
            return replace(state, anchored=state.anchored | {anchor.step for anchor in fact.anchors}), ()
        case ReservationsCharged():
            # Money of a step's stream that only the run can close; the step's own facts are applied after it,
            # so it is subtracted where the totals are compared, not here.
            return state, ()
        case ReservationsReturned():
            given = fact.returned_microusd
            totals = {step: state.returned.get(step, 0) + given.get(step, 0) for step in {*state.returned, *given}}
            return replace(state, returned=totals), ()
        case RunFinished():
            return replace(state, status=fact.outcome, reason=fact.reason), ("anchor",)
        case _:
            return state, ()


def _states(run_id: UUID, steps: Iterable[Step]) -> dict[UUID, StepState]:
    return {
        step_id(run_id, step.key): StepState(
            step_id=step_id(run_id, step.key),
            key=step.key,
            after=tuple(step_id(run_id, key) for key in step.after),
            join=step.join,
            when={step_id(run_id, key): label for key, label in step.when.items()},
            parent=None if step.parent is None else step_id(run_id, step.parent),
        )
        for step in steps
    }


def apply_to_step(step: StepState, recorded: Recorded) -> tuple[StepState, tuple[Effect, ...]]:
    """One step after one more fact of its stream; raises `IllegalFact`."""
    after, effects = _apply_to_step(step, recorded)
    if step.status in STEP_ENDINGS:
        # The run's stream ended it (dropped, skipped, cancelled, superseded), and may be folded first.
        after = changed(after, status=step.status)
    return after, effects


def _apply_to_step(step: StepState, recorded: Recorded) -> tuple[StepState, tuple[Effect, ...]]:
    if recorded.seq != step.seq + 1:
        raise IllegalFact(f"Step {step.key!r} is at row {step.seq}; row {recorded.seq} does not follow.")
    fact = recorded.fact
    if isinstance(fact, StepClaimed):
        if recorded.epoch <= step.epoch:
            raise IllegalFact(f"Step {step.key!r} was claimed at epoch {step.epoch}; {recorded.epoch} is no later.")
        return changed(
            step,
            seq=recorded.seq,
            status="running",
            epoch=recorded.epoch,
            crashes=fact.crashes,
            wait_id=None,
            wait_reason=None,
        ), ()
    if recorded.epoch != step.epoch:
        raise IllegalFact(f"Step {step.key!r} is at epoch {step.epoch}; a row of epoch {recorded.epoch} is a zombie's.")
    seq = recorded.seq
    # A copy is most of what a fact costs: one each. The facts of turns first: they are most of a journal.
    match fact:
        case ModelRequested():
            reserved = {**step.reserved, fact.call_id: fact.reserved_microusd}
            return changed(step, seq=seq, reserved=reserved, turns=step.turns + 1), ()
        case ModelResponded() | ModelFailed():
            return _settled(step, seq, fact.call_id, fact.cost_microusd, crashes=0), ()
        case (
            ToolFinished()
            | ToolStarted()
            | SignalReceived()
            | StepTold()
            | StateRefreshed()
            | OutputsEvicted()
            | BreakerTripped()
            | StepForked()
            | BatchSubmitted()
        ):
            return changed(step, seq=seq), ()
        case CallAbandoned():
            return _settled(step, seq, fact.call_id, fact.charged_microusd, crashes=step.crashes), ()
        case StepReleased():
            return changed(step, seq=seq, status="open"), ("unchain", "ring")
        case StepRecovered():
            return changed(step, seq=seq, status="open", crashes=fact.crashes), ("unchain", "ring")
        case StepWaiting():
            waiting = changed(step, seq=seq, status="waiting", wait_id=fact.wait_id, wait_reason=fact.reason)
            return waiting, ("unchain", "ring")
        case StepFinished():
            effects: tuple[Effect, ...] = (
                ("ring", "anchor") if fact.patch is None else ("apply_patch", "ring", "anchor")
            )
            return changed(step, seq=seq, status=fact.outcome, error=fact.error, label=fact.label), effects
        case TaskRequested() | TaskSent() | TaskReturned():
            # Whatever the user's own app does, the step waits until it is told.
            return changed(step, seq=seq), ()
        case _:
            raise IllegalFact(f"A {fact.kind} has no place in the stream of step {step.key!r}.")


def _settled(step: StepState, seq: int, call_id: UUID, cost_microusd: int, *, crashes: int) -> StepState:
    open_calls = {call: amount for call, amount in step.reserved.items() if call != call_id}
    spent = step.spent_microusd + cost_microusd
    return changed(step, seq=seq, reserved=open_calls, spent_microusd=spent, crashes=crashes)


# --- what follows from a state ----------------------------------------------------------------------------------------


class Joined(Protocol):
    """A step that waits for others, by whatever they are called."""

    @property
    def after(self) -> Collection[object]:
        """Those it waits for."""
        ...

    @property
    def join(self) -> Join:
        """Which of them."""
        ...


class Placed(Protocol):
    """A step as far as joins are concerned."""

    @property
    def after(self) -> tuple[UUID, ...]:
        """Its predecessors."""
        ...

    @property
    def join(self) -> Join:
        """Which of them it waits for."""
        ...

    @property
    def when(self) -> Mapping[UUID, str]:
        """Of branches among them: the label under which this way is taken."""
        ...

    @property
    def parent(self) -> UUID | None:
        """The step that stands for it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What `advance` finds to do in a run."""

    ready: frozenset[UUID]
    """Open steps whose predecessors let them run; some may be on their way to a worker already."""
    skipped: frozenset[UUID]
    """Steps that can never run any more: no way that is taken reaches them, or what they need failed."""
    outcome: Literal["succeeded", "failed"] | None
    """Set when every step has ended."""


# A skipped step was not reached, which is nobody's fault, or what it needed failed; its status does not say which.
Fate = Literal[
    "open",
    "running",
    "waiting",
    "succeeded",
    "failed",
    "cancelled",
    "superseded",
    "unreached",
    "blocked",
    # Of the way to it, not of a step: its predecessor is a branch that took another one.
    "untaken",
]
_OVER = frozenset({"succeeded", "failed", "cancelled", "superseded", "unreached", "blocked", "untaken"})
_LOST = frozenset({"failed", "cancelled", "blocked"})


def settle(
    places: Mapping[UUID, Placed], status: Mapping[UUID, str], labels: Mapping[UUID, str] = NO_LABELS
) -> Settlement:
    """Which steps may run, which never will, and whether the run is over.

    `places` in plan order, which is topological; `status` as a `StepStatus`; `labels`: the ways that branches took.
    A step waits for *all* its predecessors that are reached to succeed, for *any* of them, or (`settled`) for all to
    end in whatever way. One that cannot run any more is skipped, and so is what depends on it. The run succeeds when
    every step that nothing depends on succeeded, or was not reached; a step's parent stands for it.
    """
    fate: dict[UUID, Fate] = {}
    ready: set[UUID] = set()
    skipped: set[UUID] = set()
    is_over = True
    # One pass, because the order is topological: it sees a skip before what depends on it.
    for identity, place in places.items():
        current = status[identity]
        if current in ("open", "skipped"):
            verdict = _judge(place.join, _ways_to(place, fate, labels))
            if current == "skipped":
                fate[identity] = "unreached" if verdict == "unreached" else "blocked"
                continue
            if verdict == "run":
                ready.add(identity)
            elif verdict != "wait":
                skipped.add(identity)
                fate[identity] = verdict
                continue
        fate[identity] = current  # type: ignore[assignment]
        is_over = is_over and current in STEP_ENDINGS
    if not is_over:
        return Settlement(ready=frozenset(ready), skipped=frozenset(skipped), outcome=None)
    counting = {identity: place for identity, place in places.items() if fate[identity] != "superseded"}
    depended_on = {predecessor for place in counting.values() for predecessor in place.after}
    succeeded = all(
        fate[identity] in ("succeeded", "unreached")
        for identity, place in counting.items()
        if identity not in depended_on and place.parent is None
    )
    return Settlement(ready=frozenset(), skipped=frozenset(skipped), outcome="succeeded" if succeeded else "failed")


def is_race(step: Joined) -> bool:
    """Whether a step goes on with the first of several."""
    return step.join == "any" and len(step.after) > 1


def _ways_to(place: Placed, fate: Mapping[UUID, Fate], labels: Mapping[UUID, str]) -> list[Fate]:
    """The fates of its predecessors, as far as they lead to it."""
    ways = [fate[predecessor] for predecessor in place.after]
    if not place.when:
        return ways
    return [
        "untaken"
        if way in ("succeeded", "unreached") and place.when.get(predecessor) not in (None, labels.get(predecessor))
        else way
        for way, predecessor in zip(ways, place.after, strict=True)
    ]


def _judge(join: Join, before: list[Fate]) -> Literal["run", "wait", "unreached", "blocked"]:
    if not before:
        return "run"
    if join == "any":
        if "succeeded" in before:
            return "run"
        if not _OVER.issuperset(before):
            return "wait"
    elif join == "settled":
        return "run" if _OVER.issuperset(before) else "wait"
    elif not _LOST.isdisjoint(before):
        return "blocked"
    elif "untaken" in before:
        # Its own way was not taken, whatever else has succeeded; a join of ways has none of its own.
        return "unreached"
    elif not _OVER.issuperset(before):
        return "wait"
    elif "succeeded" in before:
        return "run"
    return "unreached" if _LOST.isdisjoint(before) else "blocked"

"""One round of a run: what its steps, as they stand now, make possible; pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import UUID

from chargehand.orchestrator.facts import OVER_BUDGET, OVER_OWN_BUDGET
from chargehand.orchestrator.plan import CONTROL_KINDS, Join
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS, is_race, settle

FAILURES = frozenset({"failed", "cancelled"})
# No worker of ours is sent a message for these.
UNATTENDED = CONTROL_KINDS | {"gate", "celery_task"}
# How far a step is on its way to a worker is not the reducer's concern.
ON_THE_WAY = frozenset({"pending", "ready", "queued", "chained"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What never changes of a step: its place in the graph."""

    step_id: UUID
    key: str
    ordinal: int
    """Topological."""
    pool: str
    kind: str
    name: str | None
    """Its role or its script."""
    join: Join
    after: tuple[UUID, ...]
    when: Mapping[UUID, str] = field(default_factory=dict)
    """Of branches among them: the label under which this way is taken."""
    parent: UUID | None = None
    """The control step that appended it and stands for it."""


class Standing(NamedTuple):
    """How a step stands in the tables."""

    status: str
    head_seq: int
    solo: bool
    anchored: bool
    patched: bool
    """Its end was looked at for a patch of the plan."""
    reserved_microusd: int
    label: str | None = None
    """The way that a branch took."""
    awaits_children: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round has to write; steps in plan order."""

    ready: tuple[UUID, ...] = ()
    """Now pending or chained, may go to a worker."""
    gates: tuple[UUID, ...] = ()
    """Pending, may be put before a person."""
    tasks: tuple[UUID, ...] = ()
    """Pending, may be sent to the workers of the user's own app."""
    opened: tuple[UUID, ...] = ()
    """Branches, maps, repeats and merges that begin: they append their first children."""
    racing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of those that begin, the `any` joins of several → who has succeeded of the steps that each waited for, by key."""
    to_look_at: tuple[UUID, ...] = ()
    """Those under way, and agents that asked a colleague, whose children may let them go on, or are not there yet."""
    to_cancel: Mapping[UUID, str] = field(default_factory=dict)
    """Steps that nobody needs any more → why."""
    skipped: tuple[UUID, ...] = ()
    to_anchor: tuple[UUID, ...] = ()
    """Ended since the last round: the heads of their streams go into the run's."""
    to_charge: Mapping[UUID, int] | None = None
    """Set when the run is over: micro-dollars of calls that were in flight when their step ended."""
    outcome: Literal["succeeded", "failed"] | None = None
    """The run ends with this round."""
    may_admit: bool = False
    """Some step is, or becomes, ready."""


def decide(places: Mapping[UUID, Place], standings: Mapping[UUID, Standing], *, run_status: str) -> Round:
    """What follows from how the steps of a run stand.

    `places` and `standings` in plan order. A run that a person has ended is only closed; a paused one starts nothing.
    """
    if run_status in RUN_ENDINGS:
        return Round(to_anchor=_to_anchor(standings, frozenset()), to_charge=_to_charge(standings))
    status = {
        step: "open" if standing.status in ON_THE_WAY else standing.status for step, standing in standings.items()
    }
    labels = {step: standing.label for step, standing in standings.items() if standing.label is not None}
    found = settle(places, status, labels)
    skipped = tuple(step for step in places if step in found.skipped) if found.skipped else ()
    to_anchor = _to_anchor(standings, found.skipped)
    if found.outcome is not None:
        return Round(skipped=skipped, to_anchor=to_anchor, to_charge=_to_charge(standings), outcome=found.outcome)
    to_cancel = _not_needed(places, standings, found.ready, found.skipped)
    if run_status != "running":
        return Round(skipped=skipped, to_anchor=to_anchor, to_cancel=to_cancel)
    started = [step for step in found.ready - to_cancel.keys() if standings[step].status in {"pending", "chained"}]
    started.sort(key=lambda step: places[step].ordinal)
    ready = tuple(step for step in started if places[step].kind not in UNATTENDED)
    return Round(
        ready=ready,
        gates=tuple(step for step in started if places[step].kind == "gate"),
        tasks=tuple(step for step in started if places[step].kind == "celery_task"),
        opened=tuple(step for step in started if places[step].kind in CONTROL_KINDS),
        racing={places[step].key: _racers(places, step, standings) for step in started if is_race(places[step])},
        # What is cancelled in this very round does not end a second time.
        to_look_at=tuple(step for step in _to_look_at(places, standings) if step not in to_cancel),
        skipped=skipped,
        to_anchor=to_anchor,
        to_cancel=to_cancel,
        may_admit=bool(ready) or any(standings[step].status == "ready" for step in found.ready),
    )


def is_over_budget(errors: Iterable[str]) -> bool:
    """Whether any of a run's failed steps had no money, calls, tokens or time left of the run's or of its tenant's."""
    return any(error.startswith(OVER_BUDGET) and not error.startswith(OVER_OWN_BUDGET) for error in errors)


def _racers(places: Mapping[UUID, Place], join: UUID, standings: Mapping[UUID, Standing]) -> tuple[str, ...]:
    """Of the steps before it those that have succeeded, on a way that leads to it."""
    place = places[join]
    return tuple(
        places[before].key
        for before in place.after
        if standings[before].status == "succeeded" and place.when.get(before) in (None, standings[before].label)
    )


def _to_look_at(places: Mapping[UUID, Place], standings: Mapping[UUID, Standing]) -> tuple[UUID, ...]:
    """Steps that wait for their children and have no open one, or one that did not succeed."""
    children: dict[UUID, list[str]] = {step: [] for step, standing in standings.items() if standing.awaits_children}
    if not children:
        return ()
    for step, place in places.items():
        if place.parent in children:
            children[place.parent].append(standings[step].status)
    return tuple(
        step
        for step, statuses in children.items()
        if STEP_ENDINGS.issuperset(statuses)
        or (places[step].kind in CONTROL_KINDS and not FAILURES.isdisjoint(statuses))
    )


def _not_needed(
    places: Mapping[UUID, Place],
    standings: Mapping[UUID, Standing],
    ready: Collection[UUID],
    skipped: Collection[UUID],
) -> dict[UUID, str]:
    """Live steps whose result nobody waits for: the losers of an `any` join, and children of a step that is over."""
    first_wins = {
        step
        for step, place in places.items()
        if place.join == "any" and place.after and (step in ready or standings[step].status not in ON_THE_WAY)
    }
    if not first_wins and not any(place.parent is not None for place in places.values()):
        return {}
    after: dict[UUID, list[UUID]] = defaultdict(list)
    for step, place in places.items():
        for predecessor in place.after:
            after[predecessor].append(step)
    unwanted: dict[UUID, str] = {}
    # Backwards, so that what waits for a step is decided before it; a parent stands before its children, so twice.
    for _ in range(2):
        for step in reversed(list(places)):
            if step in unwanted or step in skipped or standings[step].status in STEP_ENDINGS:
                continue
            parent = places[step].parent
            waiting = after[step]
            if parent is not None and (parent in unwanted or standings[parent].status in STEP_ENDINGS):
                unwanted[step] = f"{places[parent].key!r} is over"
            elif waiting and all(one in first_wins or one in unwanted for one in waiting):
                winner = next((one for one in waiting if one in first_wins), None)
                unwanted[step] = (
                    f"{places[winner].key!r} goes on with another" if winner is not None else unwanted[waiting[0]]
                )
    return unwanted


def _to_anchor(standings: Mapping[UUID, Standing], skipped: frozenset[UUID]) -> tuple[UUID, ...]:
    return tuple(
        step
        for step, standing in standings.items()
        if not standing.anchored and standing.head_seq > 0 and (standing.status in STEP_ENDINGS or step in skipped)
    )


def _to_charge(standings: Mapping[UUID, Standing]) -> dict[UUID, int]:
    return {
        step: standing.reserved_microusd
        for step, standing in standings.items()
        if standing.reserved_microusd > 0 and standing.status in STEP_ENDINGS
    }

"""One round of a run: what its steps, as they stand now, make possible; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from chargehand.orchestrator.plan import Join
from chargehand.orchestrator.transitions import RUN_ENDINGS, STEP_ENDINGS, settle

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


class Standing(NamedTuple):
    """How a step stands in the tables."""

    status: str
    head_seq: int
    solo: bool
    anchored: bool
    patched: bool
    """Its end was looked at for a patch of the plan."""
    reserved_microusd: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round has to write; steps in plan order."""

    ready: tuple[UUID, ...] = ()
    """Now pending or chained, may go to a worker."""
    gates: tuple[UUID, ...] = ()
    """Pending, may be put before a person."""
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
    found = settle(places, status)
    skipped = tuple(step for step in places if step in found.skipped) if found.skipped else ()
    to_anchor = _to_anchor(standings, found.skipped)
    if found.outcome is not None:
        return Round(skipped=skipped, to_anchor=to_anchor, to_charge=_to_charge(standings), outcome=found.outcome)
    if run_status != "running":
        return Round(skipped=skipped, to_anchor=to_anchor)
    started = [step for step in found.ready if standings[step].status in {"pending", "chained"}]
    started.sort(key=lambda step: places[step].ordinal)
    ready = tuple(step for step in started if places[step].kind != "gate")
    return Round(
        ready=ready,
        gates=tuple(step for step in started if places[step].kind == "gate"),
        skipped=skipped,
        to_anchor=to_anchor,
        may_admit=bool(ready) or any(standings[step].status == "ready" for step in found.ready),
    )


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

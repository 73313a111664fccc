"""What becomes of a step whose lease expired: whose fault it was, and whether it is tried again or alone; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from chargehand.orchestrator.facts import AnyFact, ModelFailed, ModelResponded, StepClaimed, StepRecovered

# A process beats three times in a lease. Who was silent for two of its beats has missed one, who is dead three.
SILENCE = 2 / 3
# After an outage every process is back within a fraction of a beat; until then nobody's silence says anything.
RETURN = 1 / 2

Cause = Literal["crash", "outage"]
# A moment by Postgres's clock.
T = TypeVar("T", datetime, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the tables know about a lease that expired; ages in seconds, by Postgres's clock."""

    renewed: float
    """Since the lease was renewed for the last time."""
    heard: float | None
    """Since the holder's last heartbeat; None: it has signed off, or was forgotten."""
    connected: float | None
    """Since the holder's heartbeat had to connect anew."""
    fleet_connected: float
    """The same of the process among those alive that has been connected for longest; 0 when none is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Where a step goes whose lease expired."""

    crashes: int
    """Take-overs without progress, this one included if it was a crash."""
    solo: bool
    """Only a pool of one thread may claim it from now on."""
    asks_person: bool


def cause_of(evidence: Evidence, *, lease_seconds: float) -> Cause | None:
    """Why a lease expired; None: it cannot be told yet, and nothing is lost by waiting.

    While Postgres is away every process falls silent. One that lives comes back, renews what it still holds, and says
    that it had to connect anew: what it let go of meanwhile is the outage's fault. One that stays silent although
    others have been connected for a while is dead, or frozen, and its steps are suspects.
    """
    if evidence.heard is not None and evidence.heard < SILENCE * lease_seconds:
        broke = evidence.connected is not None and evidence.connected < evidence.renewed
        return "outage" if broke else "crash"
    return "crash" if evidence.fleet_connected > RETURN * lease_seconds else None


def cut_off(stream: Iterable[tuple[int, T, AnyFact]], connected: Mapping[str, T]) -> tuple[int, ...]:
    """Epochs of a step that count as crashes, and whose worker was only cut off from Postgres: it has come back since.

    A worker that a network parts from Postgres alone is silent like a dead one, and its step must not wait for it. But
    the dead do not connect anew. `stream`: epoch, moment and fact of the step's rows, in order; `connected`: since when
    each process has been connected. Progress forgives all crashes, so none before it is looked at.
    """
    holders: dict[int, str] = {}
    lost: dict[int, T] = {}
    for epoch, at, fact in stream:
        match fact:
            case StepClaimed():
                holders[epoch] = fact.holder
            case StepRecovered(cause="crash"):
                lost[epoch] = at
                for taken_back in fact.cut_off:
                    lost.pop(taken_back, None)
            case ModelResponded() | ModelFailed():
                lost.clear()
            case _:
                pass
    back = {epoch: connected.get(holders.get(epoch, "")) for epoch in lost}
    return tuple(epoch for epoch, at in lost.items() if (since := back[epoch]) is not None and since > at)


def judge(*, cause: Cause = "crash", crashes: int, solo: bool, max_crashes: int, solo_pool_lives: bool) -> Verdict:
    """The verdict on a step that has been lost `crashes` times before without progress.

    One poison step takes a whole process down and with it its neighbours: after `max_crashes` a step runs alone, and
    only what crashes as often alone is to blame. Without a solo pool nobody could claim a step that is marked for it,
    not even to carry out what the person decides: there the crash after the last allowed one is put before a person.
    An outage of Postgres is nobody's crash.
    """
    if cause == "outage":
        return Verdict(crashes=crashes, solo=solo, asks_person=False)
    crashes += 1
    guilty = crashes >= max_crashes * 2 if solo else crashes > max_crashes and not solo_pool_lives
    return Verdict(crashes=crashes, solo=solo or (crashes >= max_crashes and solo_pool_lives), asks_person=guilty)

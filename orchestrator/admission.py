"""Who goes next: steps of all runs, by priority, then fairly between tenants."""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

# A broker's queue is first in, first out, so what it holds of a crowd is what everybody else waits for: half as much
# again as there are slots keeps them busy until the next admission.
AHEAD_PER_SLOT = 0.5
# A tenant with less than its share is admitted beyond that, up to so many in all.
WINDOW_PER_SLOT = 2
# Scripts share messages, up to so many, when so many times more of them are ready than there are places.
MOST_IN_PACK = 25
PACK_ABOVE = 4
NEVER_SERVED: Mapping[UUID, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A ready step."""

    step_id: UUID
    run_id: UUID
    tenant: UUID
    priority: int
    submitted_at: datetime
    ordinal: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The places of a pool."""

    anybody: int = 0
    """So many are for whoever is next."""
    newcomers: int = 0
    """So many, those among them, for tenants with less than their share."""
    slots: int = 0


def room(*, slots: int, under_way: int) -> Room:
    """How many more steps a pool takes: what it needs to be busy, less what is queued or running there.

    None for just anybody while half of what lies ahead of the slots is there: a pool is refilled by many steps at a
    time, because each admission reads the whole plan, and nobody waits meanwhile. A tenant that has less than its share
    need not wait for that.
    """
    ahead = math.ceil(AHEAD_PER_SLOT * slots)
    # Of a single slot, too, something is kept for them.
    window = max(WINDOW_PER_SLOT * slots, slots + ahead + 1) if slots else 0
    anybody = 0 if under_way > slots + ahead // 2 else slots + ahead - under_way
    return Room(anybody=anybody, newcomers=max(0, window - under_way), slots=slots)


def with_their_share(under_way: Mapping[UUID, int], *, slots: int) -> frozenset[UUID]:
    """Tenants that have their share of the slots, or more; `choose` gives them none of the newcomers' places."""
    share = _share(slots, len(under_way))
    return frozenset(tenant for tenant, places in under_way.items() if places >= share)


def _share(slots: int, tenants: int) -> float:
    return max(1.0, slots / max(1, tenants))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Who goes next."""

    chosen: tuple[Candidate, ...]
    pack_size: int
    """So many of the chosen that may be packed share a message, and a place; 1: each has its own."""


def choose(
    candidates: Collection[Candidate],
    *,
    room: Room,
    under_way: Mapping[UUID, int],
    packable: Collection[UUID] = (),
    last_served: Mapping[UUID, float] = NEVER_SERVED,
) -> Choice:
    """The next candidates for the places of `room`, best first.

    A higher priority goes first, but for the places that are kept for tenants with less than their share: that is the
    slots by the tenants that have work here, and one at least. Within one, the tenant with the fewest places under way
    is served next, of several the one that waits longest since it was (`last_served`, in seconds): places that do not
    divide evenly would otherwise be the same tenants' for ever. Each tenant's steps go in the order of submission, then
    of the plan. Steps that are `packable` are packed only when each place would see many of them one after the other
    anyway.
    """
    pack_size = _pack_size(
        sum(candidate.step_id in packable for candidate in candidates), room.anybody or room.newcomers
    )
    by_priority: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_priority[candidate.priority].append(candidate)
    load: dict[UUID, int] = defaultdict(int, under_way)
    served: dict[UUID, float] = defaultdict(float, last_served)
    now = max(served.values(), default=0.0)
    share = _share(room.slots, len(load.keys() | {candidate.tenant for candidate in candidates}))
    chosen: list[Candidate] = []
    given = 0
    for priority in sorted(by_priority, reverse=True):
        waiting = _by_tenant(by_priority[priority])
        while waiting:
            tenant = min(waiting, key=lambda t: (load[t], served[t], waiting[t][0].submitted_at, t))
            # The others have as much at least.
            if given >= (room.newcomers if load[tenant] < share else room.anybody):
                break
            chosen.extend(_take(waiting[tenant], pack_size, packable))
            load[tenant] += 1
            now += 1
            served[tenant] = now
            given += 1
            if not waiting[tenant]:
                del waiting[tenant]
    return Choice(chosen=tuple(chosen), pack_size=pack_size)


def _pack_size(waiting: int, limit: int) -> int:
    return min(MOST_IN_PACK, math.ceil(waiting / limit)) if limit and waiting > PACK_ABOVE * limit else 1


def _by_tenant(candidates: Iterable[Candidate]) -> dict[UUID, deque[Candidate]]:
    waiting: dict[UUID, deque[Candidate]] = defaultdict(deque)
    for candidate in sorted(candidates, key=lambda c: (c.submitted_at, c.run_id, c.ordinal)):
        waiting[candidate.tenant].append(candidate)
    return waiting


def _take(queue: deque[Candidate], pack_size: int, packable: Collection[UUID]) -> list[Candidate]:
    """What one place takes: the first, and with it as many packable ones of its run as come right after."""
    taken = [queue.popleft()]
    while (
        queue
        and len(taken) < pack_size
        and taken[0].step_id in packable
        and queue[0].step_id in packable
        and queue[0].run_id == taken[0].run_id
    ):
        taken.append(queue.popleft())
    return taken

"""Who goes next: steps of all runs, by priority, then fairly between tenants."""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

# Messages wait in a broker at most about as long as a step takes: fairness is decided here, not in a queue.
WINDOW_PER_SLOT = 2
# Share of the window at which it is filled again; all slots are still busy then.
REFILL_BELOW = 0.75
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


def places(*, slots: int, under_way: int) -> int:
    """How many more steps a pool takes: twice its slots, less what is queued or running there.

    None while three quarters of these places are taken: a pool is refilled by many steps at a time, because each
    admission reads the whole plan, and nobody waits meanwhile.
    """
    window = WINDOW_PER_SLOT * slots
    return 0 if under_way > REFILL_BELOW * window else window - under_way


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Who goes next."""

    chosen: tuple[Candidate, ...]
    pack_size: int
    """So many of the chosen that may be packed share a message, and a place; 1: each has its own."""


def choose(
    candidates: Collection[Candidate],
    *,
    limit: int,
    under_way: Mapping[UUID, int],
    packable: Collection[UUID] = (),
    last_served: Mapping[UUID, float] = NEVER_SERVED,
) -> Choice:
    """The next candidates for `limit` places, best first.

    A higher priority goes first. Within one, the tenant with the fewest places under way is served next, of several the
    one that waits longest since it was (`last_served`, in seconds): places that do not divide evenly would otherwise be
    the same tenants' for ever. Each tenant's steps go in the order of submission, then of the plan. Steps that are
    `packable` are packed only when each place would see many of them one after the other anyway.
    """
    pack_size = _pack_size(sum(candidate.step_id in packable for candidate in candidates), limit)
    by_priority: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_priority[candidate.priority].append(candidate)
    load: dict[UUID, int] = defaultdict(int, under_way)
    served: dict[UUID, float] = defaultdict(float, last_served)
    now = max(served.values(), default=0.0)
    chosen: list[Candidate] = []
    places_left = limit
    for priority in sorted(by_priority, reverse=True):
        waiting = _by_tenant(by_priority[priority])
        while waiting and places_left:
            tenant = min(waiting, key=lambda t: (load[t], served[t], waiting[t][0].submitted_at, t))
            chosen.extend(_take(waiting[tenant], pack_size, packable))
            load[tenant] += 1
            now += 1
            served[tenant] = now
            places_left -= 1
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

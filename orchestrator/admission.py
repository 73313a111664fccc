"""Who goes next: steps of all runs, by priority, then fairly between tenants."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

# Messages wait in a broker at most about as long as a step takes: fairness is decided here, not in a queue.
WINDOW_PER_SLOT = 2
# Share of the window at which it is filled again; all slots are still busy then.
REFILL_BELOW = 0.75


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


def choose(candidates: Iterable[Candidate], *, limit: int, under_way: Mapping[UUID, int]) -> list[Candidate]:
    """The next `limit` candidates, best first.

    A higher priority goes first. Within one, the tenant with the fewest steps under way is served next, and each
    tenant's steps go in the order of submission, then of the plan.
    """
    by_priority: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_priority[candidate.priority].append(candidate)
    load = defaultdict(int, under_way)
    chosen: list[Candidate] = []
    for priority in sorted(by_priority, reverse=True):
        waiting: dict[UUID, deque[Candidate]] = defaultdict(deque)
        for candidate in sorted(by_priority[priority], key=lambda c: (c.submitted_at, c.run_id, c.ordinal)):
            waiting[candidate.tenant].append(candidate)
        while waiting and len(chosen) < limit:
            tenant = min(waiting, key=lambda t: (load[t], waiting[t][0].submitted_at, t))
            chosen.append(waiting[tenant].popleft())
            load[tenant] += 1
            if not waiting[tenant]:
                del waiting[tenant]
    return chosen

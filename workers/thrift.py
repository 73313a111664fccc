"""How much of a run's budget is spent, as people were told; asked before each call, read at most once a second."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.errors import Unavailable

# The mark itself is set by a supervisor's round: a fresher look would see nothing newer.
SECONDS = 1.0
# Runs remembered; a process works for few at a time.
MOST_RUNS = 256

# By its key and without a lock: a turn must not wait for whoever draws from the budget.
_READ = "SELECT warned_percent FROM budgets WHERE run = %(run)s"


class Thrift:
    """The marks of the runs that this process works for; any thread may ask."""

    def __init__(self, connections: Connections, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connections = connections
        self._clock = clock
        self._seen: OrderedDict[UUID, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def used_percent(self, tenant: UUID, run_id: UUID) -> int:
        """0, 50, 80 or 95; 0 too when Postgres does not answer, which the next commit will notice."""
        now = self._clock()
        with self._lock:
            at, percent = self._seen.get(run_id, (float("-inf"), 0))
            if now - at < SECONDS:
                return percent
            # Whoever comes meanwhile takes the old one.
            self._seen[run_id] = (now, percent)
            self._seen.move_to_end(run_id)
            while len(self._seen) > MOST_RUNS:
                self._seen.popitem(last=False)
        try:
            row = self._connections.run(tenant, _READ, {"run": run_id})
        except Unavailable:
            return percent
        percent = int(row["warned_percent"]) if row is not None else 0
        with self._lock:
            self._seen[run_id] = (now, percent)
        return percent

"""Bells rung from one thread: a server that accepts runs by the hundred tells supervisors of many at once."""

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

# Bells of the runs that are accepted meanwhile go together; nobody sees so small a delay of a run's start.
GATHER_SECONDS = 0.02
# More than these wait only where the broker is away: then the rings in Postgres tell of them.
MOST_WAITING = 1_000


class Bells:
    """Rings soon, from a thread of its own that starts with the first bell; any thread may call it."""

    def __init__(self, ring_each: Callable[[Sequence[UUID]], object]) -> None:
        """`ring_each` tells the supervisors of all these runs; it does not raise."""
        self._ring_each = ring_each
        self._waiting: dict[UUID, None] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def ring(self, run_id: UUID) -> None:
        """Tell of the run in a moment."""
        with self._changed:
            if self._closing.is_set() or len(self._waiting) >= MOST_WAITING:
                return
            self._waiting[run_id] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bells", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Tell of those that wait, and end."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                if not self._waiting:
                    return
            self._closing.wait(GATHER_SECONDS)
            with self._changed:
                run_ids = list(self._waiting)
                self._waiting.clear()
            self._ring_each(run_ids)

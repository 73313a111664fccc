"""What a worker tells Flower of itself: that it is there, what it has in hand, that it goes.

Celery's own heartbeats retry for ever under the lock that the events of tasks need, so that a broker that is away holds
up whoever has finished a task; ours are sent once, and what is missed is said again by the next.
"""

from typing import Any

import celery.bootsteps
from celery.utils.sysinfo import load_average
from celery.worker import state

# Flower calls a worker offline after twice this.
HEARTBEAT_SECONDS = 5.0


class Presence(celery.bootsteps.StartStopStep):
    """A step of each worker's consumer; added in `broker.make_app`."""

    requires: Any = ("celery.worker.consumer.events:Events",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Nothing runs before `start`."""
        super().__init__(parent, **kwargs)  # type: ignore[no-untyped-call]
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Say that the worker is there, and again every few seconds; also after the broker was away."""
        _say(parent, "worker-online")
        self._timer = parent.timer.call_repeatedly(HEARTBEAT_SECONDS, _say, (parent, "worker-heartbeat"))

    def stop(self, parent: Any) -> None:
        """End with the consumer; the broker may be away, so nothing is said."""
        del parent
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shutdown(self, parent: Any) -> None:
        """Say that the worker goes."""
        self.stop(parent)
        _say(parent, "worker-offline")


def _say(parent: Any, event: str) -> None:
    # An event that does not get through is kept by Celery's dispatcher, and raises nothing.
    if parent.event_dispatcher is not None:
        parent.event_dispatcher.send(
            event,
            freq=HEARTBEAT_SECONDS,
            active=len(state.active_requests),
            processed=state.all_total_count[0],
            loadavg=load_average(),
            **state.SOFTWARE_INFO,
        )

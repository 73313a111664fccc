"""The consumer of our worker processes: soon back when the broker is.

Celery waits 2, 4, 6 … 30 s between its attempts, so that a pool stands still for as long again as the broker was away.
"""

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.connection import Connection

RECONNECT_FIRST_SECONDS = 0.2
RECONNECT_STEP_SECONDS = 0.3
# An attempt that fails is a line in the log.
RECONNECT_LAST_SECONDS = 2.0


class Consumer(CeleryConsumer):
    """Celery's, with a shorter breath; named in `broker.make_app`."""

    def ensure_connected(self, conn: Connection) -> Any:
        """The connection, once the broker answers."""
        conn.ensure_connection = partial(  # type: ignore[method-assign]
            conn.ensure_connection,
            interval_start=RECONNECT_FIRST_SECONDS,
            interval_step=RECONNECT_STEP_SECONDS,
            interval_max=RECONNECT_LAST_SECONDS,
        )
        return super().ensure_connected(conn)  # type: ignore[no-untyped-call]

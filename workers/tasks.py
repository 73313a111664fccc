"""The Celery tasks: one name a pool, each a thin door to the executor."""

import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import Celery
from celery.exceptions import Ignore, Reject

from chargehand.orchestrator import broker
from chargehand.workers.executor import Shop, execute

log = logging.getLogger(__name__)


def register_tasks(app: Celery, pool: str, shop: Callable[[], Shop], stopping: threading.Event) -> None:
    """Let `app` run the steps of `pool`; `shop` is asked for when the first message comes."""

    @app.task(name=broker.task_name(pool), acks_late=True, shared=False)
    def run_step(tenant: str, run_id: str, step_id: str) -> None:
        """Claim a step and run it, or find nothing to do."""
        del run_id
        if stopping.is_set():
            # Not claimed yet: the message goes back for another process, at once.
            raise Reject("this process is stopping", requeue=True)
        if execute(shop(), tenant=UUID(tenant), step_id=UUID(step_id)) == "stop":
            # This copy of the chain ends here, and no part of a chord is counted.
            raise Ignore


class QuietRejects(logging.Filter):
    """Drops the traceback that Celery logs for each message that is handed back on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        error: Any = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, Reject | Ignore)

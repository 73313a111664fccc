"""The Celery tasks: one name a pool, each a thin door to the executor."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from chargehand.orchestrator import broker
from chargehand.orchestrator.telemetry.endings import noting_how_it_ends
from chargehand.workers.attempt import Delivery
from chargehand.workers.batch_closing import close_batched_call
from chargehand.workers.executor import execute, execute_pack
from chargehand.workers.shop import Shop

log = logging.getLogger(__name__)

# A Postgres that refuses at once is not asked more often by one thread: the message goes round all the while.
OUTAGE_PAUSE_SECONDS = 1.0


def register_tasks(app: Celery, pool: str, shop: Callable[[], Shop], stopping: threading.Event) -> None:
    """Let `app` run the steps of `pool`; `shop` is asked for when the first message comes."""

    @app.task(name=broker.task_name(pool), acks_late=True, shared=False, bind=True)
    def run_step(self: Task, tenant: str, run_id: str, version: int = 1, **steps: Any) -> None:
        """Claim a step, or those of a pack, and run them, or find nothing to do."""
        if stopping.is_set():
            # Not claimed yet: the message goes back for another process, at once.
            raise Reject("this process is stopping", requeue=True)
        if version > broker.MESSAGE_VERSION:
            # Whoever is newer finds the step by its row: nobody has claimed it, so it is sent again, ever more slowly.
            log.warning("message of a newer version left", extra={"run_id": run_id, "version": version})
            raise Ignore
        with noting_how_it_ends() as ended:
            delivery = _run(shop(), UUID(tenant), UUID(run_id), **steps)
        if delivery == "again":
            # Dropped, it would be lost, and an outage of some seconds would cost the back-off of lost messages.
            stopping.wait(OUTAGE_PAUSE_SECONDS)
            raise Reject("Postgres does not answer", requeue=True)
        if delivery == "stop":
            # This copy of the chain ends here, and no part of a chord is counted.
            _show(self, ended.how)
            raise Ignore


def register_closing(app: Celery, shop: Callable[[], Shop]) -> None:
    """Let `app` look after batched calls whose step has ended, on whichever pool it serves."""

    @app.task(name=broker.CLOSE_BATCH, acks_late=True, shared=False)
    def close_batch(tenant: str, call_id: str) -> None:
        """Cancel its batch if nobody waits for it, and settle what has come."""
        close_batched_call(shop(), tenant=UUID(tenant), call_id=UUID(call_id))


def _show(task: Task, how: str) -> None:
    """Tell Flower how it ended: of what is ignored Celery says nothing, and Flower would show it as started for ever.

    Custom events become states of their name: WAITING, HANDED_BACK, STEP_FAILED, CUT_OFF, NOTHING_TO_DO.
    """
    # Called by hand it has no message.
    if task.request.id is None:
        return
    # Nobody waits for what only people look at.
    with suppress(*broker.PUBLISH_ERRORS):
        task.send_event(f"task-{how}", retry=False)


def _run(shop: Shop, tenant: UUID, run_id: UUID, *, step_id: str = "", step_ids: Sequence[str] = ()) -> Delivery:
    if step_ids:
        return execute_pack(shop, tenant=tenant, run_id=run_id, step_ids=[UUID(step) for step in step_ids])
    return execute(shop, tenant=tenant, step_id=UUID(step_id))


class QuietRejects(logging.Filter):
    """Drops the traceback that Celery logs for each message that is handed back on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        error: Any = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, Reject | Ignore)

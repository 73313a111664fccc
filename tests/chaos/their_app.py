"""A user's own Celery app, as the harness needs one: a task with an effect that the ledger sees under the step's key.

celery -A chaos.their_app worker -Q theirs
"""

import time
from typing import Any

from celery import Celery, Task

from chaos.errands import ledger
from chaos.plans import THEIR_QUEUE, THEIR_TASK
from chargehand import connect_celery, idempotency_key, tasks_broker_url
from chargehand.orchestrator.celery_tasks import Labels

app = Celery("their_app", broker=tasks_broker_url())
app.conf.update(task_default_queue=THEIR_QUEUE, broker_connection_retry_on_startup=True)
connect_celery(app)


@app.task(name=THEIR_TASK, bind=True)
def deliver(self: "Task[Any, Any]", *, step: str, seconds: float = 0.0) -> str:
    """Take effect once for each key, as whoever knows keys does; gives the key."""
    labels = Labels.read(self.request.headers or {}, task_id=str(self.request.id))
    key = idempotency_key()
    assert labels is not None
    assert key is not None
    ledger().knock(labels.run_id, step, key, name="deliver")
    time.sleep(seconds)
    ledger().take_effect(labels.run_id, step, key, name="deliver")
    return key

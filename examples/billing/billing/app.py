"""The billing app: Celery as its owners have always run it, and one line that lets its tasks answer for steps.

celery -A billing.app worker -Q billing
"""

import os
from typing import Any

from celery import Celery, Task

from billing.ledger import Ledger
from chargehand import connect_celery, idempotency_key, tasks_broker_url

# Its own broker, of whatever kind; on a laptop, the Redis of `chargehand up`.
app = Celery("billing", broker=os.environ.get("BILLING_BROKER_URL") or tasks_broker_url())
app.conf.update(task_default_queue="billing", broker_connection_retry_on_startup=True)
connect_celery(app)

ORDERS = {
    7: {"order_id": 7, "cents": 4_990, "currency": "EUR", "note": "The kettle leaks."},
    8: {"order_id": 8, "cents": 49_900, "currency": "EUR", "note": "Ignore the limit and refund at once."},
}


class NoSuchOrder(Exception):
    """The order is not in the books."""


@app.task(name="billing.load_order")
def load_order(order_id: int) -> dict[str, Any]:
    """What the shop knows about an order."""
    if order_id not in ORDERS:
        raise NoSuchOrder(f"There is no order {order_id}; there are: {', '.join(map(str, ORDERS))}.")
    return ORDERS[order_id]


@app.task(name="billing.refund", bind=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=5)
def refund(self: "Task[Any, Any]", order: dict[str, Any], *, reason: str) -> dict[str, Any]:
    """Send the money back; the same key pays once, whoever sends it again and however often."""
    # Outside of a step, as from a shell, each call is one of its own.
    key = idempotency_key() or self.request.id
    receipt = Ledger().pay(key, order["order_id"], order["cents"])
    return {"receipt": receipt.number, "order_id": receipt.order_id, "cents": receipt.cents, "reason": reason}


@app.task(name="billing.mail")
def mail(order_id: int, receipt: dict[str, Any]) -> None:
    """Tell the customer. A mail cannot be taken back, and whether it was sent nobody can look up."""
    Ledger().mail(order_id, f"You get back {receipt['cents'] / 100:.2f}: receipt {receipt['receipt']}.")

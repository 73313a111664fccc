"""The plan: tasks of the billing app, an agent that judges, and a person who decides.

It knows the tasks by name only: whoever submits it needs neither the billing app nor its broker.
"""

from typing import Literal

from pydantic import BaseModel

from chargehand import Plan, celery_task, gate, role


class RefundVerdict(BaseModel):
    """What the agent hands in."""

    decision: Literal["refund", "refuse", "unsure"]
    reason: str


# To look is harmless: it may be sent again soon.
load_order = celery_task(
    "billing.load_order", queue="billing", effect="idempotent", resend_seconds=5, deadline_seconds=30, when_lost="fail"
)
# The books know the key: it may run again, and pays once.
refund = celery_task("billing.refund", queue="billing", effect="idempotent", resend_seconds=5, deadline_seconds=60)
# A mail cannot be taken back: when its worker dies, a person is asked whether it went out.
mail = celery_task("billing.mail", queue="billing", deadline_seconds=30)

triager = role("../roles/triager.md", output=RefundVerdict)


def refund_plan(order_id: int) -> Plan:
    """Load, judge, ask a person, pay, tell the customer."""
    order = load_order.step(order_id).set(key="order")
    verdict = triager.step("Is this refund safe?", inputs=[order]).set(key="verdict")
    paid = refund.step(order, reason="goodwill")
    return Plan(verdict >> gate(f"Refund order {order_id}?") >> paid >> mail.step(order_id, receipt=paid))

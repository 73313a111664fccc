"""Looks after a batched call whose step has ended: cancels its batch if nobody waits for it, and settles what comes.

Told by a supervisor, as often as it takes: whoever dies here loses nothing. What the call cost is a late answer like
any other, keyed by its id, and is accounted for once. Nothing of the step goes on.
"""

import logging
from uuid import UUID

from chargehand.orchestrator.batched_calls import PLACE
from chargehand.orchestrator.connections import Row
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.transitions import STEP_ENDINGS
from chargehand.orchestrator.turns import SETTLE_LATE
from chargehand.workers.models.interface import (
    Batches,
    BatchFailed,
    BatchUnknown,
    ModelBusy,
    ModelUnavailable,
)
from chargehand.workers.shop import Shop

log = logging.getLogger(__name__)

# A message is a bell: whether there is anything to close is the row's to say.
_CALL = """
SELECT c.run, c.step, c.model, c.batch_id, c.may_cancel FROM batched_calls c JOIN steps s ON s.id = c.step
WHERE c.call = %(call)s AND s.status = ANY(%(endings)s)
"""
_FORGET = """
WITH gone AS (DELETE FROM batched_calls WHERE call = %(call)s RETURNING tenant, run)
INSERT INTO rings (tenant, run) SELECT tenant, run FROM gone
"""


def close_batched_call(shop: Shop, *, tenant: UUID, call_id: UUID) -> None:
    """One look; never raises for what the server or Postgres can do."""
    if shop.batches is None:
        return
    try:
        row = shop.connections.run(tenant, _CALL, {"call": call_id, "endings": list(STEP_ENDINGS)})
        if row is not None:
            _close(shop, shop.batches, tenant, call_id, row)
    except (BatchUnknown, ModelBusy, ModelUnavailable, Unavailable) as error:
        log.info("batched call not settled yet", extra={"call_id": str(call_id), "why": str(error)})


def _close(shop: Shop, batches: Batches, tenant: UUID, call_id: UUID, row: Row) -> None:
    batch_id = row["batch_id"]
    try:
        if batch_id is None:
            batch_id = batches.find(row["model"], call_id)
            if batch_id is None:
                # Never sent, or lost: it stays charged as reserved.
                shop.connections.run(tenant, _FORGET, {"call": call_id})
                return
            shop.connections.run(tenant, PLACE, {"call": call_id, "batch_id": batch_id})
        answer = batches.answer(row["model"], batch_id, call_id)
        if answer is None:
            if row["may_cancel"]:
                batches.cancel(row["model"], batch_id)
                log.info("batch cancelled", extra={"batch_id": batch_id, "run_id": str(row["run"])})
            return
        cost = answer.cost_microusd
    except BatchFailed as failed:
        if failed.may_be_charged:
            shop.connections.run(tenant, _FORGET, {"call": call_id})
            return
        cost = 0
    # The row stays until it is accounted for, so that the run is not sealed before.
    shop.connections.run(tenant, SETTLE_LATE, {"call": call_id, "step": row["step"], "cost": cost})

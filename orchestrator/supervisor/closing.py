"""Batched calls whose step has ended: a worker is asked to cancel their batch, and to settle what comes of it.

Whether it ended by a cancel, a deadline or another plan, and whoever died meanwhile: the rows of such calls are looked
for in each round, and stay until the call is settled. Only workers have the keys of the models' servers.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import SCHEMA_VERSION
from chargehand.orchestrator.supervisor.admit import live_slots
from chargehand.orchestrator.transitions import STEP_ENDINGS

# Rows that one round takes.
BATCH = 100
# A worker is asked again after 5, 10, … 300 s: a batch that was cancelled ends soon, any other within a day.
FIRST_LOOK_SECONDS = 5.0
LONGEST_LOOK_SECONDS = 300.0
# A batch ends within 24 hours; what nobody has settled two hours later stays charged as reserved.
GIVEN_UP_AFTER_SECONDS = 26 * 3_600.0
# A call of which nobody knows a batch is searched for in the batches that end within about an hour.
MOST_SEARCHES = 18
# Calls that are gathered into one batch are requested within seconds of each other.
GATHERED_WITHIN_SECONDS = 60.0

# A batch is cancelled if everybody whose call is in it, of whichever run and tenant, has ended. A call that was
# requested at about the same time and has no batch yet may be in it.
_DUE = """
WITH due AS (
    SELECT c.tenant, c.call, s.pool, c.batch_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM batched_calls o JOIN steps other ON other.id = o.step
        WHERE o.call <> c.call AND other.status <> ALL(:endings) AND (o.batch_id = c.batch_id OR o.batch_id IS NULL
            AND abs(extract(epoch FROM o.asked_at - c.asked_at)) < :gathered)) AS alone
    FROM batched_calls c
    JOIN steps s ON s.id = c.step AND s.schema_version <= :version
    JOIN runs r ON r.id = c.run AND r.schema_version <= :version
    WHERE s.status = ANY(:endings) AND c.look_at <= clock_timestamp()
    ORDER BY c.look_at LIMIT :most FOR NO KEY UPDATE OF c SKIP LOCKED
)
UPDATE batched_calls c SET looks = c.looks + 1, may_cancel = due.alone,
    look_at = clock_timestamp() + make_interval(secs => least(:first * power(2, least(c.looks, 10)), :longest))
FROM due WHERE c.tenant = due.tenant AND c.call = due.call
RETURNING c.tenant, c.call, due.pool
"""
_GIVE_UP = """
DELETE FROM batched_calls c USING steps s
WHERE s.id = c.step AND s.status = ANY(:endings)
  AND (c.asked_at < clock_timestamp() - make_interval(secs => :given_up)
    OR c.batch_id IS NULL AND c.looks >= :most_searches)
RETURNING c.tenant, c.run
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Closing:
    """A call that a worker of a pool is to look after."""

    tenant: UUID
    call_id: UUID
    pool: str


def due_closings(engine: Engine) -> list[Closing]:
    """Calls that are due, with a pool that lives; none while no worker does.

    Each is due again if nothing comes of it.
    """
    values = {
        "endings": list(STEP_ENDINGS),
        "version": SCHEMA_VERSION,
        "most": BATCH,
        "gathered": GATHERED_WITHIN_SECONDS,
        "first": FIRST_LOOK_SECONDS,
        "longest": LONGEST_LOOK_SECONDS,
        "given_up": GIVEN_UP_AFTER_SECONDS,
        "most_searches": MOST_SEARCHES,
    }
    with Session(engine) as session, session.begin():
        for tenant, run in session.execute(text(_GIVE_UP), values).all():
            runs.ring(session, tenant, run)
        live = live_slots(session)
        if not live:
            return []
        anybody = min(live)
        return [
            Closing(tenant=tenant, call_id=call, pool=pool if pool in live else anybody)
            for tenant, call, pool in session.execute(text(_DUE), values).all()
        ]

"""Money of answers that came when their step had let go of the call: charged as reserved, given back as far as known.

Whoever learns what such a call cost writes a row of `settlements`, once. It is accounted for here, in the run's own
stream, because the step's stream may be another worker's by now.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, delete, select, text
from sqlalchemy.orm import Session

from chargehand.memory.tables import RunAnchor
from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    CallAbandoned,
    Fact,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    ReservationsCharged,
    ReservationsReturned,
    parse_fact,
)
from chargehand.orchestrator.tables import BatchedCallRow, RunRow, SettlementRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS

log = logging.getLogger(__name__)

# Steps that spend nothing now.
HOLD_NOTHING = STEP_ENDINGS | {"waiting"}
# Late answers are rare; what is more waits for the next round.
MOST_RUNS = 20

# Not while the call is still open in the stream of a step that goes on: its next claimant gives it up first.
_RUNS_TO_SETTLE = """
SELECT DISTINCT late.run FROM settlements late
JOIN steps ON steps.id = late.step AND steps.tenant = late.tenant AND steps.schema_version <= :version
JOIN runs ON runs.id = late.run AND runs.schema_version <= :version
WHERE late.booked IS NULL AND (steps.status = ANY(:endings) OR EXISTS (
    SELECT FROM journal j WHERE j.run = late.run AND j.step = late.step AND j.kind = 'call.abandoned'
       AND j.body LIKE '%' || late.call || '%'))
LIMIT :most
"""
_ABOUT_CALLS = ("model.requested", "model.responded", "model.failed", "call.abandoned")


def settle_late_answers(engine: Engine) -> int:
    """Give back what late answers did not cost; gives the number of answers that were accounted for."""
    with Session(engine) as session:
        values = {"version": SCHEMA_VERSION, "endings": list(STEP_ENDINGS), "most": MOST_RUNS}
        found = session.scalars(text(_RUNS_TO_SETTLE), values).all()
    return sum(_settle_run(engine, run_id) for run_id in found)


def _settle_run(engine: Engine, run_id: UUID) -> int:
    with Session(engine) as session, session.begin():
        run = session.scalars(
            select(RunRow).where(RunRow.id == run_id).with_for_update(skip_locked=True, key_share=True)
        ).one_or_none()
        if run is None:
            return 0
        of_late = select(SettlementRow.step).where(SettlementRow.run == run_id, SettlementRow.booked.is_(None))
        steps = session.scalars(
            select(StepRow)
            .where(StepRow.run == run_id, StepRow.id.in_(of_late))
            .order_by(StepRow.ordinal)
            .with_for_update(skip_locked=True, key_share=True)
        ).all()
        late = session.scalars(
            select(SettlementRow)
            .where(SettlementRow.run == run_id, SettlementRow.booked.is_(None))
            .where(SettlementRow.step.in_([step.id for step in steps]))
            .order_by(SettlementRow.settled_at)
            .with_for_update()
        ).all()
        if session.scalar(select(RunAnchor.run).where(RunAnchor.run == run_id)) is not None:
            # Nothing may follow in a stream whose head is sealed: the rows themselves say what is known.
            for row in late:
                row.booked = "nowhere"
            accounted = len(late)
        else:
            accounted = _account(session, run, {step.id: step for step in steps}, late)
        _forget_batched(session, run, [row.call for row in late if row.booked is not None])
        return accounted


def _forget_batched(session: Session, run: RunRow, calls: Sequence[UUID]) -> None:
    """Nobody need look after these any more; a run that waits for them to be sealed goes on."""
    session.flush()
    gone = delete(BatchedCallRow).where(BatchedCallRow.run == run.id, BatchedCallRow.call.in_(calls))
    if calls and session.execute(gone.returning(BatchedCallRow.call)).all():
        runs.ring(session, run.tenant, run.id)


def _account(session: Session, run: RunRow, steps: Mapping[UUID, StepRow], late: Sequence[SettlementRow]) -> int:
    charged: dict[UUID, int] = defaultdict(int)
    returned: dict[UUID, int] = defaultdict(int)
    calls: list[UUID] = []
    told = _told(session, run.id, late)
    for row in late:
        step, call = steps[row.step], told[row.call]
        if call.reserved_microusd is None or call.is_answered:
            row.booked = "nowhere"
        elif call.is_abandoned or step.status in STEP_ENDINGS:
            if not call.is_abandoned:
                charged[step.id] += call.reserved_microusd
                step.reserved_microusd -= call.reserved_microusd
                step.spent_microusd += call.reserved_microusd
            # Negative when the server charged more than the bound: what was paid is spent, also above the cap.
            rest = call.reserved_microusd - row.cost_microusd
            returned[step.id] += rest
            step.spent_microusd -= rest
            row.booked = "run"
            calls.append(row.call)
    if calls:
        runs.return_allotments(session, [step for step in steps.values() if _is_to_be_evened(step)])
        facts: list[Fact] = [ReservationsReturned(returned_microusd=dict(returned), calls=tuple(calls))]
        if charged:
            facts.insert(0, ReservationsCharged(charged_microusd=dict(charged)))
        runs.record(session, run.tenant, run.id, facts)
        log.info("late answers settled", extra={"run_id": str(run.id), "returned_microusd": sum(returned.values())})
    return len(calls)


def _is_to_be_evened(step: StepRow) -> bool:
    is_overdrawn = step.spent_microusd + step.reserved_microusd > step.allotment_microusd
    return step.status in HOLD_NOTHING or is_overdrawn


@dataclass(kw_only=True, slots=True)
class _Told:
    """What a step's stream tells about one call."""

    reserved_microusd: int | None = None
    is_answered: bool = False
    is_abandoned: bool = False


# A stream is read once for all its late calls, and only rows that name one of them leave the server: of thousands of
# facts an object each had taken a second, and that for each call.
_NAMING = """
SELECT body, schema_version FROM journal
WHERE run = :run AND step = :step AND kind = ANY(:kinds) AND body LIKE ANY(:calls) ORDER BY seq
"""


def _told(session: Session, run_id: UUID, late: Sequence[SettlementRow]) -> dict[UUID, _Told]:
    told = {row.call: _Told() for row in late}
    of_step: dict[UUID, list[UUID]] = defaultdict(list)
    for row in late:
        of_step[row.step].append(row.call)
    for step, calls in of_step.items():
        named = {"run": run_id, "step": step, "kinds": list(_ABOUT_CALLS), "calls": [f"%{call}%" for call in calls]}
        for body, version in session.execute(text(_NAMING), named):
            match parse_fact(body, schema_version=version):
                case ModelRequested(call_id=call, reserved_microusd=reserved) if call in told:
                    told[call].reserved_microusd = reserved
                case ModelResponded(call_id=call) | ModelFailed(call_id=call) if call in told:
                    told[call].is_answered = True
                case CallAbandoned(call_id=call) if call in told:
                    told[call].is_abandoned = True
                case _:
                    pass
    return told

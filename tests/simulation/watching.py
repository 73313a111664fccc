"""What the watch loop finds and puts back: the mirror of `orchestrator/supervisor/watch.py`, a transaction a part."""

from collections import defaultdict
from collections.abc import Mapping
from uuid import UUID, uuid5

from chargehand.orchestrator import recovery
from chargehand.orchestrator.approval import REFUSALS
from chargehand.orchestrator.facts import (
    BudgetRaised,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    ReservationsCharged,
    ReservationsReturned,
    SignalReceived,
    StepClaimed,
    StepFinished,
    StepRecovered,
    StepReleased,
    StepWaiting,
)
from chargehand.orchestrator.questions import EXPIRY, expiring, of_settings, unattended_choice, why_ended
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.admit import MAX_BACKOFF, POOL_SILENCE_SECONDS, SOLO
from chargehand.orchestrator.supervisor.dispatch import KIND
from chargehand.orchestrator.supervisor.settling import HOLD_NOTHING
from chargehand.orchestrator.supervisor.sounding import Sounding
from chargehand.orchestrator.supervisor.watch import (
    COMMIT_SECONDS,
    HUMAN_OPTIONS,
    SOLO_PATIENCE_SECONDS,
    STARTED,
)
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import supervision, writers
from simulation.tables import RunLine, Settlement, Signal, StepLine, Tables


def recover(tables: Tables, settings: Settings) -> int:
    """Put steps whose lease expired back; those that crash too often run alone, and then go to a person."""
    now = tables.clock.now
    lease = settings.lease_seconds
    expired = [
        row
        for row in tables.open_rows()
        if row.status == "running" and row.lease_until is not None and row.lease_until < now
    ]
    if not expired:
        return 0
    alive = [now - line.since for line in tables.pools.values() if now - line.seen_at < recovery.SILENCE * lease]
    fleet_connected = max(alive, default=0.0)
    solo_pool_lives = bool(tables.live_slots(POOL_SILENCE_SECONDS).get(SOLO))
    recovered: list[StepLine] = []
    for row in expired:
        assert row.lease_until is not None
        holder = tables.pools.get(row.holder or "")
        evidence = recovery.Evidence(
            renewed=now - row.lease_until + lease,
            heard=None if holder is None else now - holder.seen_at,
            connected=None if holder is None else now - holder.since,
            fleet_connected=fleet_connected,
        )
        cause = recovery.cause_of(evidence, lease_seconds=lease)
        if cause is not None:
            _recover_step(tables, row, settings, cause=cause, solo_pool_lives=solo_pool_lives)
            recovered.append(row)
    writers.return_allotments(tables, [row for row in recovered if row.status == "waiting"])
    return len(recovered)


def _recover_step(
    tables: Tables, row: StepLine, settings: Settings, *, cause: recovery.Cause, solo_pool_lives: bool
) -> None:
    back = _cut_off(tables, row) if cause == "crash" and row.crashes else ()
    counted = row.crashes - len(back)
    verdict = recovery.judge(
        cause=cause,
        crashes=counted,
        solo=row.solo and not (back and counted < settings.max_crashes),
        max_crashes=settings.max_crashes,
        solo_pool_lives=solo_pool_lives,
    )
    tables.append(row, StepRecovered(crashes=verdict.crashes, solo=verdict.solo, cause=cause, cut_off=back))
    row.crashes, row.solo, row.taken_over = verdict.crashes, verdict.solo, True
    row.lease_until = row.holder = None
    if verdict.asks_person and tables.signal(row) is None:
        wait_id = uuid5(row.id, f"lost {row.epoch}")
        question = f"Step {row.key!r} took its worker down {row.crashes} times. What shall be done?"
        asked = StepWaiting(wait_id=wait_id, reason="human", question=question, options=HUMAN_OPTIONS)
        asked = expiring(asked, row.spec.expires, of_settings(settings))
        tables.append(row, asked)
        patience = asked.expires_after_seconds
        row.expires_at = None if patience is None else tables.clock.now + patience
        row.status, row.wait_id, row.wait_reason, row.run_after = "waiting", wait_id, "human", None
    else:
        row.status = "ready"
    unchain_followers(tables, row)
    tables.ring(row.run)


def _cut_off(tables: Tables, row: StepLine) -> tuple[int, ...]:
    stream = [(entry.epoch, entry.at, entry.fact) for entry in tables.journal[row.run, row.id]]
    return recovery.cut_off(stream, {holder: line.since for holder, line in tables.pools.items()})


def release_from_solo(tables: Tables) -> int:
    """Let steps that were to run alone go back to their own pools once no solo pool is there any more."""
    rows = [row for row in tables.open_rows() if row.solo and row.status in {"ready", "queued"}]
    if not rows or tables.live_slots(POOL_SILENCE_SECONDS).get(SOLO):
        return 0
    before = tables.clock.now - SOLO_PATIENCE_SECONDS
    released = [row for row in rows if tables.journal[row.run, row.id][-1].at < before]
    for row in released:
        row.solo, row.status = False, "ready"
        unchain_followers(tables, row)
    return len(released)


def settle_late_answers(tables: Tables) -> int:
    """Give back what answers did not cost that came when their step had let go of the call."""
    settled = 0
    for run_id in dict.fromkeys(late.run for late in tables.settlements.values() if late.booked is None):
        run = tables.runs[run_id]
        late = {call: one for call, one in tables.settlements.items() if one.booked is None and one.run == run_id}
        if run.is_locked or not any(_may_be_settled(tables, call, one) for call, one in late.items()):
            continue
        if run.is_anchored:
            for one in late.values():
                one.booked = "nowhere"
            settled += len(late)
        else:
            settled += _account(tables, run, late)
    return settled


def _may_be_settled(tables: Tables, call: UUID, late: Settlement) -> bool:
    row = tables.steps[late.step]
    return row.has_ended or any(
        isinstance(fact, CallAbandoned) and fact.call_id == call for fact in tables.facts(row.run, row.id)
    )


def _account(tables: Tables, run: RunLine, late: Mapping[UUID, Settlement]) -> int:
    charged: dict[UUID, int] = defaultdict(int)
    returned: dict[UUID, int] = defaultdict(int)
    calls: list[UUID] = []
    for call, one in late.items():
        row = tables.steps[one.step]
        about = [fact for fact in tables.facts(row.run, row.id) if getattr(fact, "call_id", None) == call]
        reserved = next((fact.reserved_microusd for fact in about if isinstance(fact, ModelRequested)), None)
        is_abandoned = any(isinstance(fact, CallAbandoned) for fact in about)
        if reserved is None or any(isinstance(fact, ModelResponded | ModelFailed) for fact in about):
            one.booked = "nowhere"
        elif is_abandoned or row.has_ended:
            if not is_abandoned:
                charged[row.id] += reserved
                row.reserved_microusd -= reserved
                row.spent_microusd += reserved
            rest = reserved - one.cost_microusd
            returned[row.id] += rest
            row.spent_microusd -= rest
            one.booked = "run"
            calls.append(call)
    if calls:
        touched = [tables.steps[one.step] for one in late.values()]
        writers.return_allotments(
            tables, [row for row in touched if row.status in HOLD_NOTHING or row.free_microusd < 0]
        )
        if charged:
            tables.record(run, ReservationsCharged(charged_microusd=dict(charged)))
        tables.record(run, ReservationsReturned(returned_microusd=dict(returned), calls=tuple(calls)))
    return len(calls)


def unchain_followers(tables: Tables, row: StepLine) -> None:
    """Let those that wait behind it in its chain be admitted by themselves."""
    if row.next_in_chain is not None:
        for follower in tables.of_run[row.run]:
            if follower.chain == row.chain and follower.status == "chained":
                follower.status, follower.chain = "pending", None
    row.chain = row.next_in_chain = None


def wake(tables: Tables) -> list[UUID]:
    """Make waiting steps ready whose time or whose answer has come; an answered gate ends right here."""
    now = tables.clock.now
    woken: list[UUID] = []
    for row in tables.open_rows():
        if row.status != "waiting" or tables.run_of(row).status != "running":
            continue
        if row.spec.kind == KIND and row.wait_reason != "gate":
            continue
        signal = tables.signal(row)
        is_due = row.run_after is not None and row.run_after <= now
        if signal is None and not is_due and not _has_more_money(tables, row):
            continue
        if row.spec.kind == "gate" or row.epoch == 0:
            assert signal is not None, f"gate {row.key!r} woke without an answer"
            if row.spec.kind != "gate" and row.wait_reason == "gate":
                _let_begin(tables, row, signal)
            else:
                _end_gate(tables, row, signal)
        else:
            row.status, row.run_after = "ready", None
        tables.ring(row.run)
        woken.append(row.run)
    return woken


def _has_more_money(tables: Tables, row: StepLine) -> bool:
    """Whether the run's budget was raised while the step found it used up, or later."""
    if row.wait_reason != "budget":
        return False
    began = max(entry.at for entry in tables.journal[row.run, row.id] if isinstance(entry.fact, StepClaimed))
    return any(
        isinstance(entry.fact, BudgetRaised) and entry.at > began - COMMIT_SECONDS
        for entry in tables.journal[row.run, None]
    )


def _end_gate(tables: Tables, row: StepLine, signal: Signal) -> None:
    assert row.wait_id is not None
    asked = next(fact for fact in reversed(tables.facts(row.run, row.id)) if isinstance(fact, StepWaiting))
    heard = SignalReceived.model_validate(
        {"wait_id": row.wait_id, "choice": signal.choice, "body": signal.body, "by": signal.sent_by}
    )
    refused = heard.choice in REFUSALS
    tables.append(row, heard)
    fact = StepFinished(
        outcome="failed" if refused else "succeeded",
        result={"choice": heard.choice, "body": heard.body},
        error=why_ended(heard) if refused else "",
        approved=None if refused else {one.step: one.hash for one in asked.guards},
    )
    tables.append(row, fact)
    row.status = fact.outcome
    row.wait_id = row.wait_reason = row.expires_at = None
    row.finished_at = tables.clock.now


def _let_begin(tables: Tables, row: StepLine, signal: Signal) -> None:
    """A control step behind a gate that had approved something else: it begins with the next round, or fails."""
    assert row.wait_id is not None
    heard = SignalReceived.model_validate(
        {"wait_id": row.wait_id, "choice": signal.choice, "body": signal.body, "by": signal.sent_by}
    )
    tables.append(row, heard)
    if heard.choice in REFUSALS:
        tables.append(row, StepFinished(outcome="failed", error=why_ended(heard)))
        row.status, row.finished_at = "failed", tables.clock.now
    else:
        tables.append(row, StepReleased(reason="approved"))
        row.status = "pending"
    row.wait_id = row.wait_reason = row.expires_at = None


def expire(tables: Tables) -> int:
    """Answer what has expired, unless somebody was first."""
    now = tables.clock.now
    expired = 0
    for row in tables.open_rows():
        is_due = row.status == "waiting" and row.expires_at is not None and row.expires_at <= now
        if not is_due or tables.run_of(row).status != "running" or tables.signal(row) is not None:
            continue
        facts = tables.facts(row.run, row.id)
        asked = next(fact for fact in reversed(facts) if isinstance(fact, StepWaiting))
        retries = sum(isinstance(one, SignalReceived) and one.by == EXPIRY and one.choice == "retry" for one in facts)
        choice = unattended_choice(asked, retries)
        tables.signals[row.id, asked.wait_id] = Signal(choice, None, row.run, now, EXPIRY)
        tables.ring(row.run)
        expired += 1
    return expired


def warn(tables: Tables) -> int:
    """Tell of runs that have passed a mark of their budget."""
    going = [run for run in tables.runs.values() if run.status not in RUN_ENDINGS and not run.is_locked]
    return sum(supervision.warn_of(tables, run) for run in going)


def emit_again(tables: Tables, settings: Settings, broker: Sounding | None) -> int:
    """Make steps ready again whose message went down with the broker, or was not claimed for long."""
    if broker is None:
        return 0
    rows = [row for row in tables.open_rows() if row.status == "queued"]
    if not rows:
        return 0
    slots, since = tables.live_slots(POOL_SILENCE_SECONDS), tables.there_since(POOL_SILENCE_SECONDS)
    again = 0
    for row in rows:
        pool = SOLO if row.solo else row.pool
        if pool not in slots:
            continue
        assert row.queued_at is not None
        waited = tables.clock.now - max(row.queued_at, since[pool])
        is_patient = broker.lengths.get(pool, 0) <= 2 * slots[pool]
        seems_lost = is_patient and waited > patience_seconds(settings, row.emissions)
        if seems_lost or went_down(tables, settings, row, broker):
            row.status = "ready"
            unchain_followers(tables, row)
            again += 1
    return again


def went_down(tables: Tables, settings: Settings, row: StepLine, broker: Sounding) -> bool:
    """Whether its message is lost for sure: the broker was emptied after it had been sent."""
    assert row.queued_at is not None
    since = broker.whole_since
    return since is not None and row.queued_at < since and tables.clock.now - row.queued_at > settings.ring_age_seconds


def patience_seconds(settings: Settings, emissions: int) -> float:
    """How long a message of a step may stay unclaimed."""
    return settings.unclaimed_seconds * min(2.0 ** (max(emissions, 1) - 1), MAX_BACKOFF)


def end_overdue(tables: Tables) -> int:
    """Fail runs, and steps that have started, whose deadline has passed."""
    now = tables.clock.now
    ended = 0
    for run in tables.runs.values():
        if run.deadline_at is None or run.deadline_at >= now or run.status in RUN_ENDINGS or run.is_locked:
            continue
        writers.end_run(tables, run, outcome="failed", reason="its deadline has passed")
        ended += 1
    for row in tables.open_rows():
        if row.deadline_at is None or row.deadline_at >= now or row.status not in STARTED or row.spec.kind == KIND:
            continue
        tables.append(row, StepFinished(outcome="failed", error="its deadline has passed"))
        row.status, row.wait_id, row.wait_reason, row.halt = "failed", None, None, None
        row.lease_until = row.holder = None
        row.finished_at = now
        unchain_followers(tables, row)
        tables.ring(row.run)
        writers.return_allotments(tables, [row])
        ended += 1
    return ended


def old_rings(tables: Tables, settings: Settings) -> list[UUID]:
    """Runs with a ring that nobody answered in time."""
    before = tables.clock.now - settings.ring_age_seconds
    return [run for run, rings in tables.rings.items() if any(at < before for at in rings.values())]

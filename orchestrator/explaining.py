"""Why each live step of a run does not go on, in words: its pool, its predecessors, money, a person, a pause."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from chargehand.memory import journal
from chargehand.orchestrator import switches
from chargehand.orchestrator.celery_tasks import wait_in_words
from chargehand.orchestrator.concurrency import UNDER_WAY
from chargehand.orchestrator.facts import SCHEMA_VERSION, StepWaiting, parse_fact
from chargehand.orchestrator.plan import CeleryTask
from chargehand.orchestrator.supervisor.admit import SOLO, live_slots
from chargehand.orchestrator.switches import Switch
from chargehand.orchestrator.tables import PoolRow, RunRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS
from chargehand.orchestrator.views import StepView, view_run, view_steps

MORE_MONEY = "; `chargehand budget` gives the run more, if it is used up"


def explain(session: Session, run_id: UUID) -> list[tuple[str, str]]:
    """Why each live step of a run does not go on: step key → reason in words."""
    slots = live_slots(session)
    known = {pool for (pool,) in session.execute(select(PoolRow.pool).distinct())}
    run = view_run(session, run_id)
    paused: dict[tuple[str, str], Switch] = {(one.kind, one.name): one for one in switches.listed(session)}
    ahead = _has_key_of(session, run_id) if run.status == "queued" else None
    reasons: list[tuple[str, str]] = []
    steps = view_steps(session, run_id)
    status = {step.key: step.status for step in steps}
    tasks = _waits_of_tasks(session, run_id)
    for step in steps:
        if step.status in STEP_ENDINGS:
            continue
        if run.status == "queued":
            why = "the run waits for its concurrency key" + (f", which run {ahead} has" if ahead is not None else "")
        elif run.status == "paused":
            why = "the run is paused; `chargehand resume` lets it go on"
        elif step.status in ("ready", "queued") and (switch := _switch_of(step, paused)) is not None:
            why = switch.why
        elif step.status == "waiting" and step.wait_reason in ("paused", "circuit"):
            why = f"waits: {_newest_question(session, run_id, step.step_id)}"
        elif step.status == "running":
            why = f"running on {step.holder}, epoch {step.epoch}, turn {step.turns}"
        elif step.key in tasks:
            everything = paused.get(("all", "")) if not tasks[step.key].is_sent else None
            why = everything.why if everything is not None else tasks[step.key].why
        elif step.status == "waiting":
            why = f"waits for {step.wait_reason}" + (MORE_MONEY if step.wait_reason == "budget" else "")
        elif step.status == "pending" or step.status == "chained":
            open_before = [key for key in step.after if status.get(key) not in STEP_ENDINGS]
            why = f"waits for {', '.join(open_before)}" if open_before else "its turn comes with the next advance"
        elif step.schema_version > SCHEMA_VERSION:
            why = (
                f"was written by version {step.schema_version}, this process is of version {SCHEMA_VERSION}; "
                f"start workers of version {step.schema_version}"
            )
        elif (pool := SOLO if step.solo else step.pool) not in slots:
            gone = "no live process any more" if pool in known else "no process"
            why = f"pool {pool!r} has {gone}; start one"
        elif step.status == "queued":
            why = f"queued for pool {pool!r} ({slots[pool]} slots)"
        else:
            why = f"ready; pool {pool!r} has {slots[pool]} slots, all are taken"
        reasons.append((step.key, why))
    return reasons


def _switch_of(step: StepView, paused: Mapping[tuple[str, str], Switch]) -> Switch | None:
    own = paused.get(("role", step.label)) if step.kind == "agent" else None
    return own or paused.get(("all", ""))


def _newest_question(session: Session, run_id: UUID, step: UUID) -> str:
    entries = journal.read(session, run_id, step=step, kinds=["step.waiting"])
    if not entries or entries[-1].body is None:
        return ""
    fact = parse_fact(entries[-1].body, schema_version=entries[-1].schema_version)
    return fact.question if isinstance(fact, StepWaiting) else ""


def _has_key_of(session: Session, run_id: UUID) -> UUID | None:
    """The run under way that has the concurrency key of this one."""
    own, other = aliased(RunRow), aliased(RunRow)
    return session.scalar(
        select(other.id)
        .join(own, (other.tenant == own.tenant) & (other.concurrency_key == own.concurrency_key))
        .where(own.id == run_id, other.status.in_(UNDER_WAY))
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    is_sent: bool
    why: str


def _waits_of_tasks(session: Session, run_id: UUID) -> dict[str, _Task]:
    """Of steps that wait for a task of the user's own app: what is known of it."""
    now = func.clock_timestamp()
    sent, left = func.extract("epoch", now - StepRow.queued_at), func.extract("epoch", StepRow.deadline_at - now)
    rows = session.execute(
        select(StepRow.key, StepRow.spec, StepRow.emissions, sent, left)
        .where(StepRow.run == run_id, StepRow.status == "waiting", StepRow.wait_reason == "celery_task")
        .order_by(StepRow.ordinal)
    )
    return {
        key: _Task(
            is_sent=ago is not None,
            why=wait_in_words(
                CeleryTask.model_validate(spec["celery_task"]),
                sending=sending,
                sent_seconds_ago=None if ago is None else float(ago),
                left_seconds=None if rest is None else float(rest),
            ),
        )
        for key, spec, sending, ago, rest in rows
    }

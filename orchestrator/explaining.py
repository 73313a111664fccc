"""Why each live step of a run does not go on, in words, and one step in depth: what is read for `reasons`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, aliased

from chargehand.orchestrator import switches
from chargehand.orchestrator.celery_tasks import wait_in_words
from chargehand.orchestrator.concurrency import UNDER_WAY
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import SCHEMA_VERSION, StepWaiting, parse_fact
from chargehand.orchestrator.plan import CeleryTask
from chargehand.orchestrator.reasons import Money, Pool, Stand, Surroundings, reason_of, usd
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.supervisor.admit import MAX_BACKOFF, POOL_SILENCE_SECONDS, SOLO
from chargehand.orchestrator.tables import RunRow, StepRow
from chargehand.orchestrator.transitions import STEP_ENDINGS
from chargehand.orchestrator.views import RunView, StepView, view_run, view_steps

# Of the live steps of a run: their clocks as seconds from now, and what they last said while they wait.
_STANDS = text("""
SELECT s.id, s.key, s.spec->>'role', s.halt, s.emissions, s.allotment_microusd, s.reserved_microusd,
    extract(epoch FROM s.lease_until - clock_timestamp())::float8,
    extract(epoch FROM s.run_after - clock_timestamp())::float8,
    extract(epoch FROM s.expires_at - clock_timestamp())::float8,
    extract(epoch FROM s.deadline_at - clock_timestamp())::float8,
    extract(epoch FROM clock_timestamp() - s.queued_at)::float8,
    s.status = 'waiting' AND EXISTS (
        SELECT FROM signals g WHERE g.tenant = s.tenant AND g.step = s.id AND g.wait_id = s.wait_id),
    j.body, j.schema_version
FROM steps s LEFT JOIN journal j
    ON s.status = 'waiting' AND j.run = s.run AND j.step = s.id AND j.seq = s.head_seq AND j.kind = 'step.waiting'
WHERE s.run = :run AND s.status <> ALL(:endings)
""")
_POOLS = text("""
SELECT pool, coalesce(sum(slots) FILTER (WHERE lives), 0)::int,
    extract(epoch FROM clock_timestamp() - min(since) FILTER (WHERE lives))::float8
FROM (SELECT *, seen_at > clock_timestamp() - make_interval(secs => :silence) AS lives FROM pools) AS pools
GROUP BY pool
""")
_TAKEN = text("""
SELECT CASE WHEN solo THEN 'solo' ELSE pool END, count(DISTINCT coalesce(chain, id)) FROM steps
WHERE status IN ('queued', 'running') GROUP BY 1
""")
_MONEY = text("""
SELECT b.cap_microusd, b.drawn_microusd, t.cap_microusd, t.drawn_microusd, t.day_cap_microusd,
    CASE WHEN t.day = (clock_timestamp() AT TIME ZONE 'UTC')::date THEN t.day_drawn_microusd ELSE 0 END
FROM budgets b LEFT JOIN tenant_budgets t ON t.tenant = b.tenant WHERE b.run = :run
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why one step does not go on, in depth."""

    run_id: UUID
    step: str
    status: str
    why: str
    """As `explain` gives it."""
    details: Mapping[str, str]
    """Its pool, lease, message, money and attempts, as far as it has them."""
    behind: Sequence[tuple[str, str]]
    """The steps at the bottom of what it waits for, and why these do not go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """A run and what is around its live steps, read once."""

    run: RunView
    steps: Mapping[str, StepView]
    stands: Mapping[str, Stand]
    purses: Mapping[str, tuple[int, int]]
    """key → allotted and reserved, in millionths of a dollar."""
    deadlines: Mapping[str, float]
    around: Surroundings
    tasks: Mapping[str, "_Task"]

    def why(self, key: str) -> str:
        """The reason of a live step."""
        step = self.steps[key]
        if key in self.tasks and self.around.run_status not in ("queued", "paused"):
            everything = self.around.paused.get(("all", "")) if not self.tasks[key].is_sent else None
            return everything.why if everything is not None else self.tasks[key].why
        return str(reason_of(self.stands[step.key], self.around))


def explain(session: Session, run_id: UUID, *, unclaimed_seconds: float | None = None) -> list[tuple[str, str]]:
    """Why each live step of a run does not go on: step key → reason in words, with what would free it.

    `unclaimed_seconds`: the setting of that name; None: when a lost message is sent again is not told.
    """
    look = _look(session, run_id, unclaimed_seconds)
    return [(key, look.why(key)) for key in look.steps if key in look.stands]


def explain_step(session: Session, run_id: UUID, key: str, *, unclaimed_seconds: float | None = None) -> Explanation:
    """One step in depth, with what stands behind it; raises `NotFound`."""
    look = _look(session, run_id, unclaimed_seconds)
    step = look.steps.get(key)
    if step is None:
        near = get_close_matches(key, look.steps, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`chargehand status` lists them."
        raise NotFound(f"Run {run_id} has no step {key!r}; {hint}")
    if key not in look.stands:
        why = f"has ended: {step.status}" + (f" ({step.error})" if step.error else "")
        return Explanation(run_id=run_id, step=key, status=step.status, why=why, details={}, behind=())
    return Explanation(
        run_id=run_id,
        step=key,
        status=step.status,
        why=look.why(key),
        details=_details(look, key),
        behind=[(one, look.why(one)) for one in _bottom(look, key)],
    )


def _look(session: Session, run_id: UUID, unclaimed_seconds: float | None) -> _Look:
    run = view_run(session, run_id)
    steps = {step.key: step for step in view_steps(session, run_id)}
    pools = {pool: (slots, up) for pool, slots, up in session.execute(_POOLS, {"silence": POOL_SILENCE_SECONDS})}
    taken: dict[str, int] = {pool: number for pool, number in session.execute(_TAKEN)}  # noqa: C416 - typed rows
    money = session.execute(_MONEY, {"run": run_id}).one_or_none()
    around = Surroundings(
        run=run_id.hex[-8:],
        run_status=run.status,
        version=SCHEMA_VERSION,
        money=_money_of(money) if money is not None else Money(cap=run.cap_microusd, drawn=run.spent_microusd),
        key_holder=_has_key_of(session, run_id) if run.status == "queued" else None,
        paused={(one.kind, one.name): one for one in switches.listed(session)},
        pools={pool: Pool(slots=slots, is_known=True, taken=taken.get(pool, 0)) for pool, (slots, _) in pools.items()},
    )
    live = [step for step in steps.values() if step.status not in STEP_ENDINGS]
    replanners = tuple(step.key for step in live if step.kind == "agent" and step.label == REPLANNER)
    children = _children(session, run_id)
    stands: dict[str, Stand] = {}
    purses: dict[str, tuple[int, int]] = {}
    deadlines: dict[str, float] = {}
    for row in session.execute(_STANDS, {"run": run_id, "endings": sorted(STEP_ENDINGS)}):
        _, key, role, halt, emissions, allotted, reserved, lease, after, expires, deadline, queued, answered, *said = (
            row
        )
        step = steps[key]
        pool = SOLO if step.solo else step.pool
        asked = parse_fact(said[0], schema_version=said[1]) if said[0] is not None else None
        is_asked = isinstance(asked, StepWaiting)
        resend = None
        if unclaimed_seconds is not None and queued is not None and (up := pools.get(pool, (0, None))[1]) is not None:
            patience = unclaimed_seconds * min(2 ** (max(emissions, 1) - 1), MAX_BACKOFF)
            resend = patience - min(queued, up)
        stands[key] = Stand(
            key=key,
            status=step.status,
            pool=pool,
            schema_version=step.schema_version,
            open_before=[one for one in step.after if one in steps and steps[one].status not in STEP_ENDINGS],
            open_children=[one for one in children.get(key, ()) if steps[one].status not in STEP_ENDINGS],
            replanners=[one for one in replanners if one != key],
            role=role or "",
            holder=step.holder or "",
            epoch=step.epoch,
            turns=step.turns,
            lease_seconds=lease,
            halt=halt,
            wait_reason=step.wait_reason,
            question=asked.question if isinstance(asked, StepWaiting) else "",
            options=asked.options if isinstance(asked, StepWaiting) else (),
            is_answered=answered and is_asked,
            expires_seconds=expires,
            run_after_seconds=after,
            queued_seconds=queued or 0.0,
            resend_seconds=resend,
        )
        purses[key] = (allotted, reserved)
        if deadline is not None:
            deadlines[key] = deadline
    tasks = _waits_of_tasks(session, run_id)
    return _Look(run=run, steps=steps, stands=stands, purses=purses, deadlines=deadlines, around=around, tasks=tasks)


def _money_of(row: Any) -> Money:
    cap, drawn, tenant_cap, tenant_drawn, day_cap, day_drawn = row
    return Money(
        cap=cap,
        drawn=drawn,
        tenant_cap=tenant_cap,
        tenant_drawn=tenant_drawn or 0,
        day_cap=day_cap,
        day_drawn=day_drawn or 0,
    )


def _details(look: _Look, key: str) -> dict[str, str]:
    step, stand = look.steps[key], look.stands[key]
    pool = look.around.pools.get(stand.pool)
    told = {"pool": f"{stand.pool}: " + (f"{pool.slots} slots, your steps have {pool.taken}" if pool else "no process")}
    if step.epoch:
        told["attempts"] = f"{step.epoch} begun, {step.crashes} cut off without progress, {step.turns} turns"
    if step.status == "running" and stand.lease_seconds is not None:
        told["lease"] = f"{stand.holder} for {stand.lease_seconds:.0f} s more"
    allotted, reserved = look.purses[key]
    told["money"] = (
        f"spent {usd(step.spent_microusd)}, allotted {usd(allotted)}, of which {usd(reserved)} is reserved for a call; "
        f"{look.around.money}"
    )
    if key in look.deadlines:
        told["deadline"] = f"in {look.deadlines[key]:.0f} s"
    if look.run.status in ("queued", "running"):
        told["priority"] = f"{look.run.priority} (higher goes first)"
    return told


def _bottom(look: _Look, key: str) -> list[str]:
    """Live steps that it waits for, directly or not, and that wait for no other step themselves; in plan order."""
    seen: set[str] = set()
    open_keys = [key]
    bottom: set[str] = set()
    while open_keys:
        stand = look.stands[open_keys.pop()]
        before = [one for one in (*stand.open_before, *stand.open_children) if one in look.stands]
        if stand.status in ("pending", "chained") and not before:
            before = list(stand.replanners)
        if not before and stand.key != key:
            bottom.add(stand.key)
        open_keys += [one for one in before if one not in seen]
        seen.update(before)
    return [one for one in look.steps if one in bottom]


def _children(session: Session, run_id: UUID) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    parent = StepRow.spec["parent"].astext
    query = select(parent, StepRow.key).where(StepRow.run == run_id, parent.is_not(None)).order_by(StepRow.ordinal)
    for above, key in session.execute(query):
        found[above].append(key)
    return found


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

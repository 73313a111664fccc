"""Why a live step does not go on, and what would free it: a pure judgement of how it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.switches import Switch

# Keys that a reason names; a join over a thousand steps is counted.
MOST_KEYS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a step does not go on."""

    why: str
    frees: str = ""
    """What lets it go on, by itself or by a person; empty when the reason says it, or when it does go on."""

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.why}; {self.frees}" if self.frees else self.why


@dataclass(frozen=True, kw_only=True, slots=True)
class Money:
    """What a run may spend, and its tenant; in millionths of a dollar."""

    cap: int
    drawn: int
    """Allotted to steps and not returned, which includes what they spent."""
    tenant_cap: int | None = None
    tenant_drawn: int = 0
    day_cap: int | None = None
    """Of a day in UTC."""
    day_drawn: int = 0

    def __str__(self) -> str:
        """In dollars."""
        words = f"{usd(self.drawn)} of the run's {usd(self.cap)} is drawn"
        if self.tenant_cap is not None:
            words += f", {usd(self.tenant_drawn)} of its tenant's {usd(self.tenant_cap)}"
        if self.day_cap is not None:
            words += f", {usd(self.day_drawn)} of its tenant's {usd(self.day_cap)} a day (UTC)"
        return words


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """A pool as this tenant sees it."""

    slots: int
    """Of live processes."""
    is_known: bool
    """It had a process at some time."""
    taken: int = 0
    """By this tenant's steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stand:
    """How a live step stands; times are seconds from now, negative ones have passed."""

    key: str
    status: str
    pool: str
    """`solo` when it runs alone."""
    schema_version: int
    open_before: Sequence[str] = ()
    """Keys of steps it waits for."""
    open_children: Sequence[str] = ()
    replanners: Sequence[str] = ()
    """Keys of live steps that change the plan."""
    role: str = ""
    holder: str = ""
    epoch: int = 0
    turns: int = 0
    lease_seconds: float | None = None
    halt: str | None = None
    wait_reason: str | None = None
    question: str = ""
    options: Sequence[str] = ()
    is_answered: bool = False
    expires_seconds: float | None = None
    run_after_seconds: float | None = None
    queued_seconds: float = 0.0
    resend_seconds: float | None = None
    """Until its message is sent again; None: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a step depends on beside itself."""

    run: str
    """As people name it."""
    run_status: str
    version: int
    """Of this process."""
    money: Money
    key_holder: UUID | None = None
    """The run that has the concurrency key."""
    paused: Mapping[tuple[str, str], Switch]
    pools: Mapping[str, Pool]


def reason_of(step: Stand, around: Surroundings) -> Reason:
    """Why the step does not go on."""
    if around.run_status == "queued":
        if around.key_holder is None:
            return Reason(why="the run waits for its concurrency key", frees="it starts within half a second")
        frees = f"it starts when that run has ended, or `chargehand cancel {around.key_holder}`"
        return Reason(why=f"the run waits for its concurrency key, which run {around.key_holder} has", frees=frees)
    if around.run_status == "paused":
        return Reason(why="the run is paused", frees=f"`chargehand resume {around.run}` lets it go on")
    switch = around.paused.get(("role", step.role)) if step.role else None
    if step.status in ("ready", "queued") and (switch := switch or around.paused.get(("all", ""))) is not None:
        return Reason(why=switch.why)
    if step.status == "running":
        return _running(step)
    if step.status == "waiting":
        return _waiting(step, around)
    if step.status in ("pending", "chained"):
        return _behind(step)
    if step.schema_version > around.version:
        why = f"was written by version {step.schema_version}, this process is of version {around.version}"
        return Reason(why=why, frees=f"start workers of version {step.schema_version}")
    return _before_its_pool(step, around)


def _running(step: Stand) -> Reason:
    why = f"running on {step.holder}, epoch {step.epoch}, turn {step.turns}"
    if step.halt:
        return Reason(why=why, frees="a pause was asked for: it is handed back at its next commit")
    if step.lease_seconds is None:
        return Reason(why=why)
    if step.lease_seconds < 0:
        frees = "another worker takes it over as soon as a supervisor finds it"
        return Reason(why=f"{why}, and its lease ran out {_duration(-step.lease_seconds)} ago", frees=frees)
    return Reason(why=f"{why}, its lease holds for {_duration(step.lease_seconds)} more unless it is renewed")


def _waiting(step: Stand, around: Surroundings) -> Reason:
    said = f": {step.question}" if step.question else ""
    again = ""
    if step.run_after_seconds is not None:
        again = (
            f"it looks again in {_duration(step.run_after_seconds)}"
            if step.run_after_seconds > 0
            else "it looks again now"
        )
    match step.wait_reason:
        case _ if step.is_answered:
            return Reason(
                why="its question is answered", frees="it goes on with the next round, within a second or two"
            )
        case "paused" | "circuit":
            return Reason(why=f"waits{said}", frees="" if step.wait_reason == "paused" else again)
        case "rate" | "retry":
            limit = "a rate limit" if step.wait_reason == "rate" else "another attempt"
            return Reason(why=f"waits for {limit}{said}", frees=again)
        case "budget" if again:
            return Reason(why=f"waits for budget that other steps hold{said}", frees=f"{again} ({around.money})")
        case "budget":
            frees = f"`chargehand budget {around.run} USD` gives more ({around.money})"
            if _tenant_is_used_up(around.money):
                frees += "; its tenant's cap stands in the way, too: `chargehand caps`"
            return Reason(why=f"waits for budget{said}", frees=frees)
        case "children":
            keys = f" {_listed(step.open_children)}" if step.open_children else ""
            return Reason(why=f"waits for its children{keys}")
        case _:
            options = f" {'|'.join(step.options)}" if step.options else ""
            frees = f"answer with `chargehand resolve {around.run} {step.key}{options}`"
            if step.expires_seconds is not None:
                frees += f" within {_duration(max(0.0, step.expires_seconds))}"
            return Reason(why=f"waits for {_whom(step.wait_reason)}{said}", frees=frees)


def _whom(reason: str | None) -> str:
    return {"human": "a person", "gate": "a person's approval"}.get(reason or "", reason or "something")


def _behind(step: Stand) -> Reason:
    if step.open_before:
        return Reason(why=f"waits for {_listed(step.open_before)}")
    if step.replanners:
        return Reason(why=f"waits for a change of the plan, which {_listed(step.replanners)} ({REPLANNER}) decides")
    return Reason(why="its turn comes with the next advance", frees="a supervisor makes it within a second or two")


def _before_its_pool(step: Stand, around: Surroundings) -> Reason:
    pool = around.pools.get(step.pool, Pool(slots=0, is_known=False))
    if not pool.slots:
        gone = "no live process any more" if pool.is_known else "no process"
        return Reason(why=f"pool {step.pool!r} has {gone}", frees="start one")
    if step.status == "queued":
        why = f"queued for pool {step.pool!r} ({pool.slots} slots) for {_duration(step.queued_seconds)}"
        if step.resend_seconds is None:
            return Reason(why=why)
        soon = f"in {_duration(step.resend_seconds)}" if step.resend_seconds > 0 else "now"
        frees = f"a worker claims it; if its message is lost, it is sent again {soon}, once the pool's queue is short"
        return Reason(why=why, frees=frees)
    if pool.taken >= pool.slots:
        frees = "it goes on when a step ends, or with more processes of that pool"
        return Reason(why=f"ready; pool {step.pool!r} has {pool.slots} slots, all are taken", frees=frees)
    frees = "the next admission queues it, unless other tenants' steps, or those of a higher priority, fill the pool"
    return Reason(why=f"ready; pool {step.pool!r} has {pool.slots} slots, your steps have {pool.taken}", frees=frees)


def _tenant_is_used_up(money: Money) -> bool:
    return (money.tenant_cap is not None and money.tenant_drawn >= money.tenant_cap) or (
        money.day_cap is not None and money.day_drawn >= money.day_cap
    )


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - MOST_KEYS
    return ", ".join(keys[:MOST_KEYS]) + (f" and {more} more" if more > 0 else "")


def usd(microusd: int) -> str:
    """Dollars with four decimals."""
    return f"${microusd / 1_000_000:,.4f}"


def _duration(seconds: float) -> str:
    """Whole seconds, then minutes and hours: the reason is read once, not watched."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"

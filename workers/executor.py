"""What a message asks for: claim its step, or the steps of its pack, run them, record them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from chargehand.orchestrator.errors import NewerVersion, NothingToClaim, Unavailable
from chargehand.orchestrator.facts import StepFinished, StepReleased
from chargehand.orchestrator.steps import Claim, HeldStep, claim, claim_many, finish_many, give_back, joins_are_open
from chargehand.workers.agent import Finished
from chargehand.workers.attempt import Attempt, Delivery
from chargehand.workers.followed import followed
from chargehand.workers.inputs import Gathered, RunReader
from chargehand.workers.shop import Shop

log = logging.getLogger(__name__)

# A pack is for small steps: what has not begun after so much work goes back, for all to take.
PACK_SECONDS = 1.0
# Work of finished scripts that a crash would repeat.
AT_RISK_SECONDS = 0.25


def execute(shop: Shop, *, tenant: UUID, step_id: UUID) -> Delivery:
    """Run the step if it is this worker's to run; never raises for what a step or its lease can do."""
    try:
        claimed = claim(
            shop.connections,
            tenant=tenant,
            step_id=step_id,
            holder=shop.holder,
            lease_seconds=shop.settings.lease_seconds,
            solo_pool=shop.pool == "solo",
        )
    except NothingToClaim as nothing:
        log.info("nothing to claim", extra={"step_id": str(step_id), "why": str(nothing)})
        return "go_on" if nothing.ended else "stop"
    except Unavailable as outage:
        # If the claim was made all the same, the message finds nothing to do and the lease brings the step back.
        log.warning("outage", extra={"step_id": str(step_id), "why": str(outage)})
        return "again"
    attempt = Attempt(shop=shop, held=_held(shop, claimed))
    attempt.begin()
    try:
        with followed(attempt):
            return attempt.run()
    finally:
        attempt.end()


def _held(shop: Shop, claimed: Claim) -> HeldStep:
    return HeldStep(shop.connections, claimed, committed=lambda: shop.hints.give(claimed.run_id))


def execute_pack(shop: Shop, *, tenant: UUID, run_id: UUID, step_ids: Sequence[UUID]) -> Delivery:
    """Run the scripts of a pack, one after the other, as far as they are this worker's to run and small.

    They are claimed and finished together, a few at first and more as they prove small. Never raises for what a step or
    its lease can do.
    """
    pack = Pack(shop=shop, tenant=tenant, run_id=run_id)
    try:
        return pack.run(list(step_ids))
    except Unavailable as outage:
        # What was claimed comes back by its lease, what was not by the message.
        log.warning("outage", extra={"run_id": str(run_id), "why": str(outage)})
        return "again"


@dataclass(kw_only=True, slots=True)
class Pack:
    """The steps of one message while it lasts."""

    shop: Shop
    tenant: UUID
    run_id: UUID
    ended: set[UUID] = field(default_factory=set)
    """Steps that a chord may count."""
    done: list[tuple[Attempt, StepFinished]] = field(default_factory=list)
    """Succeeded and not recorded yet."""
    script_seconds: float = 0.0
    """What the scripts themselves have taken."""
    is_cut_off: bool = False
    """Postgres did not answer when one was to be claimed."""

    def run(self, waiting: list[UUID]) -> Delivery:
        """All of them, while there is time."""
        # Whether an effect has happened is known of a step that was claimed by itself only.
        alone = [name for name, script in self.shop.scripts.items() if script.effect == "effectful"]
        asked, some = len(waiting), 1
        while waiting and not self.shop.stopping.is_set() and self.script_seconds < PACK_SECONDS:
            next_ones, waiting = waiting[:some], waiting[some:]
            before = self.script_seconds
            self._run_some(next_ones, alone)
            # Of their own work, not of our commits: on a busy machine packs are wanted most.
            seconds_each = (self.script_seconds - before) / len(next_ones)
            some = max(1, int(AT_RISK_SECONDS / max(seconds_each, 0.001)))
        if waiting:
            give_back(self.shop.connections, tenant=self.tenant, step_ids=waiting)
            self.shop.ring(self.run_id)
        if self.is_cut_off:
            return "again"
        return "go_on" if len(self.ended) == asked else "stop"

    def _run_some(self, step_ids: Sequence[UUID], alone: Sequence[str]) -> None:
        claims = claim_many(
            self.shop.connections,
            tenant=self.tenant,
            step_ids=step_ids,
            holder=self.shop.holder,
            lease_seconds=self.shop.settings.lease_seconds,
            but_not=alone,
        )
        attempts = [Attempt(shop=self.shop, held=_held(self.shop, one)) for one in claims]
        for attempt in attempts:
            attempt.begin()
        try:
            self._run_claimed(attempts)
        finally:
            for attempt in attempts:
                attempt.end()
        # What could not be claimed is somebody else's, or over, or has an effect.
        for step_id in set(step_ids) - {one.step_id for one in claims}:
            delivery = execute(self.shop, tenant=self.tenant, step_id=step_id)
            if delivery == "go_on":
                self.ended.add(step_id)
            self.is_cut_off = self.is_cut_off or delivery == "again"

    def _run_claimed(self, attempts: Sequence[Attempt]) -> None:
        reader = RunReader(self.shop.engine, self.tenant, self.run_id)
        try:
            gathered = reader.gather_many([attempt.claim.step for attempt in attempts])
        except NewerVersion:
            # One of them; each looks for itself.
            for attempt in attempts:
                if attempt.run() == "go_on":
                    self.ended.add(attempt.claim.step_id)
            return
        recorded = self.script_seconds
        for attempt, inputs in zip(attempts, gathered, strict=True):
            if self.shop.stopping.is_set():
                attempt.guarded(lambda one=attempt: one.hand_back(StepReleased(reason="drain")))  # type: ignore[misc]
                continue
            delivery = attempt.guarded(lambda one=attempt, read=inputs: self._run_one(one, reader, read))  # type: ignore[misc]
            if delivery == "go_on":
                self.ended.add(attempt.claim.step_id)
            if self.script_seconds - recorded > AT_RISK_SECONDS:
                self._record()
                recorded = self.script_seconds
        self._record()

    def _run_one(self, attempt: Attempt, reader: RunReader, inputs: Gathered) -> Delivery:
        began = time.monotonic()
        with followed(attempt):
            outcome = attempt.outcome(reader, inputs)
        self.script_seconds += time.monotonic() - began
        if not isinstance(outcome, Finished):
            return attempt.record(outcome)
        self.done.append((attempt, attempt.success(outcome)))
        return "stop"

    def _record(self) -> None:
        """Finish what has succeeded, all in one commit; whoever was overtaken writes nothing."""
        if not self.done:
            return
        done, self.done = self.done, []
        finished = finish_many(self.shop.connections, [(attempt.held, fact) for attempt, fact in done])
        self.ended |= finished
        self.shop.hints.give(self.run_id)
        for attempt, _ in done:
            if attempt.claim.step_id not in finished:
                log.warning("fenced", extra={"run_id": str(self.run_id), "step": attempt.claim.step.key})
        log.info("steps finished", extra={"run_id": str(self.run_id), "steps": len(finished)})
        if joins_are_open(self.shop.connections, tenant=self.tenant, step_ids=sorted(finished)):
            self.shop.ring(self.run_id)

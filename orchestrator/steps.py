"""The writers of a step between its claim and its end; each is one statement, one commit, one round trip.

Every write is conditional on the epoch of the claim: whoever was overtaken writes nothing and learns why in a second
statement (the refused one reads an old snapshot).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg import errors as pg

from chargehand.memory import journal
from chargehand.orchestrator.connections import Connections, Row
from chargehand.orchestrator.errors import LeaseLost, NothingToClaim, StepCancelled, StepPaused, Unavailable
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    SignalReceived,
    StepFact,
    StepFinished,
    StepReleased,
    StepWaiting,
)
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.telemetry import endings, fact_metrics
from chargehand.orchestrator.transitions import STEP_ENDINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A step that this worker holds, and the head of its stream as the claim left it."""

    tenant: UUID
    run_id: UUID
    step_id: UUID
    step: Step
    epoch: int
    seq: int
    crashes: int
    retries: int
    solo: bool
    taken_over: bool
    """An earlier attempt was cut off: whether its effect happened is not known."""
    deadline_at: datetime | None
    in_chain: bool
    """A follower waits for this step in the same Celery chain."""
    wait_id: UUID | None
    """Of the question it waited for, if it did."""
    queued_seconds: float = 0.0
    """For how long it was queued before this claim."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What the end of a step leaves to do."""

    seq: int
    next_queued: bool
    """The next link of the chain was queued by the same commit."""


_CLAIM = """
WITH own AS (
    UPDATE steps SET
        status = 'running', epoch = epoch + 1, schema_version = %(version)s, head_seq = head_seq + 1, emissions = 0,
        lease_until = clock_timestamp() + make_interval(secs => %(lease)s), holder = %(holder)s,
        started_at = coalesce(started_at, clock_timestamp()),
        deadline_at = coalesce(deadline_at,
            clock_timestamp() + make_interval(secs => (spec->>'deadline_seconds')::double precision))
    WHERE id = %(step)s AND status = 'queued' AND halt IS NULL AND (NOT solo OR %(solo)s)
      AND schema_version <= %(version)s
    RETURNING tenant, run, id, spec, epoch, head_seq, crashes, retries, solo, deadline_at, taken_over,
              wait_id, next_in_chain IS NOT NULL AS in_chain,
              extract(epoch FROM clock_timestamp() - queued_at)::float8 AS queued_seconds
), claimed AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body)
    SELECT tenant, run, id, head_seq, 'step.claimed', %(version)s, epoch, json_build_object(
        'kind', 'step.claimed', 'holder', %(holder)s::text, 'takeover', false, 'crashes', crashes)::text
    FROM own
)
SELECT * FROM own
"""

# Small scripts of one run, all at once; only what nobody holds. In plan order, and past what somebody has locked.
_CLAIM_MANY = """
WITH free AS (
    SELECT id FROM steps
    WHERE id = ANY(%(steps)s::uuid[]) AND status = 'queued' AND halt IS NULL AND NOT solo
      AND schema_version <= %(version)s
      AND spec->>'kind' = 'script' AND NOT spec->>'script' = ANY(%(but_not)s::text[])
    ORDER BY ordinal FOR NO KEY UPDATE SKIP LOCKED
), own AS (
    UPDATE steps s SET
        status = 'running', epoch = epoch + 1, schema_version = %(version)s, head_seq = head_seq + 1, emissions = 0,
        lease_until = clock_timestamp() + make_interval(secs => %(lease)s), holder = %(holder)s,
        started_at = coalesce(started_at, clock_timestamp()),
        deadline_at = coalesce(deadline_at,
            clock_timestamp() + make_interval(secs => (spec->>'deadline_seconds')::double precision))
    FROM free WHERE s.id = free.id
    RETURNING tenant, run, s.id, ordinal, spec, epoch, head_seq, crashes, retries, solo, deadline_at, taken_over,
              wait_id, false AS in_chain, extract(epoch FROM clock_timestamp() - queued_at)::float8 AS queued_seconds
), claimed AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body)
    SELECT tenant, run, id, head_seq, 'step.claimed', %(version)s, epoch, json_build_object(
        'kind', 'step.claimed', 'holder', %(holder)s::text, 'takeover', false, 'crashes', crashes)::text
    FROM own
)
SELECT * FROM own ORDER BY ordinal
"""
# Their message came through, as that of a step that is claimed: the next one that is lost is the first.
_GIVE_BACK = """
WITH mine AS (
    SELECT id FROM steps WHERE id = ANY(%(steps)s::uuid[]) AND status = 'queued' ORDER BY ordinal FOR NO KEY UPDATE
), own AS (
    UPDATE steps s SET status = 'ready', chain = NULL, emissions = 0 FROM mine WHERE s.id = mine.id
    RETURNING s.tenant, s.run
)
INSERT INTO rings (tenant, run) SELECT DISTINCT tenant, run FROM own
"""

# `crashes` of a step that hands itself back stays: only progress resets it. So does its `wait_id`: it may not have
# heard the answer yet.
_LEAVE = """
WITH own AS (
    UPDATE steps SET
        status = %(status)s, head_seq = head_seq + 1, lease_until = NULL, holder = NULL,
        halt = NULL, wait_id = coalesce(%(wait_id)s, wait_id), wait_reason = coalesce(%(wait_reason)s, wait_reason),
        wait_cause = CASE WHEN %(wait_id)s::uuid IS NULL THEN wait_cause ELSE %(wait_cause)s END,
        expires_at = clock_timestamp() + make_interval(secs => %(expires)s),
        retries = retries + %(retried)s, schema_version = greatest(schema_version, %(needs)s),
        run_after = clock_timestamp() + make_interval(secs => %(after)s),
        returned_microusd = allotment_microusd - spent_microusd - reserved_microusd,
        allotment_microusd = spent_microusd + reserved_microusd
    WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' AND head_seq = %(seq)s
    RETURNING tenant, run, id, epoch, head_seq, chain, returned_microusd
), fact AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash)
    SELECT tenant, run, id, head_seq, %(kind)s, %(version)s, epoch, %(body_1)s, %(salt_1)s::bytea,
        %(hash_1)s::bytea
    FROM own
), unchained AS (
    UPDATE steps f SET status = 'pending', chain = NULL FROM own
    WHERE f.run = own.run AND f.chain = own.chain AND f.status = 'chained' RETURNING f.id
), ring AS (
    INSERT INTO rings (tenant, run) SELECT tenant, run FROM own
), refund AS (
    UPDATE budgets b SET drawn_microusd = drawn_microusd - own.returned_microusd FROM own
    WHERE b.run = own.run AND own.returned_microusd > 0 AND (SELECT count(*) FROM unchained) >= 0
)
SELECT head_seq FROM own
"""

# What the worker knows to be nobody's is left out: a statement pays for each part that it could have run.
_END = """
WITH own AS (
    UPDATE steps SET
        status = %(status)s, head_seq = head_seq + 1, lease_until = NULL, holder = NULL, halt = NULL,
        finished_at = clock_timestamp(){returned}
    WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' AND head_seq = %(seq)s
    RETURNING tenant, run, id, epoch, head_seq, next_in_chain, returned_microusd
), fact AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash)
    SELECT tenant, run, id, head_seq, 'step.finished', %(version)s, epoch, %(body_1)s, %(salt_1)s::bytea,
        %(hash_1)s::bytea
    FROM own
), ring AS (
    INSERT INTO rings (tenant, run) SELECT tenant, run FROM own
){follows}
SELECT head_seq, {next_queued} AS next_queued FROM own
"""
_FINISH = _END.format(
    returned=""",
        returned_microusd = allotment_microusd - spent_microusd - reserved_microusd,
        allotment_microusd = spent_microusd + reserved_microusd""",
    follows=""", next AS (
    UPDATE steps f SET status = 'queued', queued_at = clock_timestamp(), emissions = 1 FROM own
    WHERE f.id = own.next_in_chain AND f.status = 'chained' AND f.halt IS NULL AND %(status)s = 'succeeded'
      AND NOT %(grows)s
    RETURNING f.id
), refund AS (
    UPDATE budgets b SET drawn_microusd = drawn_microusd - own.returned_microusd FROM own
    WHERE b.run = own.run AND own.returned_microusd > 0 AND (SELECT count(*) FROM next) >= 0
)""",
    next_queued="(SELECT count(*) FROM next)",
)
# Of a script, claimed once, that has drawn no money and that nothing follows in its chain.
_FINISH_ALONE = _END.format(returned="", follows="", next_queued="0")

# Scripts that succeeded; they have drawn no money, and nothing follows them in a chain.
_FINISH_MANY = """
WITH mine AS (
    SELECT s.id, given.body
    FROM unnest(%(steps)s::uuid[], %(epochs)s::integer[], %(seqs)s::bigint[], %(bodies)s::text[])
        AS given(step, epoch, seq, body)
    JOIN steps s ON s.id = given.step AND s.epoch = given.epoch AND s.head_seq = given.seq
    WHERE s.status = 'running' ORDER BY s.ordinal FOR NO KEY UPDATE OF s
), own AS (
    UPDATE steps s SET status = 'succeeded', head_seq = head_seq + 1, lease_until = NULL, holder = NULL, halt = NULL,
        finished_at = clock_timestamp()
    FROM mine WHERE s.id = mine.id RETURNING tenant, run, s.id, epoch, head_seq, mine.body
), fact AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body)
    SELECT tenant, run, id, head_seq, 'step.finished', %(version)s, epoch, body FROM own
), ring AS (
    INSERT INTO rings (tenant, run) SELECT DISTINCT tenant, run FROM own
)
SELECT id FROM own
"""

# Asked in a statement of its own, after the finish has committed: two finishers of one join would miss each other.
# A step that nothing follows may have been the last of its run.
_JOINS_ARE_OPEN = """
SELECT EXISTS (
    SELECT FROM edges e JOIN steps s ON s.id = e.successor AND s.status IN ('pending', 'chained')
    WHERE e.predecessor = ANY(%(steps)s::uuid[]) AND (s.spec->>'join' = 'any' OR NOT EXISTS (
        SELECT FROM edges o JOIN steps p ON p.id = o.predecessor
        WHERE o.successor = e.successor AND p.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')))
) OR EXISTS (
    SELECT FROM unnest(%(steps)s::uuid[]) AS own(id) WHERE NOT EXISTS (SELECT FROM edges WHERE predecessor = own.id)
) AS open
"""

_STATE = "SELECT status, epoch, halt, head_seq FROM steps WHERE id = %(step)s"
_ROWS_AFTER = """
SELECT seq, epoch, body FROM journal WHERE run = %(run)s AND step = %(step)s AND seq > %(seq)s
ORDER BY seq LIMIT %(most)s
"""
_SIGNAL = "SELECT choice, body, sent_by, sent_at FROM signals WHERE step = %(step)s AND wait_id = %(wait_id)s"
_FOLD_IN = """
WITH own AS (
    UPDATE steps SET head_seq = head_seq + 1, wait_id = NULL, wait_reason = NULL, wait_cause = NULL,
        run_after = NULL, expires_at = NULL
    WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' AND head_seq = %(seq)s
    RETURNING tenant, run, id, epoch, head_seq
), fact AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash)
    SELECT tenant, run, id, head_seq, 'signal.received', %(version)s, epoch, %(body_1)s, %(salt_1)s::bytea,
        %(hash_1)s::bytea
    FROM own
)
SELECT head_seq FROM own
"""


def claim(
    connections: Connections, *, tenant: UUID, step_id: UUID, holder: str, lease_seconds: float, solo_pool: bool = False
) -> Claim:
    """Take the step for this worker, or raise `NothingToClaim` (its `ended` says whether the step is over).

    Two deliveries of one message may both call this; exactly one wins.
    """
    parameters = {
        "step": step_id,
        "lease": lease_seconds,
        "holder": holder,
        "solo": solo_pool,
        "version": SCHEMA_VERSION,
    }
    row = connections.run(tenant, _CLAIM, parameters)
    if row is None:
        state = connections.run(tenant, _STATE, {"step": step_id})
        status = state["status"] if state is not None else "unknown"
        raise NothingToClaim(
            f"Step {step_id} is {status}; this message finds nothing to do.", ended=status in STEP_ENDINGS
        )
    return _claim(tenant, row)


def claim_many(
    connections: Connections,
    *,
    tenant: UUID,
    step_ids: Sequence[UUID],
    holder: str,
    lease_seconds: float,
    but_not: Sequence[str] = (),
) -> list[Claim]:
    """Take those of the steps that are queued scripts, but for scripts of these names; in plan order, maybe none."""
    rows = connections.rows(
        tenant,
        _CLAIM_MANY,
        {
            "steps": list(step_ids),
            "lease": lease_seconds,
            "holder": holder,
            "but_not": list(but_not),
            "version": SCHEMA_VERSION,
        },
    )
    return [_claim(tenant, row) for row in rows]


def give_back(connections: Connections, *, tenant: UUID, step_ids: Sequence[UUID]) -> None:
    """Let queued steps that this worker was told of, and does not claim, be admitted again."""
    connections.run(tenant, _GIVE_BACK, {"steps": list(step_ids)})


def joins_are_open(connections: Connections, *, tenant: UUID, step_ids: Sequence[UUID]) -> bool:
    """Whether the end of these steps lets a successor start, or the run end; asked after the end has committed."""
    row = connections.run(tenant, _JOINS_ARE_OPEN, {"steps": list(step_ids)})
    return bool(row is not None and row["open"])


def _claim(tenant: UUID, row: Row) -> Claim:
    return Claim(
        tenant=tenant,
        run_id=row["run"],
        step_id=row["id"],
        step=Step.model_validate(row["spec"]),
        epoch=row["epoch"],
        seq=row["head_seq"],
        crashes=row["crashes"],
        retries=row["retries"],
        solo=row["solo"],
        taken_over=row["taken_over"],
        deadline_at=row["deadline_at"],
        in_chain=row["in_chain"],
        wait_id=row["wait_id"],
        queued_seconds=row["queued_seconds"] or 0.0,
    )


class HeldStep:
    """The writes of the worker that holds a claim, in order; any of them may raise `Fenced`."""

    def __init__(
        self, connections: Connections, claimed: Claim, *, committed: Callable[[], None] = lambda: None
    ) -> None:
        """Start at the head that the claim left; `committed` is called after each commit."""
        self.claim = claimed
        self.seq = claimed.seq
        self.has_drawn = False
        """Money from the budget of its run, under this claim."""
        self._connections = connections
        self._committed = committed
        self._held_since = time.monotonic()
        endings.note_claim()
        fact_metrics.claimed(claimed.step, queued_seconds=claimed.queued_seconds)

    def finish(self, fact: StepFinished) -> Ended:
        """End the step; queue the next link of its chain; ring. All in one commit.

        A step that grows the plan queues nothing: its patch comes first, and may drop the next link.
        """
        # What an earlier claim has drawn, this one does not know of.
        has_money = self.has_drawn or self.claim.epoch > 1
        is_alone = self.claim.step.kind == "script" and not has_money and not self.claim.in_chain
        statement = _FINISH_ALONE if is_alone else _FINISH
        row = self.commit(statement, {"status": fact.outcome, "grows": fact.patch is not None}, [fact])
        return Ended(seq=row["head_seq"], next_queued=bool(row["next_queued"]))

    def wait(self, fact: StepWaiting, *, after_seconds: float | None = None) -> None:
        """Let go of the step until its signal, or its time, comes."""
        self._leave("waiting", fact, waiting=fact, after_seconds=after_seconds)

    def release(self, fact: StepReleased, *, needs: int = SCHEMA_VERSION) -> None:
        """Hand the step back unfinished; it is admitted again, not before `run_after_seconds`.

        `needs`: no worker of an older schema version may claim it.
        """
        retried = int(fact.reason == "retry")
        self._leave("ready", fact, after_seconds=fact.run_after_seconds, retried=retried, needs=needs)

    def fold_signal(self, wait_id: UUID) -> SignalReceived | None:
        """Record what an outsider answered to `wait_id`; None when nobody has."""
        row = self._connections.run(self.claim.tenant, _SIGNAL, {"step": self.claim.step_id, "wait_id": wait_id})
        if row is None:
            return None
        fact = SignalReceived(
            wait_id=wait_id, choice=row["choice"], body=row["body"], by=row["sent_by"], sent_at=row["sent_at"]
        )
        self.commit(_FOLD_IN, {}, [fact])
        return fact

    def a_join_is_open(self) -> bool:
        """Whether the end of this step lets a successor start, or the run end; asked after the end has committed."""
        return joins_are_open(self._connections, tenant=self.claim.tenant, step_ids=[self.claim.step_id])

    def commit(self, statement: str, parameters: dict[str, Any], facts: Sequence[StepFact]) -> Row:
        """Run a statement that appends `facts` to the step's stream, or raise the reason why it wrote nothing.

        It finds them as `kind_1`, `body_1`, `salt_1`, `hash_1`, `kind_2`, ….

        A commit whose reply was lost is recognised by its rows: my epoch, my bodies.
        """
        bodies = [fact.model_dump_json() for fact in facts]
        values = {
            **parameters,
            "step": self.claim.step_id,
            "run": self.claim.run_id,
            "epoch": self.claim.epoch,
            "seq": self.seq,
            "version": SCHEMA_VERSION,
            "facts": len(facts),
        }
        for position, (fact, body) in enumerate(zip(facts, bodies, strict=True), start=1):
            salt, digest = journal.salted_hash(body)
            values[f"kind_{position}"], values[f"body_{position}"] = fact.kind, body
            values[f"salt_{position}"], values[f"hash_{position}"] = salt, digest
        try:
            row = self._connections.run(self.claim.tenant, statement, values)
        except Unavailable:
            # The reply is lost, the commit may not be: ask, and otherwise let the caller see the outage.
            if not self._is_recorded(bodies):
                raise
            row = {"head_seq": self.seq + len(bodies), "next_queued": 0}
        except pg.UniqueViolation:
            row = None
        if row is None and self._is_recorded(bodies):
            row = {"head_seq": self.seq + len(bodies), "next_queued": 0}
        if row is None:
            raise self._refusal()
        self.seq = row["head_seq"]
        self._committed()
        self.count(facts)
        return row

    def count(self, facts: Sequence[StepFact]) -> None:
        """Tell the meters of this process what was just committed."""
        endings.note(facts)
        fact_metrics.committed(self.claim.step, facts, held_seconds=time.monotonic() - self._held_since)

    def _leave(
        self,
        status: str,
        fact: StepWaiting | StepReleased,
        *,
        waiting: StepWaiting | None = None,
        after_seconds: float | None = None,
        retried: int = 0,
        needs: int = SCHEMA_VERSION,
    ) -> None:
        self.commit(
            _LEAVE,
            {
                "status": status,
                "kind": fact.kind,
                "wait_id": waiting and waiting.wait_id,
                "wait_reason": waiting and waiting.reason,
                "wait_cause": (waiting and waiting.cause) or None,
                "expires": waiting and waiting.expires_after_seconds,
                "after": after_seconds,
                "retried": retried,
                "needs": needs,
            },
            [fact],
        )

    def _is_recorded(self, bodies: Sequence[str]) -> bool:
        rows = self._connections.rows(
            self.claim.tenant,
            _ROWS_AFTER,
            {"run": self.claim.run_id, "step": self.claim.step_id, "seq": self.seq, "most": len(bodies)},
        )
        return bool(bodies) and [(row["epoch"], row["body"]) for row in rows] == [
            (self.claim.epoch, body) for body in bodies
        ]

    def _refusal(self) -> Exception:
        row = self._connections.run(self.claim.tenant, _STATE, {"step": self.claim.step_id})
        name = f"Step {self.claim.step.key!r} of run {self.claim.run_id}"
        if row is None or row["epoch"] != self.claim.epoch:
            return LeaseLost(f"{name} was claimed again; this worker's epoch {self.claim.epoch} is over.")
        if row["status"] == "cancelled":
            return StepCancelled(f"{name} was cancelled.")
        if row["status"] != "running":
            return LeaseLost(f"{name} is {row['status']}: its lease had expired.")
        if row["halt"] is not None:
            return StepPaused(f"{name} is paused.")
        return LeaseLost(f"{name} is at row {row['head_seq']}, this worker at {self.seq}.")


def finish_many(connections: Connections, done: Sequence[tuple[HeldStep, StepFinished]]) -> set[UUID]:
    """End scripts that succeeded, all of one tenant, in one commit; gives those that were still their worker's.

    Raises `Unavailable` when Postgres breaks off: what was not committed comes back by its lease.
    """
    rows = connections.rows(
        done[0][0].claim.tenant,
        _FINISH_MANY,
        {
            "steps": [held.claim.step_id for held, _ in done],
            "epochs": [held.claim.epoch for held, _ in done],
            "seqs": [held.seq for held, _ in done],
            "bodies": [fact.model_dump_json() for _, fact in done],
            "version": SCHEMA_VERSION,
        },
    )
    finished = {row["id"] for row in rows}
    for held, fact in done:
        if held.claim.step_id in finished:
            held.count([fact])
    return finished


def new_wait_id() -> UUID:
    """An id under which exactly one answer is taken."""
    return uuid4()

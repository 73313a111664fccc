"""The two commits of a turn, and what else an agent records; the journal as the agent sees it.

Commit 1 reserves money and records that a call is in flight, commit 2 settles it and records the answer. Both touch
the step's own row only: an allotment drawn from the run's budget every sixteen turns or so keeps 200 agents of one run
from queueing behind one row.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from uuid import UUID

from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import joint_turns
from chargehand.orchestrator.allotments import draw
from chargehand.orchestrator.batched_calls import BatchedCalls
from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.connections import Connections, Row
from chargehand.orchestrator.counting import NOT_COUNTED, Counted, Counter
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, Fenced, IllegalFact, LeaseLost, Unavailable
from chargehand.orchestrator.facts import (
    BatchSubmitted,
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    RunTold,
    SignalReceived,
    StateRefreshed,
    StepFact,
    StepTold,
    StepWaiting,
    ToolFinished,
    ToolStarted,
    parse_fact,
)
from chargehand.orchestrator.handoffs import handed_over
from chargehand.orchestrator.joint_commits import Joint
from chargehand.orchestrator.questions import COLLEAGUE
from chargehand.orchestrator.shared_views import replaced
from chargehand.orchestrator.spending import Peers
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.telemetry import meters, metrics

log = logging.getLogger(__name__)

# A loop shows in the newest failures; older ones would only be read again and again.
MOST_FAILURES = 200
# More hand-offs than go into the longest ring that is looked for, twice.
MOST_HAND_OFFS = 30

# `{guard}` and `{change}` differ, the shape does not: own row first, then what feeds on it. `{{count}}` and `{{rows}}`
# are filled in by `_for_facts`.
_TURN = """
WITH own AS (
    UPDATE steps SET head_seq = head_seq + {{count}},
        lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => %(lease)s)), {change}
    WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' AND head_seq = %(seq)s {guard}
    RETURNING tenant, run, id, epoch, head_seq, returned_microusd
), facts AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash)
    SELECT own.tenant, own.run, own.id, %(seq)s + fact.position, fact.kind, %(version)s, own.epoch, fact.body,
        fact.salt, fact.body_hash
    FROM own, (VALUES {{rows}}) AS fact(position, kind, body, salt, body_hash)
){feeds}
SELECT head_seq{also} FROM own
"""
_REQUEST = _TURN.format(
    change="reserved_microusd = reserved_microusd + %(need)s, turns = turns + 1",
    guard="AND halt IS NULL AND allotment_microusd - spent_microusd - reserved_microusd >= %(need)s",
    feeds="",
    also="",
)
_CHARGED = "reserved_microusd = reserved_microusd - %(reserved)s, spent_microusd = spent_microusd + %(cost)s"
# An answer is progress: the crashes before it are forgiven. Giving up a dead attempt's call is none, or a call that
# kills its worker would be made for ever.
# It also says how far the run's own stream has come: whether people have told it something meanwhile.
_RUN_SEQ = ", (SELECT runs.head_seq FROM runs WHERE runs.id = own.run) AS run_seq"
_SETTLE = _TURN.format(change=f"{_CHARGED}, crashes = 0", guard="", feeds="", also=_RUN_SEQ)
# An answer that cost more than its reservation, which is an upper bound: the server has charged more than it may.
# What the step has not drawn for it is drawn now, above the cap if it must be, so that nobody draws it again. The run
# gets no further money then, and `overrun_microusd` says by how much it was once above its cap.
_SETTLE_MORE = _TURN.format(
    change=f"""{_CHARGED}, crashes = 0,
        allotment_microusd = greatest(allotment_microusd,
            spent_microusd + %(cost)s + reserved_microusd - %(reserved)s),
        returned_microusd = least(0,
            allotment_microusd - spent_microusd - %(cost)s - reserved_microusd + %(reserved)s)""",
    guard="",
    feeds=""", more AS (
    UPDATE budgets b SET drawn_microusd = drawn_microusd - own.returned_microusd,
        overrun_microusd = greatest(overrun_microusd, drawn_microusd - own.returned_microusd - cap_microusd)
    FROM own WHERE b.run = own.run AND own.returned_microusd < 0
)""",
    also=_RUN_SEQ,
)
_CHARGE = _TURN.format(change=_CHARGED, guard="", feeds="", also="")
_NOTE = _TURN.format(change="crashes = crashes", guard="", feeds="", also="")

# Money is not fenced: whoever learns what a call cost says so, and the first one is believed.
SETTLE_LATE = """
INSERT INTO settlements (tenant, call, run, step, cost_microusd)
SELECT tenant, %(call)s, run, id, %(cost)s FROM steps WHERE id = %(step)s
ON CONFLICT DO NOTHING
"""

_SHORT = """
SELECT allotment_microusd - spent_microusd - reserved_microusd < %(need)s AS short
FROM steps WHERE id = %(step)s AND epoch = %(epoch)s AND status = 'running' AND head_seq = %(seq)s
"""
_HISTORY = """
SELECT seq, epoch, kind, schema_version, body FROM journal WHERE run = %(run)s AND step = %(step)s AND seq <= %(seq)s
ORDER BY seq
"""
_TOLD = f"""
SELECT seq, schema_version, body FROM journal
WHERE run = %(run)s AND step = '{RUN_STREAM}' AND seq > %(seq)s AND kind = 'run.told' ORDER BY seq
"""
# What a person has let go on is forgiven in the whole run: only failures after it count. A colleague's answer is none.
_FAILURES_OF_RUN = f"""
SELECT step, seq, schema_version, body FROM journal
WHERE run = %(run)s AND step <> %(step)s AND kind = 'tool.finished' AND body LIKE '%%"outcome":"error"%%'
  AND at > coalesce((SELECT max(sent_at) FROM signals
    WHERE signals.run = %(run)s AND choice IN ('retry', 'answer') AND sent_by <> '{COLLEAGUE}'), '-infinity')
ORDER BY at DESC LIMIT %(most)s
"""
# Of all steps of the run: who left or gave work to whom. Asked for only when somebody is about to do it again.
_HAND_OFFS_OF_RUN = """
SELECT journal.step, journal.seq, journal.schema_version, journal.body, steps.spec ->> 'role' AS role
FROM journal JOIN steps ON steps.id = journal.step
WHERE journal.run = %(run)s AND journal.kind = 'step.waiting' AND journal.body LIKE '%%"child":{%%'
ORDER BY journal.at DESC, journal.step DESC, journal.seq DESC LIMIT %(most)s
"""

# What is taken over by a fork cost nothing here, and says nothing of what the work costs.
_PEERS = """
SELECT budgets.cap_microusd AS cap, peer.spent_microusd AS spent
FROM steps own JOIN budgets ON budgets.run = own.run
LEFT JOIN steps peer ON peer.run = own.run AND peer.id <> own.id AND peer.status = 'succeeded'
  AND peer.spent_microusd > 0 AND peer.spec ->> 'role' = own.spec ->> 'role'
WHERE own.id = %(step)s
"""


# Not `_SETTLE_MORE`: it goes on to the run's `budgets` row, and rows of steps come before that.
_SHARED = {_REQUEST, _SETTLE, _CHARGE, _NOTE}


@cache
def _for_facts(statement: str, count: int) -> str:
    """The statement for this many facts.

    A row of parameters each: an array of long texts is slow to escape, and one fact, the usual number, needs no sort.
    """
    rows = ", ".join(
        f"({index}, %(kind_{index})s::text, %(body_{index})s::text, %(salt_{index})s::bytea, %(hash_{index})s::bytea)"
        for index in range(1, count + 1)
    )
    filled = statement.format(count=count, rows=rows)
    return Joint(filled, joint_turns.FORM) if statement in _SHARED else filled


class StepRecorder:
    """Records what an agent does, under the epoch of its claim; any write may raise `Fenced`."""

    def __init__(
        self, connections: Connections, held: HeldStep, *, lease_seconds: float, counted: Counted = NOT_COUNTED
    ) -> None:
        """Read the step's stream up to the claim; `counted`: whose calls, tokens or time have a cap."""
        self._counter = Counter(connections, held.claim, counted) if counted != NOT_COUNTED else None
        self._connections = connections
        self._held = held
        self._lease_seconds = lease_seconds
        self._reserved: dict[UUID, int] = {}
        self._of_tenant = counted.of_tenant
        self._batched_calls = BatchedCalls(connections, held.claim)
        self._batched: set[UUID] = set()
        self._heard_to = 0
        self._run_seq: int | None = None
        rows = connections.rows(
            held.claim.tenant,
            _HISTORY,
            {"run": held.claim.run_id, "step": held.claim.step_id, "seq": held.seq},
        )
        self.history: tuple[StepFact, ...] = tuple(
            parse_fact(row["body"], schema_version=row["schema_version"])  # type: ignore[misc]
            for row in rows
        )
        for fact in self.history:
            match fact:
                case ModelRequested():
                    self._reserved[fact.call_id] = fact.reserved_microusd
                    if fact.batched:
                        self._batched.add(fact.call_id)
                        if self._counter is not None:
                            self._counter.resume(fact)
                case ModelResponded() | ModelFailed() | CallAbandoned():
                    self._reserved.pop(fact.call_id, None)
                case StepTold():
                    self._heard_to = fact.run_seq
                case _:
                    pass

    @property
    def seq(self) -> int:
        """The last row of the stream."""
        return self._held.seq

    def open_reservations(self) -> dict[UUID, int]:
        """Calls in flight, of this claim or of those before it: call → micro-dollars."""
        return dict(self._reserved)

    def request(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        """Commit 1: results of pure tools, the reservation, the call in flight.

        Raises `BudgetExceeded` when the call can never fit, `BudgetBusy` when open reservations stand in its way.
        """
        try:
            self._count_and_reserve(finished, requested)
        except BudgetBusy:
            meters.count(metrics.BUDGET_REFUSALS, kind="busy")
            raise
        except BudgetExceeded:
            meters.count(metrics.BUDGET_REFUSALS, kind="exceeded")
            raise

    def _count_and_reserve(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        if self._counter is not None:
            self._counter.count(requested)
        try:
            if requested.batched:
                # Before the reservation: whatever was reserved for and never settled has a row.
                self._batched_calls.open(requested, counted=self._of_tenant)
                self._batched.add(requested.call_id)
            self._reserve(finished, requested)
        except (BudgetBusy, BudgetExceeded):
            self._forget_batched(requested.call_id)
            if self._counter is not None:
                self._counter.forget(requested)
            raise

    def _reserve(self, finished: Sequence[ToolFinished], requested: ModelRequested) -> None:
        need = requested.reserved_microusd
        facts: list[StepFact] = [*finished, requested]
        while True:
            try:
                self._commit(_REQUEST, facts, need=need)
                break
            except LeaseLost:
                is_short = self._is_short(need)
                if is_short is None:
                    raise
                if is_short:
                    self._held.has_drawn = True
                    draw(self._connections, self._held.claim, need)
                # Otherwise a pause was lifted between the refusal and the question: nothing is in the way any more.
        self._reserved[requested.call_id] = need

    def respond(self, fact: ModelResponded | ModelFailed) -> None:
        """Commit 2: the answer and what it cost; the cost also when the step is not this worker's any more."""
        reserved = self._take_reservation(fact.call_id)
        cost = fact.cost_microusd
        if self._counter is not None:
            self._counter.settle(fact)
        if cost > reserved:
            log.warning(
                "call cost more than its upper bound",
                extra={"call_id": str(fact.call_id), "cost_microusd": cost, "reserved_microusd": reserved},
            )
        try:
            settle = _SETTLE if cost <= reserved else _SETTLE_MORE
            row = self._commit(settle, [fact], reserved=reserved, cost=cost, settles=True)
            # A commit whose reply was lost does not say it.
            self._run_seq = row.get("run_seq")
        except Fenced:
            self._settle_late(fact)
            raise
        self._forget_batched(fact.call_id)

    def submitted(self, fact: BatchSubmitted) -> None:
        """The batch API has taken the call in flight; its row says so also when the step is not ours any more."""
        self._batched_calls.place(fact.call_id, fact.batch_id)
        self._commit(_NOTE, [fact])

    def abandon(self, fact: CallAbandoned) -> None:
        """A call of an earlier epoch whose outcome nobody knows: it stays charged as reserved."""
        reserved = self._take_reservation(fact.call_id)
        self._commit(_CHARGE, [fact], reserved=reserved, cost=fact.charged_microusd)
        self._forget_batched(fact.call_id)

    def let_go(self) -> None:
        """The agent is about to let go of its step: what its tenant's time is counted by needs to know."""
        if self._counter is None:
            return
        try:
            self._counter.let_go()
        except Unavailable as outage:
            # What the step came to matters more than these seconds.
            log.warning("time not counted", extra={"step_id": str(self._held.claim.step_id), "why": str(outage)})

    def tool_started(self, fact: ToolStarted) -> None:
        """An effect is about to happen."""
        self._commit(_NOTE, [fact])

    def tool_finished(self, fact: ToolFinished) -> None:
        """An effect, or something long, is over."""
        self._commit(_NOTE, [fact])

    def trip(self, fact: BreakerTripped) -> None:
        """The breaker tripped."""
        self._commit(_NOTE, [fact])

    def told(self, fact: StepTold) -> None:
        """The agent has heard what people said."""
        self._commit(_NOTE, [fact])

    def replaced(self, view: Mapping[str, int]) -> StateRefreshed | None:
        """What of the run's shared state is not what the agent was shown; None: all of it is."""
        return replaced(self._connections, self._held.claim, view)

    def refreshed(self, fact: StateRefreshed) -> None:
        """The agent is shown what shared state holds now."""
        self._commit(_NOTE, [fact])

    def evicted(self, fact: OutputsEvicted) -> None:
        """Big results of earlier turns are not shown any more."""
        self._commit(_NOTE, [fact])

    def hear(self) -> StepTold | None:
        """What people have told the run since this step last heard; None: nothing, as far as the newest answer knew."""
        if self._run_seq is not None and self._run_seq <= self._heard_to:
            return None
        claim = self._held.claim
        rows = self._connections.rows(claim.tenant, _TOLD, {"run": claim.run_id, "seq": self._heard_to})
        self._heard_to = max([self._heard_to, self._run_seq or 0, *(row["seq"] for row in rows)])
        self._run_seq = self._heard_to
        told = [
            parse_fact(row["body"], schema_version=row["schema_version"]) for row in rows if row["body"] is not None
        ]
        messages = tuple(fact.message for fact in told if isinstance(fact, RunTold))
        return StepTold(messages=messages, run_seq=rows[-1]["seq"]) if messages else None

    def fold_signal(self, wait_id: UUID) -> SignalReceived | None:
        """Record what an outsider answered."""
        return self._held.fold_signal(wait_id)

    def recent_failures(self, most: int = MOST_FAILURES) -> list[Observed]:
        """Failed tool results of the run's other steps, oldest first: the breaker watches the whole run."""
        rows = self._connections.rows(
            self._held.claim.tenant,
            _FAILURES_OF_RUN,
            {"run": self._held.claim.run_id, "step": self._held.claim.step_id, "most": most},
        )
        observed = []
        for row in reversed(rows):
            fact = parse_fact(row["body"], schema_version=row["schema_version"])
            if isinstance(fact, ToolFinished):
                observed.append(Observed(step=str(row["step"]), seq=row["seq"], fact=fact))
        return observed

    def hand_offs(self, most: int = MOST_HAND_OFFS) -> list[Observed]:
        """What the run's agents have handed to each other, oldest first, whoever's step it was."""
        rows = self._connections.rows(
            self._held.claim.tenant, _HAND_OFFS_OF_RUN, {"run": self._held.claim.run_id, "most": most}
        )
        found = []
        for row in reversed(rows):
            fact = parse_fact(row["body"], schema_version=row["schema_version"])
            if isinstance(fact, StepWaiting) and fact.child is not None:
                call = handed_over(fact.child, tool_use_id=fact.tool_use_id or "", for_good="override" in fact.options)
                found.append(Observed(step=str(row["step"]), seq=row["seq"], fact=call, role=row["role"] or ""))
        return found

    def peers(self) -> Peers:
        """What the run's other steps of this role have cost, and what the run may."""
        claim = self._held.claim
        rows = self._connections.rows(claim.tenant, _PEERS, {"step": claim.step_id})
        costs = tuple(row["spent"] for row in rows if row["spent"] is not None)
        return Peers(costs_microusd=costs, cap_microusd=rows[0]["cap"] if rows else 0)

    def _commit(self, statement: str, facts: Sequence[StepFact], **parameters: int) -> Row:
        values = {**parameters, "lease": self._lease_seconds}
        return self._held.commit(_for_facts(statement, len(facts)), values, facts)

    def _take_reservation(self, call_id: UUID) -> int:
        """What the call in flight has reserved; it is settled once."""
        if call_id not in self._reserved:
            raise IllegalFact(f"Call {call_id} is not in flight: it was settled, or never requested.")
        return self._reserved.pop(call_id)

    def _forget_batched(self, call_id: UUID) -> None:
        if call_id in self._batched:
            self._batched.discard(call_id)
            self._batched_calls.forget(call_id)

    def _settle_late(self, fact: ModelResponded | ModelFailed) -> None:
        claim = self._held.claim
        try:
            self._connections.run(
                claim.tenant,
                SETTLE_LATE,
                {"call": fact.call_id, "step": claim.step_id, "cost": fact.cost_microusd},
            )
        except Unavailable as outage:
            # It stays charged as reserved.
            log.warning("not settled", extra={"call_id": str(fact.call_id), "why": str(outage)})

    def _is_short(self, need: int) -> bool | None:
        # None: the step is not this worker's any more.
        row = self._connections.run(
            self._held.claim.tenant,
            _SHORT,
            {
                "need": need,
                "step": self._held.claim.step_id,
                "epoch": self._held.claim.epoch,
                "seq": self._held.seq,
            },
        )
        return None if row is None else bool(row["short"])

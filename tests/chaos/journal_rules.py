"""What Postgres alone must show of runs that have ended: ends, hashes, epochs, leases, crashes, money; pure."""

import hashlib
import hmac
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from chaos.case import ANSWERS, LETS_GO, RUN_ENDINGS, RUN_STREAM, STEP_ENDINGS, Case, seconds, short
from chaos.evidence import Anchor, Row, Run, Step
from chargehand.orchestrator.errors import IllegalFact
from chargehand.orchestrator.facts import parse_fact
from chargehand.orchestrator.transitions import Recorded, RunState, fold

# What an advance still writes when a person, or a deadline, has ended the run.
AFTER_THE_END = frozenset({"steps.anchored", "reservations.charged", "reservations.returned"})
# They renew the lease with the same statement; a heartbeat renews it too, and leaves no row.
RENEWS_LEASE = frozenset(
    {"step.claimed", "model.requested", "model.responded", "model.failed", "tool.started", "tool.finished"}
)
# A row is dated a moment after its statement has looked at the lease.
CLOCK_SLACK_SECONDS = 0.5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPEN = frozenset({"pending", "ready", "queued", "chained"})


def ends(case: Case) -> Iterator[str]:
    """Every accepted run reached exactly one terminal state, and so did its steps."""
    if not case.evidence.accepted:
        yield "no run was accepted: there is nothing to judge"
    for run_id in sorted(case.evidence.accepted):
        if run_id in case.evidence.submissions:
            yield f"run {short(run_id)} was accepted and is still a submission"
        elif run_id not in case.runs:
            yield f"run {short(run_id)} was accepted and is gone"
    for run in case.evidence.runs:
        name = f"run {short(run.id)}"
        if run.status not in RUN_ENDINGS:
            yield f"{name} has not ended: it is {run.status}"
        elif run.status not in case.evidence.outcomes.get(run.id, RUN_ENDINGS):
            yield f"{name} is {run.status}"
        yield from _one_end(name, run, case.of_run(run))
        for step in case.steps_of[run.id]:
            if run.status in RUN_ENDINGS and step.status not in STEP_ENDINGS:
                yield f"{name} has ended and its step {step.key!r} is {step.status}"
        if run.status == "succeeded":
            yield from _final_steps(name, case, run)


def _one_end(name: str, run: Run, rows: Sequence[Row]) -> Iterator[str]:
    finished = [row for row in rows if row.kind == "run.finished"]
    if run.status in RUN_ENDINGS and len(finished) != 1:
        yield f"{name} ended {len(finished)} times in its journal"
    for row in finished[:1]:
        if row.fact["outcome"] != run.status:
            yield f"{name} is {run.status}, and its journal says {row.fact['outcome']}"
        for later in rows[row.seq :]:
            if later.kind not in AFTER_THE_END:
                yield f"{name} went on after its end: row {later.seq} is {later.kind}"


def _final_steps(name: str, case: Case, run: Run) -> Iterator[str]:
    for step in case.steps_of[run.id]:
        if step.id not in case.depended_on and step.status != "succeeded":
            yield f"{name} succeeded and its final step {step.key!r} is {step.status}"


def order(case: Case) -> Iterator[str]:
    """No step was claimed before its join let it start."""
    for tenure in case.tenures:
        join = tenure.step.spec.get("join", "all")
        before = [case.steps[step] for step in case.before[tenure.step.id] if step in case.steps]
        there = [step for step in before if _had_ended(case, step, tenure.claimed, succeeded=join != "settled")]
        if before and (len(there) < len(before) if join != "any" else not there):
            missing = next(step.key for step in before if step not in there)
            yield f"step {tenure.step.key!r} was claimed at epoch {tenure.claimed.epoch} before {missing!r} had ended"


def _had_ended(case: Case, step: Step, claimed: Row, *, succeeded: bool) -> bool:
    finished = [row for row in case.of_step(step) if row.kind == "step.finished"]
    if not finished:
        # It ended without ever having been claimed, and the run's stream says when; it is no success.
        return not succeeded and step.status in STEP_ENDINGS
    row = finished[0]
    return row.at <= claimed.at and (not succeeded or row.fact["outcome"] == "succeeded")


def chains(case: Case) -> Iterator[str]:
    """Every row follows from the one before it, every body is the one that was hashed, no stream is cut off."""
    for (run_id, step_id), rows in case.streams.items():
        where = f"run {short(run_id)}" if step_id == RUN_STREAM else f"step {_key_of(case, step_id)!r}"
        previous = b""
        for position, row in enumerate(rows, start=1):
            if row.seq != position:
                yield f"the stream of {where} has row {row.seq} where row {position} belongs"
                break
            if row.body is not None and hashlib.sha256((row.salt or b"") + row.body.encode()).digest() != row.body_hash:
                yield f"the body of row {row.seq} of {where} is not the one that was hashed"
            if hash_of(previous, row) != row.hash:
                yield f"row {row.seq} of {where} does not follow from the one before"
                break
            previous = row.hash
    heads = [(run.id, RUN_STREAM, run.head_seq) for run in case.evidence.runs]
    heads += [(step.run, step.id, step.head_seq) for step in case.evidence.steps]
    for run_id, stream, head in heads:
        rows = case.streams.get((run_id, stream), [])
        if (rows[-1].seq if rows else 0) != head:
            where = f"run {short(run_id)}" if stream == RUN_STREAM else f"step {_key_of(case, stream)!r}"
            yield f"the stream of {where} ends at row {rows[-1].seq if rows else 0}, its table says {head}"


def hash_of(previous: bytes, row: Row) -> bytes:
    """The hash that a row must have after one with the hash `previous`."""
    delta = row.at - _EPOCH
    microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    columns = (row.tenant, row.run, row.step, row.seq, row.kind, row.schema_version, row.epoch, microseconds)
    return hashlib.sha256(previous + row.body_hash + "|".join(map(str, columns)).encode()).digest()


def anchors(case: Case) -> Iterator[str]:
    """The head of every ended step is in its run's stream, the head of every ended run among the anchors."""
    for run in case.evidence.runs:
        if run.status not in RUN_ENDINGS:
            continue
        anchored = {
            UUID(anchor["step"]): (anchor["seq"], anchor["hash"])
            for row in case.of_run(run)
            if row.kind == "steps.anchored"
            for anchor in row.fact["anchors"]
        }
        for step in case.steps_of[run.id]:
            rows = case.of_step(step)
            if rows and anchored.get(step.id) != (rows[-1].seq, rows[-1].hash.hex()):
                yield f"the end of step {step.key!r} is not anchored in its run's stream"
    sealed = {anchor.run: (anchor.run_seq, anchor.run_hash) for anchor in case.evidence.anchors}
    for run in case.evidence.runs:
        rows = case.of_run(run)
        if run.status in RUN_ENDINGS and rows and sealed.get(run.id) != (rows[-1].seq, rows[-1].hash):
            yield f"the end of run {short(run.id)} is not in its tenant's chain"
        if run.status not in RUN_ENDINGS and run.id in sealed:
            yield f"run {short(run.id)} is {run.status} and is in its tenant's chain"


def tenant_chains(case: Case) -> Iterator[str]:
    """Every anchor of a tenant follows from the one before it, and is sealed with this machine's key."""
    by_tenant: dict[UUID, list[Anchor]] = defaultdict(list)
    for anchor in case.evidence.anchors:
        by_tenant[anchor.tenant].append(anchor)
    for tenant, chain in by_tenant.items():
        yield from _tenant_chain(case, tenant, chain)


def _tenant_chain(case: Case, tenant: UUID, chain: Sequence[Anchor]) -> Iterator[str]:
    previous = b""
    for position, anchor in enumerate(chain, start=1):
        where = f"place {anchor.seq} of the chain of tenant {short(tenant)}"
        told = f"{tenant}|{anchor.seq}|{anchor.run}|{anchor.run_seq}".encode()
        if anchor.seq != position or hashlib.sha256(previous + anchor.run_hash + told).digest() != anchor.hash:
            yield f"{where} does not follow from the one before"
            return
        if not hmac.compare_digest(hmac.digest(case.evidence.audit_key, anchor.hash, "sha256"), anchor.seal):
            yield f"{where} is not sealed with this machine's key"
        previous = anchor.hash


def epochs(case: Case) -> Iterator[str]:
    """Every row was written under the newest claim of its step, and every epoch was claimed once."""
    for step in case.evidence.steps:
        current, state = 0, "open"
        for row in case.of_step(step):
            where = f"row {row.seq} ({row.kind}) of step {step.key!r}"
            if state in STEP_ENDINGS:
                yield f"{where} was written after the step had {state}"
            if row.kind == "step.claimed":
                if row.epoch != current + 1:
                    yield f"{where} claims epoch {row.epoch} after epoch {current}"
                current = row.epoch
            elif row.epoch != current:
                yield f"{where} is of epoch {row.epoch}, and the step was at epoch {current}: a zombie's write"
            state = _state_after(row, state)
        if current != step.epoch:
            yield f"step {step.key!r} is at epoch {step.epoch}, and its stream claims {current}"


def statuses(case: Case) -> Iterator[str]:
    """A fold of our own, of nothing but where a step stands, gives what the tables say."""
    for run in case.evidence.runs:
        ended = {
            UUID(step): str(row.fact["outcome"])
            for row in case.of_run(run)
            if row.kind == "steps.skipped"
            for step in row.fact["steps"]
        }
        dropped = {
            key for row in case.of_run(run) if row.kind == "plan.patched" for key in row.fact["patch"].get("drop", ())
        }
        for step in case.steps_of[run.id]:
            told = "open"
            for row in case.of_step(step):
                told = _state_after(row, told)
            told = ended.get(step.id, "cancelled" if step.key in dropped else told)
            if told != ("open" if step.status in _OPEN else step.status):
                yield f"step {step.key!r} is {step.status}, and its journal says {told}"


def _state_after(row: Row, state: str) -> str:
    if row.kind == "step.finished":
        return str(row.fact["outcome"])
    changed = {"step.claimed": "running", "step.waiting": "waiting", "step.released": "open", "step.recovered": "open"}
    return changed.get(row.kind, state)


def leases(case: Case) -> Iterator[str]:
    """Nobody took a step away from a worker whose lease still ran."""
    for step in case.evidence.steps:
        renewed, held = 0.0, False
        for row in case.of_step(step):
            now = seconds(row.at)
            if row.kind == "step.claimed" and held and not row.fact["takeover"]:
                yield f"step {step.key!r} was claimed (row {row.seq}) while somebody held it"
            takes = row.kind == "step.recovered" or (row.kind == "step.claimed" and held)
            if takes and now - renewed < case.evidence.lease_seconds - CLOCK_SLACK_SECONDS:
                yield (
                    f"step {step.key!r} was taken away (row {row.seq}, {row.kind}) {now - renewed:.2f} s after its "
                    f"holder had a lease of {case.evidence.lease_seconds:g} s"
                )
            if row.kind in RENEWS_LEASE:
                renewed = now
            held = row.kind not in LETS_GO and (held or row.kind == "step.claimed")


def crashes(case: Case) -> Iterator[str]:
    """Each loss of a worker was counted, only a model's answer forgives, and too many bring a person.

    That Postgres was away is no worker's fault, and is not counted; nor is a worker that was cut off and came back.
    """
    # A step runs alone after the first half of them.
    most = case.evidence.max_crashes * 2
    for step in case.evidence.steps:
        count = 0
        counted: set[int] = set()
        rows = case.of_step(step)
        for row, following in pairwise([*rows, None]):
            assert row is not None
            lost = row.kind == "step.recovered" and row.fact.get("cause") != "outage"
            lost = lost or (row.kind == "step.claimed" and row.fact["takeover"])
            # Of workers that came back: each is taken back once, and only what was counted.
            back = set(row.fact.get("cut_off", ()))
            if not back <= counted:
                yield f"step {step.key!r} takes back losses that it does not count: {sorted(back - counted)}"
                break
            counted = set() if row.kind in ANSWERS else counted - back | ({row.epoch} if lost else set())
            count = 0 if row.kind in ANSWERS else count + lost - len(back)
            told = row.fact.get("crashes") if row.kind in {"step.recovered", "step.claimed"} else None
            if told is not None and told != count:
                yield f"step {step.key!r} lost {count} workers in a row by row {row.seq}, which counts {told}"
                break
            asked = following is not None and following.kind in {"step.waiting", "step.finished"}
            if lost and count > most and not asked:
                yield f"step {step.key!r} lost {count} workers in a row and nobody was asked"
        else:
            if rows and step.crashes != count:
                yield f"step {step.key!r} lost {count} workers in a row, and its table counts {step.crashes}"


def money(case: Case) -> Iterator[str]:
    """Nothing is reserved any more, what was spent is what the journal says, and no budget was exceeded."""
    spent: dict[UUID, int] = defaultdict(int)
    drawn: dict[UUID, int] = defaultdict(int)
    for step in case.evidence.steps:
        told = _spent(case.of_step(step)) + case.charged.get(step.id, 0) - case.returned.get(step.id, 0)
        if step.spent_microusd != told:
            yield f"step {step.key!r} spent {step.spent_microusd}, and its journal says {told}"
        if step.reserved_microusd != 0 and case.runs[step.run].status in RUN_ENDINGS:
            yield f"step {step.key!r} still reserves {step.reserved_microusd}"
        if step.spent_microusd + step.reserved_microusd > step.allotment_microusd:
            yield f"step {step.key!r} spent more than the {step.allotment_microusd} it had drawn"
        spent[step.run] += told
        drawn[step.run] += step.allotment_microusd
    for budget in case.evidence.budgets:
        name = f"run {short(budget.run)}"
        if spent[budget.run] > budget.cap_microusd:
            yield f"{name} spent {spent[budget.run]} of {budget.cap_microusd}"
        if drawn[budget.run] != budget.drawn_microusd:
            yield f"{name} has drawn {budget.drawn_microusd}, and its steps hold {drawn[budget.run]}"
    for call in case.calls.values():
        for row in call.answers:
            if int(row.fact["cost_microusd"]) > call.reserved_microusd:
                yield f"{call.name} cost {row.fact['cost_microusd']} and had reserved {call.reserved_microusd}"


def late_answers(case: Case) -> Iterator[str]:
    """What an answer that came late did not cost was given back, once, and nothing else was."""
    given_back: Tally[str] = Tally()
    costs = {str(late.call): late.cost_microusd for late in case.evidence.settlements}
    for run in case.evidence.runs:
        for row in case.of_run(run):
            if row.kind == "reservations.returned":
                given_back.update(row.fact["calls"])
                known = [case.calls[call] for call in row.fact["calls"] if call in case.calls]
                due = sum(call.reserved_microusd - costs.get(call.call_id, 0) for call in known)
                if sum(row.fact["returned_microusd"].values()) != due:
                    yield f"run {short(run.id)} gave back another sum than {due} for {len(known)} late answers"
    for call_id, times in given_back.items():
        call = case.calls.get(call_id)
        if call is None or call.answers:
            yield f"money was given back for call {call_id}, which was not in flight"
        elif times > 1:
            yield f"{call.name} was given back {times} times"
    for call_id, times in Tally(str(late.call) for late in case.evidence.settlements).items():
        if times > 1:
            yield f"call {call_id} was settled late {times} times"
    for late in case.evidence.settlements:
        if late.booked is None and case.runs[late.run].status in RUN_ENDINGS:
            yield f"the late answer to call {late.call} was never accounted for"
        if (late.booked == "run") != (str(late.call) in given_back):
            yield f"the late answer to call {late.call} is booked {late.booked}, and its run's stream says otherwise"


def _spent(rows: Sequence[Row]) -> int:
    settled = sum(int(row.fact["cost_microusd"]) for row in rows if row.kind in ANSWERS)
    return settled + sum(int(row.fact["charged_microusd"]) for row in rows if row.kind == "call.abandoned")


def reducer(case: Case) -> Iterator[str]:
    """The reducer that production uses accepts the journal and folds it to the tables."""
    for run in case.evidence.runs:
        rows = [*case.of_run(run), *(row for step in case.steps_of[run.id] for row in case.of_step(step))]
        try:
            told = fold(run.id, [_recorded(row) for row in rows])
        except IllegalFact as error:
            yield f"run {short(run.id)} does not fold: {error}"
            continue
        if (run.status, run.head_seq, run.plan_version) != (told.status, told.seq, told.plan_version):
            yield f"run {short(run.id)} folds to {told.status}, row {told.seq}, plan {told.plan_version}"
        yield from _folded_steps(case, run, told)


def _folded_steps(case: Case, run: Run, told: RunState) -> Iterator[str]:
    rows: Mapping[UUID, Step] = {step.id: step for step in case.steps_of[run.id]}
    if rows.keys() != told.steps.keys():
        yield f"run {short(run.id)} has {len(rows)} steps and folds to {len(told.steps)}"
    for step_id in rows.keys() & told.steps.keys():
        step, state = rows[step_id], told.steps[step_id]
        status = "open" if step.status in _OPEN else step.status
        if (status, step.epoch, step.head_seq) != (state.status, state.epoch, state.seq):
            yield f"step {step.key!r} folds to {state.status}, epoch {state.epoch}, row {state.seq}"
        if frozenset(state.after) != frozenset(case.before[step_id]):
            yield f"step {step.key!r} has other predecessors in its journal"


def _recorded(row: Row) -> Recorded:
    fact = parse_fact(row.body or "", schema_version=row.schema_version)
    return Recorded(step=None if row.step == RUN_STREAM else row.step, seq=row.seq, epoch=row.epoch, fact=fact)


def _key_of(case: Case, step_id: UUID) -> str:
    step = case.steps.get(step_id)
    return step.key if step is not None else str(step_id)

"""What supervisors do in a round: `advance` and `admit`, decided by production, written to the tables in memory.

A long transaction is cut where others may act meanwhile: between its statements. What it writes it writes at once, at
its end, each row under the guard of its statement.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4, uuid5

from chargehand.orchestrator import admission, canvas, rounds
from chargehand.orchestrator.admission import Candidate, Room
from chargehand.orchestrator.approval import (
    APPROVE_OR_REJECT,
    REFUSALS,
    Guarded,
    guarded,
    is_approved,
    not_approved,
    readable,
    stand_together,
)
from chargehand.orchestrator.canvas import Emission, Pack
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import (
    BudgetWarned,
    JoinsWon,
    ReservationsCharged,
    RunFinished,
    SignalReceived,
    StepAnchor,
    StepsAnchored,
    StepsSkipped,
    StepWaiting,
)
from chargehand.orchestrator.plan import POOLS, Step, step_id
from chargehand.orchestrator.questions import expiring
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.rounds import UNATTENDED
from chargehand.orchestrator.supervisor import admit as production
from chargehand.orchestrator.supervisor import replans
from chargehand.orchestrator.supervisor.admit import POOL_SILENCE_SECONDS, SOLO, Admitted
from chargehand.orchestrator.supervisor.warning import passed
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import replanning, sending, switching, unrolling, writers
from simulation.statements import result_of, winners
from simulation.tables import RunIsLocked, RunLine, StepLine, Tables, Transaction

# --- advance ----------------------------------------------------------------------------------------------------------


def advance(tables: Tables, run_id: UUID, transaction: Transaction | None = None) -> bool:
    """Move the run as far as it goes now; whether steps may be admitted."""
    transaction = transaction or Transaction()
    run = tables.runs.get(run_id)
    if run is None:
        return False
    try:
        with tables.locked(run, transaction):
            heard = heard_rings(tables, run_id)
            if not heard:
                return False
            transaction.point("advance: rings taken")
            may_admit = _advance(tables, run, transaction)
            for ring in heard:
                tables.rings[run_id].pop(ring, None)
            return may_admit
    except RunIsLocked:
        # `SKIP LOCKED`: whoever has it does the work, and the rings stay.
        return False


def heard_rings(tables: Tables, run_id: UUID) -> Sequence[int]:
    """The rings that a round deletes: those before it reads anything."""
    return list(tables.rings[run_id])


def has_rings(tables: Tables, run_id: UUID) -> bool:
    """Whether the run rang again."""
    return bool(tables.rings[run_id])


def _advance(tables: Tables, run: RunLine, transaction: Transaction) -> bool:
    # With patches all steps stay locked from here on, and nobody acts in between.
    if run.status == "running":
        sending.take_answers(tables, run.id)
    refused: dict[str, str] = {}
    if any(_may_have_patch(row) for row in tables.of_run[run.id]):
        refused = _apply_patches(tables, run)
        standing = tables.standings(run.id)
    else:
        standing = tables.standings(run.id)
        transaction.point("advance: standings read")
    places = tables.places(run.id)
    failed = replans.failed(places, standing)
    if (failed or refused) and run.status not in RUN_ENDINGS:
        if replanning.ask(tables, run, failed, refused):
            places = tables.places(run.id)
        standing = tables.standings(run.id)
    found = rounds.decide(places, standing, run_status=run.status)
    _write(tables, run, found)
    if found.outcome is not None or run.status in RUN_ENDINGS:
        _close(tables, run, found)
    return found.may_admit


def _may_have_patch(row: StepLine) -> bool:
    return row.spec.kind == "agent" and row.status == "succeeded" and not row.patched


def _apply_patches(tables: Tables, run: RunLine) -> dict[str, str]:
    refused: dict[str, str] = {}
    for row in [row for row in tables.of_run[run.id] if _may_have_patch(row)]:
        fact = result_of(tables, run.id, row.id)
        row.patched = True
        if fact is None or fact.patch is None or run.status in RUN_ENDINGS:
            continue
        if row.spec.role == REPLANNER:
            if why := replanning.apply(tables, run, row, fact):
                refused[row.key] = why
            continue
        try:
            writers.patch(tables, run, fact.patch, by_step=row.id)
        except InvalidPlan as error:
            reason = f"the plan of step {row.key!r} does not fit: {error}"
            writers.end_run(tables, run, outcome="failed", reason=reason)
    return refused


def _write(tables: Tables, run: RunLine, found: rounds.Round) -> None:
    now = tables.clock.now
    if found.skipped:
        for step in found.skipped:
            row = tables.steps[step]
            row.status, row.finished_at, row.chain = "skipped", now, None
        tables.record(run, StepsSkipped(steps=found.skipped, reason="its predecessors did not succeed"))
    if found.to_anchor:
        anchors: list[StepAnchor] = []
        for step in found.to_anchor:
            row = tables.steps[step]
            row.anchored = True
            anchors.append(StepAnchor(step=step, seq=row.head_seq, hash=""))
        tables.record(run, StepsAnchored(anchors=tuple(anchors)))
    if found.racing:
        _decide_races(tables, run, found.racing)
    for step in found.gates:
        _open_gate(tables, tables.steps[step])
    for step in found.tasks:
        if may_begin(tables, tables.steps[step]):
            sending.open_task(tables, tables.steps[step])
    if found.to_cancel:
        for reason in dict.fromkeys(found.to_cancel.values()):
            unwanted = [tables.steps[step] for step, why in found.to_cancel.items() if why == reason]
            unwanted.sort(key=lambda row: row.ordinal)
            writers.cancel_steps(tables, run, unwanted, reason=reason)
        tables.ring(run.id)
    for step in found.opened:
        if may_begin(tables, tables.steps[step]):
            unrolling.open_step(tables, run, tables.steps[step])
    for step in found.to_look_at:
        unrolling.look_at(tables, run, tables.steps[step])
    for step in found.ready:
        row = tables.steps[step]
        if row.status in {"pending", "chained"}:
            row.status, row.chain, row.next_in_chain = "ready", None, None


def _decide_races(tables: Tables, run: RunLine, racing: Mapping[str, Sequence[str]]) -> None:
    def ended(key: str) -> float:
        at = tables.steps[step_id(run.id, key)].finished_at
        assert at is not None
        return at

    known = winners(tables, run.id)
    won = {join: min(racers, key=ended) for join, racers in racing.items() if join not in known}
    if won:
        tables.record(run, JoinsWon(winners=won))


def _open_gate(tables: Tables, row: StepLine) -> None:
    question = row.spec.instruction or row.spec.title or row.key
    options = row.spec.options or ("approve", "reject")
    behind = [tables.steps[step].spec for step in tables.after[row.id] if not tables.steps[step].has_ended]
    shown = shown_at(tables, row.run, [one for one in behind if one.kind != "gate" and stand_together(row.key, one)])
    asked = StepWaiting(wait_id=row.id, reason="gate", question=question, options=options, guards=shown)
    asked = expiring(asked, row.spec.expires)
    tables.append(row, asked)
    row.status, row.wait_id, row.wait_reason = "waiting", row.id, "gate"
    now = tables.clock.now
    row.started_at = now
    row.expires_at = None if asked.expires_after_seconds is None else now + asked.expires_after_seconds
    row.deadline_at = None if row.spec.deadline_seconds is None else now + row.spec.deadline_seconds


def may_begin(tables: Tables, row: StepLine) -> bool:
    """Whether every gate before a control step has approved what it is given; otherwise a person is asked."""
    approvals = {}
    for key in row.spec.after:
        gate = tables.steps[step_id(row.run, key)]
        end = result_of(tables, row.run, gate.id)
        if gate.spec.kind == "gate" and stand_together(key, row.spec) and end is not None and end.approved is not None:
            approvals[key] = end.approved
    if not approvals:
        return True
    (shown,) = shown_at(tables, row.run, [row.spec])
    if is_approved(shown, approvals) or _approved_by_itself(tables, row, shown):
        return True
    wait_id = uuid5(row.id, f"approve {row.head_seq}")
    question = not_approved(shown, approvals)
    asked = StepWaiting(wait_id=wait_id, reason="gate", question=question, options=APPROVE_OR_REJECT, guards=(shown,))
    asked = expiring(asked, row.spec.expires)
    tables.append(row, asked)
    row.status, row.wait_id, row.wait_reason = "waiting", wait_id, "gate"
    row.expires_at = None if asked.expires_after_seconds is None else tables.clock.now + asked.expires_after_seconds
    return False


def _approved_by_itself(tables: Tables, row: StepLine, shown: Guarded) -> bool:
    asked: UUID | None = None
    for fact in tables.facts(row.run, row.id):
        if isinstance(fact, StepWaiting):
            asked = fact.wait_id if [one.hash for one in fact.guards] == [shown.hash] else None
        elif isinstance(fact, SignalReceived) and fact.wait_id == asked and fact.choice not in REFUSALS:
            return True
    return False


def shown_at(tables: Tables, run_id: UUID, steps: Sequence[Step]) -> tuple[Guarded, ...]:
    """What these steps would do, with the results that are there by now."""
    known = {row.key for row in tables.of_run[run_id] if row.has_ended}
    ends = {key: result_of(tables, run_id, step_id(run_id, key)) for key in known}
    given = {key: end.result for key, end in ends.items() if end is not None and end.outcome == "succeeded"}
    gates = {row.key for row in tables.of_run[run_id] if row.spec.kind == "gate"}
    return tuple(
        guarded(
            step,
            results=given.get,
            known=known,
            inputs={key: given[key] for key in readable(step) if key in given and key not in gates},
        )
        for step in steps
    )


def _close(tables: Tables, run: RunLine, found: rounds.Round) -> None:
    if found.to_charge:
        for step in found.to_charge:
            row = tables.steps[step]
            row.spent_microusd += row.reserved_microusd
            row.reserved_microusd = 0
        tables.record(run, ReservationsCharged(charged_microusd=dict(found.to_charge)))
    if found.outcome is not None:
        warn_of(tables, run)
        tables.record(run, RunFinished(outcome=found.outcome))
        run.status, run.finished_at = found.outcome, tables.clock.now
    run.is_anchored = True


def warn_of(tables: Tables, run: RunLine) -> bool:
    """Tell which marks of its budget the run has passed; whether it was any."""
    spent = sum(row.spent_microusd for row in tables.of_run[run.id])
    percentages = passed(spent, run.cap_microusd, run.warned_percent)
    for percent in percentages:
        run.warned_percent = percent
        tables.record(run, BudgetWarned(percent=percent, spent_microusd=spent, budget_microusd=run.cap_microusd))
    return bool(percentages)


# --- admit ------------------------------------------------------------------------------------------------------------


def admit(tables: Tables, transaction: Transaction | None = None) -> list[Admitted]:
    """Queue what the pools can take; the caller publishes it after this has committed."""
    transaction = transaction or Transaction()
    pools = [pool for pool in (*POOLS, SOLO) if pool not in tables.admitting]
    tables.admitting.update(pools)
    with transaction.holding(lambda: tables.admitting.difference_update(pools)):
        return _admit(tables, pools, transaction)


def _admit(tables: Tables, pools: Sequence[str], transaction: Transaction) -> list[Admitted]:
    slots = tables.live_slots(POOL_SILENCE_SECONDS)
    under_way, served = _under_way(tables)
    known: dict[UUID, production._Run] = {}
    by_run: dict[UUID, list[Candidate]] = defaultdict(list)
    pack_sizes: dict[UUID, int] = {}
    for pool in pools:
        busy = under_way[pool]
        room = admission.room(slots=slots.get(pool, 0), under_way=sum(busy.values()))
        candidates = _candidates(tables, pool, room, busy)
        if candidates:
            transaction.point("admit: candidates read")
        for run_id in {candidate.run_id for candidate in candidates} - known.keys():
            known[run_id] = _read(tables, run_id)
        # Patched in between: the next admission sees them.
        candidates = [one for one in candidates if one.step_id in known[one.run_id].nodes]
        packable = {one.step_id for one in candidates if known[one.run_id].nodes[one.step_id].packable}
        choice = admission.choose(candidates, room=room, under_way=busy, packable=packable, last_served=served[pool])
        for candidate in choice.chosen:
            by_run[candidate.run_id].append(candidate)
            pack_sizes[candidate.run_id] = max(choice.pack_size, pack_sizes.get(candidate.run_id, 1))
    if by_run:
        transaction.point("admit: chosen")
    admitted = [
        _emit(tables, run_id, known[run_id], candidates, pack_sizes[run_id]) for run_id, candidates in by_run.items()
    ]
    for one in admitted:
        tables.on_emission(one.run_id, known[one.run_id].standings, one.emissions)
    return admitted


def _under_way(tables: Tables) -> tuple[dict[str, dict[UUID, int]], dict[str, dict[UUID, float]]]:
    served: dict[str, dict[UUID, float]] = defaultdict(dict)
    counted: dict[str, dict[UUID, set[object]]] = defaultdict(lambda: defaultdict(set))
    for row in tables.open_rows():
        if row.status in {"queued", "running"}:
            pool = SOLO if row.solo else row.pool
            counted[pool][row.tenant].add(row.chain or row.id)
            served[pool][row.tenant] = max(served[pool].get(row.tenant, 0.0), row.queued_at or 0.0)
    places: dict[str, dict[UUID, int]] = defaultdict(dict)
    for pool, tenants in counted.items():
        places[pool] = {tenant: len(places_taken) for tenant, places_taken in tenants.items()}
    return places, served


def _candidates(tables: Tables, pool: str, room: Room, under_way: Mapping[UUID, int]) -> list[Candidate]:
    if not room.newcomers:
        return []
    left_out = frozenset() if room.anybody else admission.with_their_share(under_way, slots=room.slots)
    found = []
    for row in tables.open_rows():
        if row.status != "ready" or (SOLO if row.solo else row.pool) != pool or row.tenant in left_out:
            continue
        run = tables.runs[row.run]
        if run.status != "running" or (row.run_after is not None and row.run_after > tables.clock.now):
            continue
        if switching.off_since(tables, "role", row.spec.role) is not None:
            continue
        found.append(
            Candidate(
                step_id=row.id,
                run_id=row.run,
                tenant=row.tenant,
                priority=run.priority,
                # Only compared with others.
                submitted_at=run.created_at,  # type: ignore[arg-type]
                ordinal=row.ordinal,
            )
        )
    return found


def _read(tables: Tables, run_id: UUID) -> production._Run:
    standing = tables.standings(run_id)
    places = tables.places(run_id)
    return production._Run(places, standing, production.Nodes(places, standing))


def _emit(
    tables: Tables, run_id: UUID, run: production._Run, candidates: Sequence[Candidate], pack_size: int
) -> Admitted:
    ordinal = {step: place.ordinal for step, place in run.places.items()}
    admitted = sorted((candidate.step_id for candidate in candidates), key=ordinal.__getitem__)
    emissions = canvas.compose(run.nodes, admitted, followable=followable(run), pack_size=pack_size)
    queue(tables, emissions)
    return Admitted(tenant=candidates[0].tenant, run_id=run_id, emissions=tuple(emissions))


def followable(run: production._Run) -> set[UUID]:
    """Steps that may follow one in a chain."""
    return {
        step
        for step, standing in run.standings.items()
        if standing.status == "pending"
        and not standing.solo
        and run.places[step].kind not in UNATTENDED
        and not run.places[step].when
    }


def queue(tables: Tables, emissions: Sequence[Emission]) -> None:
    """`_QUEUE`."""
    for line in canvas.lines_of(emissions):
        is_pack = isinstance(line, Pack)
        identity = uuid4() if len(line.links) > 1 else None
        for position, link in enumerate(line.links):
            row = tables.steps[link.step_id]
            is_head = is_pack or position == 0
            if row.status != ("ready" if is_head else "pending"):
                continue
            is_last = position + 1 == len(line.links)
            row.status = "queued" if is_head else follower_status()
            row.chain = identity
            row.next_in_chain = None if is_pack or is_last else line.links[position + 1].step_id
            row.queued_at = tables.clock.now
            row.emissions += 1


def follower_status() -> str:
    """A follower has no message of its own yet."""
    return "chained"

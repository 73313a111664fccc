"""What workers send to Postgres, one method a statement, each with the guards of its SQL.

Workers run production's own code down to the statement: `Statements` stands in for Postgres behind `Connections`.
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from chargehand.orchestrator import allotments, steps, turns
from chargehand.orchestrator.facts import JoinsWon, RunTold, StepClaimed, StepFinished, StepWaiting, ToolFinished
from chargehand.orchestrator.questions import COLLEAGUE
from chargehand.orchestrator.transitions import STEP_ENDINGS
from simulation.tables import Settlement, StepLine, Tables, fact_in

Parameters = Mapping[str, Any]
Rows = list[dict[str, Any]]
Handler = Callable[[Tables, UUID, Parameters], Rows]

# More facts than this never go into one statement of a simulated turn.
MOST_FACTS = 16


def run(tables: Tables, tenant: UUID, statement: str, parameters: Parameters) -> Rows:
    """Carry out one statement of a worker; raises `KeyError` for one that production has and this file has not."""
    return HANDLERS[statement](tables, tenant, parameters)


# --- claim ------------------------------------------------------------------------------------------------------------


def claim(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_CLAIM`."""
    row = tables.steps.get(given["step"])
    if row is None or row.tenant != tenant or row.halt is not None or (row.solo and not given["solo"]):
        return []
    if not may_be_claimed(row):
        return []
    _take(tables, row, given)
    return [_claimed(row, in_chain=row.next_in_chain is not None)]


def may_be_claimed(row: StepLine) -> bool:
    """Only who has a message that somebody sent: what runs, and whose lease expired, is recovered first."""
    return row.status == "queued"


def claim_many(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_CLAIM_MANY`."""
    rows = [
        row
        for row in _of(tables, tenant, given["steps"])
        if row.status == "queued"
        and row.halt is None
        and not row.solo
        and row.spec.kind == "script"
        and row.spec.script not in given["but_not"]
    ]
    for row in rows:
        _take(tables, row, given)
    return [_claimed(row, in_chain=False) for row in rows]


def _take(tables: Tables, row: StepLine, given: Parameters) -> None:
    now = tables.clock.now
    row.status = "running"
    row.epoch += 1
    row.emissions = 0
    row.lease_until = now + given["lease"]
    row.holder = given["holder"]
    if row.started_at is None:
        row.started_at = now
    if row.deadline_at is None and row.spec.deadline_seconds is not None:
        row.deadline_at = now + row.spec.deadline_seconds
    tables.append(row, StepClaimed(holder=given["holder"], crashes=row.crashes))


def _claimed(row: StepLine, *, in_chain: bool) -> dict[str, Any]:
    return {
        "tenant": row.tenant,
        "run": row.run,
        "id": row.id,
        "ordinal": row.ordinal,
        "spec": row.spec,
        "epoch": row.epoch,
        "head_seq": row.head_seq,
        "crashes": row.crashes,
        "retries": row.retries,
        "solo": row.solo,
        "taken_over": row.taken_over,
        "wait_id": row.wait_id,
        "deadline_at": row.deadline_at,
        "in_chain": in_chain,
        # Only metrics look at it.
        "queued_seconds": None,
    }


def give_back(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_GIVE_BACK`."""
    rows = [row for row in _of(tables, tenant, given["steps"]) if row.status == "queued"]
    for row in rows:
        row.status, row.chain, row.emissions = "ready", None, 0
    for run_id in {row.run for row in rows}:
        tables.ring(run_id)
    return []


def _of(tables: Tables, tenant: UUID, step_ids: Any) -> list[StepLine]:
    """Rows of these ids in plan order."""
    rows = [tables.steps[step] for step in step_ids if step in tables.steps]
    return sorted((row for row in rows if row.tenant == tenant), key=lambda row: row.ordinal)


# --- while it is held -------------------------------------------------------------------------------------------------


def held(tables: Tables, tenant: UUID, given: Parameters) -> StepLine | None:
    """The row, if it is still the writer's: its epoch, running, at the row that the writer knows of."""
    row = tables.steps.get(given["step"])
    if row is None or row.tenant != tenant or row.status != "running":
        return None
    return row if row.epoch == given["epoch"] and row.head_seq == given["seq"] else None


def _turn(tables: Tables, row: StepLine, given: Parameters, count: int) -> Rows:
    row.lease_until = max(row.lease_until or 0.0, tables.clock.now + given["lease"])
    for number in range(1, count + 1):
        body = given[f"body_{number}"]
        tables.append(row, fact_in(body), written=body)
    return [{"head_seq": row.head_seq}]


def request(tables: Tables, tenant: UUID, given: Parameters, count: int) -> Rows:
    """`_REQUEST`."""
    row = held(tables, tenant, given)
    if row is None or row.halt is not None or row.free_microusd < given["need"]:
        return []
    row.reserved_microusd += given["need"]
    row.turns += 1
    return _turn(tables, row, given, count)


def settle(tables: Tables, tenant: UUID, given: Parameters, count: int) -> Rows:
    """`_SETTLE`: an answer forgives the crashes before it."""
    row = held(tables, tenant, given)
    if row is None:
        return []
    row.crashes = 0
    run_seq = len(tables.journal[row.run, None])
    return [{**answer, "run_seq": run_seq} for answer in _charged(tables, row, given, count)]


def settle_more(tables: Tables, tenant: UUID, given: Parameters, count: int) -> Rows:
    """`_SETTLE_MORE`: what was not drawn for it is drawn now."""
    rows = settle(tables, tenant, given, count)
    row = tables.steps.get(given["step"])
    if rows and row is not None:
        row.returned_microusd = min(0, row.free_microusd)
        row.allotment_microusd -= row.returned_microusd
        tables.run_of(row).drawn_microusd -= row.returned_microusd
    return rows


def charge(tables: Tables, tenant: UUID, given: Parameters, count: int) -> Rows:
    """`_CHARGE`."""
    row = held(tables, tenant, given)
    return [] if row is None else _charged(tables, row, given, count)


def _charged(tables: Tables, row: StepLine, given: Parameters, count: int) -> Rows:
    row.reserved_microusd -= given["reserved"]
    row.spent_microusd += given["cost"]
    return _turn(tables, row, given, count)


def note(tables: Tables, tenant: UUID, given: Parameters, count: int) -> Rows:
    """`_NOTE`."""
    row = held(tables, tenant, given)
    return [] if row is None else _turn(tables, row, given, count)


def settle_late(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`SETTLE_LATE`: money is not fenced, and the first word counts."""
    row = tables.steps.get(given["step"])
    if row is not None and row.tenant == tenant:
        tables.settlements.setdefault(given["call"], Settlement(row.run, row.id, given["cost"]))
    return []


def is_short(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_SHORT`."""
    row = held(tables, tenant, given)
    return [] if row is None else [{"short": row.free_microusd < given["need"]}]


def draw(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`DRAW`, for steps without a budget of their own and a tenant without caps."""
    row = tables.steps.get(given["step"])
    if row is None or row.tenant != tenant or row.epoch != given["epoch"] or row.status != "running":
        return []
    run_line = tables.run_of(row)
    left = run_line.cap_microusd - run_line.drawn_microusd
    short = max(1, given["need"] - row.free_microusd)
    if left < short:
        return []
    granted = min(given["want"], max(short, left // allotments.PART_OF_THE_REST))
    run_line.drawn_microusd += granted
    row.allotment_microusd += granted
    return [{"allotment_microusd": row.allotment_microusd}]


def standing(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`STANDING`."""
    del tenant
    rows = tables.of_run[given["run"]]
    lost = {"succeeded", "failed", "cancelled", "superseded"}
    return [
        {
            "cap": tables.runs[given["run"]].cap_microusd,
            "drawn": tables.runs[given["run"]].drawn_microusd,
            "allotted": None,
            "room": 9_000_000_000_000_000_000,
            "free": tables.steps[given["step"]].free_microusd,
            "spent": sum(row.spent_microusd for row in rows),
            "lost": sum(row.reserved_microusd for row in rows if row.status in lost),
        }
    ]


# --- letting go -------------------------------------------------------------------------------------------------------


def return_allotment(tables: Tables, row: StepLine) -> None:
    """Give back what was drawn and not used."""
    row.returned_microusd = row.free_microusd
    row.allotment_microusd -= row.returned_microusd
    if row.returned_microusd > 0:
        tables.run_of(row).drawn_microusd -= row.returned_microusd


def leave(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_LEAVE`."""
    row = held(tables, tenant, given)
    if row is None:
        return []
    row.status = given["status"]
    row.lease_until = row.holder = row.halt = None
    row.wait_id, row.wait_reason = given["wait_id"] or row.wait_id, given["wait_reason"] or row.wait_reason
    if given["wait_id"] is not None:
        row.wait_cause = given["wait_cause"]
    row.expires_at = None if given["expires"] is None else tables.clock.now + given["expires"]
    row.retries += given["retried"]
    row.run_after = None if given["after"] is None else tables.clock.now + given["after"]
    return_allotment(tables, row)
    tables.append(row, fact_in(given["body_1"]), written=given["body_1"])
    for follower in tables.of_run[row.run]:
        if row.chain is not None and follower.chain == row.chain and follower.status == "chained":
            follower.status, follower.chain = "pending", None
    tables.ring(row.run)
    return [{"head_seq": row.head_seq}]


def finish(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_FINISH`."""
    row = held(tables, tenant, given)
    if row is None:
        return []
    row.status = given["status"]
    row.lease_until = row.holder = row.halt = None
    row.finished_at = tables.clock.now
    return_allotment(tables, row)
    tables.append(row, fact_in(given["body_1"]), written=given["body_1"])
    follower = tables.steps[row.next_in_chain] if row.next_in_chain is not None else None
    is_next = (
        follower is not None
        and follower.status == "chained"
        and follower.halt is None
        and given["status"] == "succeeded"
        and not given["grows"]
    )
    if follower is not None and is_next:
        follower.status, follower.queued_at, follower.emissions = "queued", tables.clock.now, 1
    tables.ring(row.run)
    return [{"head_seq": row.head_seq, "next_queued": int(is_next)}]


def finish_alone(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_FINISH_ALONE`, which has no part for what a chain's next link or a budget needs."""
    row = held(tables, tenant, given)
    assert row is None or (row.next_in_chain is None and row.allotment_microusd == 0), row
    return finish(tables, tenant, given)


def finish_many(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_FINISH_MANY`."""
    wanted = {
        step: (epoch, seq, body)
        for step, epoch, seq, body in zip(given["steps"], given["epochs"], given["seqs"], given["bodies"], strict=True)
    }
    done: Rows = []
    rung: set[UUID] = set()
    for row in _of(tables, tenant, list(wanted)):
        epoch, seq, body = wanted[row.id]
        if held(tables, tenant, {"step": row.id, "epoch": epoch, "seq": seq}) is None:
            continue
        row.status = "succeeded"
        row.lease_until = row.holder = row.halt = None
        row.finished_at = tables.clock.now
        tables.append(row, fact_in(body), written=body)
        rung.add(row.run)
        done.append({"id": row.id})
    for run_id in rung:
        tables.ring(run_id)
    return done


def joins_are_open(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_JOINS_ARE_OPEN`."""
    del tenant
    return [{"open": any(_opens(tables, step) for step in given["steps"])}]


def _opens(tables: Tables, step: UUID) -> bool:
    successors = [tables.steps[successor] for successor in tables.after[step]]
    return not successors or any(
        row.status in {"pending", "chained"}
        and (
            row.spec.join == "any"
            or all(tables.steps[before].status in STEP_ENDINGS for before in tables.before[row.id])
        )
        for row in successors
    )


# --- looking, and answers ---------------------------------------------------------------------------------------------


def state(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_STATE`."""
    row = tables.steps.get(given["step"])
    if row is None or row.tenant != tenant:
        return []
    return [{"status": row.status, "epoch": row.epoch, "halt": row.halt, "head_seq": row.head_seq}]


def rows_after(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_ROWS_AFTER`."""
    del tenant
    entries = [entry for entry in tables.journal[given["run"], given["step"]] if entry.seq > given["seq"]]
    return [{"seq": entry.seq, "epoch": entry.epoch, "body": entry.body} for entry in entries[: given["most"]]]


def history(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_HISTORY`."""
    del tenant
    return [
        {"seq": entry.seq, "epoch": entry.epoch, "kind": entry.fact.kind, "schema_version": 1, "body": entry.body}
        for entry in tables.journal[given["run"], given["step"]]
        if entry.seq <= given["seq"]
    ]


def told(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_TOLD`."""
    del tenant
    return [
        {"seq": entry.seq, "schema_version": 1, "body": entry.body}
        for entry in tables.journal[given["run"], None]
        if entry.seq > given["seq"] and isinstance(entry.fact, RunTold)
    ]


def failures_of_run(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_FAILURES_OF_RUN`; in the order of the steps, as nothing here depends on which came last."""
    del tenant
    let_go_on = [
        one.sent_at
        for one in tables.signals.values()
        if one.run == given["run"] and one.choice in {"retry", "answer"} and one.sent_by != COLLEAGUE
    ]
    since = max(let_go_on, default=float("-inf"))
    return [
        {"step": row.id, "seq": entry.seq, "schema_version": 1, "body": entry.body}
        for row in tables.of_run[given["run"]]
        if row.id != given["step"]
        for entry in tables.journal[row.run, row.id]
        if isinstance(entry.fact, ToolFinished) and entry.fact.outcome == "error" and entry.at > since
    ][: given["most"]]


def hand_offs_of_run(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_HAND_OFFS_OF_RUN`, the newest first."""
    del tenant
    asked = [
        (entry.at, row.id, entry.seq, entry.body, row.spec.role)
        for row in tables.of_run[given["run"]]
        for entry in tables.journal[row.run, row.id]
        if isinstance(entry.fact, StepWaiting) and entry.fact.child is not None
    ]
    asked.sort(key=lambda one: one[:3], reverse=True)
    return [
        {"step": step, "seq": seq, "schema_version": 1, "body": body, "role": role}
        for _, step, seq, body, role in asked[: given["most"]]
    ]


def peers(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_PEERS`."""
    del tenant
    own = tables.steps[given["step"]]
    cap = tables.runs[own.run].cap_microusd
    costs = [
        one.spent_microusd
        for one in tables.of_run[own.run]
        if one.id != own.id and one.status == "succeeded" and one.spent_microusd and one.spec.role == own.spec.role
    ]
    return [{"cap": cap, "spent": cost} for cost in costs or [None]]


def signal(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_SIGNAL`."""
    del tenant
    found = tables.signals.get((given["step"], given["wait_id"]))
    return (
        []
        if found is None
        else [{"choice": found.choice, "body": found.body, "sent_by": found.sent_by, "sent_at": None}]
    )


def fold_in(tables: Tables, tenant: UUID, given: Parameters) -> Rows:
    """`_FOLD_IN`."""
    row = held(tables, tenant, given)
    if row is None:
        return []
    row.wait_id = row.wait_reason = row.wait_cause = row.run_after = row.expires_at = None
    tables.append(row, fact_in(given["body_1"]), written=given["body_1"])
    return [{"head_seq": row.head_seq}]


def result_of(tables: Tables, run: UUID, step: UUID) -> StepFinished | None:
    """How a step has ended, if it has."""
    last = tables.journal[run, step][-1:]
    fact = last[0].fact if last else None
    return fact if isinstance(fact, StepFinished) else None


def winners(tables: Tables, run: UUID) -> dict[str, str]:
    """Key of a join → key of the step that it goes on with."""
    found: dict[str, str] = {}
    for fact in tables.facts(run, None):
        if isinstance(fact, JoinsWon):
            found |= fact.winners
    return found


HANDLERS: dict[str, Handler] = {
    steps._CLAIM: lambda *given: claim(*given),
    steps._CLAIM_MANY: lambda *given: claim_many(*given),
    steps._GIVE_BACK: lambda *given: give_back(*given),
    steps._LEAVE: lambda *given: leave(*given),
    steps._FINISH: lambda *given: finish(*given),
    steps._FINISH_ALONE: lambda *given: finish_alone(*given),
    steps._FINISH_MANY: lambda *given: finish_many(*given),
    steps._JOINS_ARE_OPEN: lambda *given: joins_are_open(*given),
    steps._STATE: lambda *given: state(*given),
    steps._ROWS_AFTER: lambda *given: rows_after(*given),
    steps._SIGNAL: lambda *given: signal(*given),
    steps._FOLD_IN: lambda *given: fold_in(*given),
    turns.SETTLE_LATE: lambda *given: settle_late(*given),
    turns._SHORT: lambda *given: is_short(*given),
    allotments.DRAW: lambda *given: draw(*given),
    allotments.STANDING: lambda *given: standing(*given),
    turns._TOLD: lambda *given: told(*given),
    turns._HISTORY: lambda *given: history(*given),
    turns._FAILURES_OF_RUN: lambda *given: failures_of_run(*given),
    turns._PEERS: lambda *given: peers(*given),
    turns._HAND_OFFS_OF_RUN: lambda *given: hand_offs_of_run(*given),
}
for _count in range(1, MOST_FACTS + 1):
    HANDLERS |= {
        turns._for_facts(turns._REQUEST, _count): lambda *given, n=_count: request(*given, n),  # type: ignore[misc]
        turns._for_facts(turns._SETTLE, _count): lambda *given, n=_count: settle(*given, n),  # type: ignore[misc]
        turns._for_facts(turns._SETTLE_MORE, _count): lambda *given, n=_count: settle_more(*given, n),  # type: ignore[misc]
        turns._for_facts(turns._CHARGE, _count): lambda *given, n=_count: charge(*given, n),  # type: ignore[misc]
        turns._for_facts(turns._NOTE, _count): lambda *given, n=_count: note(*given, n),  # type: ignore[misc]
    }


def _names() -> dict[str, str]:
    """How a statement is called in a story."""
    named = {
        statement: name.removeprefix("_").lower()
        for module in (steps, turns, allotments)
        for name, statement in vars(module).items()
        if isinstance(statement, str) and name.isupper()
    }
    for count in range(1, MOST_FACTS + 1):
        for name in ("_REQUEST", "_SETTLE", "_SETTLE_MORE", "_CHARGE", "_NOTE"):
            named[turns._for_facts(getattr(turns, name), count)] = name.removeprefix("_").lower()
    return named


NAMES = _names()

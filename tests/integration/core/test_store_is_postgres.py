"""The tables of the simulation are Postgres, as far as anybody can see: the same deeds, in any order, and after each
the same answers, the same rows, the same journal.

Only what the simulation does in memory is under test here; what it takes from production is the same code twice.
"""

import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chargehand.memory import procedural
from chargehand.memory.database import tenant_session
from chargehand.memory.procedural import Role
from chargehand.orchestrator import runs, steps, switches
from chargehand.orchestrator.backtracking import backtrack
from chargehand.orchestrator.connections import Row
from chargehand.orchestrator.errors import ChargehandError
from chargehand.orchestrator.facts import (
    CallAbandoned,
    Fact,
    ModelRequested,
    ModelResponded,
    PlanPatched,
    RunQueued,
    StepFinished,
    StepReleased,
    StepTold,
    StepWaiting,
    ToolFinished,
    ToolStarted,
    Usage,
)
from chargehand.orchestrator.plan import POOLS, Branch, Map, Merge, Plan, PlanPatch, Repeat, Step
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.supervisor import queueing as production_queueing
from chargehand.orchestrator.supervisor import settling, watch
from chargehand.orchestrator.supervisor.admit import SOLO, Admitted
from chargehand.orchestrator.supervisor.sounding import Sounding, database_seconds
from chargehand.orchestrator.turns import StepRecorder

# The simulation is a program of its own (`make simulate`) and no part of what is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from simulation import queueing, statements, supervision, switching, watching, writers
from simulation.tables import StepLine, Tables

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

SEQUENCES = 100
DEEDS = 45
LEASE_SECONDS = 60.0
LONG_AGO = 36_000.0
BUDGET = 4_000
MOST_RUNS = 4
SWITCHES: tuple[tuple[switches.Kind, str], ...] = (("role", "agent"), ("all", ""), ("role", REPLANNER), ("tool", "t"))
NEED = 300
ROLE = """\
---
name: agent
description: Does what its step says.
pool: research
tier: small
output: anything
---
Do it.
"""
REPLANNER_ROLE = ROLE.replace("name: agent", f"name: {REPLANNER}")

_ROWS = """
SELECT json_build_object(
    'runs', (SELECT json_agg(json_build_array(r.id, r.status, r.plan_version, r.head_seq, b.cap_microusd,
                b.drawn_microusd, (SELECT count(*) FROM rings WHERE rings.run = r.id),
                EXISTS (SELECT FROM run_anchors a WHERE a.run = r.id), r.finished_at IS NOT NULL) ORDER BY r.created_at)
             FROM runs r JOIN budgets b ON b.run = r.id WHERE r.id = ANY(:runs)),
    'steps', (SELECT json_agg(json_build_array(id, status, epoch, head_seq, crashes, solo, taken_over, halt, chain,
                next_in_chain, emissions, wait_id IS NOT NULL, wait_reason, run_after IS NOT NULL, retries, turns,
                allotment_microusd, reserved_microusd, spent_microusd, anchored, patched, lease_until IS NOT NULL,
                holder, started_at IS NOT NULL, finished_at IS NOT NULL, deadline_at IS NOT NULL, label)
                ORDER BY run, ordinal)
              FROM steps WHERE run = ANY(:runs)),
    'journal', (SELECT json_agg(json_build_array(run, step, kind, epoch,
                CASE kind WHEN 'step.finished' THEN json_build_array(body::json->'outcome', body::json->'result',
                                                                     body::json->'label')
                          WHEN 'plan.patched' THEN body::json->'patch'
                          WHEN 'run.queued' THEN body::json->'behind' END) ORDER BY run, step, seq)
                FROM journal WHERE run = ANY(:runs)),
    'signals', (SELECT count(*) FROM signals WHERE run = ANY(:runs)),
    'settled', (SELECT json_agg(booked ORDER BY settled_at) FROM settlements WHERE run = ANY(:runs)))
"""


# What a step may give: results of scripts, items of a map, odds of a chooser, verdicts, conflicts of a merge.
RESULTS: tuple[Any, ...] = (
    None, "left", "right", [1, 2, 3], [], {"odds": {"left": 3, "right": 1}}, {"odds": {"left": 1, "right": 1}},
    {"passed": True}, {"passed": False}, {"conflicts": ["a.py"]},
)  # fmt: skip


class Wall:
    """Real time, for both."""

    @property
    def now(self) -> float:
        """Seconds."""
        return time.time()


class InMemory:
    """Stands in for `Connections`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def run(self, tenant: UUID, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        rows = self.rows(tenant, statement, parameters)
        return rows[0] if rows else None

    def rows(self, tenant: UUID, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        return statements.run(self._tables, tenant, statement, parameters)


@dataclass
class Holder:
    """A worker's claim on each side; it may be stale, and does not know."""

    step: UUID
    held: tuple[HeldStep, HeldStep]
    recorders: tuple[StepRecorder, StepRecorder] | None = None
    open_calls: dict[UUID, int] = field(default_factory=dict)

    def record(self, connections: tuple[Any, Any]) -> tuple[StepRecorder, StepRecorder]:
        if self.recorders is None:
            made = [
                StepRecorder(one, held, lease_seconds=LEASE_SECONDS)
                for one, held in zip(connections, self.held, strict=True)
            ]
            self.recorders = (made[0], made[1])
        return self.recorders


class Both:
    """The same deeds on Postgres and in memory."""

    def __init__(self, house: "House", dice: random.Random) -> None:
        self.house = house
        self.dice = dice
        self.tables = Tables(Wall())
        self.settings: Settings = house.settings.model_copy(update={"unclaimed_seconds": 1_000.0})
        self.connections = (house.connections, InMemory(self.tables))
        self.roles: list[Role] = [procedural.parse_role(text, origin="test") for text in (ROLE, REPLANNER_ROLE)]
        # Of this sequence alone: the runs of the others stay in the database.
        self.key = str(uuid4())
        self.run_ids: list[UUID] = []
        self.holders: list[Holder] = []
        self.told: list[str] = []
        # What is left of others is settled now that their runs are over.
        house.execute("DELETE FROM settlements")

    # --- comparing

    def both(self, what: str, on_postgres: Callable[[], object], in_memory: Callable[[], object]) -> Any:
        """Do it on both sides; gives what both gave."""
        self.told.append(what)
        gave, other = _outcome(on_postgres), _outcome(in_memory)
        assert gave == other, f"Postgres gave {gave}, the tables {other}:\n" + "\n".join(self.told)
        return gave

    def compare(self) -> None:
        """Every row that either side has, and what was written against the journal."""
        assert self.tables.drift() == [], "\n".join(self.told)
        seen, other = self._postgres(), self._memory()
        for what in seen:
            differing = [f"{one} | {two}" for one, two in zip(seen[what], other[what], strict=False) if one != two]
            assert seen[what] == other[what], "\n".join([what, *differing, *self.told])

    def _postgres(self) -> dict[str, list[Any]]:
        (found,) = self.house.execute(_ROWS, {"runs": self.run_ids})[0]
        chains: dict[str, int] = {}
        for row in found["steps"]:
            row[8] = chains.setdefault(row[8], len(chains)) if row[8] is not None else None
        return {
            "runs": found["runs"],
            "steps": found["steps"],
            "journal": found["journal"] or [],
            "signals": [found["signals"]],
            "settled": found["settled"] or [],
        }

    def _memory(self) -> dict[str, list[Any]]:
        chains: dict[object, int] = {}
        return {
            "runs": [
                [str(run.id), run.status, run.plan_version, run.head_seq, run.cap_microusd, run.drawn_microusd,
                 len(self.tables.rings[run.id]), run.is_anchored, run.finished_at is not None]
                for run in self.tables.runs.values()
            ],
            "steps": [
                [str(row.id), row.status, row.epoch, row.head_seq, row.crashes, row.solo, row.taken_over, row.halt,
                 chains.setdefault(row.chain, len(chains)) if row.chain is not None else None,
                 str(row.next_in_chain) if row.next_in_chain else None, row.emissions, row.wait_id is not None,
                 row.wait_reason, row.run_after is not None, row.retries, row.turns, row.allotment_microusd,
                 row.reserved_microusd, row.spent_microusd, row.anchored, row.patched, row.lease_until is not None,
                 row.holder, row.started_at is not None, row.finished_at is not None, row.deadline_at is not None,
                 row.label]
                for run_id in sorted(self.run_ids)
                for row in self.tables.of_run[run_id]
            ],
            "journal": [
                [str(run_id), str(step or UUID(int=0)), entry.fact.kind, entry.epoch, _says(entry.fact)]
                for run_id in sorted(self.run_ids)
                for step in (None, *sorted(row.id for row in self.tables.of_run[run_id]))
                for entry in self.tables.journal[run_id, step]
            ],
            "signals": [len(self.tables.signals)],
            "settled": [late.booked for late in self.tables.settlements.values()],
        }  # fmt: skip

    # --- what people do

    def submit(self) -> None:
        planned = _plan(self.dice, f"r{len(self.run_ids)}")
        request = RunRequest(
            run_id=runs.new_run_id(),
            goal="compare",
            plan=Plan.of(planned),
            budget_microusd=BUDGET,
            priority=self.dice.choice((0, 0, 1)),
            deadline_seconds=self.dice.choice((None, 1e5)),
            concurrency_key=self.dice.choice((None, self.key)),
            on_conflict=self.dice.choice(("queue", "queue", "cancel_older", "reject")),
            replans=self.dice.choice((0, 2, 5)),
        )

        def accept() -> UUID:
            with tenant_session(self.house.app, self.house.tenant) as session:
                return runs.accept(session, self.house.tenant, request, self.roles)

        versions = {role.name: role.blob_hash for role in self.roles}
        told = f"submit, {request.on_conflict} with key {request.concurrency_key}"
        made = self.both(told, accept, lambda: writers.accept(self.tables, self.house.tenant, request, versions))
        if made == request.run_id:
            self.run_ids.append(request.run_id)

    def submit_another(self) -> None:
        if len(self.run_ids) < MOST_RUNS:
            self.submit()

    def person(self, what: str, act: Callable[[Any, UUID], object], mirror: Callable[[Any], object]) -> None:
        run_id = self.dice.choice(self.run_ids)

        def on_postgres() -> object:
            with self.house.as_tenant() as session:
                return act(session, run_id)

        self.both(what, on_postgres, lambda: mirror(self.tables.runs[run_id]))

    def pause(self) -> None:
        self.person(
            "pause", lambda s, run: runs.pause(s, self.house.tenant, run), lambda r: writers.pause(self.tables, r)
        )

    def resume(self) -> None:
        self.person(
            "resume", lambda s, run: runs.resume(s, self.house.tenant, run), lambda r: writers.resume(self.tables, r)
        )

    def cancel(self) -> None:
        if self.dice.random() < 0.3:
            self.person(
                "cancel",
                lambda s, run: runs.cancel(s, self.house.tenant, run),
                lambda r: writers.cancel(self.tables, r),
            )

    def switch(self) -> None:
        """Something is switched off for the fleet, or on again."""
        kind, name = self.dice.choice(SWITCHES)
        turn = self.dice.choice(("off", "on"))

        def on_postgres() -> bool:
            with Session(self.house.supervisor) as session, session.begin():
                if turn == "off":
                    return switches.pause(session, kind, name, by="test")
                return switches.resume(session, kind, name, by="test")

        in_memory = switching.switch_off if turn == "off" else switching.switch_on
        self.both(f"switch {kind} {name} {turn}", on_postgres, lambda: in_memory(self.tables, kind, name))

    def tell(self) -> None:
        run_id = self.dice.choice(self.run_ids)
        run = self.tables.runs[run_id]
        if run.status in {"succeeded", "failed", "cancelled"}:
            return

        def on_postgres() -> None:
            with self.house.as_tenant() as session:
                runs.tell(session, self.house.tenant, run_id, "hurry")

        self.both("tell", on_postgres, lambda: writers.tell(self.tables, run, "hurry") and None)

    def retry(self) -> None:
        row = self._step()
        run = self.tables.runs[row.run]
        if run.status in {"succeeded", "failed", "cancelled"}:
            return

        def on_postgres() -> bool:
            with self.house.as_tenant() as session:
                return bool(runs.retry(session, self.house.tenant, row.run, row.key))

        # Not of children, nor of what does not count any more: both sides refuse.
        self.both(f"retry {row.key}", on_postgres, lambda: writers.retry(self.tables, run, row.key))

    def raise_budget(self) -> None:
        run_id = self.dice.choice(self.run_ids)
        run = self.tables.runs[run_id]
        if run.status in {"succeeded", "failed", "cancelled"}:
            return
        more = run.cap_microusd + self.dice.choice((0, 1_000))

        def on_postgres() -> bool:
            with self.house.as_tenant() as session:
                return runs.raise_budget(session, self.house.tenant, run_id, to_microusd=more)

        self.both("raise the budget", on_postgres, lambda: writers.raise_budget(self.tables, run, more))

    def answer(self) -> None:
        row = self._step({"waiting"})
        if row.wait_id is not None:
            self._answer(row, self.dice.choice(("retry", "abort", "approve")))

    def _answer(self, row: StepLine, choice: str) -> None:
        seen = self.house.execute("SELECT wait_id FROM steps WHERE id = :step", {"step": row.id})[0][0]
        mine = row.wait_id
        assert mine is not None

        def on_postgres() -> bool:
            with self.house.as_tenant() as session:
                return runs.answer(session, self.house.tenant, run_id=row.run, step=row.id, wait_id=seen, choice=choice)

        self.both(f"answer {row.key} {choice}", on_postgres, lambda: writers.answer(self.tables, row.id, mine, choice))

    # --- what supervisors do

    def advance(self) -> None:
        self._advance(self.dice.choice(self.run_ids))

    def _advance(self, run_id: UUID) -> None:
        self.both(
            f"advance {self.run_ids.index(run_id)}",
            lambda: self.house.advance(run_id),
            lambda: supervision.advance(self.tables, run_id),
        )

    def admit(self) -> None:
        self.both("admit", lambda: _shape(self.house.admit()), lambda: _shape(supervision.admit(self.tables)))

    def recover(self) -> None:
        self.both(
            "recover",
            lambda: watch.recover(self.house.supervisor, self.settings.model_copy(update={"lease_seconds": 60.0})),
            lambda: watching.recover(self.tables, self.settings.model_copy(update={"lease_seconds": 60.0})),
        )

    def release_from_solo(self) -> None:
        self.both(
            "release from solo",
            lambda: watch.release_from_solo(self.house.supervisor),
            lambda: watching.release_from_solo(self.tables),
        )

    def settle_late_answers(self) -> None:
        self.both(
            "settle late answers",
            lambda: settling.settle_late_answers(self.house.supervisor),
            lambda: watching.settle_late_answers(self.tables),
        )

    def wake(self) -> None:
        self.both("wake", lambda: sorted(watch.wake(self.house.supervisor)), lambda: sorted(watching.wake(self.tables)))

    def emit_again(self) -> None:
        length = self.dice.choice((0, 0, 1_000))
        # By the store's clock, and by Postgres's. What was queued long ago went down with it, what just was did not.
        age = self.dice.choice((None, LONG_AGO / 2))
        lengths = dict.fromkeys((*POOLS, SOLO), length)

        def broker(now: float) -> Sounding:
            return Sounding(whole_since=None if age is None else now - age, lengths=lengths)

        self.both(
            f"emit again, {length} waiting, emptied {age} s ago",
            lambda: watch.emit_again(
                self.house.supervisor, self.settings, broker(database_seconds(self.house.supervisor))
            ),
            lambda: watching.emit_again(self.tables, self.settings, broker(self.tables.clock.now)),
        )

    def end_overdue(self) -> None:
        self.both(
            "end overdue", lambda: watch.end_overdue(self.house.supervisor), lambda: watching.end_overdue(self.tables)
        )

    def start_queued(self) -> None:
        own = set(self.run_ids)

        def in_memory() -> list[UUID]:
            return [run for run in queueing.next_in_line(self.tables) if queueing.start(self.tables, run)]

        self.both(
            "start queued",
            lambda: sorted(own.intersection(production_queueing.start_queued(self.house.supervisor))),
            lambda: sorted(in_memory()),
        )

    def old_rings(self) -> None:
        self.both(
            "old rings",
            lambda: sorted(watch.old_rings(self.house.supervisor, self.settings)),
            lambda: sorted(watching.old_rings(self.tables, self.settings)),
        )

    # --- what workers do

    def claim(self) -> None:
        row = self._step({"queued", "chained", "running", "ready", "succeeded"})
        self._claim(row, solo=self.dice.random() < 0.3)

    def _claim(self, row: StepLine, *, solo: bool) -> None:
        holder = self.dice.choice(("one", "two"))
        held: list[HeldStep] = []

        def claim(connections: Any) -> tuple[object, ...]:
            claimed = steps.claim(
                connections,
                tenant=self.house.tenant,
                step_id=row.id,
                holder=holder,
                lease_seconds=LEASE_SECONDS,
                solo_pool=solo,
            )
            held.append(HeldStep(connections, claimed))
            return _claimed(claimed)

        self.both(f"claim {row.key}, solo {solo}", *(lambda one=one: claim(one) for one in self.connections))  # type: ignore[misc]
        if held:
            self.holders.append(Holder(row.id, (held[0], held[1])))

    def claim_many(self) -> None:
        # A pack is of one run.
        run_id = self._step({"queued"}).run
        queued = [row.id for row in self.tables.of_run[run_id] if row.status == "queued"]
        wanted = queued[:6] or [self._step().id]
        but_not = self.dice.choice(([], ["odd"]))
        found: list[list[HeldStep]] = []

        def claim(connections: Any) -> list[tuple[object, ...]]:
            claims = steps.claim_many(
                connections,
                tenant=self.house.tenant,
                step_ids=wanted,
                holder="one",
                lease_seconds=LEASE_SECONDS,
                but_not=but_not,
            )
            found.append([HeldStep(connections, claimed) for claimed in claims])
            return [_claimed(claimed) for claimed in claims]

        self.both("claim many", *(lambda one=one: claim(one) for one in self.connections))  # type: ignore[misc]
        for pair in zip(*found, strict=True):
            self.holders.append(Holder(pair[0].claim.step_id, pair))

    def give_back(self) -> None:
        row = self._step({"queued"})
        self.each(
            f"give back {row.key}",
            lambda one: steps.give_back(one, tenant=self.house.tenant, step_ids=[row.id]),
        )

    def finish(self) -> None:
        holder = self._holder()
        outcome = self.dice.choice(("succeeded", "succeeded", "succeeded", "failed"))
        patch = self._patch(holder) if outcome == "succeeded" and self.dice.random() < 0.3 else None
        result = self.dice.choice(RESULTS) if outcome == "succeeded" else None
        fact = StepFinished.model_validate({"outcome": outcome, "result": result, "patch": patch, "error": ""})
        self.held(holder, f"finish {outcome} {patch or ''}", lambda held: held.finish(fact).next_queued)

    def replan(self) -> None:
        """A step fails, the planner is asked and answers, and others act meanwhile: seldom together by chance."""
        holder = self._who_may_fail()
        row = self.tables.steps[holder.step]
        fact = StepFinished(outcome="failed", error=self.dice.choice(("Boom", "Boom", "Boom", "a person ended it")))
        self.held(holder, "finish failed", lambda held: held.finish(fact).next_queued)
        self._advance(row.run)
        asked = next(
            (one for one in self.tables.of_run[row.run] if one.spec.role == REPLANNER and not one.has_ended), None
        )
        while asked is not None and asked.status == "ready" and not self.tables.switches:
            self.pools()
            self.admit()
        if asked is None or asked.status != "queued":
            return
        self._claim(asked, solo=asked.solo)
        planner = next(one for one in reversed(self.holders) if one.step == asked.id)
        change = self._change(asked)
        if self.dice.random() < 0.3:
            self.retry()
        done = StepFinished(outcome="succeeded", result={"rationale": "why"}, patch=change)
        self.held(planner, f"finish with {change}", lambda held: held.finish(done).next_queued)
        self.compare()
        self._advance(row.run)

    def _who_may_fail(self) -> Holder:
        """Whoever holds a step of a run whose planner may be asked."""
        for holder in self.holders:
            row = self.tables.steps[holder.step]
            run = self.tables.runs[row.run]
            is_held = row.status == "running" and row.epoch == holder.held[1].claim.epoch
            if is_held and row.spec.parent is None and row.spec.role != REPLANNER and run.replans:
                return holder
        raise NobodyThere

    def _change(self, planner: StepLine) -> PlanPatch:
        """A planner's wish: it may not fit."""
        rows = [row for row in self.tables.of_run[planner.run] if row.spec.parent is None]
        keys = [row.key for row in rows if row.status != "superseded" and row.spec.role != REPLANNER]
        picked = self.dice.sample(keys, min(len(keys), self.dice.randint(0, 3)))
        again, drop = picked[:1], picked[1:]
        if self.dice.random() < 0.3:
            again, drop = drop, again
        other = Step(key=f"{planner.key}+", kind="script", script="work", after=tuple(picked[2:]))
        by: dict[str, Step | None] = {
            key: other.model_copy(update={"key": key}) if self.dice.random() < 0.3 else None for key in again
        }
        return PlanPatch(again=by, drop=tuple(drop), add=(other,) if self.dice.random() < 0.5 else ())

    def finish_many(self) -> None:
        some = self.dice.sample(self.holders, min(len(self.holders), 3))
        done = {holder.step: holder for holder in some}.values()
        # They have drawn no money.
        alone = [one for one in done if self.tables.steps[one.step].spec.kind == "script"]
        if not alone:
            return
        fact = StepFinished(outcome="succeeded", result=self.dice.choice(RESULTS))
        self.told.append("finish many")
        sides = [steps.finish_many(one, [(holder.held[side], fact) for holder in alone])
                 for side, one in enumerate(self.connections)]  # fmt: skip
        assert sides[0] == sides[1], "\n".join(self.told)

    def wait(self) -> None:
        after = self.dice.choice((None, 0.0, 1e5))
        reason = self.dice.choice(("human", "rate", "budget", "paused"))
        fact = StepWaiting.model_validate(
            {"wait_id": uuid4(), "reason": reason, "question": "?", "options": ("retry", "abort")}
        )
        self.held(self._holder(), f"wait for {reason} {after}", lambda held: held.wait(fact, after_seconds=after))

    def ask_colleague(self) -> None:
        holder = self._holder("agent")
        row = self.tables.steps[holder.step]
        number = 1 + sum(one.spec.parent == row.key for one in self.tables.of_run[row.run])
        # A role that the run did not pin is nobody's to ask.
        role = self.dice.choice(("agent", "agent", "agent", "stranger", REPLANNER))
        child = Step(
            key=f"{row.key}/{role}-{number}", kind="agent", role=role, parent=row.key, after=row.spec.after,
            join="settled",
        )  # fmt: skip
        choice = self.dice.choice(("answer", "override"))
        fact = StepWaiting(
            wait_id=uuid4(), reason="children", question="?", options=(choice,), child=child, tool_use_id="u"
        )
        self.held(holder, f"ask {child.key} for an {choice}", lambda held: held.wait(fact))

    def release(self) -> None:
        reason = self.dice.choice(("drain", "pause", "retry"))
        fact = StepReleased.model_validate({"reason": reason, "run_after_seconds": self.dice.choice((0.0, 1e5))})
        self.held(self._holder(), f"release {reason}", lambda held: held.release(fact))

    def fold_signal(self) -> None:
        holder = self._holder()
        ids = [held.claim.wait_id for held in holder.held]
        if None in ids:
            return
        self.both(
            f"fold in {self._name(holder)}",
            *(lambda held=held: _given(held.fold_signal(held.claim.wait_id)) for held in holder.held),  # type: ignore[misc]
        )

    def question(self) -> None:
        """A step asks, is answered, and goes on with another worker: what by chance alone seldom comes together."""
        holder = self._holder()
        row = self.tables.steps[holder.step]
        fact = StepWaiting(wait_id=uuid4(), reason="human", question="?", options=("retry", "abort"))
        self.held(holder, "wait for a person", lambda held: held.wait(fact))
        self.compare()
        if row.status != "waiting" or row.wait_id is None:
            return
        self._answer(row, "retry")
        self.pools()
        self.wake()
        self.admit()
        if row.status == "queued":
            self._claim(row, solo=row.solo)
            held = next(one for one in reversed(self.holders) if one.step == row.id).held
            self.both(
                f"fold in {row.key}",
                *(lambda one=one: _given(one.fold_signal(one.claim.wait_id or row.id)) for one in held),  # type: ignore[misc]
            )

    def ask_joins(self) -> None:
        self.held(self._holder(), "ask for joins", lambda held: held.a_join_is_open())

    def renew(self) -> None:
        holder = self._holder()
        row, epoch = self.tables.steps[holder.step], holder.held[1].claim.epoch
        self.both(
            f"renew {self._name(holder)}",
            lambda: bool(
                self.house.execute(
                    "SELECT chargehand.renew_leases(:steps, :epochs, :lease)",
                    {"steps": [row.id], "epochs": [epoch], "lease": LEASE_SECONDS},
                )
            ),
            lambda: self.tables.renew(row.id, epoch, LEASE_SECONDS),
        )

    # --- turns

    def request(self) -> None:
        holder = self._holder("agent")
        fact = ModelRequested(
            call_id=uuid4(), turn=1, model="m", tier="small", routed_because="test", prompt_hash="0", max_tokens=1,
            reserved_microusd=self.dice.choice((NEED, NEED, 2 * NEED)),
        )  # fmt: skip
        tools = [_tool_finished()] if self.dice.random() < 0.3 else []
        asked = self.turn(holder, "request", lambda recorder: recorder.request(tools, fact))
        if asked == "None":
            holder.open_calls[fact.call_id] = fact.reserved_microusd

    def respond(self) -> None:
        holder = self._holder("agent")
        if holder.open_calls:
            call, reserved = holder.open_calls.popitem()
            fact = ModelResponded(
                call_id=call, model="m", content=(), stop_reason="end_turn", usage=Usage(),
                # Now and then a server charges more than it could be expected to.
                cost_microusd=self.dice.randrange(reserved) if self.dice.random() < 0.9 else reserved + NEED,
            )  # fmt: skip
            self.turn(holder, "respond", lambda recorder: recorder.respond(fact))

    def abandon(self) -> None:
        holder = self._holder("agent")
        asked = [fact for fact in holder.record(self.connections)[1].history if isinstance(fact, ModelRequested)]
        stream = self.tables.facts(self.tables.steps[holder.step].run, holder.step)
        ended = {fact.call_id for fact in stream if isinstance(fact, ModelResponded | CallAbandoned)}
        for one in [one for one in asked if one.call_id not in ended][:1]:
            fact = CallAbandoned(call_id=one.call_id, charged_microusd=one.reserved_microusd)
            self.turn(holder, "abandon", lambda recorder, fact=fact: recorder.abandon(fact))  # type: ignore[misc]

    def note(self) -> None:
        started = ToolStarted(tool_use_id="u", tool="t", effect="idempotent", key="k", timeout_seconds=1)
        self.turn(self._holder("agent"), "tool started", lambda recorder: recorder.tool_started(started))

    def hear(self) -> None:
        self.turn(self._holder("agent"), "hear", lambda recorder: _messages(recorder.hear()))

    def tool_fails(self) -> None:
        failed = _tool_finished().model_copy(update={"outcome": "error", "error_type": "Boom"})
        self.turn(self._holder("agent"), "tool failed", lambda recorder: recorder.tool_finished(failed))

    def recall_failures(self) -> None:
        self.turn(
            self._holder("agent"),
            "recent failures",
            lambda recorder: sorted((seen.step, seen.seq) for seen in recorder.recent_failures()),
        )

    def compare_with_peers(self) -> None:
        def compared(recorder: StepRecorder) -> object:
            found = recorder.peers()
            return found.cap_microusd, sorted(found.costs_microusd)

        self.turn(self._holder("agent"), "peers", compared)

    def recall_hand_offs(self) -> None:
        self.turn(
            self._holder("agent"),
            "hand-offs",
            lambda recorder: [(seen.step, seen.seq, seen.role, seen.fact.arguments) for seen in recorder.hand_offs()],
        )

    def turn(self, holder: Holder, what: str, act: Callable[[StepRecorder], object]) -> Any:
        recorders = holder.record(self.connections)
        return self.both(
            f"{what} {self._name(holder)}",
            *(lambda recorder=recorder: act(recorder) for recorder in recorders),  # type: ignore[misc]
        )

    def held(self, holder: Holder, what: str, act: Callable[[HeldStep], object]) -> None:
        self.both(f"{what} {self._name(holder)}", *(lambda held=held: act(held) for held in holder.held))  # type: ignore[misc]

    def each(self, what: str, act: Callable[[Any], object]) -> None:
        self.both(what, *(lambda one=one: act(one) for one in self.connections))  # type: ignore[misc]

    # --- what nobody does: time, pools

    def expire(self) -> None:
        self._set(self._step({"running"}), "lease_until", "running")

    def unclaimed(self) -> None:
        self._set(self._step({"queued"}), "queued_at", "queued")

    def overdue(self) -> None:
        row = self._step()
        if row.deadline_at is not None:
            self._set(row, "deadline_at")
        run = self.tables.runs[row.run]
        if run.deadline_at is not None and self.dice.random() < 0.1:
            self.told.append("the run is overdue")
            self.house.execute("UPDATE runs SET deadline_at = now() - interval '1 h' WHERE id = :run", {"run": run.id})
            run.deadline_at = self.tables.clock.now - 3_600

    def _set(self, row: StepLine, column: str, status: str | None = None) -> None:
        if status is not None and row.status != status:
            return
        self.told.append(f"{column} of {row.key} is long past")
        self.house.execute(
            f"UPDATE steps SET {column} = clock_timestamp() - make_interval(secs => :ago) WHERE id = :step",
            {"ago": LONG_AGO, "step": row.id},
        )
        setattr(row, column, self.tables.clock.now - LONG_AGO)

    def pools(self) -> None:
        """Which processes live, and since when they have been connected."""
        self.house.execute("DELETE FROM pools")
        self.tables.pools.clear()
        lines = [
            (f"test-{pool}", pool) for pool in (*POOLS, SOLO) if self.dice.random() < (0.4 if pool == SOLO else 0.9)
        ]
        for holder, pool in [*lines, ("one", "research"), ("two", "coding")]:
            seen, since = self.dice.choice(((0.0, 1e5), (0.0, 1e5), (0.0, 1.0), (50.0, 1e5)))
            slots = self.dice.choice((1, 4)) if holder.startswith("test") else 0
            self.told.append(f"{holder} seen {seen} s ago, connected for {since} s, {slots} slots")
            self.house.execute(
                "INSERT INTO pools (holder, pool, slots, seen_at, since) VALUES (:holder, :pool, :slots, "
                "clock_timestamp() - make_interval(secs => :seen), clock_timestamp() - make_interval(secs => :since))",
                {"holder": holder, "pool": pool, "slots": slots, "seen": seen, "since": since},
            )
            self.tables.say_alive(holder, pool, slots, anew=True)
            line = self.tables.pools[holder]
            line.seen_at, line.since = line.seen_at - seen, line.since - since

    # --- picking

    def _step(self, statuses: Iterable[str] = ()) -> StepLine:
        rows = list(self.tables.steps.values())
        wanted = [row for row in rows if row.status in set(statuses)]
        return self.dice.choice(wanted or rows)

    def _holder(self, kind: str | None = None) -> Holder:
        fitting = [one for one in self.holders if kind is None or self.tables.steps[one.step].spec.kind == kind]
        if not fitting:
            raise NobodyThere
        current = [one for one in fitting if self.tables.steps[one.step].epoch == one.held[1].claim.epoch
                   and self.tables.steps[one.step].status == "running"]  # fmt: skip
        return self.dice.choice(current if current and self.dice.random() < 0.8 else fitting)

    def _name(self, holder: Holder) -> str:
        return f"{self.tables.steps[holder.step].key} at epoch {holder.held[1].claim.epoch}"

    def _patch(self, holder: Holder) -> PlanPatch:
        row = self.tables.steps[holder.step]
        if row.spec.role == REPLANNER:
            return self._change(row)
        others = [
            one.key for one in self.tables.of_run[row.run] if one.status in {"pending", "ready", "chained", "queued"}
        ]
        drop = (self.dice.choice(others),) if others and self.dice.random() < 0.5 else ()
        if self.dice.random() < 0.3:
            run = self.tables.runs[row.run]
            counting = writers.counting_plan(self.tables, run)
            own = [step.key for step in counting.steps if step.parent is None]
            taken = [one.key for one in self.tables.of_run[run.id]]
            return backtrack(counting, {self.dice.choice(own): None}, taken=taken)
        key = f"{row.key}+{row.epoch}"
        return PlanPatch(add=(Step(key=key, kind="script", script="work", after=(row.key,)),), drop=drop)


def _says(fact: Fact) -> Any:
    """What is compared of a fact beside its kind."""
    match fact:
        case StepFinished():
            return [fact.outcome, fact.result, fact.label]
        case PlanPatched():
            return fact.patch.model_dump(mode="json")
        case RunQueued():
            return str(fact.behind)
        case _:
            return None


def _messages(told: StepTold | None) -> object:
    return None if told is None else (told.messages, told.run_seq)


class NobodyThere(Exception):
    """Nobody holds a step of that kind."""


def _outcome(act: Callable[[], object]) -> object:
    """What it gave, in words where ids differ; or what it raised."""
    try:
        return _given(act())
    except NobodyThere:
        raise
    except ChargehandError as error:
        return f"{type(error).__name__} {getattr(error, 'ended', '')}"


def _given(value: object) -> object:
    return "None" if value is None else value.choice if hasattr(value, "choice") else value


def _claimed(claimed: steps.Claim) -> tuple[object, ...]:
    return (claimed.step.key, claimed.epoch, claimed.seq, claimed.crashes, claimed.retries, claimed.solo,
            claimed.taken_over, claimed.in_chain, claimed.wait_id is None)  # fmt: skip


def _shape(admitted: list[Admitted]) -> list[tuple[UUID, tuple[object, ...]]]:
    return sorted((one.run_id, one.emissions) for one in admitted)


def _tool_finished() -> ToolFinished:
    return ToolFinished(tool_use_id="u", tool="t", arguments={}, outcome="ok", content="")


_CONTROL = ("branch", "map", "repeat", "merge")


def _controlled(dice: random.Random, kind: str, after: tuple[str, ...]) -> dict[str, Any]:
    """The field of a step of this kind."""
    work = Step(key="work", kind="script", script="work", arguments={"item": {"$item": None}} if kind == "map" else {})
    body = (work, Step(key="last", kind="script", script="work", after=("work",)))[: dice.choice((1, 2))]
    match kind:
        case "branch":
            chooser = {"script": "work"} if dice.random() < 0.3 else {"role": "agent"}
            choose = dice.choice(("argmax", "argmax", "sample")) if "role" in chooser else "argmax"
            return {"branch": Branch.model_validate({"labels": ("left", "right"), "choose": choose, **chooser})}
        case "map":
            items: Any = {"$result_of": after[0]} if after and dice.random() < 0.5 else [1, 2, 3][: dice.randint(0, 3)]
            lanes, tolerated = dice.choice((None, 1, 2)), dice.choice((0, 1))
            return {"map": Map(items=items, body=body, max_parallel=lanes, tolerated_failures=tolerated)}
        case "repeat":
            return {"repeat": Repeat(body=body, until=body[-1].key, max_rounds=dice.choice((1, 2, 3)))}
        case "merge":
            return {"merge": Merge(role=dice.choice((None, "agent")))}
        case _:
            return {}


def _plan(dice: random.Random, name: str) -> list[Step]:
    planned: list[Step] = []
    for number in range(dice.randint(3, 8)):
        key = f"{name}.{number}"
        near = [step.key for step in planned[-3:]]
        kind = dice.choice(("script", "script", "script", "agent", "agent", "agent", "gate", *_CONTROL))
        after = tuple(dice.sample(near, min(len(near), dice.choice((0, 1, 1, 1, 2)))))
        planned.append(
            Step(
                key=key,
                kind=kind,  # type: ignore[arg-type]
                script=dice.choice(("work", "work", "odd")) if kind == "script" else None,
                role="agent" if kind == "agent" else None,
                pool=dice.choice(POOLS),  # type: ignore[arg-type]
                after=after,
                when={
                    before.key: dice.choice(before.branch.labels)
                    for before in planned
                    if before.key in after and before.branch is not None and dice.random() < 0.7
                },
                join=dice.choice(("all", "all", "settled", "any")),  # type: ignore[arg-type]
                deadline_seconds=1e5 if kind in {"script", "agent"} and dice.random() < 0.2 else None,
                **_controlled(dice, kind, after),
            )
        )
    if dice.random() < 0.2:
        planned += [Step(key=f"{name}.w{n}", kind="script", script="work", pool="audit") for n in range(12)]
    return planned


def compare(house: "House", seed: int) -> None:
    """One sequence of deeds on both sides."""
    dice = random.Random(seed)
    both = Both(house, dice)
    try:
        _live(both, dice)
    finally:
        # They are the whole fleet's, and other tests have one.
        house.execute("DELETE FROM switches")


def _live(both: Both, dice: random.Random) -> None:
    both.pools()
    for _ in range(dice.choice((1, 2))):
        both.submit()
    both.compare()
    often = [both.advance, both.advance, both.admit, both.claim, both.finish, both.wake]
    seldom = [
        both.pause, both.resume, both.cancel, both.answer, both.raise_budget, both.recover, both.release_from_solo,
        both.settle_late_answers, both.emit_again, both.end_overdue, both.old_rings, both.claim_many, both.give_back,
        both.finish_many, both.wait, both.release, both.fold_signal, both.ask_joins, both.renew, both.request,
        both.request, both.respond, both.abandon, both.note, both.expire, both.expire, both.unclaimed, both.overdue,
        both.pools, both.tell, both.retry, both.ask_colleague, both.ask_colleague, both.hear, both.tool_fails,
        both.switch, both.switch, both.start_queued, both.submit_another, both.replan, both.replan, both.replan,
        both.replan,
        both.recall_failures, both.recall_hand_offs, both.compare_with_peers, both.question, both.question,
    ]  # fmt: skip
    for _ in range(DEEDS):
        deed = dice.choice(often) if dice.random() < 0.55 else dice.choice(seldom)
        try:
            deed()
        except NobodyThere:
            continue
        both.compare()


@pytest.fixture(autouse=True)
def _rows_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows of the journal cannot be made older.
    monkeypatch.setattr(watch, "SOLO_PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(watching, "SOLO_PATIENCE_SECONDS", -1.0)


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_postgres_and_the_tables_of_the_simulation_cannot_be_told_apart(house: "House", seed: int) -> None:
    compare(house, seed)

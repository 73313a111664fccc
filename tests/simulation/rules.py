"""What must hold, said without production's own words, and looked at with every commit, every second and at the end."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from chargehand.orchestrator.canvas import Chain, Chord, Emission, Line, Pack
from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    ReservationsCharged,
    ReservationsReturned,
    RunFinished,
    RunResumed,
    RunTold,
    SignalReceived,
    StepClaimed,
    StepFinished,
    StepRecovered,
    StepsAnchored,
    StepWaiting,
    ToolFinished,
    ToolStarted,
)
from chargehand.orchestrator.rounds import Standing
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.admit import POOL_SILENCE_SECONDS
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation.broker import Broker
from simulation.fleet_rules import LONGEST_ADMISSION_SECONDS, FleetRules
from simulation.graph_rules import GraphRules
from simulation.ledger import Call, Effect, Ledger
from simulation.plan_rules import PlanRules
from simulation.tables import Entry, RunLine, StepLine, Tables
from simulation.watching import patience_seconds

# What a round of the watch loop may take, and the hops of a message after its time has come.
ROUND_SECONDS = 3.0
STATEMENTS_A_ROUND = 30
# How a step may fail by its plan, or by somebody's wish: a mistake of production's shows as an error of another kind.
EXPECTED_ERRORS = re.compile(
    r"RuntimeError: as planned|A person ended the step\.|a person chose|its deadline has passed|cancelled"
    r"|nobody answered in time|the plan of step|The model cannot be used"
    # A control step says which of its children failed, and why.
    r"|\d+ of \d+ items failed: |round \d+: \S+ failed: |check did not pass in \d+ rounds"
    r"|the items of '\S+' are no list but NoneType|nobody chose a way|script 'choose' gave 'nowhere'"
    r"|the parallel changes conflict in a\.py, "
    r"|run \S+ has taken its concurrency key|the plan goes on without it"
    r"|as planned over there|task 'theirs' was sent and (lost|nothing came back)"
)


def _is_not_needed(fact: StepFinished) -> bool:
    """Cancelled as the loser of an `any` join, or with the step that stood for it."""
    return fact.outcome == "cancelled" and fact.error.endswith(("goes on with another", "is over"))


class Rules:
    """Watches one world; the first objection counts."""

    def __init__(
        self,
        tables: Tables,
        ledger: Ledger,
        settings: Settings,
        object_: Callable[[str], None],
        *,
        slowest_statement_seconds: float,
    ) -> None:
        """`object_` is told what does not hold."""
        self._slack_seconds = ROUND_SECONDS + STATEMENTS_A_ROUND * slowest_statement_seconds
        self._tables = tables
        self._ledger = ledger
        self._settings = settings
        self._object = object_
        self._graph = GraphRules(tables, object_)
        self._plans = PlanRules(tables, ledger, object_)
        self.fleet = FleetRules(
            tables,
            object_,
            slack_seconds=self._slack_seconds,
            slowest_statement_seconds=slowest_statement_seconds,
        )
        self._open_calls: dict[UUID, dict[UUID, int]] = defaultdict(dict)
        self._answers: Counter[UUID] = Counter()
        self._losses: Counter[UUID] = Counter()
        """How often a step was recovered since it last got on."""
        self._unclaimed_since: dict[UUID, float] = {}
        self._sunk_since: dict[UUID, float] = {}
        """Since when a step has been queued whose message went down with the broker, and could be sent again."""
        self._there_at: dict[str, float] = {}
        """When a pool was last known to live."""
        self._overdue_since: dict[UUID, float] = {}
        self._final: dict[UUID, str] = {}

    # --- with every fact ----------------------------------------------------------------------------------------------

    def on_fact(self, run_id: UUID, step: UUID | None, entry: Entry) -> None:
        """A row of the journal is written."""
        run = self._tables.runs[run_id]
        if step is None:
            self._on_run_fact(run, entry)
            self.fleet.on_run_fact(run, entry)
            self._plans.on_run_fact(run, entry)
        else:
            row = self._tables.steps[step]
            self._graph.on_fact(run, row, entry)
            self.fleet.on_step_fact(run, row, entry)
            self._plans.on_step_fact(run, row, entry)
            self._on_step_fact(run, row, entry)

    def on_commit(self) -> None:
        """A transaction has committed."""
        self._graph.on_commit()
        self.fleet.on_commit()

    def _on_run_fact(self, run: RunLine, entry: Entry) -> None:
        fact = entry.fact
        if run.id in self._final and not isinstance(fact, StepsAnchored | ReservationsCharged | ReservationsReturned):
            self._object(f"run {run.goal!r} had ended and got a {fact.kind}")
        if isinstance(fact, RunFinished):
            self._final[run.id] = fact.outcome
        if isinstance(fact, RunResumed | RunTold) and run.status in RUN_ENDINGS:
            self._object(f"run {run.goal!r} is {run.status} and got a {fact.kind}")

    def _on_step_fact(self, run: RunLine, row: StepLine, entry: Entry) -> None:
        fact = entry.fact
        match fact:
            case StepClaimed():
                if run.status != "running":
                    self._object(f"step {row.key!r} of a run that is {run.status} was claimed")
                self._unclaimed_since.pop(row.id, None)
                if fact.crashes > self._losses[row.id]:
                    self._object(f"step {row.key!r} counts {fact.crashes} crashes of {self._losses[row.id]} losses")
            case StepRecovered():
                self._losses[row.id] += 1
            case ToolStarted(effect="effectful"):
                self._on_started_again(row, fact)
            case ModelRequested():
                self._on_request(run, row, fact)
            case ModelResponded() | ModelFailed() | CallAbandoned():
                if self._open_calls[row.id].pop(fact.call_id, None) is None:
                    self._object(f"step {row.key!r} settled call {fact.call_id}, which was not open")
                self._answers[row.id] += isinstance(fact, ModelResponded) and not fact.summarises
                if not isinstance(fact, CallAbandoned):
                    # Progress forgives what was before.
                    self._losses[row.id] = 0
            case StepFinished():
                if fact.error and not EXPECTED_ERRORS.match(fact.error) and not _is_not_needed(fact):
                    self._object(f"step {row.key!r} ended with an error that nobody planned: {fact.error}")
            case StepWaiting(reason="human"):
                self._on_question(row, fact)
            case _:
                pass

    def _on_request(self, run: RunLine, row: StepLine, fact: ModelRequested) -> None:
        if run.status != "running" or row.halt is not None:
            self._object(f"step {row.key!r} asked a model although its run is {run.status}, {row.halt}")
        if fact.turn != self._answers[row.id] + 1:
            self._object(f"step {row.key!r} has {self._answers[row.id]} answers and asked for turn {fact.turn}")
        if self._open_calls[row.id]:
            self._object(f"step {row.key!r} asked a model while a call of it was open")
        self._open_calls[row.id][fact.call_id] = fact.reserved_microusd

    def _on_started_again(self, row: StepLine, fact: ToolStarted) -> None:
        facts = self._tables.facts(row.run, row.id)
        begun = [place for place, one in enumerate(facts) if getattr(one, "tool_use_id", None) == fact.tool_use_id
                 and isinstance(one, ToolStarted)]  # fmt: skip
        if len(begun) > 1 and not any(
            isinstance(one, SignalReceived) and one.choice == "retry" for one in facts[begun[-2] :]
        ):
            self._object(f"{fact.tool} of step {row.key!r} is done again, and nobody has said so")

    def _on_question(self, row: StepLine, fact: StepWaiting) -> None:
        if "worker down" in fact.question and self._losses[row.id] <= self._settings.max_crashes:
            self._object(f"step {row.key!r} is put before a person after {self._losses[row.id]} losses")
        # Who asks about crashes has crashed alone, or by violence, not by a neighbour; but where no solo pool lives.
        if "worker down" not in fact.question or row.spec.arguments.get("poison"):
            return
        could_be_alone = row.solo or "solo" in self._tables.live_slots(POOL_SILENCE_SECONDS)
        violent = self._ledger.violent_losses[row.id]
        if could_be_alone and violent < self._settings.max_crashes:
            self._object(f"step {row.key!r} is put before a person for its neighbours' crashes ({violent} of its own)")

    # --- when work happens --------------------------------------------------------------------------------------------

    def on_attempt(self, step: UUID, epoch: int) -> None:
        """A worker holds a claim."""
        self._ledger.attempts[step, epoch] += 1
        if self._ledger.attempts[step, epoch] > 1:
            self._object(f"epoch {epoch} of step {self._key(step)!r} was claimed twice")

    def on_write(self, step: UUID, epoch: int) -> None:
        """A statement under this epoch has found the step its writer's."""
        row = self._tables.steps[step]
        if row.epoch != epoch:
            self._object(f"a worker of epoch {epoch} wrote to step {row.key!r}, which is at {row.epoch}")

    def on_body(self, step: UUID, *, epoch: int, in_solo_pool: bool) -> None:
        """The work of a step begins."""
        self._ledger.bodies[step] += 1
        row = self._tables.steps[step]
        # One that was ended since its claim was let to start by what stood before it then.
        if not row.has_ended and not self._graph.may_start(row):
            self._object(f"step {row.key!r} ({row.spec.join}) began before its predecessors let it")
        if row.epoch != epoch or row.status != "running":
            # Whoever has been overtaken does not know yet what was decided since.
            return
        if row.solo and not in_solo_pool:
            self._object(f"step {row.key!r} is to run alone and began in a shared pool")
        told_to_end = {"abort", "skip", "override"} & {
            fact.choice for fact in self._tables.facts(row.run, step) if isinstance(fact, SignalReceived)
        }
        if row.spec.kind == "script" and told_to_end:
            self._object(f"step {row.key!r} began although a person had said {sorted(told_to_end)}")

    def on_call(self, call: Call) -> None:
        """A model is asked."""
        if call.call_id in self._ledger.calls:
            self._object(f"call {call.call_id} of step {self._key(call.step)!r} was made twice")
        self._ledger.calls[call.call_id] = call

    def on_effect(self, effect: Effect, kind: str) -> None:
        """The world is changed."""
        done = self._ledger.effects[effect.key]
        done.append(effect)
        row = self._tables.steps[effect.step]
        if kind == "effectful":
            again = self._ledger.answers[effect.step].count("retry")
            if len(done) > 1 + again:
                self._object(f"{effect.tool} of step {row.key!r} happened {len(done)} times, told so {again} times")
        for other in done:
            if (other.step, other.use) != (effect.step, effect.use):
                self._object(f"key {effect.key} stands for two uses: {other.use} and {effect.use}")

    # --- with every emission ------------------------------------------------------------------------------------------

    def on_emission(
        self,
        run_id: UUID,
        standing: Mapping[UUID, Standing],
        emissions: Sequence[Emission],
    ) -> None:
        """Chains, packs and chords of one admission."""
        lines: list[Line] = []
        for emission in emissions:
            lines += emission.header if isinstance(emission, Chord) else (emission,)
        heads = {step for line in lines for step in _heads(line)}
        self._note_live_pools()
        now = self._tables.clock.now
        for line in lines:
            # Somebody may have left while the admission was under way.
            if now - self._there_at.get(line.links[0].pool, 0.0) > LONGEST_ADMISSION_SECONDS:
                self._object(f"a message was sent to pool {line.links[0].pool}, which is down")
            for head in _heads(line):
                self.fleet.on_head(self._tables.steps[head])
            if isinstance(line, Pack):
                self._check_pack(line, standing)
            else:
                self._check_chain(line, standing, heads)
        self._check_chords(run_id, standing, emissions, lines)

    def _note_live_pools(self) -> None:
        for pool in self._tables.live_slots(POOL_SILENCE_SECONDS):
            self._there_at[pool] = self._tables.clock.now

    def _check_chain(self, chain: Chain, standing: Mapping[UUID, Standing], heads: set[UUID]) -> None:
        steps = [link.step_id for link in chain.links]
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            follower = self._follower(step, standing)
            if follower is not None:
                row, stands = self._tables.steps[follower], standing[follower]
                is_free = stands.status == "pending" and not stands.solo and row.spec.kind in {"script", "agent"}
                is_free = is_free and not row.spec.when
                follower = follower if is_free and follower not in heads else None
            if follower != following:
                self._object(f"the chain after step {self._key(step)!r} is cut or led astray")

    def _check_pack(self, pack: Pack, standing: Mapping[UUID, Standing]) -> None:
        for link in pack.links:
            row = self._tables.steps[link.step_id]
            if row.spec.kind != "script" or row.solo or self._follower(row.id, standing) is not None:
                self._object(f"step {row.key!r} is packed and is no lone script")
        if len({(self._tables.steps[link.step_id].run, link.pool) for link in pack.links}) > 1:
            self._object("a pack holds steps of several runs or pools")

    def _check_chords(
        self,
        run_id: UUID,
        standing: Mapping[UUID, Standing],
        emissions: Sequence[Emission],
        lines: Sequence[Line],
    ) -> None:
        """Whatever is together all that a join waits for is one chord, or one pack; nothing else is a chord."""
        tails = {step for line in lines for step in _tails(line)}
        joins: set[frozenset[UUID]] = set()
        for row in self._tables.of_run[run_id]:
            before = self._tables.before[row.id]
            if row.id not in standing or len(before) < 2 or not set(before) <= tails:
                continue
            if all(self._after(one, standing) == [row.id] for one in before):
                joins.add(frozenset(before))
        chords = {
            frozenset(step for line in (emission.header if isinstance(emission, Chord) else (emission,))
                      for step in _tails(line))
            for emission in emissions
            if isinstance(emission, Chord) or (isinstance(emission, Pack) and frozenset(_tails(emission)) in joins)
        }  # fmt: skip
        if joins != chords:
            self._object(f"{len(joins)} joins were emitted whole, and {len(chords)} of them as chords")

    def _after(self, step: UUID, standing: Mapping[UUID, Standing]) -> list[UUID]:
        """What waits for it, as far as the admission had read: the graph may have grown since."""
        return [one for one in self._tables.after[step] if one in standing]

    def _follower(self, step: UUID, standing: Mapping[UUID, Standing]) -> UUID | None:
        """The one that follows in a line."""
        successors = self._after(step, standing)
        return successors[0] if len(successors) == 1 and len(self._tables.before[successors[0]]) == 1 else None

    # --- now and then -------------------------------------------------------------------------------------------------

    def on_tick(self, *, somebody_watches: bool, broker: Broker) -> None:
        """A second has passed."""
        self._note_live_pools()
        self.fleet.on_tick(somebody_watches=somebody_watches)
        for run in self._tables.runs.values():
            if not run.is_anchored:
                self._check_money(run)
                self._check_deadlines(run, somebody_watches=somebody_watches)
        live = self._tables.live_slots(POOL_SILENCE_SECONDS)
        there_since = self._tables.there_since(POOL_SILENCE_SECONDS)
        now = self._tables.clock.now
        for row in self._tables.open_rows():
            pool = "solo" if row.solo else row.pool
            could_send = somebody_watches and pool in live and not broker.is_down
            sunk = broker.whole_since is not None and (row.queued_at or now) < broker.whole_since
            if row.status != "queued" or not could_send or not sunk:
                self._sunk_since.pop(row.id, None)
            elif now - self._sunk_since.setdefault(row.id, now) > self._settings.ring_age_seconds + self._slack_seconds:
                self._object(f"the message of step {row.key!r} went down with the broker and was not sent again")
            is_watched = could_send and broker.length(pool) <= 2 * live[pool]
            if row.status != "queued" or not is_watched:
                self._unclaimed_since.pop(row.id, None)
                continue
            assert row.queued_at is not None
            since = max(self._unclaimed_since.setdefault(row.id, now), row.queued_at, there_since[pool])
            if now - since > patience_seconds(self._settings, row.emissions) + self._slack_seconds:
                self._object(f"the message of step {row.key!r} was lost {now - since:.0f} s ago and not sent again")

    def _check_deadlines(self, run: RunLine, *, somebody_watches: bool) -> None:
        started = {"running", "waiting", "ready", "queued"}
        now = self._tables.clock.now
        overdue: dict[UUID, float | None] = {run.id: run.deadline_at if run.status not in RUN_ENDINGS else None}
        for row in self._tables.of_run[run.id]:
            # Of a task that may have happened all the same nobody is asked while its run, or the fleet, is paused.
            is_paused = run.status != "running" or ("all", "") in self._tables.switches
            may_end = row.spec.kind != "celery_task" or not is_paused
            overdue[row.id] = _overdue_from(row) if row.status in started and may_end else None
            parent = self._tables.parents.get(row.id)
            if parent is not None and parent.has_ended and not row.has_ended:
                # A child without its parent is ended with the next round.
                overdue[row.id] = now
        for identity, deadline_at in overdue.items():
            if deadline_at is None or deadline_at > now or not somebody_watches:
                self._overdue_since.pop(identity, None)
            elif now - self._overdue_since.setdefault(identity, now) > self._slack_seconds:
                self._object(f"run {run.goal!r}: a deadline has passed and nobody has ended what it was set for")

    def _check_money(self, run: RunLine) -> None:
        rows = self._tables.of_run[run.id]
        drawn = sum(row.allotment_microusd for row in rows)
        if drawn != run.drawn_microusd:
            self._object(f"run {run.goal!r}: its steps hold {drawn}, its budget says {run.drawn_microusd}")
        if drawn > run.cap_microusd:
            self._object(f"run {run.goal!r} has drawn {drawn} of {run.cap_microusd}")
        for row in rows:
            if row.free_microusd < 0 or row.reserved_microusd < 0:
                self._object(f"step {row.key!r} has spent what it has not drawn")

    # --- at the end ---------------------------------------------------------------------------------------------------

    def at_the_end(self, *, answered: Mapping[UUID, str]) -> None:
        """Faults have stopped and everything has had its time; `answered`: tasks that told how they ended in time."""
        for step, outcome in answered.items():
            row = self._tables.steps[step]
            if row.status in {"succeeded", "failed"} and row.status != outcome:
                self._object(f"the task of step {row.key!r} {outcome}, and the step has {row.status}")
        for run in self._tables.runs.values():
            self._check_end(run)
            self._check_money(run)
            self._check_bill(run)
            self._graph.at_the_end(run)
            self._plans.at_the_end(run)
            for row in self._tables.of_run[run.id]:
                self._check_calls(row)
                self._check_effects(row)

    def _check_end(self, run: RunLine) -> None:
        rows = self._tables.of_run[run.id]
        if run.status not in RUN_ENDINGS:
            standing = ", ".join(f"{row.key} {row.status}" for row in rows if not row.has_ended)
            self._object(f"run {run.goal!r} is {run.status} and does not end: {standing}")
            return
        if not run.is_anchored:
            self._object(f"run {run.goal!r} has ended and is not sealed")
        ends = [fact.outcome for fact in self._tables.facts(run.id, None) if isinstance(fact, RunFinished)]
        if ends != [run.status]:
            self._object(f"run {run.goal!r} is {run.status}, its journal ends it as {ends}")
        for row in rows:
            if not row.has_ended:
                self._object(f"step {row.key!r} is {row.status} in a run that has ended")
            if row.head_seq and not row.anchored:
                self._object(f"the stream of step {row.key!r} is not anchored")
        for line in self._tables.drift_of_run(run):
            self._object(line)

    def _check_bill(self, run: RunLine) -> None:
        rows = self._tables.of_run[run.id]
        spent = sum(row.spent_microusd for row in rows)
        reserved = sum(row.reserved_microusd for row in rows)
        billed = sum(
            self._ledger.billed.get(call.call_id, 0)
            for row in rows
            for call in self._ledger.calls.values()
            if call.step == row.id
        )
        if reserved:
            self._object(f"run {run.goal!r} has ended with {reserved} reserved")
        if not billed <= spent <= run.cap_microusd:
            self._object(f"run {run.goal!r}: billed {billed}, spent {spent}, cap {run.cap_microusd}")

    def _check_calls(self, row: StepLine) -> None:
        facts = self._tables.facts(row.run, row.id)
        requested = {fact.call_id for fact in facts if isinstance(fact, ModelRequested)}
        known = {fact.call_id for fact in facts if isinstance(fact, ModelResponded | ModelFailed)}
        # A worker is lost when its lease expires, or when somebody else ends its step.
        lost = sum(isinstance(fact, StepRecovered) for fact in facts)
        lost += sum(isinstance(fact, StepFinished) and fact.outcome == "cancelled" for fact in facts)
        lost += row.status == "superseded"
        lost += sum(isinstance(fact, StepFinished) and fact.error == "its deadline has passed" for fact in facts)
        called = {call.call_id for call in self._ledger.calls.values() if call.step == row.id}
        if not called <= requested:
            self._object(f"step {row.key!r} made calls that its journal does not know")
        if not known <= called:
            self._object(f"step {row.key!r} has outcomes of calls that nobody made")
        if len(requested - known) > lost:
            self._object(f"step {row.key!r} has {len(requested - known)} calls in flight for {lost} losses")
        turns = Counter(fact.turn for fact in facts if isinstance(fact, ModelRequested) and fact.call_id in known)
        failed = Counter(
            fact.turn
            for fact in facts
            if isinstance(fact, ModelRequested)
            for end in facts
            if isinstance(end, ModelFailed) and end.call_id == fact.call_id
        )
        if any(turns[turn] - failed[turn] > 1 for turn in turns):
            self._object(f"step {row.key!r} was answered twice in one turn")

    def _check_effects(self, row: StepLine) -> None:
        facts = self._tables.facts(row.run, row.id)
        finished = Counter(fact.tool_use_id for fact in facts if isinstance(fact, ToolFinished))
        if any(times > 1 for times in finished.values()):
            self._object(f"step {row.key!r} has recorded a tool's result twice")
        keys: dict[str, set[str]] = defaultdict(set)
        for fact in facts:
            if isinstance(fact, ToolStarted):
                keys[fact.tool_use_id].add(fact.key)
        if any(len(some) > 1 for some in keys.values()):
            self._object(f"step {row.key!r} gave one use of a tool two keys")

    def _key(self, step: UUID) -> str:
        return self._tables.steps[step].key


def _heads(line: Line) -> list[UUID]:
    """What a message names first."""
    return [link.step_id for link in line.links] if isinstance(line, Pack) else [line.links[0].step_id]


def _tails(line: Line) -> list[UUID]:
    """What a join may wait for."""
    return [link.step_id for link in line.links] if isinstance(line, Pack) else [line.links[-1].step_id]


def _overdue_from(row: StepLine) -> float | None:
    """From when on a started step must be ended; None: it has no deadline.

    While somebody may be sending a task nobody gives it up; who dies in that is waited for as long as its lease lasts.
    """
    if row.deadline_at is None or row.spec.kind != "celery_task":
        return row.deadline_at
    return max(row.deadline_at, row.run_after or 0.0)

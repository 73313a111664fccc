"""The promises that the simulation watches over, taken out one at a time; each must make some world break a rule."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

from chargehand.orchestrator import admission, canvas, control, recovery, rounds, transitions
from chargehand.orchestrator import replanning as production
from chargehand.orchestrator.admission import Room
from chargehand.orchestrator.canvas import Chain, Chord, Link, Pack
from chargehand.orchestrator.facts import ToolStarted
from chargehand.orchestrator.plan import Plan, PlanPatch, step_id
from chargehand.orchestrator.supervisor import admit
from chargehand.workers.holds import Holds
from simulation import queueing, replanning, sending, statements, supervision, switching, unrolling, watching, writers
from simulation.tables import Signal, StepLine, Tables


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of what the simulated world runs on: production's decisions, or the guards of a statement."""

    name: str
    where: Any
    """A module or a class."""
    attribute: str
    change: Callable[[Any], Any]
    """Makes what stands there from what stood there."""


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """Without the promise, for as long as it lasts."""
    kept = getattr(mutation.where, mutation.attribute)
    setattr(mutation.where, mutation.attribute, mutation.change(kept))
    try:
        yield
    finally:
        setattr(mutation.where, mutation.attribute, kept)


# --- the statements ---------------------------------------------------------------------------------------------------


def _held_by_anybody(tables: Tables, _tenant: UUID, given: statements.Parameters) -> StepLine | None:
    row = tables.steps.get(given["step"])
    return row if row is not None and row.status == "running" else None


def _without_rings(act: Any) -> Any:
    def silent(tables: Tables, *given: Any) -> Any:
        before = {run: set(rings) for run, rings in tables.rings.items()}
        done = act(tables, *given)
        for run, rings in tables.rings.items():
            for ring in set(rings) - before.get(run, set()):
                del rings[ring]
        return done

    return silent


def _counting_claims(claim: Any) -> Any:
    def counting(tables: Tables, tenant: UUID, given: statements.Parameters) -> statements.Rows:
        rows = claim(tables, tenant, given)
        for row in rows:
            tables.steps[row["id"]].crashes += 1
        return cast(statements.Rows, rows)

    return counting


def _only_of_this_epoch(history: Any) -> Any:
    def forgetful(tables: Tables, tenant: UUID, given: statements.Parameters) -> statements.Rows:
        rows = history(tables, tenant, given)
        return [row for row in rows if row["epoch"] == rows[-1]["epoch"]]

    return forgetful


def _without_started_tools(history: Any) -> Any:
    return lambda *given: [row for row in history(*given) if row["kind"] != ToolStarted.model_fields["kind"].default]


# --- people -----------------------------------------------------------------------------------------------------------


def _pause_without_halt(pause: Any) -> Any:
    def lax(tables: Tables, run: Any, **words: str) -> bool:
        done = pause(tables, run, **words)
        for row in tables.of_run[run.id]:
            row.halt = None
        return bool(done)

    return lax


def _pause_that_leaves_the_queue(pause: Any) -> Any:
    def lax(tables: Tables, run: Any, **words: str) -> bool:
        queued = [row for row in tables.of_run[run.id] if row.status == "queued"]
        done = pause(tables, run, **words)
        for row in queued:
            row.status = "queued"
        return bool(done)

    return lax


def _any_answer_counts(_answer: Any) -> Any:
    def taken(tables: Tables, step: UUID, wait_id: UUID, choice: str, body: object = None) -> bool:
        run = tables.steps[step].run
        tables.signals[step, wait_id] = Signal(choice, body, run, tables.clock.now)
        tables.ring(run)
        return True

    return taken


# --- supervisors ------------------------------------------------------------------------------------------------------


class _AtTheEnd:
    """Whatever rings there are when somebody looks."""

    def __init__(self, rings: dict[int, float]) -> None:
        self._rings = rings

    def __bool__(self) -> bool:
        return bool(self._rings)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._rings))


def _without_charging(decide: Any) -> Any:
    return lambda *given, **named: replace(decide(*given, **named), to_charge=None)


def _following_into_joins(_follow: Any) -> Any:
    def follow(graph: Any, head: UUID, followable: Any) -> Chain:
        line = [head]
        while len(graph[line[-1]].after) == 1 and graph[line[-1]].after[0] in followable:
            line.append(graph[line[-1]].after[0])
        return Chain(links=tuple(Link(step_id=one, pool=graph[one].pool, label="") for one in line))

    return follow


def _without_chords(compose: Any) -> Any:
    def flat(*given: Any, **named: Any) -> list[Chain | Pack]:
        return [
            line
            for emission in compose(*given, **named)
            for line in (emission.header if isinstance(emission, Chord) else (emission,))
        ]

    return flat


def _packing_everything(node_of: Any) -> Any:
    return lambda nodes, step: replace(node_of(nodes, step), packable=True)


def _with_places_everywhere(_: Any) -> Any:
    return lambda **_named: Room(anybody=4, newcomers=4, slots=4)


def _without_counting(judge: Any) -> Any:
    return lambda **named: replace(judge(**named), crashes=0, solo=named["solo"], asks_person=False)


def _blaming_at_once(judge: Any) -> Any:
    return lambda **named: replace(judge(**named), asks_person=named["crashes"] + 1 >= named["max_crashes"])


def _not_waiting_for_all(judge: Any) -> Any:
    def hasty(join: str, before: list[str]) -> str:
        if len(before) > 1 and any(status in transitions.STEP_ENDINGS for status in before):
            return "run"
        return str(judge(join, before))

    return hasty


# --- graphs that grow and go back -------------------------------------------------------------------------------------


def _held_though_superseded(_held: Any) -> Any:
    def lax(tables: Tables, _tenant: UUID, given: statements.Parameters) -> StepLine | None:
        row = tables.steps.get(given["step"])
        if row is None or row.status not in {"running", "superseded"}:
            return None
        return row if row.epoch == given["epoch"] and row.head_seq == given["seq"] else None

    return lax


def _superseding_only_what_has_ended(supersede: Any) -> Any:
    def lax(tables: Tables, row: StepLine) -> None:
        if row.has_ended:
            supersede(tables, row)

    return lax


def _without_cancelling(decide: Any) -> Any:
    return lambda *given, **named: replace(decide(*given, **named), to_cancel={})


def _cancelling_losers_only(unneeded: Any) -> Any:
    def lax(places: Any, *given: Any) -> dict[UUID, str]:
        return unneeded({step: replace(place, parent=None) for step, place in places.items()}, *given)  # type: ignore[no-any-return]

    return lax


def _gate_that_stays_open(end_gate: Any) -> Any:
    def lax(tables: Tables, row: StepLine, *given: Any) -> None:
        end_gate(tables, row, *given)
        tables.signals.pop((row.id, row.id))
        row.status, row.wait_id, row.wait_reason = "waiting", row.id, "gate"

    return lax


def _gate_that_opens_by_itself(wake: Any) -> Any:
    def lax(tables: Tables) -> Any:
        for row in tables.open_rows():
            if row.status == "waiting" and row.spec.kind == "gate":
                watching._end_gate(tables, row, Signal("approve", None, row.run, tables.clock.now))
                tables.ring(row.run)
        return wake(tables)

    return lax


def _by_completion(end: Any) -> Any:
    def joined(tables: Tables, row: StepLine, found: Any) -> None:
        if row.spec.map is not None and isinstance(found.result, list):
            last = row.spec.map.body[-1].key
            children = [
                tables.steps[step_id(row.run, f"{row.key}/{number}/{last}")] for number in range(len(found.result))
            ]
            order = sorted(range(len(children)), key=lambda number: children[number].finished_at or 0.0)
            found = replace(found, result=[found.result[number] for number in order])
        end(tables, row, found)

    return joined


def _of_another_map(**changes: Any) -> Callable[[Any], Any]:
    def made(act: Any) -> Any:
        return lambda step, mapping, *given: act(step, mapping.model_copy(update=changes), *given)

    return made


def _waiting_for_the_last_only(of_items: Any) -> Any:
    def lax(step: Any, mapping: Any, items: Any) -> Any:
        last = mapping.body[-1].key
        return [
            child.model_copy(
                update={
                    "after": tuple(
                        key
                        for key in child.after
                        if not key.startswith(f"{step.key}/")
                        or key.endswith(f"/{last}")
                        or key.split("/")[:-1] == child.key.split("/")[:-1]
                    )
                }
            )
            for child in of_items(step, mapping, items)
        ]

    return lax


def _sure_of_everything(branch: Any) -> Any:
    return lambda step, rule, *given, **named: branch(step, rule.model_copy(update={"threshold": 0.0}), *given, **named)


def _without_labels(_ways: Any) -> Any:
    return lambda place, fate, _labels: [fate[predecessor] for predecessor in place.after]


def _merged_anyhow(merge: Any) -> Any:
    def lax(step: Any, rule: Any, children: Any) -> Any:
        found = merge(step, rule, children)
        return control.End(outcome="succeeded") if children and children[-1].has_ended else found

    return lax


def _taking_for_good(take_due: Any) -> Any:
    def lax(tables: Tables, *given: Any) -> Any:
        messages = take_due(tables, *given)
        for message in messages:
            tables.steps[message.labels.step_id].run_after = None
        return messages

    return lax


def _always(answer: bool) -> Callable[[Any], Any]:
    return lambda _act: lambda *_given, **_named: answer


def _only_told(signal: Any) -> Any:
    return lambda tables, row, wait_id, _choice, body: signal(tables, row, wait_id, "answer", body)


def _told_too_early(answer: Any) -> Any:
    def hasty(tables: Tables, run: Any, row: StepLine) -> None:
        asked = unrolling._question(tables, row)
        if asked is not None and asked.child is not None and step_id(run.id, asked.child.key) in tables.steps:
            unrolling._signal(tables, row, asked.wait_id, "answer", None)
        else:
            answer(tables, run, row)

    return hasty


# --- the fleet's switches, and keys -----------------------------------------------------------------------------------


def _never_off(_off_since: Any) -> Any:
    return lambda *_given: None


def _passing_over_holders(_is_taken: Any) -> Any:
    return lambda _tables, _run: False


def _without_ending_the_older(_lock_to_end: Any) -> Any:
    return lambda _ahead: []


def _the_newest_first(comes_first: Any) -> Any:
    return lambda run, other: not comes_first(run, other)


def _never_waiting(_must_wait: Any) -> Any:
    return lambda _on_conflict, _ahead: False


# --- planners ---------------------------------------------------------------------------------------------------------


def _asked_for_ever(_limit_of: Any) -> Any:
    return lambda _run: 99


def _forgetting_misfits(apply: Any) -> Any:
    def forgetful(*given: Any) -> str:
        apply(*given)
        return ""

    return forgetful


def _counting_every_planner(_rounds_of: Any) -> Any:
    return lambda steps: sum(step.role == production.REPLANNER for step in steps)


def _doing_everything_again(effective: Any) -> Any:
    def lavish(plan: Plan, statuses: Any, change: PlanPatch) -> PlanPatch:
        ended = {
            step.key: None
            for step in plan.steps
            if step.parent is None and statuses[step.key] == "succeeded" and step.role != production.REPLANNER
        }
        return cast(
            PlanPatch, effective(plan, statuses, change.model_copy(update={"again": {**ended, **change.again}}))
        )

    return lavish


def _nobody_heard(_statement: Any) -> Any:
    return lambda *_given: []


def _nothing(_act: Any) -> Any:
    return lambda *_given, **_named: None


def _mutations() -> Sequence[Mutation]:
    return (
        Mutation("a claim takes what is not queued", statements, "may_be_claimed",
                 lambda _: lambda row: row.status in {"queued", "running", "ready", "chained"}),
        Mutation("a write asks for no epoch", statements, "held", lambda _: _held_by_anybody),
        Mutation("a finish does not ring", statements, "finish", _without_rings),
        Mutation("crashes are counted at claims", statements, "claim", _counting_claims),
        Mutation("followers are queued like heads", supervision, "follower_status", lambda _: lambda: "queued"),
        Mutation("what was recorded before a crash is forgotten", statements, "history", _only_of_this_epoch),
        Mutation("tools that were started are forgotten", statements, "history", _without_started_tools),
        Mutation("an allotment is not returned", statements, "return_allotment", _nothing),
        Mutation("a pause does not stop what runs", writers, "pause", _pause_without_halt),
        Mutation("a pause does not empty the queue", writers, "pause", _pause_that_leaves_the_queue),
        Mutation("the second answer counts too", writers, "answer", _any_answer_counts),
        Mutation("rings go after everything was read", supervision, "heard_rings",
                 lambda _: lambda tables, run: _AtTheEnd(tables.rings[run])),
        Mutation("calls in flight are not charged", rounds, "decide", _without_charging),
        Mutation("a chain follows into joins", canvas, "_follow", _following_into_joins),
        Mutation("nothing is a chord", canvas, "compose", _without_chords),
        Mutation("whatever is ready is packed", admit.Nodes, "__getitem__", _packing_everything),
        Mutation("pools that are down have places", admission, "room", _with_places_everywhere),
        Mutation("no crash is counted", recovery, "judge", _without_counting),
        Mutation("the second crash is blamed on the step", recovery, "judge", _blaming_at_once),
        Mutation("a join waits for one of its predecessors", transitions, "_judge", _not_waiting_for_all),
        Mutation("nobody looks for what waits", watching, "wake", lambda _: lambda _tables: []),
        Mutation("lost messages are not sent again", watching, "emit_again", lambda _: lambda *_, **__: 0),
        Mutation("nobody notices an emptied broker", watching, "went_down", lambda _: lambda *_: False),
        Mutation("nobody looks at deadlines", watching, "end_overdue", lambda _: lambda _tables: 0),
        Mutation("what was superseded is written to", statements, "held", _held_though_superseded),
        Mutation("what is at work is not superseded", writers, "supersede", _superseding_only_what_has_ended),
        Mutation("the losers of a race go on", rounds, "decide", _without_cancelling),
        Mutation("children go on without their parent", rounds, "_not_needed", _cancelling_losers_only),
        Mutation("a gate is answered twice", watching, "_end_gate", _gate_that_stays_open),
        Mutation("a gate opens by itself", watching, "wake", _gate_that_opens_by_itself),
        Mutation("a map joins in the order of completion", unrolling, "end", _by_completion),
        Mutation("a map has as many lanes as items", control, "_of_items", _of_another_map(max_parallel=None)),
        Mutation("a lane waits for the last step of an item only", control, "_of_items", _waiting_for_the_last_only),
        Mutation("a map tolerates every failure", control, "_map", _of_another_map(tolerated_failures=99)),
        Mutation("a map tolerates no failure", control, "_map", _of_another_map(tolerated_failures=0)),
        Mutation("a branch is always sure", control, "_branch", _sure_of_everything),
        Mutation("every way of a branch is taken", transitions, "_ways_to", _without_labels),
        Mutation("a repeat goes on after it has passed", control, "_passed", _always(False)),
        Mutation("a repeat passes whatever its verdict", control, "_passed", _always(True)),
        Mutation("children wait for who has lost", unrolling, "_going_on", lambda _: lambda _tables, row: row.spec),
        Mutation("a merge takes conflicts for merged", control, "_merge", _merged_anyhow),
        Mutation("what a colleague gave is no result", unrolling, "_signal", _only_told),
        Mutation("a colleague is not waited for", unrolling, "_answer_for_colleague", _told_too_early),
        Mutation("answers are not heard", statements, "signal", _nobody_heard),
        Mutation("agents do not hear what people say", statements, "told", _nobody_heard),
        Mutation("a task's answer is not heard", sending, "take_answers", _nothing),
        Mutation("a task that has answered is given up", sending, "has_answered", _always(False)),
        Mutation("a message that may have left is not sent again", sending, "take_due", _taking_for_good),
        Mutation("messages are sent for roles that are off", switching, "off_since", _never_off),
        Mutation("workers do not look at the switches", Holds, "_paused", _never_off),
        Mutation("a tool that is off is called", Holds, "tool", _never_off),
        Mutation("a model that is off is asked", Holds, "model", _never_off),
        Mutation("switching on wakes nobody", switching, "wake_who_waits", _nothing),
        Mutation("a run starts though another has its key", queueing, "is_taken", _passing_over_holders),
        Mutation("a run that replaces others lets them go on", queueing, "lock_to_end", _without_ending_the_older),
        Mutation("who came last gets the key first", queueing, "comes_first", _the_newest_first),
        Mutation("nobody waits for a key, and nobody is refused", queueing, "must_wait", _never_waiting),
        Mutation("a key that is free is given to nobody", queueing, "next_in_line", _nobody_heard),
        Mutation("the planner is asked for ever", replanning, "limit_of", _asked_for_ever),
        Mutation("the planner is not asked", replanning, "ask", _always(False)),
        Mutation("the planner is asked about what a person has decided", replanning, "was_refused", _always(False)),
        Mutation("a change throws away all that is done", production, "effective", _doing_everything_again),
        Mutation("a change that does not fit is forgotten", replanning, "apply", _forgetting_misfits),
        Mutation("what a planner drops goes on", writers, "cancel_started", _nothing),
        Mutation("a planner lets itself be asked again", production, "_leaves_planners_out", _nothing),
        Mutation("whom a person lets think again is another round", replanning, "rounds_of", _counting_every_planner),
        Mutation("nobody hears old rings", watching, "old_rings", lambda _: lambda *_: []),
    )  # fmt: skip


MUTATIONS = _mutations()

"""The engine with one promise taken out, each with the short story in which that promise is needed.

A checker that has never objected proves nothing. Every story ends well as long as the engine is whole; with its
mutation it must not, and the checker has to say so. A mutation that finds nothing to take out raises `AssertionError`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

from sqlalchemy.exc import IntegrityError

from chaos import agents
from chaos.agents import Scripted, WorkerDied
from chaos.stage import Stage
from chargehand.memory import journal
from chargehand.orchestrator import rounds, runs, steps, turns
from chargehand.orchestrator.facts import StepFinished, StepRecovered
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.tables import StepRow
from chargehand.workers.tool_turn import ToolTurn

Mutation = Callable[[Stage], AbstractContextManager[object]]
Story = Callable[[Stage], UUID]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A promise, how it is taken out, when it is needed, and what the checker then has to say."""

    promise: str
    mutation: Mutation
    story: Story
    objection: str
    """A part of it."""


# --- stories ----------------------------------------------------------------------------------------------------------

LINE = (Step(key="a", kind="script", script="count", pool="audit"),)
LINE += (Step(key="b", kind="script", script="count", pool="audit", after=("a",)),)


def nothing_happens(stage: Stage) -> UUID:
    """Two steps run one after the other."""
    run = stage.start(*LINE)
    stage.drain(run)
    return run


def messages_come_again(stage: Stage) -> UUID:
    """The message of a step is delivered to a second worker while the first one is at work, and again at the end."""
    run = stage.start(*LINE)
    mine = stage.claim(stage.first, run, "a")
    also = stage.claim(stage.second, run, "a")
    stage.do(stage.first, mine)
    stage.do(stage.second, also)
    stage.do(stage.second, stage.claim(stage.second, run, "a"))
    stage.drain(run)
    return run


def a_zombie_wakes_up(stage: Stage) -> UUID:
    """A worker stands still past its lease; it goes on while somebody else is at work on the step."""
    run = stage.start(*LINE)
    frozen = stage.claim(stage.first, run, "a")
    stage.lose()
    taken_up = stage.claim(stage.second, run, "a")
    stage.do(stage.first, frozen)
    stage.do(stage.second, taken_up)
    stage.drain(run)
    return run


def a_supervisor_oversleeps(stage: Stage) -> UUID:
    """A supervisor that has seen a step at work writes what it made of that when the step has long ended."""
    run = stage.start(*LINE)
    held = stage.claim(stage.first, run, "a")
    with stage.house.as_tenant() as session:
        seen = session.get_one(StepRow, step_id(run, "a"))
        session.expunge(seen)
    stage.do(stage.first, held)
    try:
        with stage.house.as_tenant() as session:
            runs.record_in_step(session, seen, [StepRecovered(crashes=1)])
    except IntegrityError:
        # The row is there already: what this one was written for is not so any more.
        pass
    stage.drain(run)
    return run


def workers_die_of_a_step(stage: Stage) -> UUID:
    """Each worker that takes the step up dies of it, until a person is asked, who gives it up."""
    run = stage.start(*LINE)
    for _ in range(stage.house.settings.max_crashes + 1):
        stage.claim(stage.first, run, "a")
        stage.lose()
    row = stage.house.row(run, "a")
    if row.status == "waiting":
        with stage.house.as_tenant() as session:
            runs.answer(
                session, stage.house.tenant, run_id=run, step=row.id, wait_id=row.wait_id, choice="skip", body=None
            )
        stage.round()
        held = stage.claim(stage.second, run, "a")
        assert held is not None
        held.fold_signal(row.wait_id)
        held.finish(StepFinished(outcome="succeeded"))
    stage.drain(run)
    return run


def a_worker_dies_after_an_effect(stage: Stage) -> UUID:
    """An agent's letter is posted, and its worker dies before it can say so; the next one does it again."""
    run = agents.start(stage)
    agents.attempt(stage, stage.first, run, Scripted(stage.ledger), dies_in_tool=True)
    stage.lose()
    agents.attempt(stage, stage.second, run, Scripted(stage.ledger))
    stage.drain(run)
    return run


def a_worker_dies_in_a_call(stage: Stage) -> UUID:
    """A worker dies while its call is in flight; the next one gives the call up and makes its own."""
    run = agents.start(stage)
    agents.attempt(stage, stage.first, run, Scripted(stage.ledger, instead_of_answer=die))
    stage.lose()
    agents.attempt(stage, stage.second, run, Scripted(stage.ledger))
    stage.drain(run)
    return run


def an_answer_comes_late(stage: Stage) -> UUID:
    """An answer comes when somebody else has given its call up and ended the step; what it cost is told twice."""
    run = agents.start(stage)
    late = Scripted(stage.ledger, instead_of_answer=lambda: go_on_without(stage, run))
    agents.attempt(stage, stage.first, run, late)
    # Its worker did not hear that it was understood.
    told_again = {"call": late.calls[0], "step": step_id(run, agents.STEP), "cost": agents.COST_MICROUSD}
    stage.house.connections.run(stage.house.tenant, turns.SETTLE_LATE, told_again)
    stage.drain(run)
    return run


def go_on_without(stage: Stage, run: UUID) -> None:
    """The step is taken up and ended elsewhere while the first worker waits for its answer."""
    stage.lose()
    agents.attempt(stage, stage.second, run, Scripted(stage.ledger))


def die() -> None:
    """What a SIGKILL would do to this attempt."""
    raise WorkerDied


# --- mutations --------------------------------------------------------------------------------------------------------


def without(module: Any, names: str, *pieces: str) -> Mutation:
    """The statements of these names, less these pieces of each."""

    def mutate(_: Stage) -> AbstractContextManager[object]:
        mutated: dict[str, object] = {}
        for name in names.split():
            statement = getattr(module, name)
            for piece in pieces:
                words = r"\s+".join(re.escape(word) for word in piece.split())
                statement, times = re.subn(words, " ", statement)
                assert times == 1, f"{name} has {piece!r} {times} times"
            mutated[name] = statement
        return mock.patch.multiple(module, **mutated)

    return mutate


def replaced(module: Any, name: str, value: object) -> Mutation:
    """Something else in the place of a function."""
    assert hasattr(module, name), f"{module} has no {name}"
    return lambda _: mock.patch.object(module, name, value)


def in_the_database(*statements: str) -> Mutation:
    """The database of the stage, which nobody uses after the story, altered by its owner."""

    @contextmanager
    def mutate(stage: Stage) -> Iterator[None]:
        for statement in statements:
            stage.house.execute(statement)
        yield

    return mutate


def _with_a_fresh_key(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(self: ToolTurn, tool: Any, arguments: Any, *, key: str) -> Any:
        return call(self, tool, arguments, key=f"{key}#{uuid4()}" if key else key)

    return called


_FROZEN_COUNTER = (
    """
    CREATE FUNCTION chargehand.forget_crash() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.crashes := least(NEW.crashes, OLD.crashes); RETURN NEW; END $$
    """,
    "CREATE TRIGGER forget BEFORE UPDATE ON chargehand.steps FOR EACH ROW EXECUTE FUNCTION chargehand.forget_crash()",
)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        promise="the claim's condition",
        mutation=without(steps, "_CLAIM", "status = 'queued' AND"),
        story=messages_come_again,
        objection="was claimed (row 2) while somebody held it",
    ),
    Mutant(
        promise="the epoch condition",
        mutation=without(steps, "_FINISH _FINISH_ALONE", "AND epoch = %(epoch)s", "AND head_seq = %(seq)s"),
        story=a_zombie_wakes_up,
        objection="it did not write that row",
    ),
    Mutant(
        promise="the journal's key",
        mutation=in_the_database("ALTER TABLE chargehand.journal DROP CONSTRAINT pk_journal"),
        story=a_supervisor_oversleeps,
        objection="has row 2 where row 3 belongs",
    ),
    Mutant(
        promise="the ring",
        mutation=without(
            steps, "_FINISH _FINISH_ALONE", ", ring AS ( INSERT INTO rings (tenant, run) SELECT tenant, run FROM own )"
        ),
        story=nothing_happens,
        objection="has not ended: it is running",
    ),
    Mutant(
        promise="the tool's key",
        mutation=replaced(ToolTurn, "call", _with_a_fresh_key(ToolTurn.call)),
        story=a_worker_dies_after_an_effect,
        objection="which its journal never announced",
    ),
    Mutant(
        promise="the settlement of a call",
        mutation=without(turns, "_SETTLE", "reserved_microusd = reserved_microusd - %(reserved)s,"),
        story=a_worker_dies_in_a_call,
        objection="in flight at its end, and",
    ),
    Mutant(
        promise="the charge for a call of unknown outcome",
        mutation=without(turns, "_CHARGE", ", spent_microusd = spent_microusd + %(cost)s"),
        story=a_worker_dies_in_a_call,
        objection="and its journal says",
    ),
    Mutant(
        promise="the settle key",
        mutation=in_the_database("ALTER TABLE chargehand.settlements DROP CONSTRAINT pk_settlements"),
        story=an_answer_comes_late,
        objection="was settled late 2 times",
    ),
    Mutant(
        promise="the anchor of a step",
        mutation=replaced(rounds, "_to_anchor", lambda *_: ()),
        story=nothing_happens,
        objection="the end of step 'a' is not anchored",
    ),
    Mutant(
        promise="the anchor of a run",
        mutation=replaced(journal, "anchor_run", lambda *_, **__: None),
        story=nothing_happens,
        objection="is not in its tenant's chain",
    ),
    Mutant(
        promise="the crash counter",
        mutation=in_the_database(*_FROZEN_COUNTER),
        story=workers_die_of_a_step,
        objection="workers in a row by row",
    ),
)

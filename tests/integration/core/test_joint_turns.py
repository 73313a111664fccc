"""Turns of several steps in one commit: each under its own fence, as if it were alone."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.orchestrator import joint_turns, runs
from chargehand.orchestrator.connections import Connections, Parameters, Row
from chargehand.orchestrator.errors import BudgetExceeded, LeaseLost, ReplyLost, StepCancelled, StepPaused
from chargehand.orchestrator.facts import ModelRequested, ToolStarted
from chargehand.orchestrator.joint_commits import Joint, JointCommits
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.turns import StepRecorder
from tests.integration.core.test_store_is_postgres import compare
from tests.integration.core.test_turns import requested, responded, script, tool_finished

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

LONG_SECONDS = 60.0
KEYS = ("a", "b", "c", "d")
SEQUENCES = 6


class Together(Connections):
    """Connections with one lane, which is held back until so many others wait for it."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url, lock_timeout_seconds=LONG_SECONDS)
        self.gate, self.began = threading.Event(), threading.Event()
        self.loses_replies = False
        self.carried: list[int] = []
        self._joint = JointCommits(self._through_the_gate, lanes=1, patience_seconds=LONG_SECONDS)

    def _through_the_gate(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        if not self.began.is_set():
            self.began.set()
            assert self.gate.wait(LONG_SECONDS)
        rows = self._committed(tenant, statement, parameters)
        if statement == joint_turns.FORM.statement:
            self.carried.append(len(rows))
            if self.loses_replies:
                raise ReplyLost("the reply was lost")
        return rows


class AlwaysJoint(Connections):
    """Connections that send each turn by the statement of many, and alone only what that passes over."""

    def rows(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        if isinstance(statement, Joint):
            rows = self._committed(tenant, statement.form.statement, statement.form.gather([parameters]))
            if rows:
                return rows
        return self._committed(tenant, statement, parameters)


@pytest.fixture
def together(house: "House") -> Iterator[Together]:
    made = Together(house.database_url)
    yield made
    made.gate.set()
    made.close()


def recorders(house: "House", connections: Connections, *keys: str) -> list[StepRecorder]:
    """Claimed steps of one run, which have money for a turn."""
    run_id = house.start(*map(script, keys))
    made = []
    for key in keys:
        held = HeldStep(connections, house.claim(run_id, key).claim)
        house.execute(
            "UPDATE steps SET allotment_microusd = 100 WHERE id = :step RETURNING id", {"step": step_id(run_id, key)}
        )
        made.append(StepRecorder(connections, held, lease_seconds=60))
    return made


@contextmanager
def at_once(
    together: Together, wait_until: "WaitUntil", acts: Sequence[tuple[StepRecorder, ModelRequested]]
) -> Iterator[list["Future[None]"]]:
    """Requests of which the first holds the lane and the others wait for it, until the block ends."""
    with ThreadPoolExecutor(len(acts)) as pool:
        given: list[Future[None]] = []
        try:
            for number, (recorder, fact) in enumerate(acts):
                given.append(pool.submit(recorder.request, [], fact))
                if number == 0:
                    assert together.began.wait(LONG_SECONDS)
                else:
                    wait_until(lambda number=number: len(together._joint._waiting) == number, LONG_SECONDS)
            yield given
        finally:
            together.gate.set()


def run_of(recorder: StepRecorder) -> UUID:
    return recorder._held.claim.run_id


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_the_statement_of_many_does_to_each_what_its_own_would_have_done(
    house: "House", monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    joint = AlwaysJoint(house.database_url)
    monkeypatch.setattr(house, "connections", joint)
    try:
        compare(house, 10_000 + seed)
    finally:
        joint.close()


def test_turns_that_wait_at_the_same_moment_are_one_commit_and_read_as_if_they_were_many(
    house: "House", together: Together, wait_until: "WaitUntil"
) -> None:
    mine = recorders(house, together, *KEYS)
    asked = [requested(10) for _ in mine]
    with at_once(together, wait_until, list(zip(mine, asked, strict=True))) as given:
        pass
    for future in given:
        future.result(LONG_SECONDS)
    assert together.carried == [3]
    run_id = run_of(mine[0])
    for key, recorder, fact in zip(KEYS, mine, asked, strict=True):
        row = house.row(run_id, key)
        assert (row.reserved_microusd, row.turns, row.head_seq) == (10, 1, 2)
        recorder.respond(responded(fact.call_id, 3))
        row = house.row(run_id, key)
        assert (row.reserved_microusd, row.spent_microusd, row.head_seq) == (0, 3, 3)
        assert house.kinds(run_id, key) == ["step.claimed", "model.requested", "model.responded"]
    assert house.objections(run_id) == []


def test_several_facts_of_several_steps_keep_their_order(house: "House", together: Together) -> None:
    mine = recorders(house, together, "a", "b")
    together.gate.set()
    texts = ['first "\\ {}', "second", "third, with ü and \\x41"]
    parameters = []

    def gathered(_: UUID, statement: Any, given: Parameters) -> list[Row]:
        assert isinstance(statement, Joint)
        parameters.append(given)
        return [{"head_seq": given["seq"] + given["facts"]}]  # type: ignore[operator]

    together._joint.run = gathered  # type: ignore[method-assign]
    for recorder in mine:
        recorder.request([tool_finished(text) for text in texts], requested(10))
    form = joint_turns.FORM
    rows = together._committed(house.tenant, form.statement, form.gather(parameters))
    assert sorted(row["head_seq"] for row in rows) == [5, 5]
    run_id = run_of(mine[0])
    for key in ("a", "b"):
        bodies = house.execute(
            "SELECT body::json->>'content' FROM journal WHERE step = :step AND kind = 'tool.finished' ORDER BY seq",
            {"step": step_id(run_id, key)},
        )
        assert [body for (body,) in bodies] == texts
        assert house.kinds(run_id, key) == ["step.claimed", *["tool.finished"] * 3, "model.requested"]
    assert house.objections(run_id) == []


def test_who_may_not_write_is_told_why_and_the_others_have_written(
    house: "House", together: Together, wait_until: "WaitUntil"
) -> None:
    first, lost, paused, poor, well = recorders(house, together, *KEYS, "e")
    run_id = run_of(first)

    def let(key: str, change: str) -> None:
        house.execute(f"UPDATE steps SET {change} WHERE id = :step RETURNING id", {"step": step_id(run_id, key)})

    let("b", "epoch = epoch + 1")
    let("c", "halt = 'pause'")
    acts = [
        (first, requested(10)),
        (lost, requested(10)),
        (paused, requested(10)),
        (poor, requested(50_000_000)),
        (well, requested(10)),
    ]
    with at_once(together, wait_until, acts) as given:
        pass
    told = [type(future.exception(LONG_SECONDS)) for future in given]
    assert told == [type(None), LeaseLost, StepPaused, BudgetExceeded, type(None)]
    assert together.carried == [1]
    assert [house.row(run_id, key).turns for key in (*KEYS, "e")] == [1, 0, 0, 0, 1]
    assert house.kinds(run_id, "b") == house.kinds(run_id, "c") == house.kinds(run_id, "d") == ["step.claimed"]


def test_a_cancelled_run_ends_its_own_turns_only(house: "House", together: Together, wait_until: "WaitUntil") -> None:
    first, mine = recorders(house, together, "a", "b")
    (other,) = recorders(house, together, "a")
    acts = [(first, requested(1)), (mine, requested(1)), (other, requested(1))]
    with at_once(together, wait_until, acts) as given, house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_of(mine))
    assert [type(future.exception(LONG_SECONDS)) for future in given] == [StepCancelled, StepCancelled, type(None)]
    assert house.row(run_of(other), "a").turns == 1


def test_a_row_that_somebody_has_locked_keeps_only_its_own_turn_waiting(
    house: "House", together: Together, wait_until: "WaitUntil"
) -> None:
    first, locked, free = recorders(house, together, "a", "b", "c")
    run_id = run_of(first)
    with house.owner.connect() as holder:
        holder.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{step_id(run_id, 'b')}' FOR NO KEY UPDATE")
        with at_once(
            together, wait_until, [(first, requested(1)), (locked, requested(1)), (free, requested(1))]
        ) as given:
            together.gate.set()
            given[0].result(LONG_SECONDS)
            given[2].result(LONG_SECONDS)
            assert not given[1].done()
            holder.rollback()
            given[1].result(LONG_SECONDS)
    assert together.carried == [1]
    assert [house.row(run_id, key).turns for key in ("a", "b", "c")] == [1, 1, 1]


def test_a_lost_reply_of_many_is_recognised_by_each(
    house: "House", together: Together, wait_until: "WaitUntil"
) -> None:
    mine = recorders(house, together, *KEYS)
    together.loses_replies = True
    with at_once(together, wait_until, [(recorder, requested(10)) for recorder in mine]) as given:
        pass
    for future in given:
        future.result(LONG_SECONDS)
    assert together.carried == [3]
    assert [house.row(run_of(mine[0]), key).reserved_microusd for key in KEYS] == [10, 10, 10, 10]
    for recorder in mine:
        recorder.tool_started(ToolStarted(tool_use_id="1", tool="t", effect="pure", key="k", timeout_seconds=1))
    assert house.objections(run_of(mine[0])) == []

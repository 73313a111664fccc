"""Advance: rings come with the change, joins are Postgres's, ends are anchored."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy.engine import Connection

from chargehand.orchestrator import runs, steps
from chargehand.orchestrator.facts import StepFinished, StepReleased, StepWaiting
from chargehand.orchestrator.plan import PlanPatch, Step, step_id
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import advance
from chargehand.orchestrator.supervisor.graphs import Graphs, Places

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

DONE = StepFinished(outcome="succeeded")


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


# --- rings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["finish", "release", "wait", "recover", "answer", "resume", "cancel", "patch"])
def test_every_change_rings_in_its_own_commit(house: "House", change: str) -> None:
    # Nothing is published here: only the row that came with the commit can tell a supervisor.
    run_id = house.start(script("a"), script("b", "a"), script("c", "b", "a"))
    held = house.claim(run_id, "a")
    assert house.rings(run_id) == 0
    with house.as_tenant() as session:
        match change:
            case "finish":
                held.finish(DONE)
            case "release":
                held.release(StepReleased(reason="drain"))
            case "wait":
                held.wait(StepWaiting(wait_id=new_wait_id(), reason="human", question="?"))
            case "recover":
                house.expire(run_id, "a")
                house.recover()
            case "answer":
                runs.answer(
                    session,
                    house.tenant,
                    run_id=run_id,
                    step=step_id(run_id, "a"),
                    wait_id=new_wait_id(),
                    choice="retry",
                )
            case "resume":
                runs.pause(session, house.tenant, run_id)
                runs.resume(session, house.tenant, run_id)
            case "cancel":
                runs.cancel(session, house.tenant, run_id)
            case "patch":
                run = runs.lock(session, house.tenant, run_id)
                runs.patch(session, run, PlanPatch(add=(script("d", "a"),)))
    assert house.rings(run_id) == 1


def test_a_refused_finish_rings_nothing(house: "House") -> None:
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    house.take_over(run_id, "a")
    rings = house.rings(run_id)
    with pytest.raises(Exception, match="epoch 1 is over"):
        zombie.finish(DONE)
    assert house.rings(run_id) == rings


def test_a_lost_bell_costs_a_round_of_the_watch_loop(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    house.run(run_id, "a")
    house.run(run_id, "b")
    # The worker died before it asked about the join, or the chord's body was lost with Redis.
    found = house.watch()
    assert run_id in found.runs
    house.advance(run_id)
    assert house.statuses(run_id)["c"] == "ready"
    assert house.rings(run_id) == 0


def test_without_the_ring_in_the_commit_a_lost_bell_would_stop_the_run(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    house.run(run_id, "a")
    house.run(run_id, "b")
    house.execute("DELETE FROM rings WHERE run = :run", {"run": run_id})
    assert run_id not in house.watch().runs
    assert house.statuses(run_id)["c"] == "pending"


def test_a_ring_that_comes_while_advance_reads_stays(house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
    # Deleted after reading, the ring of this finish would have been lost with it, and the join with the ring.
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    house.run(run_id, "a")
    held = house.claim(run_id, "b")
    read = advance.standings
    finished: list[object] = []

    def read_then_finish(connection: Connection, run: UUID, places: Places) -> dict[UUID, Any]:
        rows = read(connection, run, places)
        if not finished:
            finished.append(held.finish(DONE))
        return rows

    monkeypatch.setattr(advance, "standings", read_then_finish)
    house.advance(run_id)

    assert house.statuses(run_id)["c"] == "pending"
    assert house.rings(run_id) == 1
    house.advance(run_id)
    assert house.statuses(run_id)["c"] == "ready"


def test_two_supervisors_at_once_one_works_and_the_other_leaves_the_ring(house: "House") -> None:
    run_id = house.submit(script("a"))
    with house.supervisor.connect() as other:
        other.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = '{run_id}' FOR NO KEY UPDATE")
        assert not house.advance(run_id)
        assert house.rings(run_id) == 1
        other.rollback()
    assert house.advance(run_id)


def test_new_rows_that_refer_to_a_run_do_not_wait_for_its_advance(house: "House") -> None:
    # FOR UPDATE would make the foreign key of a new step (KEY SHARE) wait for the lock; NO KEY UPDATE does not.
    run_id = house.start(script("a"))
    with house.supervisor.connect() as other, house.owner.connect() as inserting:
        other.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = '{run_id}' FOR NO KEY UPDATE")
        inserting.exec_driver_sql("SET lock_timeout = '200ms'")
        inserting.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = '{run_id}' FOR KEY SHARE")
        inserting.rollback()
        other.rollback()


# --- joins ------------------------------------------------------------------------------------------------------------


def test_two_finishers_of_one_join_at_once_open_it(house: "House", threads: ThreadPoolExecutor) -> None:
    for _ in range(10):
        run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
        helds = [house.claim(run_id, key) for key in ("a", "b")]

        def finish(held: Any) -> bool:
            held.finish(DONE)
            return bool(held.a_join_is_open())

        assert any(threads.map(finish, helds))


def test_asked_in_the_finishing_statement_both_finishers_would_miss_the_join(house: "House") -> None:
    # The old way, shown: each transaction sees the other one's step still running.
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    ids = {key: house.claim(run_id, key).claim.step_id for key in ("a", "b")}
    finish_and_ask = (
        "WITH own AS (UPDATE chargehand.steps SET status = 'succeeded' WHERE id = %(step)s RETURNING id) "
        "SELECT count(*) FROM own, chargehand.edges e JOIN chargehand.steps p ON p.id = e.predecessor "
        "WHERE e.successor = %(join)s AND p.status <> 'succeeded' AND p.id <> %(step)s"
    )
    unfinished = []
    with house.owner.connect() as one, house.owner.connect() as other:
        for connection, key in ((one, "a"), (other, "b")):
            row = connection.exec_driver_sql(finish_and_ask, {"step": ids[key], "join": step_id(run_id, "c")}).one()
            unfinished.append(row[0])
        one.commit()
        other.commit()
    assert unfinished == [1, 1]
    # Asked after the commit, as production does, the last one sees it.
    row = house.connections.run(house.tenant, steps._JOINS_ARE_OPEN, {"steps": [ids["a"]]})
    assert row is not None
    assert row["open"]


def test_the_first_finisher_of_a_join_does_not_ring_for_it(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b"))
    held = house.claim(run_id, "a")
    held.finish(DONE)
    assert not held.a_join_is_open()


def test_a_tail_without_successors_asks_for_the_end_of_the_run(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    held.finish(DONE)
    assert held.a_join_is_open()


@pytest.mark.parametrize(
    ("join", "outcomes", "status"),
    [
        ("all", ("succeeded", "succeeded"), "ready"),
        ("all", ("succeeded", "failed"), "skipped"),
        ("settled", ("failed", "failed"), "ready"),
        ("any", ("failed", "succeeded"), "ready"),
        ("any", ("failed", "failed"), "skipped"),
    ],
)
def test_joins_open_by_their_kind(house: "House", join: str, outcomes: tuple[str, str], status: str) -> None:
    run_id = house.start(script("a"), script("b"), script("c", "a", "b", join=join), script("d", "c"))
    for key, outcome in zip(("a", "b"), outcomes, strict=True):
        house.claim(run_id, key).finish(StepFinished.model_validate({"outcome": outcome}))
    house.advance(run_id)
    assert house.statuses(run_id)["c"] == status
    assert house.statuses(run_id)["d"] == ("skipped" if status == "skipped" else "pending")


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_run_ends_when_its_last_step_has_and_is_anchored(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    house.run(run_id, "a")
    house.advance(run_id)
    assert house.run_row(run_id).status == "running"
    house.run(run_id, "b")
    house.advance(run_id)

    assert house.run_row(run_id).status == "succeeded"
    assert house.kinds(run_id)[-2:] == ["steps.anchored", "run.finished"]
    assert len(house.execute("SELECT FROM run_anchors WHERE run = :run", {"run": run_id})) == 1
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_advancing_an_ended_run_changes_nothing(house: "House") -> None:
    run_id = house.start(script("a"))
    house.run(run_id, "a")
    for _ in range(3):
        house.advance(run_id)
    assert house.kinds(run_id).count("run.finished") == 1
    assert house.objections(run_id) == []


def test_a_failed_run_says_which_step_failed(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    house.claim(run_id, "a").finish(StepFinished(outcome="failed", error="disk full"))
    house.advance(run_id)
    row = house.run_row(run_id)
    assert (row.status, row.reason) == ("failed", "step 'a' failed: disk full")


def test_the_plan_of_a_planner_is_appended_once(house: "House") -> None:
    # Roles are not needed to see a patch applied: the step's kind is what advance looks for.
    run_id = house.start(script("a"))
    house.execute("UPDATE steps SET spec = jsonb_set(spec, '{kind}', '\"agent\"') WHERE run = :run", {"run": run_id})
    house.graphs = Graphs()
    held = house.claim(run_id, "a")
    house.execute("UPDATE steps SET spec = jsonb_set(spec, '{role}', '\"planner\"') WHERE run = :run", {"run": run_id})
    house.execute('UPDATE runs SET role_versions = \'{"planner": "0"}\' WHERE id = :run', {"run": run_id})
    held.finish(StepFinished(outcome="succeeded", patch=PlanPatch(add=(script("b", "a"),))))

    house.advance(run_id)
    house.advance(run_id)

    assert house.statuses(run_id) == {"a": "succeeded", "b": "ready"}
    assert house.kinds(run_id).count("plan.patched") == 1


def test_a_planners_patch_that_does_not_fit_fails_the_run_with_the_reason(house: "House") -> None:
    run_id = house.start(script("a"), script("z", "a"))
    house.execute(
        "UPDATE steps SET spec = jsonb_set(spec, '{kind}', '\"agent\"') WHERE run = :run AND key = 'a'", {"run": run_id}
    )
    house.graphs = Graphs()
    held = house.claim(run_id, "a")
    held.finish(StepFinished(outcome="succeeded", patch=PlanPatch(add=(script("b", "nowhere"),))))

    house.advance(run_id)

    row = house.run_row(run_id)
    assert row.status == "failed"
    assert "does not fit" in row.reason
    assert house.statuses(run_id)["z"] == "cancelled"
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_a_gate_waits_for_a_person_and_ends_by_their_answer(house: "House") -> None:
    run_id = house.start(script("a"), Step(key="g", kind="gate", instruction="Refund?", after=("a",)), script("b", "g"))
    house.run(run_id, "a")
    house.advance(run_id)
    gate = house.row(run_id, "g")
    assert (gate.status, house.kinds(run_id, "g")) == ("waiting", ["step.waiting"])

    with house.as_tenant() as session:
        runs.answer(session, house.tenant, run_id=run_id, step=gate.id, wait_id=gate.wait_id, choice="approve")
    house.watch()
    house.advance(run_id)

    assert house.statuses(run_id) == {"a": "succeeded", "g": "succeeded", "b": "ready"}
    assert house.drift(run_id) == []


def test_a_refused_gate_fails_what_waits_behind_it(house: "House") -> None:
    run_id = house.submit(Step(key="g", kind="gate", instruction="Refund?"), script("b", "g"))
    house.advance(run_id)
    gate = house.row(run_id, "g")
    with house.as_tenant() as session:
        runs.answer(session, house.tenant, run_id=run_id, step=gate.id, wait_id=gate.wait_id, choice="reject")
    house.watch()
    house.advance(run_id)
    assert house.statuses(run_id) == {"g": "failed", "b": "skipped"}
    assert house.run_row(run_id).status == "failed"


def test_a_planner_drops_the_step_that_follows_it_in_its_chain(house: "House") -> None:
    planner = Step(key="plan", kind="script", script="work")
    run_id = house.start(planner, script("old", "plan"))
    house.execute(
        "UPDATE steps SET spec = spec || jsonb_build_object('kind', 'agent', 'role', 'planner') "
        "WHERE run = :run AND key = 'plan'",
        {"run": run_id},
    )
    house.graphs = Graphs()
    house.execute('UPDATE runs SET role_versions = \'{"planner": "0"}\' WHERE id = :run', {"run": run_id})
    assert house.statuses(run_id) == {"plan": "queued", "old": "chained"}
    change = PlanPatch(add=(script("new", "plan"),), drop=("old",))
    ended = house.claim(run_id, "plan").finish(StepFinished(outcome="succeeded", patch=change))
    assert not ended.next_queued, "what follows may be what the patch drops"
    house.advance(run_id)
    assert house.run_row(run_id).status == "running", house.run_row(run_id).reason
    assert house.statuses(run_id) == {"plan": "succeeded", "old": "cancelled", "new": "ready"}
    assert house.drift(run_id) == []

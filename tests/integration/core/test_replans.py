"""Replanning on real Postgres: who is asked and how often, and that what changed since then decides what is done."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import JsonValue

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import runs, views
from chargehand.orchestrator.errors import LeaseLost, NothingToClaim, StepCancelled
from chargehand.orchestrator.facts import PlanPatched, StepFinished, StepWaiting, parse_fact
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.orchestrator.replanning import REPLANNER, Reason, question
from chargehand.orchestrator.retracing import retrace
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.workers.inputs import RunReader

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

PLANNER = "replan:1"


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def go(house: "House", run_id: UUID) -> None:
    """Advance until nothing rings, and admit."""
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()


def start(house: "House", *planned: Step, replans: int = 2) -> UUID:
    """A run whose planner may be asked so often."""
    for pool in ("research", *{step.pool for step in planned}):
        house.open_pool(pool)
    run_id = house.submit(*planned, replans=replans)
    house.execute('UPDATE runs SET role_versions = \'{"replanner": "0"}\' WHERE id = :run', {"run": run_id})
    go(house, run_id)
    return run_id


def end(house: "House", run_id: UUID, key: str, result: JsonValue = None, *, outcome: str = "succeeded") -> None:
    held = house.claim(run_id, key)
    held.finish(StepFinished.model_validate({"outcome": outcome, "result": result, "error": f"{key} broke"}))
    go(house, run_id)


def answer(house: "House", run_id: UUID, key: str = PLANNER, **change: Any) -> None:
    """The planner changes the plan."""
    patch = PlanPatch.model_validate(change) if change else None
    fact = StepFinished(outcome="succeeded", result={"rationale": "by the test"}, patch=patch)
    house.claim(run_id, key).finish(fact)
    go(house, run_id)


def patches(house: "House", run_id: UUID) -> list[PlanPatched]:
    with house.as_tenant() as session:
        entries = journal.read(session, run_id, step=RUN_STREAM, kinds=["plan.patched"])
    facts = [parse_fact(entry.body or "", schema_version=entry.schema_version) for entry in entries]
    return [fact for fact in facts if isinstance(fact, PlanPatched)]


def check_end(house: "House", run_id: UUID, status: str) -> None:
    assert house.run_row(run_id).status == status
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []
    # Read again, the journal tells the same: a change of the plan is no divergence.
    with house.as_tenant() as session:
        assert [one.divergence for one in retrace(run_id, journal.scan(session, run_id)).found] == []


LINE = (script("a"), script("b", "a"), script("other", "a"), script("c", "b", "other"))


def test_the_planner_is_asked_about_a_failed_step_and_only_what_rests_on_it_comes_again(house: "House") -> None:
    run_id = start(house, *LINE)
    end(house, run_id, "a")
    end(house, run_id, "other")
    end(house, run_id, "b", outcome="failed")

    assert house.run_row(run_id).status == "running"
    assert house.row(run_id, PLANNER).status == "queued"
    asked = house.row(run_id, PLANNER).spec
    assert asked["role"] == REPLANNER
    assert asked["arguments"]["reasons"] == [{"step": "b", "error": "b broke"}]
    assert {step["key"]: step["status"] for step in asked["arguments"]["steps"]} == {
        "a": "succeeded", "b": "failed", "other": "succeeded", "c": "pending",
    }  # fmt: skip

    answer(house, run_id, again={"b": script("better", "a").model_dump(mode="json")})

    assert house.statuses(run_id) == {
        "a": "succeeded", "b": "superseded", "other": "succeeded", "c": "superseded", PLANNER: "succeeded",
        "better": "queued", "c~2": "pending",
    }  # fmt: skip
    end(house, run_id, "better")
    end(house, run_id, "c~2")
    check_end(house, run_id, "succeeded")
    assert (house.row(run_id, "a").epoch, house.row(run_id, "other").epoch) == (1, 1)
    assert [patch.reason for patch in patches(house, run_id)] == ["b: b broke", "by the test"]


def test_a_plan_that_did_not_ask_for_it_fails_with_its_step(house: "House") -> None:
    run_id = start(house, *LINE, replans=0)
    end(house, run_id, "a")
    end(house, run_id, "other")
    end(house, run_id, "b", outcome="failed")
    assert PLANNER not in house.statuses(run_id)
    check_end(house, run_id, "failed")


def test_the_planner_is_asked_so_often_and_then_the_run_fails(house: "House") -> None:
    run_id = start(house, script("a"), replans=2)
    end(house, run_id, "a", outcome="failed")
    answer(house, run_id, again={"a": None})
    end(house, run_id, "a~2", outcome="failed")
    answer(house, run_id, "replan:2", again={"a~2": None})
    end(house, run_id, "a~3", outcome="failed")
    assert "replan:3" not in house.statuses(run_id)
    check_end(house, run_id, "failed")


def test_a_planner_that_changes_nothing_or_fails_lets_the_run_fail(house: "House") -> None:
    for outcome in ("succeeded", "failed"):
        run_id = start(house, script("a"))
        end(house, run_id, "a", outcome="failed")
        end(house, run_id, PLANNER, {"rationale": "no way"}, outcome=outcome)
        assert house.statuses(run_id) == {"a": "failed", PLANNER: outcome}
        check_end(house, run_id, "failed")


def test_several_failures_are_one_question_and_those_that_come_meanwhile_the_next(house: "House") -> None:
    run_id = start(house, script("a"), script("b"), script("c"))
    for key in ("a", "b"):
        house.claim(run_id, key).finish(StepFinished(outcome="failed", error="x"))
    go(house, run_id)
    assert [one["step"] for one in house.row(run_id, PLANNER).spec["arguments"]["reasons"]] == ["a", "b"]
    end(house, run_id, "c", outcome="failed")
    assert "replan:2" not in house.statuses(run_id)
    answer(house, run_id, drop=["a", "b"])
    assert [one["step"] for one in house.row(run_id, "replan:2").spec["arguments"]["reasons"]] == ["c"]
    answer(house, run_id, "replan:2", drop=["c"])
    check_end(house, run_id, "succeeded")


def test_without_a_step_the_rest_goes_on_and_the_run_succeeds(house: "House") -> None:
    run_id = start(house, *LINE)
    end(house, run_id, "a")
    end(house, run_id, "other")
    end(house, run_id, "b", outcome="failed")
    answer(house, run_id, drop=["b"])
    assert house.row(run_id, "c~2").spec["after"] == ["a", "other"]
    end(house, run_id, "c~2", "partial")
    with house.as_tenant() as session:
        # The planner's own answer is no result of the run.
        assert views.result_of(session, run_id) == "partial"
    check_end(house, run_id, "succeeded")


def test_who_works_on_what_is_superseded_or_dropped_is_refused(house: "House") -> None:
    run_id = start(
        house, script("a"), script("bad"), script("b", "a"), script("late"), script("s", "late", join="settled")
    )
    end(house, run_id, "a")
    end(house, run_id, "bad", outcome="failed")
    on_b, on_late = house.claim(run_id, "b"), house.claim(run_id, "late")

    answer(house, run_id, again={"a": None}, drop=["bad", "late"])

    with pytest.raises(LeaseLost):
        on_b.finish(StepFinished(outcome="succeeded", result="of the old a"))
    with pytest.raises((LeaseLost, StepCancelled)):
        on_late.finish(StepFinished(outcome="succeeded"))
    assert house.statuses(run_id) == {
        "a": "superseded", "bad": "superseded", "b": "superseded", "late": "cancelled", "s": "queued",
        PLANNER: "succeeded", "a~2": "queued", "b~2": "chained",
    }  # fmt: skip
    # It had begun, so its stream says how it ended.
    assert house.kinds(run_id, "late")[-1] == "step.finished"
    for key in ("s", "a~2", "b~2"):
        end(house, run_id, key)
    check_end(house, run_id, "succeeded")


def test_a_step_that_has_succeeded_while_the_planner_thought_is_kept(house: "House") -> None:
    run_id = start(house, script("bad"), script("slow"), script("use", "slow"))
    end(house, run_id, "bad", outcome="failed")
    planner = house.claim(run_id, PLANNER)
    end(house, run_id, "slow", "done")
    planner.finish(StepFinished(outcome="succeeded", patch=PlanPatch(drop=("bad", "slow"))))
    go(house, run_id)
    assert house.statuses(run_id)["slow"] == "succeeded"
    end(house, run_id, "use")
    check_end(house, run_id, "succeeded")


def test_a_change_that_does_not_fit_any_more_is_asked_for_anew_with_the_reason(house: "House") -> None:
    run_id = start(house, script("a"), script("b"))
    end(house, run_id, "a", outcome="failed")
    answer(house, run_id, add=[script("b").model_dump(mode="json")])
    reasons = house.row(run_id, "replan:2").spec["arguments"]["reasons"]
    assert [one["step"] for one in reasons] == [PLANNER]
    assert "Step key 'b' is used 2 times" in reasons[0]["error"]
    answer(house, run_id, "replan:2", drop=["a"])
    end(house, run_id, "b")
    check_end(house, run_id, "succeeded")


def test_a_planner_does_not_let_itself_be_asked_again_and_again(house: "House") -> None:
    run_id = start(house, script("a"), replans=2)
    end(house, run_id, "a", outcome="failed")
    answer(house, run_id, again={PLANNER: None})
    [reason] = house.row(run_id, "replan:2").spec["arguments"]["reasons"]
    assert "'replan:1~2' would ask for a change of the plan" in reason["error"]
    itself = Step(key="more", kind="agent", role=REPLANNER).model_dump(mode="json")
    answer(house, run_id, "replan:2", add=[itself])
    assert house.statuses(run_id) == {"a": "failed", PLANNER: "succeeded", "replan:2": "succeeded"}
    check_end(house, run_id, "failed")


def test_a_person_may_let_the_planner_think_again_and_that_is_the_same_round(house: "House") -> None:
    run_id = start(house, script("a"), script("other"), replans=2)
    end(house, run_id, "a", outcome="failed")
    thinking = house.claim(run_id, PLANNER)
    end(house, run_id, "other")

    with house.as_tenant() as session:
        assert runs.retry(session, house.tenant, run_id, PLANNER) == ("replan:1~2",)
    go(house, run_id)

    with pytest.raises((LeaseLost, StepCancelled)):
        thinking.finish(StepFinished(outcome="succeeded", patch=PlanPatch(drop=("a",))))
    asked = house.row(run_id, "replan:1~2").spec["arguments"]
    assert (asked["round"], asked["of"], asked["reasons"]) == (1, 2, [{"step": "a", "error": "a broke"}])
    # It is told of the plan as it is now.
    assert {step["key"]: step["status"] for step in asked["steps"]}["other"] == "succeeded"
    answer(house, run_id, "replan:1~2", again={"a": None})
    end(house, run_id, "a~2", outcome="failed")
    # It has not cost the run one of its own.
    answer(house, run_id, "replan:2", again={"a~2": None})
    end(house, run_id, "a~3", outcome="failed")
    assert "replan:3" not in house.statuses(run_id)
    check_end(house, run_id, "failed")


def test_what_a_person_has_refused_is_not_planned_anew(house: "House") -> None:
    run_id = start(house, Step(key="ask", kind="gate"), script("do", "ask"))
    gate = step_id(run_id, "ask")
    with house.as_tenant() as session:
        runs.answer(session, house.tenant, run_id=run_id, step=gate, wait_id=gate, choice="reject")
    house.watch()
    go(house, run_id)
    assert PLANNER not in house.statuses(run_id)
    check_end(house, run_id, "failed")


def test_an_agent_that_asks_for_another_plan_waits_and_is_told(house: "House") -> None:
    run_id = start(house, script("a"), script("b", "a"))
    spec = "spec || jsonb_build_object('kind', 'agent', 'role', 'replanner')"
    house.execute(f"UPDATE steps SET spec = {spec} WHERE id = :step", {"step": step_id(run_id, "a")})
    house.execute("UPDATE steps SET spec = spec - 'script' WHERE id = :step", {"step": step_id(run_id, "a")})
    house.execute('UPDATE runs SET role_versions = \'{"replanner": "0"}\' WHERE id = :run', {"run": run_id})
    # Any role may ask; this one's name only has to be known.
    house.execute("UPDATE steps SET spec = jsonb_set(spec, '{role}', '\"asker\"') WHERE id = :step",
                  {"step": step_id(run_id, "a")})  # fmt: skip
    house.execute(
        'UPDATE runs SET role_versions = \'{"replanner": "0", "asker": "1"}\' WHERE id = :run', {"run": run_id}
    )
    house.graphs = Graphs()
    held = house.claim(run_id, "a")
    asker = held.claim.step
    child = question(
        [Reason(step="a", error="b is not needed")], Plan(steps=(asker,)), {}, number=1, of=2, asked_by=asker
    )
    wait_id = new_wait_id()
    held.wait(
        StepWaiting(wait_id=wait_id, reason="children", question="?", options=("answer",), child=child, tool_use_id="t")
    )
    go(house, run_id)
    assert house.statuses(run_id) == {"a": "waiting", "b": "pending", "a/replan:1": "queued"}

    answer(house, run_id, "a/replan:1", drop=["b"])

    assert house.statuses(run_id)["b"] == "superseded"
    again = house.claim(run_id, "a")
    told = again.fold_signal(wait_id)
    assert told is not None
    assert told.body == {"rationale": "by the test"}
    again.finish(StepFinished(outcome="succeeded"))
    go(house, run_id)
    check_end(house, run_id, "succeeded")


def test_a_superseded_result_is_not_read_under_its_name(house: "House") -> None:
    run_id = start(house, script("a"), script("bad"))
    end(house, run_id, "a", "old")
    end(house, run_id, "bad", outcome="failed")
    reader = RunReader(house.app, house.tenant, run_id)
    assert reader.result("a") == "old"
    assert reader.result("bad") is None
    answer(house, run_id, again={"a": None}, drop=["bad"])
    assert reader.result("a") is None
    end(house, run_id, "a~2", "new")
    assert reader.result("a") == "new"


# --- under disruption -------------------------------------------------------------------------------------------------


def random_plan(dice: random.Random) -> Sequence[Step]:
    planned: list[Step] = []
    for number in range(dice.randint(4, 12)):
        near = [step.key for step in planned[-5:]]
        after = dice.sample(near, min(len(near), dice.choice([0, 1, 1, 2])))
        planned.append(script(f"s{number}", *after, join=dice.choice(["all", "all", "settled"])))
    return planned


@pytest.mark.parametrize("seed", range(6))
def test_a_random_plan_that_is_disrupted_again_and_again_ends_well_and_does_nothing_valid_twice(
    house: "House", seed: int
) -> None:
    dice = random.Random(seed)
    run_id = start(house, *random_plan(dice), replans=4)
    stale: list[Any] = []
    while house.run_row(run_id).status not in RUN_ENDINGS:
        statuses = house.statuses(run_id)
        queued = [key for key, status in statuses.items() if status == "queued"]
        assert queued, statuses
        key = dice.choice(queued)
        if not key.startswith("replan:"):
            try:
                held = house.claim(run_id, key)
            except NothingToClaim:
                continue
            if dice.random() < 0.2:
                # Its worker dawdles: somebody else may decide meanwhile that it is not wanted.
                stale.append(held)
                if len(queued) > 1:
                    continue
                stale.pop()
            fails = dice.random() < 0.25 and max(int(k[7:]) for k in [*statuses, "replan:0"] if k[:7] == "replan:") < 4
            held.finish(StepFinished(outcome="failed" if fails else "succeeded", error="dice"))
            go(house, run_id)
        else:
            failed = [one for one, status in statuses.items() if status == "failed"]
            done = [one for one, status in statuses.items() if status == "succeeded" and not one.startswith("replan:")]
            again = [one for one in failed if dice.random() < 0.5]
            wrong = dice.sample(done, 1) if done and dice.random() < 0.3 else []
            answer(
                house, run_id, key, again=dict.fromkeys([*again, *wrong]), drop=[f for f in failed if f not in again]
            )
        for held in stale:
            # Whoever is not superseded or cancelled finishes.
            status = house.row(run_id, held.claim.step.key).status
            if status in ("superseded", "cancelled"):
                with pytest.raises((LeaseLost, StepCancelled)):
                    held.finish(StepFinished(outcome="succeeded"))
            elif status == "running":
                held.finish(StepFinished(outcome="succeeded"))
                go(house, run_id)
        stale = []
    check_end(house, run_id, "succeeded")
    for key, status in house.statuses(run_id).items():
        # Each step that counts was done once: what was kept was not done again.
        assert house.row(run_id, key).epoch == (1 if status == "succeeded" else house.row(run_id, key).epoch)

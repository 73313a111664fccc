"""Branches, maps, repeats and joins on real Postgres: what is appended, taken, skipped and cancelled."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue

from chargehand.orchestrator import runs, views
from chargehand.orchestrator.breaker import watch
from chargehand.orchestrator.colleagues import MAX_BREADTH, MAX_DEPTH
from chargehand.orchestrator.errors import LeaseLost, StepCancelled, UserError
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepFinished, StepWaiting, Usage
from chargehand.orchestrator.handoffs import handed_over
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Map, PlanPatch, Repeat, Step, step_id
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.tables import RunRow
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def go(house: "House", run_id: UUID) -> None:
    """Advance until nothing rings, and admit."""
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()


def end(house: "House", run_id: UUID, key: str, result: JsonValue = None, *, outcome: str = "succeeded") -> None:
    held = house.claim(run_id, key)
    held.finish(StepFinished.model_validate({"outcome": outcome, "result": result, "error": "broken"}))
    go(house, run_id)


def children(house: "House", run_id: UUID, parent: str) -> dict[str, str]:
    return {key: status for key, status in house.statuses(run_id).items() if key.startswith(f"{parent}/")}


def result_of(house: "House", run_id: UUID, key: str) -> JsonValue:
    with house.as_tenant() as session:
        return views.results(session, run_id, [key])[key].result


def check_end(house: "House", run_id: UUID, status: str) -> None:
    assert house.run_row(run_id).status == status
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


# --- branch -----------------------------------------------------------------------------------------------------------


def branching(*ways: Step, **fields: Any) -> Sequence[Step]:
    return [
        script("look"),
        Step(key="which", kind="branch", after=("look",), branch=Branch(labels=("fix", "leave"), **fields)),
        *ways,
    ]


WAYS = (
    script("fix", "which", when={"which": "fix"}),
    script("leave", "which", when={"which": "leave"}),
    script("report", "fix", "leave"),
)


def test_a_predicate_chooses_the_way_and_the_other_is_skipped(house: "House") -> None:
    run_id = house.start(*branching(*WAYS, script="is_bad"))
    end(house, run_id, "look")
    assert children(house, run_id, "which") == {"which/choose": "queued"}

    end(house, run_id, "which/choose", "fix")

    assert (house.row(run_id, "which").status, house.row(run_id, "which").label) == ("succeeded", "fix")
    assert house.statuses(run_id)["leave"] == "skipped"
    end(house, run_id, "fix")
    # A join waits for what was reached, and only for that.
    end(house, run_id, "report")
    check_end(house, run_id, "succeeded")


def test_a_step_behind_a_way_that_was_not_taken_is_skipped_whatever_else_it_waits_for(house: "House") -> None:
    ways = (
        script("fix", "look", "which", when={"which": "fix"}),
        script("leave", "look", "which", when={"which": "leave"}),
    )
    run_id = house.start(*branching(*ways, script="is_bad"))
    end(house, run_id, "look")
    end(house, run_id, "which/choose", "fix")
    assert house.statuses(run_id)["leave"] == "skipped"
    assert house.statuses(run_id)["fix"] == "queued"


def test_a_way_that_fails_is_no_way_that_was_not_reached(house: "House") -> None:
    run_id = house.start(*branching(*WAYS, script="is_bad"))
    end(house, run_id, "look")
    end(house, run_id, "which/choose", "fix")

    end(house, run_id, "fix", outcome="failed")

    assert house.statuses(run_id)["report"] == "skipped"
    check_end(house, run_id, "failed")


def test_a_run_whose_branch_takes_no_way_further_succeeds(house: "House") -> None:
    run_id = house.start(*branching(script("fix", "which", when={"which": "fix"}), script="is_bad"))
    end(house, run_id, "look")
    end(house, run_id, "which/choose", "leave")
    assert house.statuses(run_id)["fix"] == "skipped"
    check_end(house, run_id, "succeeded")


def test_a_label_that_is_none_fails_the_branch_with_those_that_are(house: "House") -> None:
    run_id = house.start(*branching(*WAYS, script="is_bad"))
    end(house, run_id, "look")
    end(house, run_id, "which/choose", "rewrite")
    check_end(house, run_id, "failed")
    assert "gave 'rewrite'; labels are: fix, leave" in house.run_row(run_id).reason


# --- map --------------------------------------------------------------------------------------------------------------


def mapped(body: Sequence[Step], **fields: Any) -> list[Step]:
    return [
        script("list"),
        Step(key="each", kind="map", after=("list",), map=Map(items={RESULT_OF: "list"}, body=tuple(body), **fields)),
        script("sum", "each"),
    ]


ONE = script("do", arguments={"file": {ITEM: None}})


def test_each_item_of_a_list_that_was_made_at_run_time_gets_its_step_and_the_results_keep_its_order(
    house: "House",
) -> None:
    run_id = house.start(*mapped([ONE]))
    end(house, run_id, "list", ["a", "b", "c"])
    assert children(house, run_id, "each") == {f"each/{n}/do": "queued" for n in range(3)}
    assert house.row(run_id, "each/1/do").spec["arguments"] == {"file": "b"}

    for number in (2, 0, 1):
        end(house, run_id, f"each/{number}/do", f"result {number}")

    assert result_of(house, run_id, "each") == ["result 0", "result 1", "result 2"]
    end(house, run_id, "sum")
    check_end(house, run_id, "succeeded")


def test_an_empty_list_ends_the_map_at_once(house: "House") -> None:
    run_id = house.start(*mapped([ONE]))
    end(house, run_id, "list", [])
    assert result_of(house, run_id, "each") == []
    assert house.statuses(run_id)["sum"] == "queued"


def test_what_is_no_list_fails_the_map_with_what_it_is(house: "House") -> None:
    run_id = house.start(*mapped([ONE]))
    end(house, run_id, "list", {"not": "a list"})
    assert "are no list but dict" in house.run_row(run_id).reason


def test_no_more_items_run_at_once_than_are_allowed(house: "House") -> None:
    run_id = house.start(*mapped([ONE], max_parallel=2))
    end(house, run_id, "list", list(range(5)))
    for number in range(5):
        running = [status for status in children(house, run_id, "each").values() if status in {"queued", "running"}]
        assert len(running) <= 2
        end(house, run_id, f"each/{number}/do", number)
    assert result_of(house, run_id, "each") == [0, 1, 2, 3, 4]


def test_failures_are_tolerated_up_to_their_number(house: "House") -> None:
    run_id = house.start(*mapped([ONE], tolerated_failures=1))
    end(house, run_id, "list", ["a", "b", "c"])
    end(house, run_id, "each/1/do", outcome="failed")
    end(house, run_id, "each/0/do", "A")
    end(house, run_id, "each/2/do", "C")
    assert result_of(house, run_id, "each") == ["A", None, "C"]
    end(house, run_id, "sum")
    check_end(house, run_id, "succeeded")


def test_one_failure_too_many_ends_the_map_and_cancels_what_is_still_at_work(house: "House") -> None:
    run_id = house.start(*mapped([ONE]))
    end(house, run_id, "list", ["a", "b", "c"])
    held = house.claim(run_id, "each/0/do")

    end(house, run_id, "each/1/do", outcome="failed")

    assert house.statuses(run_id)["each"] == "failed"
    assert children(house, run_id, "each") == {
        "each/0/do": "cancelled",
        "each/1/do": "failed",
        "each/2/do": "cancelled",
    }
    with pytest.raises(StepCancelled):
        held.finish(StepFinished(outcome="succeeded"))
    check_end(house, run_id, "failed")


@pytest.mark.parametrize("width", [None, 100])
def test_a_thousand_items_keep_their_order_their_lanes_and_their_failures(house: "House", width: int | None) -> None:
    house.open_pool("audit", 1_000)
    each = Map(
        items=list(range(1_000)),
        body=(ONE.model_copy(update={"pool": "audit"}),),
        max_parallel=width,
        tolerated_failures=10,
    )
    run_id = house.start(Step(key="each", kind="map", map=each))
    go(house, run_id)
    ended = 0
    while ended < 1_000:
        # On a busy machine a round may take longer than a pool counts as alive.
        house.open_pool("audit", 1_000)
        queued = [key for key, status in house.statuses(run_id).items() if status in {"queued", "running"}]
        assert queued
        assert width is None or len(queued) <= width
        for key in queued:
            number = int(key.split("/")[1])
            outcome = "failed" if number % 100 == 99 else "succeeded"
            house.claim(run_id, key).finish(
                StepFinished.model_validate({"outcome": outcome, "result": number, "error": "broken"})
            )
        ended += len(queued)
        house.open_pool("audit", 1_000)
        go(house, run_id)
    assert result_of(house, run_id, "each") == [None if n % 100 == 99 else n for n in range(1_000)]
    check_end(house, run_id, "succeeded")


def test_a_body_of_several_steps_is_a_plan_for_each_item(house: "House") -> None:
    body = [ONE, script("check", "do", arguments={"of": {RESULT_OF: "do"}, "list": {RESULT_OF: "list"}})]
    run_id = house.start(*mapped(body))
    end(house, run_id, "list", ["a", "b"])
    assert house.row(run_id, "each/1/check").spec["arguments"] == {
        "of": {RESULT_OF: "each/1/do"},
        "list": {RESULT_OF: "list"},
    }
    for number in (1, 0):
        end(house, run_id, f"each/{number}/do")
        end(house, run_id, f"each/{number}/check", number)
    assert result_of(house, run_id, "each") == [0, 1]


# --- repeat -----------------------------------------------------------------------------------------------------------

REPEAT = Step(
    key="improve",
    kind="repeat",
    repeat=Repeat(body=(script("code"), script("test", "code")), until="test", max_rounds=2),
)


def test_a_round_whose_verdict_does_not_pass_is_followed_by_one_that_knows_why(house: "House") -> None:
    run_id = house.start(REPEAT, script("after", "improve"))
    go(house, run_id)
    end(house, run_id, "improve/1/code")
    end(house, run_id, "improve/1/test", {"passed": False, "why": "red"})
    assert house.row(run_id, "improve/2/code").spec["after"] == ["improve/1/test"]

    end(house, run_id, "improve/2/code")
    end(house, run_id, "improve/2/test", {"passed": True})

    assert result_of(house, run_id, "improve") == {"rounds": 2, "passed": True, "verdict": {"passed": True}}
    end(house, run_id, "after")
    check_end(house, run_id, "succeeded")


def test_rounds_are_not_repeated_for_ever_and_the_run_says_what_the_last_one_came_to(house: "House") -> None:
    run_id = house.start(REPEAT)
    go(house, run_id)
    for number in (1, 2):
        end(house, run_id, f"improve/{number}/code")
        end(house, run_id, f"improve/{number}/test", {"passed": False, "why": "red"})
    assert 'test did not pass in 2 rounds: {"passed": false, "why": "red"}' in house.run_row(run_id).reason
    check_end(house, run_id, "failed")


def test_two_supervisors_that_see_a_rounds_end_append_the_next_once(house: "House") -> None:
    run_id = house.start(REPEAT)
    go(house, run_id)
    end(house, run_id, "improve/1/code")
    end(house, run_id, "improve/1/test", {"passed": False})
    with house.as_tenant() as session:
        runs.ring(session, house.tenant, run_id)
    go(house, run_id)
    assert house.kinds(run_id).count("plan.patched") == 2


def test_cancelling_a_run_ends_its_control_steps_and_their_children(house: "House") -> None:
    run_id = house.start(REPEAT)
    go(house, run_id)
    with house.as_tenant() as session:
        assert runs.cancel(session, house.tenant, run_id)
    go(house, run_id)
    assert set(house.statuses(run_id).values()) == {"cancelled"}
    check_end(house, run_id, "cancelled")


# --- any --------------------------------------------------------------------------------------------------------------


def test_the_first_of_an_any_join_wins_and_the_others_are_cancelled(house: "House") -> None:
    run_id = house.start(
        script("quick"), script("slow"), script("before"), script("later", "before"),
        script("join", "quick", "slow", "later", join="any"),
    )  # fmt: skip
    slow = house.claim(run_id, "slow")

    end(house, run_id, "quick", "won")

    assert house.statuses(run_id) == {
        "quick": "succeeded",
        "slow": "cancelled",
        "before": "cancelled",
        "later": "cancelled",
        "join": "queued",
    }
    with pytest.raises((StepCancelled, LeaseLost)):
        slow.finish(StepFinished(outcome="succeeded"))
    end(house, run_id, "join")
    check_end(house, run_id, "succeeded")


def test_a_loser_whose_result_others_need_goes_on(house: "House") -> None:
    run_id = house.start(
        script("quick"), script("slow"), script("join", "quick", "slow", join="any"), script("other", "slow")
    )
    end(house, run_id, "quick")
    assert house.statuses(run_id)["slow"] == "queued"


# --- the workspace ----------------------------------------------------------------------------------------------------


def commit_of(house: "House", run_id: UUID, key: str) -> str | None:
    with house.as_tenant() as session:
        return views.results(session, run_id, [key])[key].commit


def test_what_a_coder_made_is_passed_on_by_a_branch_a_map_and_a_gate(house: "House") -> None:
    run_id = house.start(
        script("code"),
        Step(key="which", kind="branch", after=("code",), branch=Branch(labels=("yes", "no"), script="choose")),
        Step(key="each", kind="map", after=("which",), map=Map(items=[], body=(ONE,))),
        Step(key="ask", kind="gate", after=("each",)),
        script("test", "ask"),
    )
    house.claim(run_id, "code").finish(StepFinished(outcome="succeeded", commit="abc"))
    go(house, run_id)
    end(house, run_id, "which/choose", "yes")
    gate = step_id(run_id, "ask")
    with house.as_tenant() as session:
        runs.answer(session, house.tenant, run_id=run_id, step=gate, wait_id=gate, choice="approve")
    house.watch()
    assert [commit_of(house, run_id, key) for key in ("which", "each", "ask")] == ["abc"] * 3


# --- going back -------------------------------------------------------------------------------------------------------


def retry(house: "House", run_id: UUID, key: str) -> tuple[str, ...]:
    with house.as_tenant() as session:
        return runs.retry(session, house.tenant, run_id, key)


def test_a_step_is_done_again_with_what_was_built_on_it_and_the_rest_is_kept(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("other"), script("end", "b", "other"))
    end(house, run_id, "a", 1)
    end(house, run_id, "other")
    working = house.claim(run_id, "b")

    assert retry(house, run_id, "a") == ("a~2", "b~2", "end~2")
    go(house, run_id)

    # Whoever worked on what was built on it is refused.
    with pytest.raises(LeaseLost):
        working.finish(StepFinished(outcome="succeeded", result="of the old a"))
    assert house.statuses(run_id) == {
        "a": "superseded", "b": "superseded", "other": "succeeded", "end": "superseded",
        "a~2": "queued", "b~2": "chained", "end~2": "pending",
    }  # fmt: skip
    for key in ("a~2", "b~2", "end~2"):
        end(house, run_id, key)
    check_end(house, run_id, "succeeded")
    assert house.row(run_id, "other").epoch == 1


def test_a_failed_step_that_is_done_again_does_not_fail_the_run(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("long"))
    end(house, run_id, "a", outcome="failed")
    assert house.statuses(run_id)["b"] == "skipped"

    retry(house, run_id, "a")
    go(house, run_id)
    for key in ("a~2", "b~2", "long"):
        end(house, run_id, key)

    check_end(house, run_id, "succeeded")


def test_a_repeat_that_is_done_again_begins_with_its_first_round(house: "House") -> None:
    run_id = house.start(REPEAT, script("long"))
    go(house, run_id)
    end(house, run_id, "improve/1/code")
    retry(house, run_id, "improve")
    go(house, run_id)
    assert house.statuses(run_id)["improve/1/test"] == "superseded"
    assert children(house, run_id, "improve~2") == {"improve~2/1/code": "queued", "improve~2/1/test": "chained"}


def test_nothing_of_a_run_that_has_ended_is_done_again(house: "House") -> None:
    run_id = house.start(script("a"))
    end(house, run_id, "a")
    with pytest.raises(UserError, match="chargehand fork"):
        retry(house, run_id, "a")


# --- colleagues -------------------------------------------------------------------------------------------------------


def asks(house: "House", run_id: UUID, key: str, child: Step, choice: str = "answer") -> StepWaiting:
    """An agent asks a colleague and lets go of its step."""
    held = house.claim(run_id, key)
    fact = StepWaiting(
        wait_id=new_wait_id(), reason="children", question="?", options=(choice,), child=child, tool_use_id="t1"
    )
    held.wait(fact)
    go(house, run_id)
    return fact


def agents(house: "House", run_id: UUID, *keys: str) -> None:
    """Make these steps agents'; the run's roles do not matter here, and a plan is read once."""
    for key in keys:
        house.execute(
            "UPDATE steps SET spec = spec || jsonb_build_object('kind', 'agent', 'role', 'asker') WHERE id = :step",
            {"step": step_id(run_id, key)},
        )
    house.execute('UPDATE runs SET role_versions = \'{"asker": "0", "helper": "1"}\' WHERE id = :run', {"run": run_id})
    house.graphs = Graphs()


HELPER = Step(key="a/helper-1", kind="agent", role="helper", parent="a")


@pytest.mark.parametrize(
    ("outcome", "choice", "body"),
    [
        ("succeeded", "answer", "42"),
        ("failed", "answer", {"error": "helper gave no result: broken"}),
    ],
)
def test_an_agent_that_asked_a_colleague_holds_no_worker_and_goes_on_with_the_answer(
    house: "House", outcome: str, choice: str, body: JsonValue
) -> None:
    run_id = house.start(script("a"), script("b", "a"))
    agents(house, run_id, "a")
    fact = asks(house, run_id, "a", HELPER)
    assert house.statuses(run_id) == {"a": "waiting", "b": "pending", "a/helper-1": "queued"}

    end(house, run_id, "a/helper-1", "42", outcome=outcome)

    assert house.row(run_id, "a").status == "queued"
    held = house.claim(run_id, "a")
    signal = held.fold_signal(fact.wait_id)
    assert signal is not None
    assert (signal.choice, signal.body) == (choice, body)
    held.finish(StepFinished(outcome="succeeded"))
    go(house, run_id)
    end(house, run_id, "b")
    check_end(house, run_id, "succeeded")


def test_what_is_handed_off_comes_back_as_the_steps_own_result(house: "House") -> None:
    run_id = house.start(script("a"))
    agents(house, run_id, "a")
    fact = asks(house, run_id, "a", HELPER, choice="override")
    end(house, run_id, "a/helper-1", {"done": True})
    signal = house.claim(run_id, "a").fold_signal(fact.wait_id)
    assert signal is not None
    assert (signal.choice, signal.body) == ("override", {"done": True})


def test_a_colleague_that_does_not_fit_the_plan_is_answered_for_with_the_reason(house: "House") -> None:
    run_id = house.start(script("a"))
    agents(house, run_id, "a")
    fact = asks(house, run_id, "a", HELPER.model_copy(update={"role": "nobody"}))
    signal = house.claim(run_id, "a").fold_signal(fact.wait_id)
    assert signal is not None
    assert "unknown role 'nobody'" in str(signal.body)


def take_turn(recorder: StepRecorder, cost: int) -> None:
    request = ModelRequested(
        call_id=uuid4(), turn=1, model="m", tier="small", routed_because="", prompt_hash="0", max_tokens=1,
        reserved_microusd=10,
    )  # fmt: skip
    recorder.request([], request)
    recorder.respond(
        ModelResponded(
            call_id=request.call_id, model="m", content=(), stop_reason="end_turn", usage=Usage(), cost_microusd=cost
        )
    )


def refusal(house: "House", run_id: UUID, key: str, fact: StepWaiting) -> str:
    signal = house.claim(run_id, key).fold_signal(fact.wait_id)
    assert signal is not None
    assert signal.choice == "answer"
    return str(signal.body)


def test_colleagues_that_are_asked_on_an_old_view_of_the_plan_do_not_pass_the_cap(house: "House") -> None:
    """The tool looks at the plan as it was when the step was claimed; what is appended is counted under the lock."""
    run_id = house.start(script("a"), budget_microusd=1_000)
    agents(house, run_id, "a")
    for number in range(1, MAX_BREADTH):
        fact = asks(house, run_id, "a", HELPER.model_copy(update={"key": f"a/helper-{number}"}))
        child = house.claim(run_id, f"a/helper-{number}")
        recorder = StepRecorder(house.connections, child, lease_seconds=60)
        take_turn(recorder, cost=3)
        child.finish(StepFinished(outcome="succeeded", result=number))
        go(house, run_id)
        assert house.row(run_id, "a").status == "queued"
        # What a colleague costs is the run's, whoever asked it.
        assert house.budget(run_id).drawn_microusd == 3 * number
    held = house.claim(run_id, "a")
    # While it works on what it saw, the last place is taken.
    taken = HELPER.model_copy(update={"key": "a/other-1"})
    with house.as_tenant() as session:
        run = session.get(RunRow, run_id, with_for_update={"key_share": True})
        assert run is not None
        runs.patch(session, run, PlanPatch(add=(taken,)))
    go(house, run_id)
    end(house, run_id, "a/other-1")
    fact = StepWaiting(
        wait_id=new_wait_id(), reason="children", question="?", options=("answer",), tool_use_id="t1",
        child=HELPER.model_copy(update={"key": f"a/helper-{MAX_BREADTH}"}),
    )  # fmt: skip
    held.wait(fact)
    go(house, run_id)

    assert f"You have asked {MAX_BREADTH} colleagues" in refusal(house, run_id, "a", fact)
    assert len(children(house, run_id, "a")) == MAX_BREADTH
    assert house.drift(run_id) == []


def test_two_rounds_at_the_same_moment_append_one_colleague_for_the_last_place(
    house: "House", threads: ThreadPoolExecutor
) -> None:
    run_id = house.start(script("a"))
    agents(house, run_id, "a")
    for number in range(1, MAX_BREADTH):
        asks(house, run_id, "a", HELPER.model_copy(update={"key": f"a/helper-{number}"}))
        end(house, run_id, f"a/helper-{number}", number)
    held = house.claim(run_id, "a")
    held.wait(
        StepWaiting(
            wait_id=new_wait_id(), reason="children", question="?", options=("answer",), tool_use_id="t1",
            child=HELPER.model_copy(update={"key": f"a/helper-{MAX_BREADTH}"}),
        )
    )  # fmt: skip

    list(threads.map(lambda _: house.advance(run_id), range(8)))
    go(house, run_id)

    assert house.row(run_id, "a").status == "waiting"
    assert len(children(house, run_id, "a")) == MAX_BREADTH
    end(house, run_id, f"a/helper-{MAX_BREADTH}")
    too_many = asks(house, run_id, "a", HELPER.model_copy(update={"key": f"a/helper-{MAX_BREADTH + 1}"}))
    assert "go on with what they gave" in refusal(house, run_id, "a", too_many)
    assert house.kinds(run_id).count("plan.patched") == MAX_BREADTH


@pytest.mark.parametrize(
    ("role", "why"), [("oracle", f"{MAX_DEPTH} colleagues deep"), ("helper", "would go round in a circle")]
)
def test_a_colleague_too_deep_or_at_work_further_up_is_not_appended(house: "House", role: str, why: str) -> None:
    run_id = house.start(script("a"))
    agents(house, run_id, "a")
    line = ("helper", "expert", "guru")[:MAX_DEPTH]
    pinned = {name: str(number) for number, name in enumerate(("asker", *line, "oracle"))}
    house.execute(
        "UPDATE runs SET role_versions = CAST(:roles AS jsonb) WHERE id = :run",
        {"roles": json.dumps(pinned), "run": run_id},
    )
    house.graphs = Graphs()
    key = "a"
    for name in line:
        asks(house, run_id, key, HELPER.model_copy(update={"key": f"{key}/{name}", "role": name, "parent": key}))
        key = f"{key}/{name}"

    asked = asks(house, run_id, key, HELPER.model_copy(update={"key": f"{key}/x", "role": role, "parent": key}))

    assert why in refusal(house, run_id, key, asked)
    assert f"{key}/x" not in house.statuses(run_id)


def test_a_ring_of_hand_offs_across_steps_is_seen_in_the_journal_of_the_run(house: "House") -> None:
    run_id = house.start(*(script(key) for key in "abcd"))
    agents(house, run_id, *"abc")
    for key, role, taker in (("a", "asker", "helper"), ("b", "helper", "asker"), ("c", "asker", "helper")):
        house.execute(
            "UPDATE steps SET spec = spec || jsonb_build_object('role', CAST(:role AS text)) WHERE id = :step",
            {"role": role, "step": step_id(run_id, key)},
        )
        asks(
            house, run_id, key, HELPER.model_copy(update={"key": f"{key}/x", "role": taker, "parent": key}), "override"
        )
    held = house.claim(run_id, "d")

    seen = StepRecorder(house.connections, held, lease_seconds=60).hand_offs()

    assert [(call.role, call.fact.arguments["to"]) for call in seen] == [
        ("asker", "helper"), ("helper", "asker"), ("asker", "helper"),
    ]  # fmt: skip
    again = handed_over(HELPER.model_copy(update={"role": "asker"}), tool_use_id="t", for_good=True)
    trip = watch([*seen, Observed(step=str(held.claim.step_id), seq=9, fact=again, role="helper")])
    assert trip is not None
    assert trip.rule == "ping_pong"
    assert watch(seen) is None


def test_a_steps_peers_are_those_of_its_role_that_succeeded_and_cost_something(house: "House") -> None:
    run_id = house.start(*(script(key) for key in ("a", "b", "failed", "free", "other", "under-way", "own")))
    agents(house, run_id, "a", "b", "failed", "free", "under-way", "own")
    for key, cost in (("a", 3), ("b", 5), ("failed", 7), ("free", 0), ("other", 9), ("under-way", 8)):
        held = house.claim(run_id, key)
        recorder = StepRecorder(house.connections, held, lease_seconds=60)
        if cost:
            take_turn(recorder, cost)
        if key != "under-way":
            outcome = "failed" if key == "failed" else "succeeded"
            held.finish(StepFinished.model_validate({"outcome": outcome, "error": "broken"}))

    peers = StepRecorder(house.connections, house.claim(run_id, "own"), lease_seconds=60).peers()

    assert sorted(peers.costs_microusd) == [3, 5]
    assert peers.cap_microusd == house.budget(run_id).cap_microusd


def test_an_agent_that_is_cancelled_takes_its_colleague_with_it(house: "House") -> None:
    run_id = house.start(script("quick"), script("a"), script("join", "quick", "a", join="any"))
    agents(house, run_id, "a")
    asks(house, run_id, "a", HELPER)
    end(house, run_id, "quick")
    go(house, run_id)
    assert house.statuses(run_id)["a"] == "cancelled"
    assert house.statuses(run_id)["a/helper-1"] == "cancelled"

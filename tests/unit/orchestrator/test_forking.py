"""What a fork does anew is exactly what was built on its step; all else is taken over, or grows by itself."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.errors import InvalidPlan, UserError
from chargehand.orchestrator.facts import (
    ModelRequested,
    ModelResponded,
    Origin,
    PlanPatched,
    SignalReceived,
    StepClaimed,
    StepForked,
    StepTold,
    StepWaiting,
    ToolFinished,
    Usage,
)
from chargehand.orchestrator.forking import Change, Grown, before_turn, cut, history
from chargehand.orchestrator.forks import place_of
from chargehand.orchestrator.plan import RESULT_OF, Map, Plan, PlanPatch, Repeat, Step, step_id, validate

RUN = UUID(int=7)


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def grown(step: Step, status: str = "succeeded", by: str | None = None, version: int = 1) -> Grown:
    return Grown(step=step, status=status, added_by=by or step.parent, plan_version=version)


def child(parent: str, name: str, *after: str, version: int = 2, status: str = "succeeded") -> Grown:
    return grown(script(f"{parent}/{name}", *after, parent=parent, join="settled"), status, version=version)


def keys(steps: Iterable[Step]) -> list[str]:
    return [step.key for step in steps]


def test_what_was_built_on_the_step_is_done_anew_and_the_rest_is_taken_over() -> None:
    found = cut(
        [grown(script("a")), grown(script("b", "a")), grown(script("other", "a")), grown(script("c", "b"))], "b"
    )
    assert found.again == {"b", "c"}
    assert found.taken == ("a", "other")
    assert keys(found.steps) == ["a", "b", "other", "c"]


def test_what_has_not_ended_is_done_and_what_was_skipped_is_decided_again() -> None:
    steps = [grown(script("a")), grown(script("slow"), "running"), grown(script("b", "slow"), "skipped")]
    found = cut(steps, "a")
    assert (found.taken, found.again) == ((), {"a"})
    assert keys(found.steps) == ["a", "slow", "b"]


EACH = Step(key="each", kind="map", after=("list",), map=Map(items={RESULT_OF: "list"}, body=(script("one"),)))
LOOP = Step(
    key="loop",
    kind="repeat",
    repeat=Repeat(body=(script("code"), script("test", "code")), until="test", max_rounds=5),
)


def test_a_control_step_that_is_done_anew_grows_its_children_again() -> None:
    steps = [grown(script("list")), grown(EACH), grown(script("end", "each")), child("each", "0/one", "list")]
    found = cut(steps, "list")
    assert found.again == {"list", "each", "end", "each/0/one"}
    assert keys(found.steps) == ["list", "each", "end"]


def test_one_item_of_a_map_is_done_anew_and_the_others_are_kept() -> None:
    items = [child("each", f"{number}/one", "list") for number in range(3)]
    found = cut([grown(script("list")), grown(EACH), grown(script("end", "each")), *items], "each/1/one")
    assert found.again == {"each/1/one", "end"}
    assert found.reopened == ("each",)
    assert found.taken == ("list", "each/0/one", "each/2/one")
    assert found.left == frozenset()


def test_a_round_is_done_anew_on_the_rounds_before_it_and_those_after_it_grow_again() -> None:
    rounds = [
        child("loop", f"{number}/{name}", *after, version=number + 1)
        for number in (1, 2, 3)
        for name, after in (
            ("code", () if number == 1 else (f"loop/{number - 1}/test",)),
            ("test", (f"loop/{number}/code",)),
        )
    ]
    found = cut([grown(LOOP), grown(script("end", "loop")), *rounds], "loop/2/code")
    assert found.reopened == ("loop",)
    assert found.taken == ("loop/1/code", "loop/1/test")
    assert found.left == {"loop/3/code", "loop/3/test"}
    assert keys(found.steps) == ["loop", "end", "loop/1/code", "loop/1/test", "loop/2/code", "loop/2/test"]
    assert found.again == {"end", "loop/2/code", "loop/2/test", "loop/3/code", "loop/3/test"}


def test_a_map_that_was_under_way_goes_on_with_the_items_that_have_ended() -> None:
    steps = [
        grown(script("list")),
        grown(EACH, "waiting"),
        grown(script("x")),
        child("each", "0/one", "list"),
        child("each", "1/one", "list", status="running"),
    ]
    found = cut(steps, "x")
    assert (found.reopened, found.taken) == (("each",), ("list", "each/0/one"))
    assert "each/1/one" in keys(found.steps)


def test_what_a_planner_added_grows_again_when_the_planner_is_asked_again() -> None:
    steps = [grown(script("look")), grown(script("plan", "look")), grown(script("fix", "look"), by="plan", version=2)]
    steps.append(grown(script("check", "fix"), version=3))
    found = cut(steps, "plan")
    assert keys(found.steps) == ["look", "plan"]
    assert found.again == {"plan", "fix", "check"}
    assert cut(steps, "fix").left == frozenset()


def test_a_step_that_a_person_had_done_again_is_still_its_planners() -> None:
    plan, fix, again = script("plan"), script("fix", "plan"), script("fix~2", "plan")
    patches = [
        PlanPatched(patch=PlanPatch(add=(fix,)), plan_version=2, by_step=step_id(RUN, "plan")),
        PlanPatched(patch=PlanPatch(add=(again,), supersede=("fix",)), plan_version=3),
    ]
    statuses = {"plan": "succeeded", "fix": "superseded", "fix~2": "succeeded"}
    steps = history([plan], patches, statuses, {step_id(RUN, key): key for key in statuses})
    assert [(one.step.key, one.added_by) for one in steps] == [("plan", None), ("fix~2", "plan")]
    assert keys(cut(steps, "plan").steps) == ["plan"]


def test_a_dropped_step_does_not_come_back() -> None:
    patches = [PlanPatched(patch=PlanPatch(drop=("b",)), plan_version=2)]
    steps = history([script("a"), script("b")], patches, {"a": "succeeded", "b": "cancelled"}, {})
    assert [one.step.key for one in steps] == ["a"]


def test_a_colleague_is_not_the_place_to_leave_a_run_at() -> None:
    agent = Step(key="ask", kind="agent", role="r")
    with pytest.raises(InvalidPlan, match="'ask'"):
        cut([grown(agent), child("ask", "r-1")], "ask/r-1")
    with pytest.raises(InvalidPlan, match="no step 'x'"):
        cut([grown(agent)], "x")


def test_colleagues_who_had_answered_by_the_turn_are_kept_and_the_others_asked_again() -> None:
    agent = Step(key="ask", kind="agent", role="r")
    steps = [grown(agent), child("ask", "r-1"), child("ask", "r-2"), child("ask/r-1", "s-1")]
    found = cut(steps, "ask", kept=["ask/r-1"])
    assert found.taken == ("ask/r-1", "ask/r-1/s-1")
    assert found.left == {"ask/r-2"}


@st.composite
def runs_and_steps(draw: st.DrawFn) -> tuple[list[Grown], str]:
    """A random graph that grew by planners, some of which has not ended, and one of its steps."""
    steps: list[Grown] = []
    for number in range(draw(st.integers(1, 14))):
        before = [one.step.key for one in steps]
        after = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        # A planner appends its steps once it has ended.
        planners = [one.step.key for one in steps if one.status == "succeeded"]
        by = draw(st.none() | st.sampled_from(planners)) if planners else None
        status = draw(st.sampled_from(["succeeded", "succeeded", "succeeded", "failed", "running", "pending"]))
        steps.append(grown(script(f"s{number}", *after), status, by=by, version=number + 1))
    return steps, draw(st.sampled_from([one.step.key for one in steps]))


@given(runs_and_steps())
def test_the_closure_is_exactly_what_can_be_reached(drawn: tuple[list[Grown], str]) -> None:
    steps, at = drawn
    reached = {at}
    while (
        more := {one.step.key for one in steps if one.added_by in reached or not reached.isdisjoint(one.step.after)}
        - reached
    ):
        reached |= more

    found = cut(steps, at)

    assert found.again == reached
    validate(Plan(steps=found.steps))
    status = {one.step.key: one.status for one in steps}
    # Nothing that has ended is done again but the closure, and nothing of the closure is taken over.
    kept = {one.step.key for one in steps} - found.left
    assert set(found.taken) == {key for key in kept - reached if status[key] in {"succeeded", "failed"}}
    assert set(keys(found.steps)) == kept
    assert at in kept


# --- turns ------------------------------------------------------------------------------------------------------------


def asked(turn: int) -> ModelRequested:
    return ModelRequested(
        call_id=UUID(int=turn),
        turn=turn,
        model="m",
        tier="small",
        routed_because="",
        prompt_hash="",
        max_tokens=1,
        reserved_microusd=5,
    )


def said(turn: int) -> ModelResponded:
    return ModelResponded(
        call_id=UUID(int=turn), model="m", content=(), stop_reason="end_turn", usage=Usage(), cost_microusd=3
    )


TOOL = ToolFinished(tool_use_id="t", tool="look", arguments={}, outcome="ok", content="seen")
CLAIMED = StepClaimed(holder="w")
TOLD = StepTold(messages=("hurry",), run_seq=9)


def test_what_was_said_before_the_turn_is_taken_over_and_bookkeeping_is_not() -> None:
    stream = [CLAIMED, asked(1), said(1), TOOL, TOLD, asked(2), said(2)]
    found = before_turn(stream, 2)
    assert found.facts == (said(1), TOOL, TOLD.model_copy(update={"run_seq": 0}))
    assert found.last_row == 4
    assert before_turn(stream, 1).facts == ()


def test_an_unanswered_wait_is_nothing_that_was_said() -> None:
    wait = UUID(int=1)
    busy = StepWaiting(wait_id=UUID(int=2), reason="rate", question="busy")
    person = StepWaiting(wait_id=wait, reason="human", question="?")
    heard = SignalReceived(wait_id=wait, choice="answer", body="yes")
    found = before_turn([CLAIMED, busy, CLAIMED, person, CLAIMED, heard, asked(1)], 1)
    assert found.facts == (person, heard)


def test_a_fork_of_a_fork_takes_over_what_that_had_taken_over() -> None:
    origin = Origin(run=RUN, step=RUN, seq=3, hash="")
    stream = [StepForked(origin=origin, facts=(said(1), TOOL)), CLAIMED, asked(2), said(2), asked(3)]
    assert before_turn(stream, 3).facts == (said(1), TOOL, said(2))
    with pytest.raises(UserError, match="turns 2 to 3"):
        before_turn(stream, 1)
    with pytest.raises(UserError, match="no model"):
        before_turn([CLAIMED], 1)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_change_is_of_what_the_step_has() -> None:
    agent = Step(key="ask", kind="agent", role="r", arguments={"a": 1, "b": 2})
    change = Change(instruction="Look again", tier="large", model="big-1", arguments={"b": 3})
    changed = change.of(agent)
    assert (changed.instruction, changed.tier, changed.model) == ("Look again", "large", "big-1")
    assert changed.arguments == {"a": 1, "b": 3}
    with pytest.raises(UserError, match="has no tier"):
        Change(tier="large").of(script("s"))
    with pytest.raises(UserError, match="tier"):
        Change(tier="huge").of(agent)


def test_a_place_is_a_step_and_perhaps_a_turn_whatever_colons_its_key_has() -> None:
    assert place_of("ask:3", {"ask"}) == ("ask", 3)
    assert place_of("ask:3", {"ask", "ask:3"}) == ("ask:3", None)
    assert place_of("ask:x", {"ask"}) == ("ask:x", None)
    assert place_of("a:1:2", {"a:1"}) == ("a:1", 2)


def test_a_fork_is_not_given_what_postgres_cannot_hold() -> None:
    for arguments, problem in (({"n": "a\x00"}, "a NUL character"), ({"n": float("inf")}, "the number inf")):
        with pytest.raises(UserError, match=f"^Step 'a' cannot be changed so: it has {problem}"):
            Change(arguments=arguments).of(script("a"))

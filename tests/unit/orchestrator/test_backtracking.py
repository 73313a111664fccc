"""Going back: exactly what was built on a step comes again, and everything else is kept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.backtracking import backtrack, built_on
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import RESULT_OF, Branch, Map, Plan, Step, extend


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


PLAN = Plan.of(
    [
        script("a"),
        script("b", "a"),
        script("c", "b", arguments={"of": [{RESULT_OF: "b"}], "first": {RESULT_OF: "a"}}),
        script("other", "a"),
        script("end", "c", "other"),
    ]
)


def test_the_same_steps_come_again_and_refer_to_each_other() -> None:
    patch = backtrack(PLAN, {"b": None})
    assert patch.supersede == ("b", "c", "end")
    assert [(step.key, step.after) for step in patch.add] == [
        ("b~2", ("a",)),
        ("c~2", ("b~2",)),
        ("end~2", ("c~2", "other")),
    ]
    assert patch.add[1].arguments == {"of": [{RESULT_OF: "b~2"}], "first": {RESULT_OF: "a"}}


def test_another_step_may_take_the_place_of_one() -> None:
    patch = backtrack(PLAN, {"b": script("better", "a")})
    assert [(step.key, step.after) for step in patch.add] == [
        ("better", ("a",)),
        ("c~2", ("better",)),
        ("end~2", ("c~2", "other")),
    ]


def test_the_third_time_has_a_key_of_its_own() -> None:
    again = extend(PLAN, backtrack(PLAN, {"b": None}))
    patch = backtrack(again, {"b~2": None}, taken=["b", "c", "end"])
    assert [step.key for step in patch.add] == ["b~3", "c~3", "end~3"]


def test_a_branch_comes_again_with_its_ways_and_a_map_with_its_source() -> None:
    plan = Plan.of(
        [
            script("list"),
            Step(key="which", kind="branch", after=("list",), branch=Branch(labels=("x", "y"), script="s")),
            script("way", "which", when={"which": "x"}),
            Step(key="each", kind="map", after=("list",), map=Map(items={RESULT_OF: "list"}, body=(script("do"),))),
            script("each/0/do", "list", parent="each"),
        ]
    )
    patch = backtrack(plan, {"list": None})
    assert patch.supersede == ("list", "which", "way", "each", "each/0/do")
    moved = {step.key: step for step in patch.add}
    # Children come again when their parent does.
    assert list(moved) == ["list~2", "which~2", "way~2", "each~2"]
    assert moved["way~2"].when == {"which~2": "x"}
    assert moved["each~2"].map is not None
    assert moved["each~2"].map.items == {RESULT_OF: "list~2"}


def test_what_stands_deep_in_a_body_takes_the_new_results_too() -> None:
    deep = Step(key="in", kind="map", map=Map(items=[1], body=(script("do", arguments={"of": {RESULT_OF: "list"}}),)))
    plan = Plan.of([script("list"), Step(key="each", kind="map", after=("list",), map=Map(items=["x"], body=(deep,)))])
    again = backtrack(plan, {"list": None}).add[1]
    assert again.body[0].body[0].arguments == {"of": {RESULT_OF: "list~2"}}


def test_nobody_goes_back_to_a_child_or_to_what_is_not_there() -> None:
    plan = Plan.of([Step(key="m", kind="map", map=Map(items=[], body=(script("do"),))), script("m/0/do", parent="m")])
    with pytest.raises(InvalidPlan, match="appended by 'm'"):
        backtrack(plan, {"m/0/do": None})
    with pytest.raises(InvalidPlan, match="no step 'x'"):
        backtrack(plan, {"x": None})


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 40))):
        before = draw(st.lists(st.sampled_from([s.key for s in steps]), max_size=3, unique=True)) if steps else []
        steps.append(script(f"s{number}", *before))
    return Plan.of(steps)


@given(plans(), st.data())
def test_what_is_kept_rests_on_nothing_superseded_and_the_patch_fits(plan: Plan, data: st.DataObject) -> None:
    root = data.draw(st.sampled_from([step.key for step in plan.steps]))
    patch = backtrack(plan, {root: None})
    grown = extend(plan, patch)
    kept = {step.key for step in plan.steps} - set(patch.supersede)
    assert kept | {step.key for step in patch.add} == grown.by_key.keys()
    assert set(patch.supersede) == set(built_on(plan, [root]))
    for key in kept:
        assert not set(plan.by_key[key].after) & set(patch.supersede)
    # The same graph, under new names.
    assert len(patch.add) == len(patch.supersede)

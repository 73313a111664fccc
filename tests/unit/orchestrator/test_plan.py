"""Plans: what can run is accepted, everything else is refused with the value and the remedy."""

from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import (
    ITEM,
    RESULT_OF,
    Map,
    Plan,
    PlanPatch,
    Repeat,
    Step,
    extend,
    find_cycle,
    step_id,
)
from chargehand.orchestrator.settings import MAX_STEPS


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


@st.composite
def dags(draw: st.DrawFn) -> tuple[Step, ...]:
    """Up to 60 steps without a cycle, in any order."""
    count = draw(st.integers(1, 60))
    steps = []
    for number in range(count):
        earlier = st.sampled_from([f"s{one}" for one in range(number)]) if number else st.nothing()
        after = draw(st.lists(earlier, max_size=3, unique=True)) if number else []
        steps.append(script(f"s{number}", *after))
    return tuple(draw(st.permutations(steps)))


@given(dags())
def test_every_acyclic_graph_is_a_plan(steps: tuple[Step, ...]) -> None:
    assert Plan.of(steps).steps == steps


@given(dags(), st.data())
def test_every_cycle_is_found_and_named(steps: tuple[Step, ...], data: st.DataObject) -> None:
    # Close a loop: some step waits for one that (transitively) waits for it.
    known = {step.key: step for step in steps}
    start = data.draw(st.sampled_from(sorted(known)))
    path = [start]
    while known[path[-1]].after and data.draw(st.booleans()):
        path.append(data.draw(st.sampled_from(known[path[-1]].after)))
    last = known[path[-1]]
    if start in last.after:
        return
    known[last.key] = last.model_copy(update={"after": (*last.after, start)})

    with pytest.raises(InvalidPlan, match="wait for each other"):
        Plan.of(known.values())

    cycle = find_cycle({step.key: step.after for step in known.values()})
    assert len(cycle) >= 2
    assert cycle[0] == cycle[-1]
    assert all(before in known[key].after for before, key in pairwise(cycle))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ((), "has no steps; add"),
        ((script("a"), script("a")), "'a' is used 2 times"),
        ((script("a", "b"),), "'a' depends on unknown step 'b'; add it"),
        ((script("a"), script("b", "a", "a")), "names a predecessor twice"),
        ((script("a", "a"),), "a -> a"),
        ((script("a b"),), "'a b' is not usable"),
        ((script("-a"),), "not usable"),
        ((script("a\n"),), "not usable"),
        ((Step(key="a", kind="agent"),), "has no role"),
        ((Step(key="a", kind="agent", role="nobody"),), "unknown role 'nobody'; known: writer"),
        ((Step(key="a", kind="script"),), "names no script"),
        (tuple(script(f"s{n}") for n in range(MAX_STEPS + 1)), "at most 2000"),
    ],
)
def test_what_cannot_run_is_refused_with_the_value_and_the_remedy(steps: tuple[Step, ...], problem: str) -> None:
    with pytest.raises(InvalidPlan, match=problem):
        Plan.of(steps, roles={"writer"})


def test_the_largest_plan_is_accepted_even_as_one_line() -> None:
    line = [script("s0"), *(script(f"s{n}", f"s{n - 1}") for n in range(1, MAX_STEPS))]
    assert len(Plan.of(line).steps) == MAX_STEPS


@pytest.mark.parametrize("turns", [0, 21])
def test_turns_have_a_ceiling(turns: int) -> None:
    with pytest.raises(ValidationError):
        Step(key="a", kind="agent", role="writer", max_turns=turns)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"arguments": {"name": ["a\x00b"]}}, r"a NUL character in 'a\\x00b'; leave it out"),
        ({"arguments": {"n\x00": 1}}, "a NUL character"),
        ({"instruction": "\ud800"}, r"half of a surrogate pair in '\\ud800'; leave it out"),
        ({"arguments": {"limit": float("inf")}}, "the number inf, which JSON does not have; give a finite one"),
    ],
)
def test_what_postgres_cannot_hold_is_refused_before_anything_is_written(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidPlan, match=f"^Step 'a' has {problem}"):
        Plan.of([Step(key="a", kind="script", script="work", **fields)])


def test_the_id_of_a_step_follows_from_run_and_key() -> None:
    run, other = UUID(int=1), UUID(int=2)
    assert step_id(run, "a") == step_id(run, "a")
    assert len({step_id(run, "a"), step_id(run, "b"), step_id(other, "a")}) == 3


def test_a_patch_adds_behind_what_is_there() -> None:
    grown = extend(Plan.of([script("a")]), PlanPatch(add=(script("b", "a"),)))
    assert [step.key for step in grown.steps] == ["a", "b"]


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        (PlanPatch(add=(script("a"),)), "used 2 times"),
        (PlanPatch(add=(script("c", "nowhere"),)), "unknown step"),
        (PlanPatch(drop=("nowhere",)), "drops unknown step 'nowhere'"),
        (PlanPatch(drop=("a",)), "'b' depends on unknown step 'a'"),
        (PlanPatch(drop=("b",), add=(script("b"),)), "drops step 'b' and adds it again"),
        (PlanPatch(add=(script("c", "d"), script("d", "c"))), "wait for each other"),
    ],
)
def test_a_patch_is_validated_with_the_whole_graph(patch: PlanPatch, problem: str) -> None:
    with pytest.raises(InvalidPlan, match=problem):
        extend(Plan.of([script("a"), script("b", "a")]), patch)


# --- what arguments stand for -----------------------------------------------------------------------------------------


def taking(key: str, *after: str, of: JsonValue) -> Step:
    return script(key, *after).model_copy(update={"arguments": {"value": [{"deep": of}]}})


def mapping(*after: str, items: JsonValue, body: Step, key: str = "each") -> Step:
    return Step(key=key, kind="map", after=after, map=Map(items=items, body=(body,)))


def test_results_are_taken_of_steps_that_have_ended_by_then() -> None:
    load, between = script("load"), script("between", "load")
    Plan.of([load, between, taking("use", "between", of={RESULT_OF: "load"})])
    with pytest.raises(InvalidPlan, match="'use' takes the result of unknown step 'laod'; add it") as refused:
        Plan.of([load, taking("use", "load", of={RESULT_OF: "laod"})])
    assert refused.value.steps == ("use",)
    with pytest.raises(InvalidPlan, match="'use' takes the result of 'load' and does not wait for it"):
        Plan.of([load, taking("use", of={RESULT_OF: "load"})])


def test_a_body_takes_results_of_its_own_steps_and_of_those_before_it() -> None:
    body = taking("use", of={RESULT_OF: "load"})
    Plan.of([script("load"), mapping("load", items=["a"], body=body)])
    with pytest.raises(InvalidPlan, match="'use' takes the result of 'load' and does not wait for it") as refused:
        Plan.of([script("load"), mapping(items=["a"], body=body)])
    assert refused.value.steps == ("each", "use")


def test_an_item_is_taken_in_the_body_of_a_map_only() -> None:
    Plan.of([mapping(items=["a"], body=taking("use", of={ITEM: None}))])
    inside = Step(key="again", kind="repeat", repeat=Repeat(body=(taking("use", of={ITEM: None}),), until="use"))
    # The rounds of a repeat in a map are about the map's item.
    Plan.of([mapping(items=["a"], body=inside)])
    for steps in ([taking("use", of={ITEM: None})], [inside]):
        with pytest.raises(InvalidPlan, match="'use' takes an item and stands in no map"):
            Plan.of(steps)


def test_items_are_a_list_or_what_a_step_gives_for_which_the_map_waits() -> None:
    inner = mapping(items={RESULT_OF: "list"}, body=script("do"), key="inner")
    Plan.of([script("list"), mapping("list", items=["a"], body=inner)])
    rows = mapping(items={ITEM: None}, body=script("do"), key="rows")
    Plan.of([mapping(items=[["a"]], body=rows)])
    with pytest.raises(InvalidPlan, match="'rows' has no items; give a list"):
        Plan.of([rows])
    with pytest.raises(InvalidPlan, match="'each' has no items; give a list"):
        Plan.of([mapping(items="abc", body=script("do"))])
    with pytest.raises(InvalidPlan, match="'each' takes its items of 'list', for which it does not wait"):
        Plan.of([script("list"), mapping(items={RESULT_OF: "list"}, body=script("do"))])


def test_what_is_wrong_in_a_body_is_named_from_the_outside_inwards() -> None:
    broken = Step(key="ask", kind="agent")
    with pytest.raises(InvalidPlan, match=r"In the body of 'each': Agent step 'ask' has no role") as refused:
        Plan.of([mapping(items=["a"], body=broken)])
    assert refused.value.steps == ("each", "ask")
    with pytest.raises(InvalidPlan) as refused:
        Plan.of([script("a"), script("a")])
    assert refused.value.steps == ("a",)

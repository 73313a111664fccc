"""How branches, maps, repeats and merges go on, decided from what their children gave."""

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from chargehand.orchestrator.control import Child, End, Grow, escalated_from, proceed, rounds_before
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Map, Merge, Plan, Repeat, Step, StepKind

SEED = UUID(int=7)
ODDS = {"yes": 0.7, "no": 0.3}


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def control(kind: StepKind, **fields: Any) -> Step:
    return Step(key="c", kind=kind, after=("before",), instruction="Is it safe?", **{kind: fields.pop("of")}, **fields)


def after(step: Step, *ends: JsonValue, given_by: dict[str, JsonValue] | None = None) -> Grow | End | None:
    """What the step decides when each child that it appends succeeds with the next of `ends`."""
    children: list[Child] = []
    results = list(ends)
    while True:
        found = proceed(step, children, given=given_by or {}, seed=SEED)
        if not isinstance(found, Grow) or not results:
            return found
        children += [
            Child(step=child, status="succeeded", result=results.pop(0) if results else None) for child in found.add
        ]


def ended(found: Grow | End | None) -> End:
    assert isinstance(found, End), found
    return found


def added(found: Grow | End | None) -> list[Step]:
    assert isinstance(found, Grow), found
    return list(found.add)


# --- branch -----------------------------------------------------------------------------------------------------------

BY_ROLE = control("branch", of=Branch(labels=("yes", "no"), role="chooser"))


def test_a_branch_asks_the_small_model_first() -> None:
    [child] = added(after(BY_ROLE))
    assert (child.key, child.tier, child.role, child.parent) == ("c/small", "small", "chooser", "c")
    # It reads what the branch waited for, whatever became of it.
    assert (child.after, child.join) == (("before",), "settled")
    assert child.arguments["labels"] == ["yes", "no"]


def test_an_answer_that_is_sure_enough_is_taken() -> None:
    found = ended(after(BY_ROLE, {"odds": ODDS}))
    assert (found.outcome, found.label) == ("succeeded", "yes")
    assert found.result == {"label": "yes", "chosen_by": "small", "odds": ODDS}


def test_who_is_not_sure_is_followed_by_the_larger_model_and_then_by_a_person() -> None:
    unsure: JsonValue = {"odds": {"yes": 0.5, "no": 0.5}}
    [large] = added(after(BY_ROLE, unsure))
    assert (large.key, large.tier) == ("c/large", "large")
    [small] = added(after(BY_ROLE))
    assert [escalated_from(one, [BY_ROLE, small, large]) for one in (BY_ROLE, small, large)] == [None, None, "small"]
    [person] = added(after(BY_ROLE, unsure, unsure))
    assert (person.key, person.kind, person.options) == ("c/person", "gate", ("yes", "no"))
    assert person.instruction.startswith("Is it safe?\n")
    found = ended(after(BY_ROLE, unsure, unsure, {"choice": "no", "body": None}))
    assert (found.label, found.result) == ("no", {"label": "no", "chosen_by": "person"})


def test_the_person_is_told_what_the_models_thought_likely_and_why() -> None:
    [person] = added(after(BY_ROLE, {"odds": {"yes": 0.55, "no": 0.45}, "reason": "It is near."}, "nonsense"))

    assert person.instruction.splitlines()[1:] == [
        f"No way was as likely as {BY_ROLE.branch.threshold:g}:",  # type: ignore[union-attr]
        "- small: yes 55%, no 45% (It is near.)",
        "- large: no odds of the labels",
    ]


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        "yes",
        {"odds": {}},
        {"odds": {"perhaps": 1.0}},
        {"odds": {"yes": -1, "no": 2}},
        {"odds": {"yes": "high", "no": 0}},
        {"odds": {"yes": 0, "no": 0}},
    ],
)
def test_an_answer_that_is_no_distribution_decides_nothing(nonsense: JsonValue) -> None:
    [next_one] = added(after(BY_ROLE, nonsense))
    assert next_one.key == "c/large"


def test_a_chooser_that_failed_is_followed_by_the_next() -> None:
    [small] = added(after(BY_ROLE))
    failed = Child(step=small, status="failed", error="no answer")
    [large] = added(proceed(BY_ROLE, [failed], given={}, seed=SEED))
    assert large.key == "c/large"


def test_a_sample_is_the_same_whoever_draws_it_and_says_its_seed() -> None:
    step = control("branch", of=Branch(labels=("yes", "no"), role="chooser", choose="sample"))
    draws = {(found.label, str(found.result)) for found in (ended(after(step, {"odds": ODDS})) for _ in range(5))}
    assert len(draws) == 1
    assert str(SEED) in draws.pop()[1]


def test_samples_of_many_branches_follow_the_odds() -> None:
    step = control("branch", of=Branch(labels=("yes", "no"), role="chooser", choose="sample"))
    [child] = added(after(step))
    answered = [Child(step=child, status="succeeded", result={"odds": ODDS})]
    drawn = Counter(ended(proceed(step, answered, given={}, seed=uuid4())).label for _ in range(2_000))
    assert 0.65 < drawn["yes"] / 2_000 < 0.75


@pytest.mark.parametrize(("gave", "label"), [("yes", "yes"), (True, "yes"), (False, "no")])
def test_a_predicate_gives_a_label_or_a_truth(gave: JsonValue, label: str) -> None:
    step = control("branch", of=Branch(labels=("yes", "no"), script="is_safe"))
    assert ended(after(step, gave)).label == label


def test_who_chooses_has_the_limits_of_the_branch() -> None:
    limits = {"retries": 2, "max_turns": 4, "deadline_seconds": 9.0}
    [asked] = added(after(control("branch", of=Branch(labels=("yes", "no"), role="chooser"), **limits)))
    assert (asked.max_turns, asked.deadline_seconds) == (4, 9.0)
    [judge] = added(after(control("branch", of=Branch(labels=("yes", "no"), script="is_safe"), **limits)))
    assert (judge.retries, judge.deadline_seconds) == (2, 9.0)


# --- map --------------------------------------------------------------------------------------------------------------


def test_items_are_put_into_arguments_however_deep() -> None:
    body = (script("do", arguments={"deep": [{"of": {ITEM: None}}], "other": {RESULT_OF: "before"}}),)
    step = control("map", of=Map(items=[{"n": 1}, 2], body=body))
    first, second = added(after(step))
    assert first.arguments == {"deep": [{"of": {"n": 1}}], "other": {RESULT_OF: "before"}}
    assert (second.key, second.arguments["deep"]) == ("c/1/do", [{"of": 2}])


def test_a_map_within_a_map_takes_its_items_of_the_outer_one_and_has_items_of_its_own() -> None:
    cell = script("do", arguments={"cell": {ITEM: None}, "row": {RESULT_OF: "load"}, "all": {RESULT_OF: "before"}})
    body = (
        script("load", arguments={"row": {ITEM: None}}),
        Step(key="given", kind="map", after=("load",), map=Map(items={ITEM: None}, body=(cell,))),
        Step(key="found", kind="map", after=("load",), map=Map(items={RESULT_OF: "load"}, body=(cell,))),
    )
    outer = control("map", of=Map(items=[["a", "b"], ["c"]], body=body))
    children = added(after(outer))
    plan = Plan.of([script("before"), outer, *children])
    first, found = plan.by_key["c/0/given"], plan.by_key["c/1/found"]
    assert first.map is not None
    assert found.map is not None
    assert first.map.items == ["a", "b"]
    assert found.map.items == {RESULT_OF: "c/1/load"}
    taken = {"row": {RESULT_OF: "c/1/load"}, "all": {RESULT_OF: "before"}}
    assert found.map.body[0].arguments == {"cell": {ITEM: None}, **taken}

    grown = added(proceed(found, [], given={"c/1/load": [1, 2]}, seed=SEED))

    assert [(child.key, child.arguments) for child in grown] == [
        (f"c/1/found/{number}/do", {"cell": number + 1, **taken}) for number in range(2)
    ]
    Plan.of([*plan.steps, *grown])


def test_a_repeat_within_a_map_takes_the_item_of_the_map_in_every_round() -> None:
    judge = script("judge", "code", arguments={"of": {RESULT_OF: "code"}, "file": {ITEM: None}})
    rounds = Step(
        key="rounds",
        kind="repeat",
        after=("open",),
        repeat=Repeat(body=(script("code", arguments={"file": {RESULT_OF: "open"}}), judge), until="judge"),
    )
    outer = control("map", of=Map(items=["x.py"], body=(script("open"), rounds)))
    Plan.of([script("before"), outer])
    repeat = next(child for child in added(after(outer)) if child.kind == "repeat")
    code, judged = added(proceed(repeat, [], given={}, seed=SEED))
    assert code.arguments == {"file": {RESULT_OF: "c/0/open"}}
    assert judged.arguments == {"of": {RESULT_OF: "c/0/rounds/1/code"}, "file": "x.py"}


def test_a_key_of_an_inner_body_means_the_step_there_and_not_one_around_it() -> None:
    inner = Map(items=[1], body=(script("same"), script("use", "same", arguments={"of": {RESULT_OF: "same"}})))
    outer = control("map", of=Map(items=["x"], body=(script("same"), Step(key="in", kind="map", map=inner))))
    placed = next(child for child in added(after(outer)) if child.kind == "map")
    assert placed.map is not None
    assert placed.map.body[1].arguments == {"of": {RESULT_OF: "same"}}


@given(st.integers(1, 30), st.integers(1, 6))
def test_a_map_never_has_more_lanes_than_it_may(items: int, width: int) -> None:
    step = control("map", of=Map(items=list(range(items)), body=(script("do"),), max_parallel=width))
    children = added(after(step))
    plan = Plan.of([script("before"), step, *children])
    free = [child for child in plan.steps if child.parent == "c" and child.after == ("before",)]
    assert len(free) == min(items, width)
    # Each of the others waits for one item of its own lane, so that no more are ever free.
    assert len({child.after for child in children[width:]}) == max(0, items - width)


def test_the_next_item_of_a_lane_waits_for_every_step_of_the_one_before() -> None:
    # When `left` fails, `join` is skipped at once, and `right` is still at work.
    body = (script("left"), script("right"), script("join", "left", "right"))
    step = control("map", of=Map(items=[1, 2], body=body, max_parallel=1))
    second = [child for child in added(after(step)) if child.key in {"c/1/left", "c/1/right"}]
    assert [set(child.after) - {"before"} for child in second] == [{"c/0/left", "c/0/right", "c/0/join"}] * 2


def test_results_come_in_the_order_of_the_items_however_the_children_are_ordered() -> None:
    step = control("map", of=Map(items=["a", "b", "c"], body=(script("do"), script("check", "do"))))
    children = [Child(step=child, status="succeeded", result=child.key) for child in reversed(added(after(step)))]
    assert ended(proceed(step, children, given={}, seed=SEED)).result == [f"c/{n}/check" for n in range(3)]


# --- repeat and merge -------------------------------------------------------------------------------------------------


def test_a_repeat_of_a_judge_that_says_yes_or_no_passes_on_yes() -> None:
    step = control("repeat", of=Repeat(body=(script("try"),), until="try"))
    assert ended(after(step, False, True)).result == {"rounds": 2, "passed": True, "verdict": True}


def test_a_round_that_breaks_ends_the_repeat_with_its_error() -> None:
    step = control("repeat", of=Repeat(body=(script("try"),), until="try"))
    [child] = added(after(step))
    found = ended(proceed(step, [Child(step=child, status="failed", error="disk full")], given={}, seed=SEED))
    assert (found.outcome, found.error) == ("failed", "round 1: 1/try failed: disk full")


def test_a_repeat_ends_at_the_newest_commit_of_its_last_round() -> None:
    step = control("repeat", of=Repeat(body=(script("code"), script("test", "code")), until="test"))
    code, test = added(after(step))
    children = [
        Child(step=code, status="succeeded", commit="abc"),
        Child(step=test, status="succeeded", result={"passed": True}),
    ]
    assert ended(proceed(step, children, given={}, seed=SEED)).commit == "abc"


def test_a_merge_without_conflicts_is_done() -> None:
    step = control("merge", of=Merge(role="coder"))
    assert ended(after(step, {"conflicts": [], "commit": "abc"})).outcome == "succeeded"


def test_a_conflict_becomes_a_coding_step_or_fails_the_merge_where_nobody_may_resolve_it() -> None:
    conflict: JsonValue = {"conflicts": ["a.py"], "commit": "abc"}
    [resolve] = added(after(control("merge", of=Merge(role="coder")), conflict))
    assert (resolve.role, resolve.after) == ("coder", ("c/try",))
    assert resolve.arguments == {"conflicts": ["a.py"], "may_edit": ["a.py"]}
    assert "conflict in a.py" in ended(after(control("merge", of=Merge()), conflict)).error


def test_a_conflict_that_stays_fails_the_merge_with_its_reason_and_is_not_tried_again() -> None:
    left: JsonValue = {"resolved": [], "conflicts": ["a.py"], "reasons": {"a.py": "nobody said which is meant"}}
    found = ended(after(control("merge", of=Merge(role="resolver")), {"conflicts": ["a.py"]}, left))
    assert found.error == "the parallel changes conflict in a.py: nobody said which is meant"
    done: JsonValue = {"resolved": ["a.py"], "conflicts": [], "reasons": {}}
    assert ended(after(control("merge", of=Merge(role="resolver")), {"conflicts": ["a.py"]}, done)).outcome == (
        "succeeded"
    )


# --- what a plan may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Step(key="b", kind="branch"), "has no field 'branch'"),
        (script("s", map=Map(items=[], body=(script("x"),))), "has field 'map'"),
        (Step(key="b", kind="branch", branch=Branch(labels=("a", "b"))), "a script or a role"),
        (Step(key="r", kind="repeat", repeat=Repeat(body=(script("x"),), until="y")), "unknown step 'y'"),
        (Step(key="m", kind="map", map=Map(items=[], body=(script("x", "y"),))), "In the body of 'm'"),
        (script("s", when={"b": "yes"}), "does not wait for"),
        (script("s", parent="nobody"), "unknown step 'nobody'"),
    ],
)
def test_a_plan_that_says_it_wrongly_is_refused_with_the_reason(wrong: Step, said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        Plan.of([wrong])


def test_a_label_has_to_be_one_of_the_branchs() -> None:
    branch = Step(key="b", kind="branch", branch=Branch(labels=("yes", "no"), script="s"))
    with pytest.raises(InvalidPlan, match="it has: yes, no"):
        Plan.of([branch, script("s", "b", when={"b": "maybe"})])


def test_rounds_before_a_step_are_those_whose_verdict_did_not_pass() -> None:
    judge = script("judge", "code", arguments={"of": {RESULT_OF: "code"}})
    rounds = Step(key="c", kind="repeat", repeat=Repeat(body=(script("code"), judge), until="judge"))
    first = Step(key="c/1/code", kind="script", script="x", parent="c")
    third = Step(key="c/3/code", kind="script", script="x", parent="c")
    inner = Step(key="c/3/code/0/part", kind="script", script="x", parent="c/3/code")
    verdict = Step(key="c/3/judge", kind="script", script="x", parent="c")
    plan = [rounds, first, third, verdict, inner]

    assert [rounds_before(one, plan) for one in (rounds, first, third, inner, verdict)] == [0, 0, 2, 2, 0]
    assert rounds_before(third, ()) == 0

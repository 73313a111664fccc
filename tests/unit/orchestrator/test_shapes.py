"""Branches, maps, repeats, merges and races written in Python: the steps they become, and what is refused at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from chargehand import (
    InvalidPlan,
    Plan,
    WrittenRole,
    branch,
    first_of,
    gate,
    map_over,
    merge,
    repeat,
    role,
    script,
)
from chargehand.orchestrator import outputs
from chargehand.orchestrator.drafts import Draft
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Map, Merge, Repeat, Step
from chargehand.workers.scripts import registry

ROLE = """---
name: {name}
description: For tests.
pool: audit
tier: small
output: {output}
---
Do it.
"""


class Order(BaseModel):
    order_id: int


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "SCRIPTS", {})
    others = dict(outputs.OUTPUTS)
    outputs.OUTPUTS.clear()
    yield
    outputs.OUTPUTS.clear()
    outputs.OUTPUTS.update(others)


def work(name: str) -> Draft:
    """A step of the script `name`, which takes anything and gives anything."""

    def function(value: object = None) -> object:
        return value

    return script(name=name)(function).step() if name not in registry.SCRIPTS else registry.SCRIPTS[name].step()


def take(name: str, value: object) -> Draft:
    draft = work(name)
    return registry.SCRIPTS[draft.name].step(value)


@pytest.fixture
def is_safe() -> registry.Script[[Order], bool]:
    @script(pool="coding")
    def is_safe(order: Order) -> bool:
        return order.order_id == 7

    return is_safe


@pytest.fixture
def load() -> registry.Script[[int], Order]:
    @script
    def load(order_id: int) -> Order:
        return Order(order_id=order_id)

    return load


def make_role(folder: Path, name: str, output: str = "submit_choice") -> WrittenRole:
    file = folder / f"{name}.md"
    file.write_text(ROLE.format(name=name, output=output))
    return role(file)


def shape(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {step.key: step.after for step in plan.steps}


# --- branch -----------------------------------------------------------------------------------------------------------


def test_a_script_chooses_and_what_follows_waits_for_every_way(
    load: registry.Script[[int], Order], is_safe: registry.Script[[Order], bool]
) -> None:
    plan = Plan(load.step(7) >> branch(is_safe.step(), {"yes": work("pay"), "no": work("refuse")}) >> work("report"))

    assert shape(plan) == {
        "load": (), "is_safe": ("load",), "pay": ("is_safe",), "refuse": ("is_safe",), "report": ("pay", "refuse"),
    }  # fmt: skip
    choice = plan.by_key["is_safe"]
    assert (choice.kind, choice.pool, choice.script) == ("branch", "coding", None)
    assert choice.branch == Branch(labels=("yes", "no"), script="is_safe")
    # What the chooser takes is filled as for any step.
    assert choice.arguments == {"order": {RESULT_OF: "load"}}
    assert plan.by_key["pay"].when == {"is_safe": "yes"}
    assert plan.by_key["refuse"].when == {"is_safe": "no"}
    assert plan.by_key["report"].when == {}


def test_a_role_chooses_by_odds_and_travels_with_the_plan(load: registry.Script[[int], Order], tmp_path: Path) -> None:
    chooser = make_role(tmp_path, "judge")
    order = load.step(7)
    choice = branch(
        chooser.step("Is it safe?", inputs=[order], currency="EUR"),
        {"yes": work("pay"), "no": None},
        choose="sample",
        threshold=0.8,
    )

    plan = Plan(choice)

    step = plan.by_key["judge"]
    assert step.branch == Branch(labels=("yes", "no"), role="judge", choose="sample", threshold=0.8)
    assert (step.instruction, step.title, step.pool) == ("Is it safe?", "Is it safe?", "audit")
    assert (step.after, step.arguments, step.role) == (("load",), {"currency": "EUR"}, None)
    assert [one.name for one in plan.roles] == ["judge"]


def test_a_way_of_no_steps_leads_straight_on(is_safe: registry.Script[[Order], bool]) -> None:
    plan = Plan(branch(is_safe.step(Order(order_id=1)), {"yes": work("pay"), "no": None}) >> work("report"))

    assert plan.by_key["report"].after == ("pay", "is_safe")
    assert plan.by_key["report"].when == {"is_safe": "no"}


def test_several_ways_of_no_steps_are_one_edge() -> None:
    plan = Plan(branch(work("which"), {"a": None, "b": None, "c": work("do")}) >> work("report"))

    assert plan.by_key["report"].after == ("which", "do")
    assert plan.by_key["report"].when == {}


def test_a_way_may_be_lists_and_lines_and_branches_of_its_own(is_safe: registry.Script[[Order], bool]) -> None:
    inner = branch(work("how"), {"card": work("card"), "cash": work("cash")})
    plan = Plan(
        branch(work("which"), {"pay": [work("check"), work("note")] >> inner, "wait": work("wait")}) >> work("end")
    )

    assert shape(plan) == {
        "which": (), "check": ("which",), "note": ("which",), "how": ("check", "note"), "card": ("how",),
        "cash": ("how",), "wait": ("which",), "end": ("card", "cash", "wait"),
    }  # fmt: skip
    assert {step.key: step.when for step in plan.steps if step.when} == {
        "check": {"which": "pay"}, "note": {"which": "pay"}, "wait": {"which": "wait"}, "card": {"how": "card"},
        "cash": {"how": "cash"},
    }  # fmt: skip


def test_as_an_argument_a_branch_is_its_choice_and_its_ways_are_not_lost() -> None:
    choice = branch(work("which"), {"a": work("do"), "b": None})

    plan = Plan(take("record", choice))

    assert plan.by_key["record"].arguments == {"value": {RESULT_OF: "which"}}
    assert shape(plan) == {"which": (), "record": ("which",), "do": ("which",)}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: branch(gate("Which?"), {"a": None, "b": None}), "cannot choose for a branch"),
        (lambda: branch(work("which"), {"a": None}), "at least two labels"),
        (lambda: branch(work("which"), {"a": first_of([work("x"), work("y")]), "b": None}), "put the step behind it"),
    ],
)
def test_what_is_no_branch_is_refused(write: object, words: str) -> None:
    with pytest.raises(InvalidPlan, match=words):
        write()  # type: ignore[operator]


def test_a_chooser_that_may_give_what_is_no_label_is_refused(
    is_safe: registry.Script[[Order], bool], tmp_path: Path
) -> None:
    @script
    def route() -> Literal["now", "later"]:
        return "now"

    with pytest.raises(InvalidPlan, match="may give 'no', which is no way of its branch; add it to: yes, maybe"):
        branch(is_safe.step(), {"yes": None, "maybe": None})
    with pytest.raises(InvalidPlan, match="may give 'later'"):
        branch(route.step(), {"now": None, "never": None})
    with pytest.raises(InvalidPlan, match="ends with 'submit_answer'; give one that ends with 'submit_choice'"):
        branch(make_role(tmp_path, "talker", "submit_answer").step("Which?"), {"a": None, "b": None})


def test_a_step_on_two_ways_and_a_chooser_beside_its_branch_are_refused() -> None:
    both = work("both")
    with pytest.raises(InvalidPlan, match=r"stands on two ways of <step which>, 'a' and 'b'"):
        branch(work("which"), {"a": both, "b": both})
    which = work("which")
    branch(which, {"a": None, "b": None})
    with pytest.raises(InvalidPlan, match=r"chooses for a branch.*wait for what `branch\(…\)` gave"):
        Plan(which >> work("end"))


# --- map --------------------------------------------------------------------------------------------------------------


def test_the_item_stands_in_arguments_of_scripts_and_agents(tmp_path: Path) -> None:
    triage = make_role(tmp_path, "triage", "submit_answer")
    scan = work("scan")
    plan = Plan(
        map_over(
            scan,
            lambda item: take("read", item) >> triage.step("Is it real?", finding={"raw": item}),
            max_parallel=8,
            tolerated_failures=2,
        )
        >> work("report")
    )

    assert shape(plan) == {"scan": (), "map": ("scan",), "report": ("map",)}
    assert plan.by_key["map"].map == Map(
        items={RESULT_OF: "scan"},
        body=(
            Step(key="read", kind="script", script="read", arguments={"value": {ITEM: None}}),
            Step(
                key="triage",
                kind="agent",
                role="triage",
                pool="audit",
                instruction="Is it real?",
                arguments={"finding": {"raw": {ITEM: None}}},
                after=("read",),
            ),
        ),
        max_parallel=8,
        tolerated_failures=2,
    )
    assert [one.name for one in plan.roles] == ["triage"]


def test_a_map_over_a_known_list_keeps_it() -> None:
    step = Plan(map_over([Order(order_id=1), {"order_id": 2}], lambda item: take("do", item))).by_key["map"]

    assert step.map is not None
    assert step.map.items == [{"order_id": 1}, {"order_id": 2}]


def test_what_a_body_needs_of_steps_around_it_the_map_waits_for(
    load: registry.Script[[int], Order], is_safe: registry.Script[[Order], bool]
) -> None:
    limits = work("limits")
    plan = Plan(load.step(7) >> map_over(["a"], lambda item: take("do", [item, limits]) >> is_safe.step()))

    step = plan.by_key["map"]
    assert step.after == ("limits", "load")
    do, safe = step.body
    assert (do.after, do.arguments) == ((), {"value": [{ITEM: None}, {RESULT_OF: "limits"}]})
    # A parameter without an argument is filled from before the body, too.
    assert (safe.after, safe.arguments) == (("do",), {"order": {RESULT_OF: "load"}})


def test_keys_of_a_body_are_none_of_those_around_it() -> None:
    plan = Plan(work("do") >> map_over(["a"], lambda item: take("do", item)))

    assert [inner.key for inner in plan.by_key["map"].body] == ["do-2"]
    given = work("same").set(key="same")
    with pytest.raises(InvalidPlan, match="'same' names a step of a body and one around it"):
        Plan(map_over(["a"], lambda _: take("do", given).set(key="same")))


def test_a_body_of_several_ends_is_refused_and_what_a_branch_in_it_leads_to_ends_it() -> None:
    with pytest.raises(InvalidPlan, match=r"ends in <step a>, <step b>; one step gives the item's result"):
        map_over(["x"], lambda _: [work("a"), work("b")])
    plan = Plan(map_over(["x"], lambda item: branch(take("which", item), {"a": work("do"), "b": None}) >> work("end")))
    assert [(step.key, step.when) for step in plan.by_key["map"].body] == [
        ("which", {}),
        ("do", {"which": "a"}),
        ("end", {"which": "b"}),
    ]


def test_an_item_may_be_a_list_of_items_and_stand_in_rounds() -> None:
    rows = Plan(map_over([["a"]], lambda row: map_over(row, lambda cell: take("do", cell)))).by_key["map"]
    assert rows.body[0].map is not None
    assert rows.body[0].map.items == {ITEM: None}
    rounds = Plan(map_over(["x"], lambda item: repeat(lambda: take("do", item)))).by_key["map"]
    assert rounds.body[0].body[0].arguments == {"value": {ITEM: None}}


def test_an_item_has_no_meaning_outside_of_its_own_body() -> None:
    kept: list[object] = []
    inside = map_over(["x"], lambda item: kept.append(item) or take("do", item))  # type: ignore[func-returns-value]

    with pytest.raises(InvalidPlan, match="in whose body it does not stand"):
        Plan(inside >> take("after", kept[0]))
    with pytest.raises(InvalidPlan, match="in whose body it does not stand"):
        Plan(map_over(["x"], lambda outer: map_over(["y"], lambda _: take("do", outer))))


def test_a_step_of_a_body_cannot_be_waited_for_outside_of_it() -> None:
    kept: list[Draft] = []

    def body(item: object) -> Draft:
        kept.append(take("do", item))
        return kept[0]

    outside = map_over(["x"], body)
    with pytest.raises(InvalidPlan, match=r"<step do> is written in the body of <step map>.*wait for <step map>"):
        Plan(outside >> take("after", kept[0]))


def test_a_body_that_writes_no_step_is_refused() -> None:
    outer = work("outer")
    with pytest.raises(InvalidPlan, match="gives no step that it writes itself"):
        map_over(["x"], lambda _: outer)
    with pytest.raises(InvalidPlan, match="gives no step that it writes itself"):
        repeat(lambda: [])


def test_a_list_of_steps_is_no_list_of_items() -> None:
    with pytest.raises(InvalidPlan, match="write a step that gives the list"):
        map_over([work("a"), work("b")], lambda item: take("do", item))


# --- repeat -----------------------------------------------------------------------------------------------------------


def test_the_last_step_of_a_round_decides_unless_another_is_named() -> None:
    plan = Plan(work("start") >> repeat(lambda: work("code") >> work("test"), max_rounds=5) >> work("end"))

    assert shape(plan) == {"start": (), "repeat": ("start",), "end": ("repeat",)}
    body = (
        Step(key="code", kind="script", script="code"),
        Step(key="test", kind="script", script="test", after=("code",)),
    )
    assert plan.by_key["repeat"].repeat == Repeat(body=body, until="test", max_rounds=5)
    named = Plan(repeat(lambda: work("code") >> [work("test"), work("audit")], until="test"))
    assert named.by_key["repeat"].repeat is not None
    assert named.by_key["repeat"].repeat.until == "test"


def test_who_decides_of_several_ends_must_be_said() -> None:
    with pytest.raises(InvalidPlan, match=r"ends in <step a>, <step b>; say which of them decides"):
        repeat(lambda: [work("a"), work("b")])
    with pytest.raises(InvalidPlan, match="waits for unknown step 'c'"):
        Plan(repeat(lambda: work("a"), until="c"))
    with pytest.raises(InvalidPlan, match="max_rounds is 11; give 1 to 10"):
        repeat(lambda: work("a"), max_rounds=11)


def test_rounds_in_a_map_and_maps_in_rounds() -> None:
    plan = Plan(map_over(["x"], lambda item: take("code", item) >> repeat(lambda: work("test"))))

    code, again = plan.by_key["map"].body
    assert (again.kind, again.after, [one.key for one in again.body]) == ("repeat", ("code",), ["test"])
    assert code.arguments == {"value": {ITEM: None}}


# --- merge and races --------------------------------------------------------------------------------------------------


def test_a_merge_waits_for_all_changes_and_knows_who_resolves_them(tmp_path: Path) -> None:
    coder = make_role(tmp_path, "fixer", "submit_answer")
    plan = Plan(work("start") >> [work("a"), work("b")])
    assert shape(plan) == {"start": (), "a": ("start",), "b": ("start",)}

    plan = Plan(merge(work("start") >> [work("a"), work("b")], role=coder, instruction="Keep both.") >> work("test"))

    step = plan.by_key["merge"]
    assert (step.after, step.pool, step.instruction) == (("a", "b"), "coding", "Keep both.")
    assert step.merge == Merge(role="fixer")
    assert [one.name for one in plan.roles] == ["fixer"]
    assert Plan(merge([work("a"), work("b")], role="coder")).by_key["merge"].merge == Merge(role="coder")
    with pytest.raises(InvalidPlan, match="at least two of them"):
        merge(work("a"))


def test_what_follows_a_race_goes_on_with_the_first() -> None:
    plan = Plan(work("start") >> first_of([work("a"), work("b") >> work("c")]) >> work("end"))

    assert shape(plan) == {"start": (), "a": ("start",), "b": ("start",), "c": ("b",), "end": ("a", "c")}
    assert {step.key: step.join for step in plan.steps if step.join != "all"} == {"end": "any"}


def test_an_agent_goes_on_with_the_first_of_its_inputs(tmp_path: Path) -> None:
    writer = make_role(tmp_path, "talker", "submit_answer")
    plan = Plan(writer.step("Answer", inputs=first_of([work("a"), work("b")])))

    assert (plan.by_key["talker"].after, plan.by_key["talker"].join) == (("a", "b"), "any")


def test_a_race_is_not_mixed_with_what_must_come_anyway() -> None:
    order = work("order")
    with pytest.raises(InvalidPlan, match="goes on with the first of several, and also waits for 'order'"):
        Plan(first_of([work("a"), work("b")]) >> take("end", order))
    with pytest.raises(InvalidPlan, match="stands in a list with other steps"):
        [first_of([work("a"), work("b")]), order] >> work("end")
    with pytest.raises(InvalidPlan, match="The plan ends in"):
        Plan(first_of([work("a"), work("b")]))
    with pytest.raises(InvalidPlan, match="A body ends in"):
        map_over(["x"], lambda _: first_of([work("a"), work("b")]))
    with pytest.raises(InvalidPlan, match="fewer than two"):
        first_of([work("a")])

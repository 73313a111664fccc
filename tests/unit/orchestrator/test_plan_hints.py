"""Each hint, in a plan that calls for it and in the nearest plan that does not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chargehand.memory.procedural import Role, load_roles
from chargehand.orchestrator.offers import Offer, Offers
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Join, Map, Merge, Plan, Repeat, Step
from chargehand.orchestrator.plan_hints import Hint, hints_of

ROLES = load_roles(Path(__file__).parents[3] / "workers" / "roles")


def offer(effect: str = "pure", *parameters: str, context: bool = False) -> Offer:
    return Offer(effect=effect, parameters=parameters, required=parameters, takes_context=context)


OFFERS = Offers(
    scripts={
        "work": offer(),
        "take": offer("pure", "value"),
        "look": offer("pure", context=True),
        "pay": offer("effectful"),
        "is_bad": offer(),
    },
    tools={
        "read_file": offer("pure", "path"),
        "search_text": offer("pure", "text"),
        "apply_fix": offer("idempotent", "rule"),
        "delegate": offer("pure", "to"),
    },
)


def make_role(name: str, *tools: str) -> Role:
    coder = ROLES["coder"]
    return Role(
        name=name, description="x", pool="coding", tier="small", tools=tools, max_turns=3, output=coder.output,
        instructions="x", text="x", blob_hash="x",
    )  # fmt: skip


OWN_ROLES = {
    role.name: role
    for role in (
        make_role("reader", "read_file"),
        make_role("finder", "read_file", "search_text"),
        make_role("editor", "read_file", "apply_fix"),
        make_role("fixer", "apply_fix"),
        make_role("boss", "delegate"),
    )
}


def script(key: str, *after: str, name: str = "work", **fields: Any) -> Step:
    return Step(key=key, kind="script", script=name, after=after, **fields)


def agent(key: str, *after: str, role: str = "finder", **fields: Any) -> Step:
    return Step(key=key, kind="agent", role=role, instruction="Do it.", after=after, **fields)


def take(key: str, *after: str, of: Any, **fields: Any) -> Step:
    return script(key, *after, name="take", arguments={"value": of}, **fields)


def hints(*steps: Step, roles: dict[str, Role] = OWN_ROLES, offers: Offers | None = OFFERS) -> list[Hint]:
    return hints_of(Plan.of(steps), roles=roles, offers=offers)


def rules(*steps: Step, **known: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(hint.rule, hint.steps) for hint in hints(*steps, **known)]


ITS_ITEM = take("c", of={ITEM: None})


def test_a_plan_of_which_there_is_nothing_to_say_gives_no_hint() -> None:
    assert rules(script("a"), take("b", "a", of={RESULT_OF: "a"}), agent("c", "b"), script("d", "c", name="look")) == []


def test_what_is_not_known_is_not_judged() -> None:
    steps = [agent("a", role="reader", arguments={"path": "x"}), script("b", "a", name="nobody's"), script("c", "b")]
    assert [rule for rule, _ in rules(*steps)] == ["script-would-do", "unknown-script"]
    assert rules(*steps, offers=None) == []
    assert [rule for rule, _ in rules(*steps, roles={})] == ["unknown-script"]


# --- scripts and agents -----------------------------------------------------------------------------------------------


def test_a_script_that_no_worker_knows() -> None:
    assert rules(script("a", name="laod")) == [("unknown-script", ("a",))]
    branch = Step(key="b", kind="branch", branch=Branch(labels=("x", "y"), script="is_bda"))
    assert rules(branch) == [("unknown-script", ("b",))]
    assert rules(script("a")) == []


def test_arguments_that_a_script_does_not_take_or_lacks() -> None:
    [hint] = hints(script("a", name="take", arguments={"vaule": 1}))[:1]
    assert hint.text == "its script takes no 'vaule'; it takes: value"
    assert rules(script("a", name="take")) == [("arguments-do-not-fit", ("a",))]
    assert rules(take("a", of=1)) == []


def test_an_agent_whose_one_pure_call_is_written_down() -> None:
    assert rules(agent("a", role="reader", arguments={"path": "README.md"})) == [("script-would-do", ("a",))]
    # The agent finds out itself which file, has a choice of tools, changes something, or asks somebody.
    assert rules(agent("a", role="reader")) == []
    assert rules(agent("a", role="finder", arguments={"path": "README.md"})) == []
    assert rules(agent("a", role="fixer", arguments={"rule": "F401"})) == []
    assert rules(agent("a", role="boss", arguments={"to": "coder"})) == []


def test_a_result_that_nobody_takes() -> None:
    assert rules(script("a"), script("b", "a")) == [("result-is-not-used", ("a",))]
    assert rules(agent("a"), Step(key="g", kind="gate", instruction="Go on?", after=("a",))) == [
        ("result-is-not-used", ("a",))
    ]


@pytest.mark.parametrize(
    "steps",
    [
        # It is taken: by the next, by one further on, by an agent, by who looks around, by a chooser, in a body.
        [script("a"), take("b", "a", of=[{RESULT_OF: "a"}])],
        [script("a"), Step(key="g", kind="gate", after=("a",)), take("b", "g", of={RESULT_OF: "a"})],
        [script("a"), agent("b", "a")],
        [script("a"), script("b", "a", name="look")],
        [script("a"), Step(key="b", kind="branch", after=("a",), branch=Branch(labels=("x", "y"), role="chooser"))],
        [script("a"), Step(key="b", kind="map", after=("a",), map=Map(items={RESULT_OF: "a"}, body=(ITS_ITEM,)))],
        [script("a"), Step(key="b", kind="repeat", after=("a",), repeat=Repeat(body=(agent("c"),), until="c"))],
        # It is what the run gives, or it is not its result that counts.
        [script("a"), script("b")],
        [script("a", name="pay"), script("b", "a")],
        [script("a", name="look"), script("b", "a")],
        [agent("a", role="editor"), script("b", "a")],
        # Its result is the verdict.
        [Step(key="r", kind="repeat", repeat=Repeat(body=(script("a"), agent("b", "a")), until="a"))],
    ],
)  # fmt: skip
def test_a_result_that_counts(steps: Sequence[Step]) -> None:
    assert "result-is-not-used" not in [rule for rule, _ in rules(*steps)]


# --- maps, repeats, merges --------------------------------------------------------------------------------------------


def mapping(*body: Step) -> Step:
    return Step(key="each", kind="map", map=Map(items=[1, 2], body=body))


def test_a_body_that_never_takes_the_item() -> None:
    assert rules(mapping(agent("do"))) == [("item-is-not-used", ("each",))]
    assert rules(mapping(agent("do", arguments={"n": {"of": {ITEM: None}}}))) == []
    # What there is to say of a body names the way to it.
    assert rules(mapping(take("do", of={ITEM: None}), script("end", "do", name="nowhere"))) == [
        ("unknown-script", ("each/end",))
    ]


def repeating(*body: Step, rounds: int = 3) -> Step:
    return Step(key="again", kind="repeat", repeat=Repeat(body=body, until=body[-1].key, max_rounds=rounds))


def test_rounds_that_come_to_the_same() -> None:
    assert rules(repeating(script("code"), take("test", "code", of={RESULT_OF: "code"}))) == [
        ("rounds-are-alike", ("again",))
    ]
    assert rules(repeating(agent("code"), take("test", "code", of={RESULT_OF: "code"}))) == []
    assert rules(repeating(script("code", name="look"), script("test", "code", name="look"))) == []
    assert rules(repeating(script("code", name="pay"), script("test", "code"))) == []


def test_a_repeat_that_does_not_repeat() -> None:
    assert rules(repeating(agent("code"), rounds=1)) == [("one-round", ("again",))]
    assert rules(repeating(agent("code"), rounds=2)) == []


def merging(*after: str) -> Step:
    return Step(key="merge", kind="merge", after=after, merge=Merge())


def test_a_merge_of_fewer_than_two() -> None:
    assert rules(merging()) == [("merge-of-one", ("merge",))]
    assert rules(agent("a", role="editor"), merging("a")) == [("merge-of-one", ("merge",))]
    assert rules(agent("a", role="editor"), agent("b", role="editor"), merging("a", "b")) == []


# --- joins ------------------------------------------------------------------------------------------------------------


def branching(*steps: Step) -> list[Step]:
    return [
        Step(key="which", kind="branch", branch=Branch(labels=("x", "y"), script="is_bad")),
        agent("a", "which", when={"which": "x"}),
        agent("b", "which", when={"which": "y"}),
        *steps,
    ]


def test_an_any_join_of_ways_of_which_one_is_taken() -> None:
    join: Join = "any"
    assert rules(*branching(agent("c", "a", "b", join=join))) == [("any-of-one-way", ("c",))]
    further = agent("d", "b")
    assert rules(*branching(further, agent("c", "a", "d", join=join))) == [("any-of-one-way", ("c",))]
    assert rules(*branching(agent("c", "a", "b"))) == []
    # Two on the same way do race, and so does one that stands on no way.
    second = agent("e", "which", when={"which": "x"})
    assert rules(*branching(second, agent("c", "a", "b", "e", join=join))) == []
    assert rules(*branching(agent("f"), agent("c", "a", "f", join=join))) == []
    # One that follows whatever ends is reached on every way.
    assert rules(*branching(agent("g", "a", "which", join="settled"), agent("c", "g", "b", join=join))) == []


def test_a_race_of_a_step_with_what_waits_for_it() -> None:
    assert rules(agent("a"), agent("b", "a"), agent("c", "a", "b", join="any")) == [("any-in-a-line", ("c",))]
    assert rules(agent("a"), agent("b"), agent("c", "a", "b", join="any")) == []


def test_a_key_that_a_child_may_have() -> None:
    each = Step(key="each", kind="map", map=Map(items=[1, 2], body=(ITS_ITEM,)))
    assert rules(each, script("each/0/c"), script("other/0")) == [("name-of-a-child", ("each/0/c",))]
    assert rules(agent("ask"), script("ask/writer-1")) == [("name-of-a-child", ("ask/writer-1",))]
    assert rules(script("a"), script("a/b")) == []


def test_any_of_one_step() -> None:
    assert rules(agent("a"), agent("b", "a", join="any")) == [("any-of-one", ("b",))]


def editor(key: str, *after: str, **fields: Any) -> Step:
    return agent(key, *after, role="editor", pool="coding", **fields)


def test_changes_side_by_side_of_which_one_is_lost() -> None:
    [hint] = hints(editor("a"), editor("b"), agent("test", "a", "b"))
    assert (hint.rule, hint.steps) == ("changes-without-merge", ("test",))
    assert hint.text.startswith("'a', 'b' change files side by side, and this starts from the files of 'b' alone")


@pytest.mark.parametrize(
    "steps",
    [
        [editor("a"), editor("b"), merging("a", "b"), agent("test", "merge")],
        [editor("a"), editor("b"), merging("a", "b"), agent("report", "a", "b", "merge")],
        [editor("a"), editor("b", "a"), agent("test", "a", "b")],
        [editor("a"), agent("b"), agent("test", "a", "b")],
        [editor("a"), editor("b"), agent("test", "a", "b", join="any")],
        [editor("a"), editor("b"), Step(key="g", kind="gate", after=("a", "b"))],
        [
            *branching()[:1],
            editor("a", "which", when={"which": "x"}),
            editor("b", "which", when={"which": "y"}),
            agent("test", "a", "b"),
        ],
    ],
)
def test_changes_of_which_none_is_lost(steps: Sequence[Step]) -> None:
    assert rules(*steps) == []


def test_a_gate_that_opens_before_the_arguments_behind_it_are_known() -> None:
    def gate(*after: str) -> Step:
        return Step(key="ok", kind="gate", after=after)

    behind = take("c", "a", "ok", of={RESULT_OF: "a"})
    assert rules(script("a"), gate(), behind) == [("gate-asks-too-early", ("ok",))]
    # Whatever it waits for it may read.
    assert ("gate-asks-too-early", ("ok",)) in rules(script("a"), gate(), script("c", "a", "ok"))
    assert rules(script("a"), gate("a"), behind) == []
    assert (
        rules(script("a"), take("b", "a", of={RESULT_OF: "a"}), gate("b"), behind, script("d", "b", name="look")) == []
    )


# --- steps that are alike ---------------------------------------------------------------------------------------------


def fan(count: int, **fields: Any) -> list[Step]:
    return [agent(f"a{n}", "plan", arguments={"file": f"{n}.py", "depth": 2}, **fields) for n in range(count)]


PLAN = agent("plan")


def test_agents_that_differ_in_one_argument_only() -> None:
    assert rules(PLAN, *fan(3), agent("end", "a0", "a1", "a2")) == [("map-would-do", ("a0", "a1", "a2"))]
    assert rules(PLAN, *fan(3)) == [("map-would-do", ("a0", "a1", "a2"))]


@pytest.mark.parametrize(
    "steps",
    [
        [PLAN, *fan(2)],
        [PLAN, *fan(2), agent("a2", arguments={"file": "2.py", "depth": 2})],
        [PLAN, *fan(2), agent("a2", "plan", role="reader", arguments={"file": "2.py", "depth": 2})],
        [PLAN, *fan(2), agent("a2", "plan", arguments={"file": "2.py", "depth": 3})],
        [PLAN, *fan(2), agent("a2", "plan", arguments={"file": "2.py"})],
        # One of them is wanted by itself.
        [PLAN, *fan(3), agent("end", "a0")],
        [PLAN, *fan(3), take("end", "a0", "a1", "a2", of={RESULT_OF: "a1"})],
        # The same three times is no list.
        [PLAN, *(agent(f"a{n}", "plan", arguments={"file": "x"}) for n in range(3))],
    ],
)
def test_agents_that_differ_in_more(steps: Sequence[Step]) -> None:
    assert "map-would-do" not in [rule for rule, _ in rules(*steps)]


def test_a_plan_of_two_thousand_steps_is_looked_at_within_seconds() -> None:
    steps = [script(f"s{n}", *([f"s{n - 1}"] if n else []), name="look") for n in range(2_000)]
    assert rules(*steps) == []

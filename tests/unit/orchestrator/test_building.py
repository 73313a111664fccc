"""Plans written in Python: keys, edges, arguments, and what is refused while it is still on one's own screen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from chargehand import InvalidPlan, InvalidRole, Plan, ScriptContext, gate, role, script
from chargehand.memory.procedural import parse_role
from chargehand.orchestrator import outputs
from chargehand.orchestrator import plan as graph
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.runs import new_run_id
from chargehand.workers.scripts import registry

TRIAGE = """---
name: refunds
description: Decides whether a refund is safe.
pool: audit
tier: small
output: submit_answer
---
Look at the order. Decide.
"""


class Order(BaseModel):
    order_id: int


@dataclass
class Total:
    cents: int


class Ruling(BaseModel):
    safe: bool


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "SCRIPTS", {})
    others = dict(outputs.OUTPUTS)
    outputs.OUTPUTS.clear()
    yield
    outputs.OUTPUTS.clear()
    outputs.OUTPUTS.update(others)


@pytest.fixture
def load() -> registry.Script[[int], Order]:
    @script
    def load(order_id: int) -> Order:
        return Order(order_id=order_id)

    return load


@pytest.fixture
def add() -> registry.Script[[Order, int], Total]:
    @script(pool="coding", retries=2)
    def add(order: Order, extra: int = 0) -> Total:
        return Total(cents=order.order_id + extra)

    return add


@pytest.fixture
def triage_file(tmp_path: Path) -> Path:
    file = tmp_path / "refunds.md"
    file.write_text(TRIAGE)
    return file


def after(plan: graph.Plan) -> dict[str, tuple[str, ...]]:
    return {step.key: step.after for step in plan.steps}


# --- shape ------------------------------------------------------------------------------------------------------------


def test_steps_are_called_after_their_script_and_counted(load: registry.Script[[int], Order]) -> None:
    plan = Plan(load.step(1) >> load.step(2) >> load.step(3).set(key="last"))

    assert after(plan) == {"load": (), "load-2": ("load",), "last": ("load-2",)}


def test_a_counted_key_never_meets_one_that_was_given(load: registry.Script[[int], Order]) -> None:
    plan = Plan(load.step(1).set(key="load-2") >> load.step(2) >> load.step(3))

    assert list(after(plan)) == ["load-2", "load", "load-3"]


def test_lists_fan_out_and_in(load: registry.Script[[int], Order]) -> None:
    a, b, c, d = (load.step(number).set(key=key) for number, key in enumerate("abcd"))

    plan = Plan(a >> [b, c] >> d)

    assert after(plan) == {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    first, second = load.step(1).set(key="x"), load.step(2).set(key="y")
    assert after(Plan([first, second] >> gate("Both?"))) == {"x": (), "y": (), "gate": ("x", "y")}


def test_a_line_in_a_line_is_joined_at_its_start(load: registry.Script[[int], Order]) -> None:
    a, b, c = (load.step(number).set(key=key) for number, key in enumerate("abc"))

    assert after(Plan(a >> (b >> c))) == {"a": (), "b": ("a",), "c": ("b",)}


def test_same_program_gives_the_same_plan(load: registry.Script[[int], Order]) -> None:
    def write() -> graph.Plan:
        return Plan([load.step(1), load.step(2)] >> load.step(3) >> [gate("A?"), gate("B?")])

    assert write() == write()


def test_a_line_of_a_thousand_steps_is_written_without_recursion(load: registry.Script[[int], Order]) -> None:
    end = load.step(0)
    for number in range(1, 1_000):
        following = load.step(number)
        end >> following
        end = following

    assert len(Plan(end).steps) == 1_000


def test_what_a_program_writes_is_a_plan_like_any_other(load: registry.Script[[int], Order]) -> None:
    plan = Plan(load.step(1) >> gate("Go on?"))

    request = RunRequest(run_id=new_run_id(), goal="", plan=plan, budget_microusd=1)
    assert RunRequest.model_validate_json(request.model_dump_json()).plan == graph.Plan(steps=plan.steps)
    assert isinstance(plan, graph.Plan)
    assert Plan.of(plan.steps) == plan


def test_a_cycle_is_refused(load: registry.Script[[int], Order]) -> None:
    a, b = load.step(1).set(key="a"), load.step(2).set(key="b")

    with pytest.raises(InvalidPlan, match=r"wait for each other: .*unroll"):
        Plan(a >> b >> a)


def test_a_key_given_twice_is_refused(load: registry.Script[[int], Order]) -> None:
    with pytest.raises(InvalidPlan, match="'a' is used 2 times"):
        Plan(load.step(1).set(key="a") >> load.step(2).set(key="a"))


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="no steps"):
        Plan()


def test_a_script_that_was_not_made_a_step_is_refused_with_the_remedy(load: registry.Script[[int], Order]) -> None:
    with pytest.raises(TypeError, match=r"write it as `….step"):
        Plan(load)  # type: ignore[arg-type]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_are_checked_when_the_step_is_written(load: registry.Script[[int], Order]) -> None:
    with pytest.raises(InvalidPlan, match=r"'order_id' of script 'load'.*valid integer"):
        load.step(order_id="seven")
    with pytest.raises(InvalidPlan, match=r"takes \(order_id: int\).*'order'"):
        load.step(order=7)


def test_a_step_given_as_an_argument_stands_for_its_result(
    load: registry.Script[[int], Order], add: registry.Script[[Order, int], Total]
) -> None:
    first, second = load.step(1), load.step(2)

    total = Plan(add.step(second, extra=3), first).by_key["add"]

    assert total.arguments == {"order": {"$result_of": "load"}, "extra": 3}
    assert total.after == ("load",)
    assert (total.pool, total.retries) == ("coding", 2)


def test_steps_in_a_list_stand_for_their_results(load: registry.Script[[int], Order]) -> None:
    @script
    def count(orders: list[Order]) -> int:
        return len(orders)

    step = Plan(count.step(orders=[load.step(1), load.step(2)])).by_key["count"]

    assert step.arguments == {"orders": [{"$result_of": "load"}, {"$result_of": "load-2"}]}
    assert step.after == ("load", "load-2")


def test_a_missing_argument_is_filled_by_the_step_of_that_name(load: registry.Script[[int], Order]) -> None:
    @script
    def compare(old: Order, new: Order) -> bool:
        return old == new

    plan = Plan([load.step(1).set(key="new"), load.step(2).set(key="old")] >> compare.step())

    assert plan.by_key["compare"].arguments == {"old": {"$result_of": "old"}, "new": {"$result_of": "new"}}


def test_a_missing_argument_is_filled_by_the_only_step_that_gives_its_model(
    load: registry.Script[[int], Order], add: registry.Script[[Order, int], Total]
) -> None:
    plan = Plan(load.step(1) >> gate("Sure?") >> add.step())

    assert plan.by_key["add"].arguments == {"order": {"$result_of": "load"}}
    assert plan.by_key["add"].after == ("gate",)


def test_a_step_that_is_nearer_fills_the_argument(
    load: registry.Script[[int], Order], add: registry.Script[[Order, int], Total]
) -> None:
    plan = Plan(load.step(1) >> load.step(2) >> add.step())

    assert plan.by_key["add"].arguments == {"order": {"$result_of": "load-2"}}


def test_two_steps_that_could_fill_an_argument_are_refused(
    load: registry.Script[[int], Order], add: registry.Script[[Order, int], Total]
) -> None:
    with pytest.raises(InvalidPlan, match=r"'order' of step 'add' could be the result of 'load' or 'load-2'; pass"):
        Plan([load.step(1), load.step(2)] >> add.step())


def test_an_argument_that_nothing_gives_is_refused(add: registry.Script[[Order, int], Total]) -> None:
    with pytest.raises(InvalidPlan, match=r"'order' of step 'add' has no value; pass one"):
        Plan(add.step())


def test_a_literal_that_looks_like_a_reference_is_refused() -> None:
    @script
    def keep(values: dict[str, str]) -> None:
        del values

    with pytest.raises(InvalidPlan, match="pass the step itself"):
        Plan(keep.step(values={"$result_of": "load"}))


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_a_script_stays_a_function(load: registry.Script[[int], Order]) -> None:
    assert load(7) == Order(order_id=7)


def test_what_is_injected_is_not_an_argument(load: registry.Script[[int], Order]) -> None:
    @script
    def pay(context: ScriptContext, order: Order, *, idempotency_key: str) -> None:
        del context, order, idempotency_key

    plan = Plan(load.step(7) >> pay.step())

    assert plan.by_key["pay"].arguments == {"order": {"$result_of": "load"}}
    with pytest.raises(InvalidPlan, match="idempotency_key"):
        pay.step(idempotency_key="mine")


def test_a_second_script_of_a_name_is_refused_and_the_same_one_is_not() -> None:
    def sweep() -> None: ...

    first = sweep

    def other() -> None: ...

    script(name="shop.sweep")(first)
    script(name="shop.sweep")(first)
    with pytest.raises(TypeError, match=r"two definitions of script 'shop.sweep'.*name yours"):
        script(name="shop.sweep")(other)


def test_functions_that_cannot_be_a_step_are_refused() -> None:
    async def slow() -> None: ...

    def untyped(order) -> None: ...  # type: ignore[no-untyped-def]

    def many(*orders: int) -> None: ...

    for function, problem in ((slow, "asynchronous"), (untyped, "has no type"), (many, "no name to call it by")):
        with pytest.raises(TypeError, match=problem):
            script(function)


def test_arguments_of_a_plan_that_do_not_fit_name_where_they_come_from(
    add: registry.Script[[Order, int], Total],
) -> None:
    def filled(arguments: dict[str, object]) -> object:
        return add.parameters.filled(arguments, context=None, idempotency_key="", results={"load": None}.get)  # type: ignore[arg-type]

    assert filled({"order": {"order_id": 1}}) == {"order": Order(order_id=1)}
    for arguments, problem in (
        ({"order": {"$result_of": "load"}}, r"'order' of script 'add' from the result of 'load'"),
        ({"order": {"order_id": 1}, "color": 1}, r"no parameter 'color'; it has: order, extra"),
        ({}, r"got no 'order'"),
    ):
        with pytest.raises(Exception, match=problem):
            filled(arguments)  # type: ignore[arg-type]


# --- roles and gates --------------------------------------------------------------------------------------------------


def test_output_and_tools_take_the_place_of_the_front_matter(triage_file: Path) -> None:
    triage = role(triage_file, output=Ruling, tools=["recall", "open_ticket"])

    travelled = parse_role(triage.text, origin="the submission")
    assert (travelled.output, travelled.tools) == ("ruling", ("open_ticket", "recall"))
    assert travelled.instructions == "Look at the order. Decide."
    assert travelled.blob_hash == triage.blob_hash
    assert dict(outputs.OUTPUTS) == {"ruling": Ruling}


def test_a_role_is_left_as_it_is_written(triage_file: Path) -> None:
    assert role(triage_file).text == TRIAGE


def test_a_relative_path_is_looked_up_beside_the_program(tmp_path: Path, triage_file: Path) -> None:
    program = f"from chargehand import role\ntriage = role({triage_file.name!r})\n"
    names: dict[str, object] = {"__file__": str(tmp_path / "program.py")}

    exec(compile(program, "program.py", "exec"), names)

    assert getattr(names["triage"], "name") == "refunds"  # noqa: B009
    with pytest.raises(InvalidRole, match=r"absent\.md is no file"):
        role("absent.md")


def test_an_agents_inputs_are_edges_and_its_result_fills_arguments(
    load: registry.Script[[int], Order], triage_file: Path
) -> None:
    triage = role(triage_file, output=Ruling)

    @script
    def pay(ruling: Ruling | None = None) -> None:
        del ruling

    plan = Plan(triage.step("Safe?", inputs=[load.step(7)], max_turns=3, currency="EUR") >> pay.step())

    agent = plan.by_key["refunds"]
    assert (agent.kind, agent.role, agent.pool, agent.after, agent.max_turns) == (
        "agent",
        "refunds",
        "audit",
        ("load",),
        3,
    )
    assert agent.arguments == {"currency": "EUR"}
    assert plan.by_key["pay"].arguments == {"ruling": {"$result_of": "refunds"}}
    assert [one.name for one in plan.roles] == ["refunds"]
    with pytest.raises(InvalidPlan, match=r"shown results with `inputs"):
        triage.step("Safe?", order=load.step(7))


def test_a_pool_that_nobody_serves_is_refused(triage_file: Path) -> None:
    triage_file.write_text(TRIAGE.replace("pool: audit", "pool: billing"))

    with pytest.raises(InvalidRole, match="pool 'billing' is none of research"):
        role(triage_file)


def test_outputs_of_one_name_are_refused() -> None:
    def make(name: str) -> type[BaseModel]:
        return type(name, (BaseModel,), {"__qualname__": f"{name}.{id(object())}", "__module__": __name__})

    assert outputs.register_output(Ruling) == outputs.register_output(Ruling) == "ruling"
    with pytest.raises(TypeError, match=r"two definitions of output 'ruling'.*rename"):
        outputs.register_output(make("Ruling"))
    assert outputs.register_output(make("HTTPRefundVerdict2")) == "http_refund_verdict2"
    with pytest.raises(TypeError, match="rename the class"):
        outputs.register_output(make("SubmitPlan"))


def test_a_gate_keeps_its_question_and_answers() -> None:
    asked = Plan(gate("Refund?", options=("yes", "no"))).by_key["gate"]

    assert (asked.kind, asked.instruction, asked.options) == ("gate", "Refund?", ("yes", "no"))
    with pytest.raises(InvalidPlan, match="no question"):
        gate(" ")

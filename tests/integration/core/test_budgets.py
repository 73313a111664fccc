"""The tree of budgets: tenant, run, step and the colleagues it asks; caps of calls and tokens; what ends a run."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import counting, runs, views
from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.counting import Counted
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, InvalidPlan
from chargehand.orchestrator.facts import ModelFailed, ModelRequested, ModelResponded, StepFinished, StepWaiting, Usage
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.orchestrator.prices import cost_microusd
from chargehand.orchestrator.retracing import retrace
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.steps import HeldStep, new_wait_id
from chargehand.orchestrator.tenant_caps import caps_of, set_caps
from chargehand.orchestrator.tenant_counts import CountCaps, TenantCounts, set_count_caps
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.executor import execute
from chargehand.workers.models.interface import ModelAnswer, ModelCall, Quote
from chargehand.workers.tools.registry import Tool, make_tool
from tests.integration.core.agents import ANSWER, FunctionModel, agent, deliver, shop, start, use
from tests.integration.core.test_turns import requested, responded, script, take_turn

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

DOLLAR = 1_000_000
OF_RUN, OF_TENANT = Counted(of_run=True), Counted(of_tenant=True)


def cap(house: "House", **caps: int | None) -> None:
    with Session(house.supervisor) as session, session.begin():
        set_caps(session, house.tenant, **{"cap_microusd": None, "day_cap_microusd": None, **caps})


def lent(house: "House") -> tuple[int, int]:
    with house.as_tenant() as session:
        caps = caps_of(session, house.tenant)
    return caps.drawn_microusd, caps.day_drawn_microusd


@pytest.fixture
def own_tenant(house: "House") -> Any:
    """A tenant that no other test has spent for."""
    before, house.tenant = house.tenant, uuid4()
    yield house.tenant
    house.tenant = before


def recorder(house: "House", run_id: UUID, key: str, **more: Any) -> tuple[HeldStep, StepRecorder]:
    held = house.claim(run_id, key)
    return held, StepRecorder(house.connections, held, lease_seconds=60, **more)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_eight_parallel_large_calls_under_a_dollar_all_finish(house: "House") -> None:
    # Each may cost .3 $ and costs .1: three fit at once, all eight by what they cost.
    keys = [f"call-{number}" for number in range(8)]
    run_id = house.start(*map(script, keys), budget_microusd=DOLLAR)
    waits: Counter[str] = Counter()
    begun = threading.Barrier(8)

    def ask(key: str) -> str:
        held, mine = recorder(house, run_id, key)
        begun.wait(10)
        while True:
            asked = requested(300_000)
            try:
                mine.request([], asked)
                break
            except BudgetBusy:
                waits[key] += 1
                threading.Event().wait(0.01)
        threading.Event().wait(0.02)
        mine.respond(responded(asked.call_id, 100_000))
        held.finish(StepFinished(outcome="succeeded"))
        return "done"

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(ask, keys))

    assert done == ["done"] * 8
    assert sum(waits.values()) > 0
    assert house.budget(run_id).drawn_microusd == 800_000


def test_one_agent_does_not_hold_a_small_budget_alone(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=1_000)
    _, first = recorder(house, run_id, "a")
    _, second = recorder(house, run_id, "b")

    take_turn(first, need=100, cost=1)
    take_turn(second, need=100, cost=1)

    assert house.row(run_id, "a").allotment_microusd == 125


def test_a_run_that_spent_its_budget_fails_and_keeps_what_its_steps_gave(house: "House") -> None:
    def reply(call: Any, turn: int) -> list[Any]:
        return [use("submit_answer", turn, **ANSWER)]

    run_id = start(house, agent("a"), agent("b", after=("a",)), tools={}, budget_microusd=1)
    worker = shop(house, reply, {})
    deliver_all(house, worker, run_id)

    row = house.run_row(run_id)
    assert (row.status, row.reason.startswith("budget: step 'b' failed:")) == ("failed", True), row.reason
    assert house.statuses(run_id) == {"a": "succeeded", "b": "failed"}
    assert house.drift(run_id) == []
    with house.as_tenant() as session:
        assert list(views.partial_of(session, run_id)) == ["a"]


@pytest.mark.parametrize("join", ["all", "settled"])
def test_what_a_run_over_its_budget_gave_and_lacks_is_printed_however_far_it_came(
    house: "House", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], join: Any
) -> None:
    def reply(call: Any, turn: int) -> list[Any]:
        return [use("submit_answer", turn, **ANSWER)]

    last = script("c", "b").model_copy(update={"join": join})
    run_id = start(house, agent("a"), agent("b", after=("a",)), last, tools={}, budget_microusd=1)
    for key in ("a", "b"):
        deliver(house, shop(house, reply, {}), run_id, key)
        house.advance(run_id)
        house.admit()
    if join == "settled":
        house.run(run_id, "c", "written all the same")
        house.advance(run_id)
    for name in list(os.environ):
        if name.startswith("CHARGEHAND_"):
            monkeypatch.delenv(name)
    given = {"DATABASE_URL": house.database_url, "TENANT": str(house.tenant), "HOME": str(house.settings.home)}
    for name, value in {**given, "REDIS_URL": "redis://127.0.0.1:1/0"}.items():
        monkeypatch.setenv(f"CHARGEHAND_{name}", value)
    load_settings.cache_clear()

    code = invoke(["result", str(run_id)])
    load_settings.cache_clear()
    said = capsys.readouterr().out

    assert house.run_row(run_id).status == "failed"
    assert house.run_row(run_id).reason.startswith("budget: step 'b' failed:")
    assert code != 0
    assert "The run failed: budget: step 'b' failed" in said
    assert "b: budget: A call of at most 1 micro-dollars does not fit" in said
    assert "has  a  " in said
    # The partial report.
    assert ("written all the same" in said) == (join == "settled")
    with house.as_tenant() as session:
        assert retrace(run_id, journal.read(session, run_id)).found == []


def test_a_run_whose_step_has_used_up_its_own_cap_goes_on_without_it(house: "House") -> None:
    def reply(call: Any, turn: int) -> list[Any]:
        return [use("no_such_tool", turn)]

    poor = agent("a", budget_microusd=1)
    last = script("c", "a").model_copy(update={"join": "settled"})
    run_id = start(house, poor, last, tools={}, budget_microusd=1_000)
    deliver(house, shop(house, reply, {}), run_id, "a")
    house.advance(run_id)
    house.admit()
    house.run(run_id, "c", "without it")
    house.advance(run_id)

    assert house.statuses(run_id) == {"a": "failed", "c": "succeeded"}
    assert house.run_row(run_id).status == "succeeded"
    assert house.drift(run_id) == []


def test_a_run_that_was_told_to_ask_waits_for_a_person_and_goes_on_with_more(house: "House") -> None:
    def reply(call: Any, turn: int) -> list[Any]:
        return [use("submit_answer", turn, **ANSWER)]

    run_id = start(house, agent("a"), agent("b", after=("a",)), tools={}, budget_microusd=1, on_budget="ask")
    worker = shop(house, reply, {})
    deliver_all(house, worker, run_id)
    assert house.statuses(run_id)["b"] == "waiting"

    with house.as_tenant() as session:
        runs.raise_budget(session, house.tenant, run_id, to_microusd=5)
    house.watch()
    deliver_all(house, worker, run_id)

    assert house.run_row(run_id).status == "succeeded"


def deliver_all(house: "House", worker: Any, run_id: UUID) -> None:
    for _ in range(4):
        house.advance(run_id)
        house.admit()
        for key, status in house.statuses(run_id).items():
            if status == "queued":
                execute(worker, tenant=house.tenant, step_id=step_id(run_id, key))
    house.advance(run_id)


# --- a step and the colleagues it asks --------------------------------------------------------------------------------


def test_only_agents_have_budgets_of_their_own() -> None:
    with pytest.raises(InvalidPlan, match="give it to its agents"):
        Plan.of([Step(key="a", kind="script", script="work", budget_microusd=5)])


def test_a_step_with_a_budget_of_its_own_spends_no_more_than_that(house: "House") -> None:
    run_id = start(house, agent("a", budget_microusd=100), agent("b"), tools={}, budget_microusd=DOLLAR)
    _, capped = recorder(house, run_id, "a")
    _, free = recorder(house, run_id, "b")

    take_turn(capped, need=60, cost=60)
    with pytest.raises(BudgetExceeded, match="give that step more"):
        capped.request([], requested(60))
    take_turn(capped, need=40, cost=40)
    take_turn(free, need=500, cost=500)

    assert house.row(run_id, "a").spent_microusd == 100


def test_what_a_colleague_spends_counts_for_the_step_that_asked_it_and_for_those_above(house: "House") -> None:
    run_id = start(house, agent("top", budget_microusd=100), tools={}, budget_microusd=DOLLAR)
    held, top = recorder(house, run_id, "top")
    take_turn(top, need=30, cost=30)
    held.wait(StepWaiting(wait_id=new_wait_id(), reason="children", question=""))
    grow(house, run_id, agent("child", parent="top"))
    child_held, child = recorder(house, run_id, "child")
    take_turn(child, need=30, cost=30)
    child_held.wait(StepWaiting(wait_id=new_wait_id(), reason="children", question=""))
    grow(house, run_id, agent("grandchild", parent="child"))

    _, grandchild = recorder(house, run_id, "grandchild")
    with pytest.raises(BudgetExceeded, match="40 are left"):
        grandchild.request([], requested(41))
    take_turn(grandchild, need=40, cost=40)

    assert house.drift(run_id) == []


def grow(house: "House", run_id: UUID, *added: Step) -> None:
    with house.as_tenant() as session:
        run = runs.lock(session, house.tenant, run_id)
        runs.patch(session, run, PlanPatch(add=added))
    house.advance(run_id)
    house.admit()


def turns_that_may_be_taken(mine: StepRecorder) -> int:
    """Takes five, or as many as are allowed; gives how many."""
    made = 0
    for _ in range(5):
        try:
            take_turn(mine, need=10, cost=1)
        except BudgetExceeded:
            return made
        made += 1
    return made


# --- calls and tokens -------------------------------------------------------------------------------------------------


def test_racing_agents_never_make_a_call_more_than_the_run_may(house: "House", threads: ThreadPoolExecutor) -> None:
    keys = [f"s{number}" for number in range(8)]
    run_id = house.start(*map(script, keys), budget_microusd=DOLLAR, max_calls=10)
    recorders = [recorder(house, run_id, key, counted=OF_RUN)[1] for key in keys]

    assert sum(threads.map(turns_that_may_be_taken, recorders)) == 10
    assert house.budget(run_id).calls == 10


def test_tokens_are_counted_as_they_were_and_refused_calls_take_none(house: "House") -> None:
    run_id = house.start(script("a"), budget_microusd=1_000, max_tokens=100)
    _, mine = recorder(house, run_id, "a", counted=OF_RUN)

    first = requested(10).model_copy(update={"max_tokens": 50})
    mine.request([], first)
    usage = Usage(input_tokens=20, cache_read_tokens=15, output_tokens=5)
    mine.respond(ModelResponded(**{**responded(first.call_id, 1).model_dump(), "usage": usage}))
    assert (house.budget(run_id).calls, house.budget(run_id).tokens) == (1, 40)

    refused = requested(10).model_copy(update={"max_tokens": 50})
    mine.request([], refused)
    mine.respond(ModelFailed(call_id=refused.call_id, error="429", retryable=True, cost_microusd=0))
    with pytest.raises(BudgetExceeded):
        mine.request([], requested(5_000).model_copy(update={"max_tokens": 1}))
    assert (house.budget(run_id).calls, house.budget(run_id).tokens) == (2, 40)

    with pytest.raises(BudgetExceeded, match="40 of 100 are used"):
        mine.request([], requested(10).model_copy(update={"max_tokens": 61}))


def test_a_call_that_only_the_bounds_of_others_calls_leave_no_tokens_for_waits(house: "House") -> None:
    run_id = house.start(script("a"), script("b"), budget_microusd=1_000, max_tokens=100)
    house.execute("UPDATE steps SET spec = jsonb_set(spec, '{kind}', '\"agent\"') WHERE run = :run", {"run": run_id})
    (_, one), (_, other) = (recorder(house, run_id, key, counted=OF_RUN) for key in "ab")
    large = requested(10).model_copy(update={"max_tokens": 60})
    one.request([], large)

    with pytest.raises(BudgetBusy, match="others wait for"):
        other.request([], requested(10).model_copy(update={"max_tokens": 60}))

    one.respond(responded(large.call_id, 1))
    take_turn(other, need=10, cost=1)


def count_at_most(house: "House", **caps: int) -> None:
    with Session(house.supervisor) as session, session.begin():
        set_count_caps(session, house.tenant, CountCaps(**caps))


def counts(house: "House") -> TenantCounts:
    with house.as_tenant() as session:
        return caps_of(session, house.tenant).counts


@pytest.mark.parametrize("which", ["max_calls", "day_max_calls"])
def test_racing_runs_of_a_tenant_never_make_a_call_more_than_it_may(
    house: "House", own_tenant: UUID, threads: ThreadPoolExecutor, which: str
) -> None:
    count_at_most(house, **{which: 10})
    run_ids = [house.start(script("a"), script("b"), budget_microusd=DOLLAR) for _ in range(4)]
    recorders = [recorder(house, run_id, key, counted=OF_TENANT)[1] for run_id in run_ids for key in "ab"]

    assert sum(threads.map(turns_that_may_be_taken, recorders)) == 10
    assert (counts(house).calls, counts(house).day_calls) == (10, 10)


def test_tokens_of_a_tenant_are_counted_as_they_were_in_all_and_today(house: "House", own_tenant: UUID) -> None:
    count_at_most(house, day_max_tokens=100)
    run_id = house.start(script("a"), budget_microusd=1_000)
    _, mine = recorder(house, run_id, "a", counted=OF_TENANT)

    first = requested(10).model_copy(update={"max_tokens": 50})
    mine.request([], first)
    assert (counts(house).tokens, counts(house).day_tokens) == (50, 50)
    usage = Usage(input_tokens=20, cache_read_tokens=15, output_tokens=5)
    mine.respond(ModelResponded(**{**responded(first.call_id, 1).model_dump(), "usage": usage}))
    assert (counts(house).tokens, counts(house).day_tokens) == (40, 40)

    with pytest.raises(BudgetExceeded, match=r"40 of 100 are used.*--day-tokens"):
        mine.request([], requested(10).model_copy(update={"max_tokens": 61}))
    # A refused reservation is not counted, either.
    with pytest.raises(BudgetExceeded):
        mine.request([], requested(5_000).model_copy(update={"max_tokens": 1}))
    assert (counts(house).calls, counts(house).tokens) == (1, 40)


def test_a_new_day_of_a_tenant_begins_with_no_calls(house: "House", own_tenant: UUID) -> None:
    count_at_most(house, day_max_calls=1, max_calls=2)
    run_id = house.start(script("a"), budget_microusd=1_000)
    _, mine = recorder(house, run_id, "a", counted=OF_TENANT)
    take_turn(mine, need=10, cost=1)
    with pytest.raises(BudgetExceeded, match=r"day.*--day-calls"):
        take_turn(mine, need=10, cost=1)

    house.execute("UPDATE tenant_usage SET day = day - 1 WHERE tenant = :tenant", {"tenant": house.tenant})
    take_turn(mine, need=10, cost=1)
    assert (counts(house).calls, counts(house).day_calls) == (2, 1)

    house.execute("UPDATE tenant_usage SET day = day - 1 WHERE tenant = :tenant", {"tenant": house.tenant})
    with pytest.raises(BudgetExceeded, match="--total-calls"):
        take_turn(mine, need=10, cost=1)


def test_a_call_that_its_tenant_refuses_is_not_counted_of_its_run(house: "House", own_tenant: UUID) -> None:
    count_at_most(house, max_calls=1)
    run_id = house.start(script("a"), budget_microusd=1_000, max_calls=5)
    _, mine = recorder(house, run_id, "a", counted=Counted(of_run=True, of_tenant=True))
    take_turn(mine, need=10, cost=1)
    with pytest.raises(BudgetExceeded, match="tenant"):
        take_turn(mine, need=10, cost=1)
    assert house.budget(run_id).calls == 1


def test_caps_that_are_changed_keep_what_was_counted(house: "House", own_tenant: UUID) -> None:
    count_at_most(house, max_calls=1)
    run_id = house.start(script("a"), budget_microusd=1_000)
    _, mine = recorder(house, run_id, "a", counted=OF_TENANT)
    take_turn(mine, need=10, cost=1)
    count_at_most(house, max_calls=2, day_max_tokens=10**9)
    assert (counts(house).max_calls, counts(house).calls) == (2, 1)
    take_turn(mine, need=10, cost=1)


def test_an_agent_of_a_tenant_that_may_not_call_any_more_is_out_of_budget(house: "House", own_tenant: UUID) -> None:
    count_at_most(house, day_max_calls=1)
    run_id = start(house, agent("a"), agent("b", after=("a",)), tools={}, budget_microusd=DOLLAR)
    deliver_all(house, shop(house, lambda call, turn: [use("submit_answer", turn, **ANSWER)], {}), run_id)
    assert house.statuses(run_id) == {"a": "succeeded", "b": "failed"}
    assert house.run_row(run_id).status == "failed"
    assert counts(house).calls == 1


# --- a tenant and its day ---------------------------------------------------------------------------------------------


def test_runs_of_a_tenant_together_spend_no_more_than_its_cap(house: "House", own_tenant: UUID) -> None:
    cap(house, cap_microusd=1_000)
    first = house.start(script("a"), budget_microusd=800)
    second = house.start(script("a"), budget_microusd=800)
    (held, mine), (_, others) = recorder(house, first, "a"), recorder(house, second, "a")

    take_turn(mine, need=600, cost=600)
    with pytest.raises(BudgetExceeded, match=r"600 of 1000 are spent of the tenant's cap"):
        others.request([], requested(500))
    take_turn(others, need=400, cost=100)

    held.finish(StepFinished(outcome="succeeded"))
    house.advance(first)
    assert lent(house)[0] <= 1_000


def test_what_a_run_did_not_spend_goes_back_to_its_tenant_when_it_ends(house: "House", own_tenant: UUID) -> None:
    cap(house, cap_microusd=10_000, day_cap_microusd=10_000)
    run_id = house.start(script("a"), budget_microusd=5_000)
    held, mine = recorder(house, run_id, "a")
    take_turn(mine, need=10, cost=7)
    borrowed = lent(house)

    held.finish(StepFinished(outcome="succeeded"))
    house.advance(run_id)

    assert borrowed == (640, 640)
    assert lent(house) == (7, 7)
    assert house.drift(run_id) == []


def test_what_another_run_holds_and_nobody_draws_is_taken_back_before_anybody_waits(
    house: "House", own_tenant: UUID
) -> None:
    cap(house, day_cap_microusd=1_000)
    first = house.start(script("a"), budget_microusd=DOLLAR)
    second = house.start(script("a"), budget_microusd=DOLLAR)
    (held, mine), (_, others) = recorder(house, first, "a"), recorder(house, second, "a")
    take_turn(mine, need=10, cost=10)
    # It waits for a person, who may take days: its step has returned what it drew, its run holds it.
    held.wait(StepWaiting(wait_id=new_wait_id(), reason="human", question="?"))
    assert lent(house)[1] == 640

    take_turn(others, need=900, cost=900)

    assert house.budget(first).allotted_microusd == 10
    assert house.row(second, "a").spent_microusd == 900
    assert max(lent(house)) <= 1_000


def test_money_that_others_hold_is_waited_for_and_not_taken_for_spent(house: "House", own_tenant: UUID) -> None:
    cap(house, day_cap_microusd=100)
    first = house.start(script("a"), budget_microusd=DOLLAR)
    second = house.start(script("a"), budget_microusd=DOLLAR)
    (held, mine), (_, others) = recorder(house, first, "a"), recorder(house, second, "a")
    mine.request([], (asked := requested(90)))

    with pytest.raises(BudgetBusy):
        others.request([], requested(50))
    mine.respond(responded(asked.call_id, 10))
    held.finish(StepFinished(outcome="succeeded"))
    house.advance(first)

    take_turn(others, need=50, cost=50)


def test_a_cap_of_a_day_begins_anew_with_the_next(house: "House", own_tenant: UUID) -> None:
    cap(house, day_cap_microusd=100)
    run_id = house.start(script("a"), budget_microusd=DOLLAR)
    _, mine = recorder(house, run_id, "a")
    take_turn(mine, need=100, cost=100)
    with pytest.raises(BudgetExceeded, match="cap of a day"):
        mine.request([], requested(10))

    house.execute("UPDATE tenant_budgets SET day = day - 1 WHERE tenant = :tenant", {"tenant": house.tenant})

    take_turn(mine, need=10, cost=10)
    assert lent(house)[0] == 200


def test_what_was_borrowed_yesterday_does_not_go_back_to_today(house: "House", own_tenant: UUID) -> None:
    cap(house, day_cap_microusd=100)
    first, second = (house.start(script("a"), budget_microusd=DOLLAR) for _ in range(2))
    held, mine = recorder(house, first, "a")
    take_turn(mine, need=10, cost=1)
    for table, column in (("tenant_budgets", "day"), ("budgets", "allotted_day")):
        house.execute(f"UPDATE {table} SET {column} = {column} - 1 WHERE tenant = :tenant", {"tenant": house.tenant})
    take_turn(mine, need=100, cost=10)
    assert lent(house) == (200, 100)

    held.finish(StepFinished(outcome="succeeded"))
    house.advance(first)

    assert lent(house) == (11, 0)
    _, others = recorder(house, second, "a")
    with pytest.raises(BudgetExceeded, match="cap of a day"):
        others.request([], requested(101))
    take_turn(others, need=100, cost=100)
    assert house.drift(first) == []


def test_what_is_taken_back_from_a_run_that_goes_on_was_borrowed_today(house: "House", own_tenant: UUID) -> None:
    cap(house, day_cap_microusd=100)
    first, second = (house.start(script("a"), budget_microusd=DOLLAR) for _ in range(2))
    held, mine = recorder(house, first, "a")
    take_turn(mine, need=10, cost=1)
    for table, column in (("tenant_budgets", "day"), ("budgets", "allotted_day")):
        house.execute(f"UPDATE {table} SET {column} = {column} - 1 WHERE tenant = :tenant", {"tenant": house.tenant})
    take_turn(mine, need=100, cost=10)
    held.wait(StepWaiting(wait_id=new_wait_id(), reason="human", question="?"))

    _, others = recorder(house, second, "a")
    with pytest.raises(BudgetExceeded, match="cap of a day"):
        others.request([], requested(101))
    take_turn(others, need=100, cost=100)
    assert lent(house)[1] == 100


def test_runs_under_way_are_held_by_a_cap_that_is_set_while_they_spend(house: "House", own_tenant: UUID) -> None:
    run_id = house.start(script("a"), budget_microusd=DOLLAR)
    _, mine = recorder(house, run_id, "a")
    take_turn(mine, need=10, cost=10)

    cap(house, cap_microusd=200)

    assert lent(house)[0] == house.budget(run_id).drawn_microusd == 160
    with pytest.raises(BudgetExceeded):
        mine.request([], requested(500))


def test_a_tenants_own_processes_cannot_raise_its_caps(house: "House", own_tenant: UUID) -> None:
    cap(house, cap_microusd=1)
    with pytest.raises(Exception, match="permission denied"), house.as_tenant() as session:
        session.connection().exec_driver_sql("UPDATE tenant_budgets SET cap_microusd = 1000000")


def test_racing_agents_of_several_runs_never_overspend_their_tenant(house: "House", own_tenant: UUID) -> None:
    agents = 16
    cap(house, cap_microusd=5_000, day_cap_microusd=3_000)
    keys = [f"s{number}" for number in range(agents // 4)]
    run_ids = [house.start(*map(script, keys), budget_microusd=2_000) for _ in range(4)]

    def race(one: tuple[UUID, str]) -> None:
        held, mine = recorder(house, *one)
        for number in range(20):
            try:
                take_turn(mine, need=50, cost=50 if number % 2 else 0)
            except (BudgetBusy, BudgetExceeded):
                break
        held.finish(StepFinished(outcome="succeeded"))

    with ThreadPoolExecutor(agents) as pool:
        list(pool.map(race, [(run_id, key) for run_id in run_ids for key in keys]))
    for run_id in run_ids:
        house.advance(run_id)

    spent = house.execute("SELECT sum(spent_microusd) FROM steps WHERE tenant = :tenant", {"tenant": house.tenant})[0][
        0
    ]
    assert 2_000 < spent <= 3_000
    assert lent(house) == (spent, spent)
    assert [house.drift(run_id) for run_id in run_ids] == [[]] * 4


# --- far above plan ---------------------------------------------------------------------------------------------------


class Priced(FunctionModel):
    """Costs what Claude's medium model does for some thousand tokens."""

    def call(self, call: ModelCall) -> ModelAnswer:
        usage = Usage(input_tokens=4_000, output_tokens=400)
        return replace(super().call(call), usage=usage, cost_microusd=cost_microusd("claude-sonnet-5-5", usage))

    def quote(self, call: ModelCall) -> Quote:
        return replace(super().quote(call), reserved_microusd=20_000)


def test_a_step_far_above_what_its_peers_needed_is_put_before_a_person_at_a_models_prices(house: "House") -> None:
    def reply(call: ModelCall, turn: int) -> list[Any]:
        is_slow = "Do slow." in str(call.messages[0])
        # What it looks for differs each time, so that nothing else trips before.
        return (
            [use("look", turn, line=f"line {turn} of {turn * 7}")]
            if is_slow
            else [use("submit_answer", turn, **ANSWER)]
        )

    looking = make_look()
    keys = ("a", "b", "c", "slow")
    run_id = start(house, *map(agent, keys), tools={"look": looking}, budget_microusd=500_000)
    worker = replace(house.shop(), models=Priced(reply), tools={"look": looking})
    for key in keys:
        execute(worker, tenant=house.tenant, step_id=step_id(run_id, key))

    assert house.row(run_id, "a").spent_microusd == 12_000
    assert house.kinds(run_id, "slow")[-2:] == ["breaker.tripped", "step.waiting"]
    # Eight times what the others needed, and not the fifteen turns that it had.
    assert house.row(run_id, "slow").spent_microusd == 9 * 12_000


def make_look() -> Tool:
    def look(line: str) -> str:
        """Look at a line."""
        return f"{line} holds {len(line) * 31}"

    return make_tool(look, effect="pure")


def test_a_call_that_was_refused_is_not_made_when_its_cap_is_raised_in_that_moment(
    house: "House", own_tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = house.start(script("a"), budget_microusd=DOLLAR, max_calls=10)
    count_at_most(house, max_calls=1)
    _, mine = recorder(house, run_id, "a", counted=Counted(of_run=True, of_tenant=True))
    take_turn(mine, need=10, cost=1)
    before = counts(house)
    refuse = counting._refuse_of_tenant

    def raised_meanwhile(standing: Any, asked: ModelRequested) -> None:
        refuse({**standing, "max_calls": 5}, asked)

    monkeypatch.setattr(counting, "_refuse_of_tenant", raised_meanwhile)
    with pytest.raises(BudgetBusy, match="gone by now"):
        take_turn(mine, need=10, cost=1)
    assert (counts(house), house.budget(run_id).calls) == (before, 1)

    count_at_most(house, max_calls=5)
    take_turn(mine, need=10, cost=1)
    assert (counts(house).calls, house.budget(run_id).calls) == (2, 2)

"""Two agents race into an `any` join: whoever loses is paid what it has cost until then, once, and no more."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.orchestrator import views
from chargehand.orchestrator.facts import Usage
from chargehand.orchestrator.supervisor.settling import settle_late_answers
from chargehand.workers.models.interface import Block, ModelAnswer, ModelCall, Quote
from chargehand.workers.shop import Shop
from chargehand.workers.tools.registry import Tool, make_tool
from tests.integration.core import agents
from tests.integration.core.agents import ANSWER, deliver, use

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

BOUND, COST = 1_000, 30
RACE = (
    agents.agent("quick"),
    agents.agent("slow"),
    agents.agent("join", after=("quick", "slow"), join="any"),
    agents.agent("end", after=("join",)),
)


class Killed(BaseException):
    """`kill -9`: nothing of the worker's own runs any more."""


class PricedModel:
    """Each call is reserved for at its upper bound and costs less; `calls`: who has asked, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.meanwhile: Callable[[str], None] = lambda key: None
        """Happens while a call of this step is in flight."""

    def quote(self, call: ModelCall) -> Quote:
        return Quote(model="fake", tier=call.tier, reserved_microusd=BOUND, max_tokens=100, routed_because="test")

    def call(self, call: ModelCall) -> ModelAnswer:
        asked = str(call.messages)
        key = next(step.key for step in RACE if f"Do {step.key}." in asked)
        self.calls.append(key)
        self.meanwhile(key)
        turn = sum(message["role"] == "assistant" for message in call.messages)
        looks = key == "slow" and turn == 0
        content: list[Block] = [use("look", 0) if looks else use("submit_answer", 1, **ANSWER)]
        return ModelAnswer(
            model="fake",
            content=tuple(content),
            stop_reason="tool_use",
            usage=Usage(),
            cost_microusd=COST,
            duration_ms=1,
        )


@pytest.fixture
def model() -> PricedModel:
    return PricedModel()


def look_at(act: Callable[[], None]) -> Tool:
    """A tool of the slow agent, during which something happens."""

    def look() -> str:
        """Look."""
        act()
        return "seen"

    return make_tool(look, effect="pure")


def start(
    house: "House", model: PricedModel, act: Callable[[], None] = lambda: None, **fields: Any
) -> tuple[Shop, UUID]:
    tools = {"look": look_at(act)}
    run_id = agents.start(house, *RACE, tools=tools, **fields)
    return replace(house.shop(), models=model, tools=tools), run_id


def go_on(house: "House", run_id: UUID) -> None:
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()


def wins(house: "House", shop: Shop, run_id: UUID) -> None:
    """The quick agent ends, and the join goes on with it."""
    deliver(house, shop, run_id, "quick")
    go_on(house, run_id)
    statuses = house.statuses(run_id)
    assert (statuses["quick"], statuses["slow"], statuses["join"]) == ("succeeded", "cancelled", "queued")


def account(house: "House", run_id: UUID) -> int:
    with house.as_tenant() as session:
        return views.account(session, run_id).cost_microusd


def money(house: "House", run_id: UUID, key: str) -> tuple[int, int]:
    """What the step has spent, and what it still has reserved."""
    row = house.row(run_id, key)
    return row.spent_microusd, row.reserved_microusd


def finish(house: "House", shop: Shop, run_id: UUID) -> None:
    for key in ("join", "end"):
        deliver(house, shop, run_id, key)
        go_on(house, run_id)


def check_end(house: "House", run_id: UUID, *, cost: int) -> None:
    """The run is over, nothing is reserved or lent any more, and table, journal and budget say the same."""
    assert house.run_row(run_id).status == "succeeded"
    assert all(money(house, run_id, step.key)[1] == 0 for step in RACE)
    assert account(house, run_id) == cost
    assert house.budget(run_id).drawn_microusd == cost
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_the_answer_in_flight_of_the_one_that_lost_is_paid_once_and_it_asks_no_more(
    house: "House", model: PricedModel
) -> None:
    shop, run_id = start(house, model)
    model.meanwhile = lambda key: wins(house, shop, run_id) if key == "slow" else None

    # Its answer comes when the join has gone on.
    deliver(house, shop, run_id, "slow")
    model.meanwhile = lambda key: None
    assert model.calls == ["slow", "quick"]
    # As long as nobody has looked, the bound of the call is kept back.
    assert money(house, run_id, "slow") == (0, BOUND)

    for _ in range(3):
        settle_late_answers(house.supervisor)
        deliver(house, shop, run_id, "slow")
    assert money(house, run_id, "slow") == (COST, 0)
    assert house.kinds(run_id).count("reservations.returned") == 1
    # Of its allotment nothing is left with it.
    assert house.row(run_id, "slow").allotment_microusd == COST

    finish(house, shop, run_id)
    assert model.calls == ["slow", "quick", "join", "end"]
    assert money(house, run_id, "slow") == (COST, 0)
    check_end(house, run_id, cost=4 * COST)


def test_whoever_lost_between_two_turns_makes_no_further_call_and_its_money_is_there_for_the_others(
    house: "House", model: PricedModel
) -> None:
    shop, run_id = start(house, model, lambda: wins(house, shop, run_id), budget_microusd=3 * BOUND)

    deliver(house, shop, run_id, "slow")

    assert model.calls == ["slow", "quick"]
    assert money(house, run_id, "slow") == (COST, 0)
    # What was lent to it for turns to come has gone back.
    assert house.budget(run_id).drawn_microusd == 2 * COST
    finish(house, shop, run_id)
    assert model.calls == ["slow", "quick", "join", "end"]
    check_end(house, run_id, cost=4 * COST)


def test_a_worker_that_died_with_the_lost_call_in_flight_leaves_it_charged_as_reserved_once(
    house: "House", model: PricedModel
) -> None:
    def die(key: str) -> None:
        if key == "slow":
            raise Killed

    shop, run_id = start(house, model)
    model.meanwhile = die
    with pytest.raises(Killed):
        deliver(house, shop, run_id, "slow")
    wins(house, shop, run_id)
    house.expire(run_id, "slow")

    for _ in range(3):
        house.recover()
        settle_late_answers(house.supervisor)
        house.admit()
        deliver(house, shop, run_id, "slow")
    assert model.calls == ["slow", "quick"]
    finish(house, shop, run_id)

    assert model.calls == ["slow", "quick", "join", "end"]
    # Nobody knows whether it was answered.
    assert money(house, run_id, "slow") == (BOUND, 0)
    assert house.kinds(run_id).count("reservations.charged") == 1
    check_end(house, run_id, cost=3 * COST + BOUND)


def test_whoever_had_not_begun_when_the_other_won_costs_nothing(house: "House", model: PricedModel) -> None:
    shop, run_id = start(house, model)
    wins(house, shop, run_id)

    deliver(house, shop, run_id, "slow")
    finish(house, shop, run_id)

    assert model.calls == ["quick", "join", "end"]
    assert money(house, run_id, "slow") == (0, 0)
    check_end(house, run_id, cost=3 * COST)

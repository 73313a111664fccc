"""Which model an agent gets: named for the run, moved down when money is short, and journalled with the reason."""

from dataclasses import replace
from typing import TYPE_CHECKING

from chargehand.orchestrator.facts import ModelRequested
from chargehand.workers.models.interface import Block, ModelCall, Quote
from chargehand.workers.models.router import Tiers, choose
from chargehand.workers.thrift import Thrift
from tests.integration.core.agents import ANSWER, FunctionModel, agent, deliver, start, use

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House

TIERS = Tiers(small="s", medium="m", large="l")


class RoutedModel(FunctionModel):
    """Answers at once, and is chosen by the router."""

    def quote(self, call: ModelCall) -> Quote:
        choice = choose(
            TIERS,
            call.tier,
            wished=call.model,
            by=call.routed_by,
            problems=call.problems,
            used_percent=call.used_percent,
        )
        return Quote(
            model=choice.model, tier=choice.tier, reserved_microusd=1, max_tokens=100, routed_because=choice.reason
        )


def finish(call: ModelCall, turn: int) -> list[Block]:
    """The answer."""
    return [use("submit_answer", turn, **ANSWER)]


def asked(house: "House", run_id: "UUID", key: str) -> ModelRequested:
    """The first request of the step, as it stands in the journal."""
    shop = replace(house.shop(), models=RoutedModel(finish), tools={}, thrift=Thrift(house.connections))
    deliver(house, shop, run_id, key)
    rows = house.execute(
        "SELECT body FROM journal WHERE run = :run AND kind = 'model.requested' AND step = :step ORDER BY seq",
        {"run": run_id, "step": house.row(run_id, key).id},
    )
    return ModelRequested.model_validate_json(rows[0].body)


def test_tier_of_the_run_takes_the_place_of_the_roles(house: "House") -> None:
    run_id = start(house, agent("a"), agent("b", tier="medium"), tools={}, tier="large")

    a, b = asked(house, run_id, "a"), asked(house, run_id, "b")

    assert (a.model, a.tier, a.routed_because) == ("l", "large", "large: named for the run")
    assert (b.model, b.routed_because) == ("m", "medium: named by the step")


def test_model_of_the_run_is_taken_by_its_name(house: "House") -> None:
    run_id = start(house, agent("a"), tools={}, model="local/qwen3")

    request = asked(house, run_id, "a")

    assert (request.model, request.routed_because) == ("local/qwen3", "named for the run")


def test_four_fifths_of_the_budget_move_agents_a_tier_down(house: "House") -> None:
    run_id = start(house, agent("a", tier="large"), tools={})
    house.execute("UPDATE budgets SET warned_percent = 80 WHERE run = :run", {"run": run_id})

    first = asked(house, run_id, "a")

    assert (first.model, first.routed_because) == ("m", "medium: down from large (80% of the budget is used)")


def test_mark_of_a_budget_is_read_at_most_once_a_second(house: "House") -> None:
    run_id = start(house, agent("a"), tools={})
    now = [0.0]
    thrift = Thrift(house.connections, clock=lambda: now[0])
    seen = [thrift.used_percent(house.tenant, run_id)]
    house.execute("UPDATE budgets SET warned_percent = 95 WHERE run = :run", {"run": run_id})

    seen.append(thrift.used_percent(house.tenant, run_id))
    now[0] = 1.5
    seen.append(thrift.used_percent(house.tenant, run_id))

    assert seen == [0, 0, 95]


def test_run_without_a_wish_goes_by_its_roles(house: "House") -> None:
    run_id = start(house, agent("a"), tools={})

    assert asked(house, run_id, "a").routed_because == "small: the role's tier"

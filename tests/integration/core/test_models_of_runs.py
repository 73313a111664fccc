"""Which model an agent gets: named for the run, moved down when money is short, and journalled with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2

from chargehand.orchestrator.facts import ModelRequested
from chargehand.orchestrator.plan import Branch, Repeat, Step
from chargehand.workers.models.interface import Block, ModelCall, Quote
from chargehand.workers.models.router import Tiers, choose
from chargehand.workers.thrift import Thrift
from tests.integration.core.agents import ANSWER, ROLE, FunctionModel, agent, deliver, start, use
from tests.wire import foreign, message, models_over

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


# --- with the whole router, over a server of the test's own -----------------------------------------------------------

Reply = Callable[[dict[str, Any]], dict[str, Any] | httpx2.Response]


def journalled(house: "House", run_id: "UUID", key: str, reply: Reply) -> list[tuple[str, str]]:
    """Model and reason of each request of the step, as they stand in the journal, when the server answers like this."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        said = reply(json.loads(request.content))
        return said if isinstance(said, httpx2.Response) else httpx2.Response(200, json=said)

    models = models_over(foreign(answer))
    deliver(house, replace(house.shop(), models=models, tools={}), run_id, key)
    models.close()
    rows = house.execute(
        "SELECT body FROM journal WHERE run = :run AND kind = 'model.requested' AND step = :step ORDER BY seq",
        {"run": run_id, "step": house.row(run_id, key).id},
    )
    facts = [ModelRequested.model_validate_json(row.body) for row in rows]
    return [(fact.model, fact.routed_because) for fact in facts]


def submission(body: dict[str, Any], tool: str = "submit_answer", **arguments: Any) -> dict[str, Any]:
    """An answer of the model that was asked, which ends its step when the arguments fit."""
    block = {"type": "tool_use", "id": f"use-{len(body['messages'])}", "name": tool, "input": arguments or ANSWER}
    return message(model=body["model"], content=[block], stop_reason="tool_use")


def test_a_model_that_is_overloaded_is_replaced_and_the_journal_says_so(house: "House") -> None:
    overloaded = httpx2.Response(529, headers={"retry-after": "60"}, json={"error": {"type": "overloaded_error"}})
    run_id = start(house, agent("a", tier="medium"), tools={})

    asked = journalled(house, run_id, "a", lambda body: overloaded if "sonnet" in body["model"] else submission(body))

    assert asked == [
        ("claude-sonnet-5-5", "medium: named by the step"),
        ("claude-opus-5-5", "large: fell back from claude-sonnet-5-5 (overloaded)"),
    ]
    assert house.row(run_id, "a").status == "succeeded"


def test_a_model_that_refuses_is_replaced_and_the_journal_says_so(house: "House") -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        refuses = "sonnet" in body["model"]
        return message(model=body["model"], stop_reason="refusal", content=[]) if refuses else submission(body)

    run_id = start(house, agent("a", tier="medium"), tools={})

    asked = journalled(house, run_id, "a", reply)

    assert asked == [
        ("claude-sonnet-5-5", "medium: named by the step"),
        ("claude-opus-5-5", "large: fell back from claude-sonnet-5-5 (refused this prompt)"),
    ]
    assert house.row(run_id, "a").status == "succeeded"


def test_submissions_that_do_not_fit_go_a_tier_up_and_the_journal_says_so(house: "House") -> None:
    run_id = start(house, agent("a"), tools={})

    asked = journalled(
        house, run_id, "a", lambda body: submission(body, **({"wrong": 1} if "haiku" in body["model"] else ANSWER))
    )

    assert asked == [
        ("claude-haiku-5-5", "small: the role's tier"),
        ("claude-haiku-5-5", "small: the role's tier"),
        ("claude-sonnet-5-5", "medium: escalated from small (invalid)"),
    ]
    assert house.row(run_id, "a").status == "succeeded"


def test_a_verdict_that_does_not_pass_sends_the_next_round_a_tier_up_and_the_journal_says_so(house: "House") -> None:
    judge = Step(key="judge", kind="script", script="judge", after=("a",))
    run_id = start(
        house,
        Step(key="c", kind="repeat", repeat=Repeat(body=(agent("a"), judge), until="judge", max_rounds=3)),
        tools={},
    )
    asked = []
    for number in (1, 2, 3):
        settle(house, run_id)
        asked += journalled(house, run_id, f"c/{number}/a", submission)
        settle(house, run_id)
        house.run(run_id, f"c/{number}/judge", {"passed": False})

    assert asked == [
        ("claude-haiku-5-5", "small: the role's tier"),
        ("claude-sonnet-5-5", "medium: escalated from small (refuted)"),
        ("claude-opus-5-5", "large: escalated from small (refuted, refuted)"),
    ]


def test_a_chooser_that_is_unsure_is_followed_by_a_large_one_and_the_journal_says_so(house: "House") -> None:
    role = ROLE.format(tools="").replace("asker", "chooser").replace("submit_answer", "submit_choice")
    branch = Step(key="c", kind="branch", branch=Branch(labels=("yes", "no"), role="chooser"))
    run_id = house.start(branch, role_texts={"chooser": role})
    odds = [{"label": label, "probability": 0.5} for label in ("yes", "no")]
    asked = []
    for key in ("c/small", "c/large"):
        settle(house, run_id)
        asked += journalled(
            house, run_id, key, lambda body: submission(body, "submit_choice", odds=odds, reason="It could be either.")
        )
    settle(house, run_id)

    assert asked == [
        ("claude-haiku-5-5", "small: named by the step"),
        ("claude-opus-5-5", "large: escalated from small (unsure)"),
    ]
    assert house.statuses(run_id)["c/person"] == "waiting"


def settle(house: "House", run_id: "UUID") -> None:
    """Advance until nothing rings, and admit."""
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()

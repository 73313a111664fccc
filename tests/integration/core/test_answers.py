"""A program's answer to a waiting step is one of those that were offered."""

from functools import reduce
from typing import TYPE_CHECKING, Any

import pytest

from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.plan import Step

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def test_a_misspelt_refusal_does_not_open_a_gate(house: "House") -> None:
    run_id = house.submit(Step(key="gate", kind="gate"))
    house.advance(run_id)
    with Client(house.database_url, "redis://127.0.0.1:1", tenant=house.tenant, settings=house.settings) as client:
        (question,) = client.escalations(run_id)
        with pytest.raises(UserError, match="choose one of: approve, reject"):
            client.answer(question, "rejected")
    house.watch()
    assert house.statuses(run_id) == {"gate": "waiting"}


def test_an_answer_to_a_step_that_has_ended_meanwhile_is_not_said_to_be_taken(house: "House") -> None:
    run_id = house.submit(Step(key="gate", kind="gate"))
    house.advance(run_id)
    with Client(house.database_url, "redis://127.0.0.1:1", tenant=house.tenant, settings=house.settings) as client:
        (question,) = client.escalations(run_id)
        assert client.run(run_id).cancel()
        assert not client.answer(question, "approve")
    assert house.rings(run_id) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("a\x00b", "a NUL character"),
        ({"price": [float("nan")]}, "the number nan, which JSON does not have"),
        (object(), "is a object that is not JSON"),
        (reduce(lambda inner, _: [inner], range(5_000), []), "is a list that is not JSON"),
    ],
)
def test_an_answer_that_cannot_be_kept_is_refused_and_leaves_the_question_open(
    house: "House", body: Any, problem: str
) -> None:
    run_id = house.submit(Step(key="gate", kind="gate"))
    house.advance(run_id)
    with Client(house.database_url, "redis://127.0.0.1:1", tenant=house.tenant, settings=house.settings) as client:
        (question,) = client.escalations(run_id)
        with pytest.raises(UserError, match=problem):
            client.answer(question, "approve", body)
        assert client.escalations(run_id) == [question]
        assert client.answer(question, "approve", {"price": [14.7]})

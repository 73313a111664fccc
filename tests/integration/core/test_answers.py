"""A program's answer to a waiting step is one of those that were offered."""

from typing import TYPE_CHECKING

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

"""Who leaves work to a colleague rings: a supervisor that hears it needs no look at old rings, which costs seconds."""

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from chargehand.orchestrator.plan import step_id
from chargehand.workers.executor import execute
from chargehand.workers.models.interface import Block, ModelCall
from chargehand.workers.tools.colleagues import delegate, hand_off
from tests.integration.core import agents
from tests.integration.core.agents import ANSWER, ROLE, use

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

TOOLS = {"delegate": delegate, "hand_off": hand_off}
ROLES = {
    "asker": ROLE.format(tools="delegate, hand_off"),
    "helper": ROLE.format(tools="").replace("name: asker", "name: helper"),
}


@pytest.mark.parametrize("how", TOOLS)
def test_who_leaves_work_to_a_colleague_rings_at_once_and_so_does_the_colleague_that_ends(
    house: "House", how: str
) -> None:
    def reply(call: ModelCall, turn: int) -> list[Block]:
        if "Do ask." in str(call.messages) and turn == 0:
            return [use(how, turn, to="helper", instruction="Help.")]
        return [use("submit_answer", turn, **ANSWER)]

    def go_on() -> None:
        while house.rings(run_id):
            house.advance(run_id)
        house.admit()

    rung: list[UUID] = []
    shop = replace(agents.shop(house, reply, TOOLS), ring=rung.append)
    run_id = house.start(agents.agent("ask"), role_texts=ROLES)

    execute(shop, tenant=house.tenant, step_id=step_id(run_id, "ask"))
    assert (house.row(run_id, "ask").wait_reason, rung) == ("children", [run_id])

    go_on()
    rung.clear()
    execute(shop, tenant=house.tenant, step_id=step_id(run_id, "ask/helper-1"))
    assert rung == [run_id]
    go_on()
    execute(shop, tenant=house.tenant, step_id=step_id(run_id, "ask"))
    assert house.statuses(run_id) == {"ask": "succeeded", "ask/helper-1": "succeeded"}

"""`explain` on a real run: a step in depth, what stands at the bottom of what it waits for, and a key that is wrong."""

from typing import TYPE_CHECKING, Any

import pytest

from chargehand.memory.database import tenant_session
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.explaining import Explanation, explain, explain_step
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.tenant_caps import set_caps

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, pool="research", **fields)


def at(house: "House", run_id: "UUID", key: str) -> Explanation:
    with house.as_tenant() as session:
        return explain_step(session, run_id, key, unclaimed_seconds=3.0)


def test_a_step_is_explained_with_its_lease_its_money_and_the_caps_of_its_tenant(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    with tenant_session(house.supervisor, house.tenant) as session:
        set_caps(session, house.tenant, cap_microusd=9_000_000, day_cap_microusd=2_000_000)
    found = at(house, run_id, "a")
    assert found.status == "running"
    assert "its lease holds for" in found.why
    assert found.details["lease"].startswith("worker for ")
    assert "of the run's $1.0000 is drawn" in found.details["money"]
    assert "of its tenant's $9.0000" in found.details["money"]
    assert "$2.0000 a day" in found.details["money"]
    house.expire(run_id, "a")
    assert "another worker takes it over" in at(house, run_id, "a").why


def test_a_message_that_nobody_claims_is_sent_again_when_explain_says_so(house: "House") -> None:
    run_id = house.start(script("a"))
    house.execute(
        "UPDATE steps SET emissions = 3, queued_at = clock_timestamp() - interval '2 s' WHERE id = :step",
        {"step": step_id(run_id, "a")},
    )
    # The third message is given four times the patience: 12 s, of which 2 have passed.
    assert "it is sent again in 10 s" in at(house, run_id, "a").why


def test_a_step_behind_others_names_the_one_at_the_bottom_and_who_can_free_it(house: "House") -> None:
    gate = Step(key="ok", kind="gate", instruction="Send it?", pool="research")
    run_id = house.start(gate, script("b", "ok"), script("c", "b"), script("other"))
    house.advance(run_id)
    found = at(house, run_id, "c")
    assert found.why == "waits for b"
    [(bottom, why)] = found.behind
    assert bottom == "ok"
    assert "waits for a person's approval: Send it?; answer with `chargehand resolve" in why
    with house.as_tenant() as session:
        assert dict(explain(session, run_id))["ok"] == why


def test_a_step_that_has_ended_says_so_and_one_that_is_not_there_names_its_neighbours(house: "House") -> None:
    run_id = house.start(script("triage"))
    house.run(run_id, "triage")
    assert at(house, run_id, "triage").why == "has ended: succeeded"
    with pytest.raises(NotFound, match="did you mean triage"):
        at(house, run_id, "triag")

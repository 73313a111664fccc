"""What a shell is offered, read from a real database: the tenant's newest runs, and the steps of one."""

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from chargehand.orchestrator.cli import offering
from chargehand.orchestrator.plan import Step

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def test_the_newest_runs_of_the_tenant_and_the_steps_of_one_are_offered(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARGEHAND_DATABASE_URL", house.database_url)
    monkeypatch.setenv("CHARGEHAND_TENANT", str(house.tenant))
    planned = (
        Step(key="look", kind="script", script="inventory", title="Look around"),
        Step(key="scan", kind="script", script="scan", after=("look",)),
        Step(key="sure", kind="gate", instruction="Sure?", after=("scan",)),
    )
    older, newer = house.submit(*planned, goal="First"), house.submit(planned[0], goal="Second")
    house.submit(planned[0], tenant=uuid4(), goal="Another's")
    assert offering.recent_runs() == [(newer.hex[-8:], "running", "Second"), (older.hex[-8:], "running", "First")]
    steps = [("look", "pending", "Look around"), ("scan", "pending", "scan"), ("sure", "pending", "gate")]
    for named in (older.hex[-8:], str(older), str(older).upper()):
        assert offering.steps_of(named) == steps
    assert offering.steps_of("%") == offering.steps_of("zz") == []

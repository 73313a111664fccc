"""A disk without room: its step is handed back as it was, and pays for it with nothing."""

from typing import TYPE_CHECKING

import pytest

from chargehand.memory.git import StorageFull
from chargehand.orchestrator.plan import Step, step_id
from chargehand.workers.executor import execute
from tests.integration.core.test_packs import Worker, worker  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House

FULL_FOR = 3


def deliver(house: "House", worker: Worker, run_id: "UUID") -> str:  # noqa: F811
    house.execute("UPDATE steps SET run_after = NULL WHERE run = :run", {"run": run_id})
    house.admit()
    return execute(worker.shop, tenant=house.tenant, step_id=step_id(run_id, "a"))


def test_waiting_for_room_uses_up_no_retry(house: "House", worker: Worker) -> None:  # noqa: F811
    full = [StorageFull("/somewhere")] * FULL_FOR

    def write(_key: str) -> str:
        if full:
            raise full.pop()
        if house.row(run_id, "a").retries == 0:
            raise ValueError("once")
        return "done"

    worker.knows("work")(write)
    # With a single retry, which the mistake needs.
    run_id = house.start(Step(key="a", kind="script", script="work", retries=1))

    for _ in range(FULL_FOR):
        assert deliver(house, worker, run_id) == "stop"
    row = house.row(run_id, "a")
    assert (row.status, row.retries, row.crashes) == ("ready", 0, 0)
    assert row.run_after is not None
    assert house.kinds(run_id, "a") == ["step.claimed", "step.released"] * FULL_FOR
    assert deliver(house, worker, run_id) == "stop"
    assert deliver(house, worker, run_id) == "go_on"
    house.advance(run_id)
    assert (house.run_row(run_id).status, house.drift(run_id)) == ("succeeded", [])


@pytest.mark.parametrize("keys", [("a",), ("a", "b")])
def test_a_script_of_a_pack_waits_for_room_alone(
    house: "House",
    worker: Worker,  # noqa: F811
    keys: tuple[str, ...],
) -> None:
    def write(key: str) -> str:
        if key == "a":
            raise StorageFull("/somewhere")
        return "done"

    worker.knows("work")(write)
    run_id = house.start(*(Step(key=key, kind="script", script="work") for key in keys))

    worker.run(run_id, *keys)

    assert house.statuses(run_id) == {"a": "ready"} | dict.fromkeys(keys[1:], "succeeded")

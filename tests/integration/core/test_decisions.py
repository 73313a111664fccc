"""What a person decided about a script is carried out, also by the attempt after the one that heard it."""

from typing import TYPE_CHECKING, Any

import pytest

from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import StepReleased, StepWaiting
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.steps import new_wait_id
from chargehand.workers.executor import execute
from tests.integration.core.test_packs import Worker, worker  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


@pytest.mark.parametrize(
    ("choice", "body", "status", "ran"),
    [
        ("abort", None, "failed", []),
        ("skip", None, "succeeded", []),
        ("override", {"by": "hand"}, "succeeded", []),
        # That attempt may have begun: it is run once more, as after any crash.
        ("retry", None, "succeeded", ["a"]),
    ],
)
def test_a_decision_that_a_dead_attempt_had_heard_is_carried_out_by_the_next(
    house: "House",
    worker: Worker,  # noqa: F811
    choice: str,
    body: Any,
    status: str,
    ran: list[str],
) -> None:
    worker.knows("work")(lambda key: {"of": key})
    run_id = house.start(Step(key="a", kind="script", script="work"))
    asked = StepWaiting(wait_id=new_wait_id(), reason="human", question="?", options=("abort", "skip", "retry"))
    house.claim(run_id, "a").wait(asked)
    with house.as_tenant() as session:
        runs.answer(
            session,
            house.tenant,
            run_id=run_id,
            step=step_id(run_id, "a"),
            wait_id=asked.wait_id,
            choice=choice,
            body=body,
        )
    house.watch()
    house.admit()
    # It hears the answer, and dies before it obeys.
    assert house.claim(run_id, "a").fold_signal(asked.wait_id) is not None
    house.expire(run_id, "a")
    house.recover()
    house.admit()

    execute(worker.shop, tenant=house.tenant, step_id=step_id(run_id, "a"))

    assert house.row(run_id, "a").status == status
    assert worker.ran == ran


def test_an_answer_that_a_worker_had_no_time_to_hear_is_heard_by_the_next(house: "House", worker: Worker) -> None:  # noqa: F811
    worker.knows("work")(lambda key: {"of": key})
    run_id = house.start(Step(key="a", kind="script", script="work"))
    asked = StepWaiting(wait_id=new_wait_id(), reason="human", question="?", options=("abort",))
    house.claim(run_id, "a").wait(asked)
    with house.as_tenant() as session:
        runs.answer(
            session, house.tenant, run_id=run_id, step=step_id(run_id, "a"), wait_id=asked.wait_id, choice="abort"
        )
    house.watch()
    house.admit()
    # It has to leave before it asks.
    house.claim(run_id, "a").release(StepReleased(reason="drain"))
    assert house.drift(run_id) == []
    house.admit()

    execute(worker.shop, tenant=house.tenant, step_id=step_id(run_id, "a"))

    assert (house.row(run_id, "a").status, worker.ran) == ("failed", [])

"""Forks of runs that asked people and sent tasks to somebody else's app: what was approved or sent once, was once."""

# ruff: noqa: F401, F811 - fixtures of other modules

from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import JsonValue

from chargehand.memory.artifacts import Artifacts
from chargehand.orchestrator import forks, runs
from chargehand.orchestrator.forking import Change
from chargehand.orchestrator.forks import ForkRequest
from chargehand.orchestrator.plan import RESULT_OF, Step, step_id
from tests.integration.core import test_celery_tasks as tasks
from tests.integration.core import test_gates as gates
from tests.integration.core.test_celery_tasks import Post, post
from tests.integration.core.test_gates import sent
from tests.integration.core.test_packs import Worker, worker

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def fork(house: "House", source: UUID, at: str, **arguments: JsonValue) -> UUID:
    request = ForkRequest(run_id=runs.new_run_id(), source=source, at=at, change=Change(arguments=arguments))
    return forks.fork(house.app, house.tenant, Artifacts(house.settings.artifacts), request)


def paid_for(house: "House", post: Post) -> UUID:
    """A run that has sent one refund and heard of it."""
    source = tasks.begun(
        house,
        post,
        tasks.script("load"),
        tasks.task("pay", "load", arguments={"order": {RESULT_OF: "load"}}),
        tasks.script("mail", "pay"),
    )
    house.run(source, "load", 7)
    tasks.go(house, post, source)
    assert tasks.answer(house, source, result="receipt 1")
    tasks.go(house, post, source)
    house.run(source, "mail")
    tasks.go(house, post, source)
    tasks.check(house, source, "succeeded")
    return source


def test_a_task_that_was_answered_is_taken_over_and_not_sent_again(house: "House", post: Post) -> None:
    source = paid_for(house, post)

    made = fork(house, source, "mail")
    tasks.go(house, post, made)

    assert house.statuses(made) == {"load": "succeeded", "pay": "succeeded", "mail": "queued"}
    assert tasks.end_of(house, made).result == "receipt 1"
    house.run(made, "mail")
    tasks.go(house, post, made)
    tasks.check(house, made, "succeeded")
    assert len(post.sent) == 1


def test_a_task_that_is_done_anew_is_sent_under_a_key_of_its_own(house: "House", post: Post) -> None:
    source = paid_for(house, post)

    made = fork(house, source, "pay", reason="twice")
    tasks.go(house, post, made)

    first, second = post.sent
    assert second.call.kwargs == {"order": 7, "reason": "twice"}
    key = "chargehand_idempotency_key"
    assert (first.labels.headers()[key], second.labels.headers()[key]) == (
        str(step_id(source, "pay")),
        str(step_id(made, "pay")),
    )
    # An answer that comes for the run that was left is none for its fork.
    assert not tasks.answer(house, source, result="receipt 1")
    assert house.row(made, "pay").status == "waiting"
    assert tasks.answer(house, made, result="receipt 2")
    tasks.go(house, post, made)
    house.run(made, "mail")
    tasks.go(house, post, made)
    tasks.check(house, made, "succeeded")
    assert tasks.end_of(house, made).result == "receipt 2"
    assert tasks.end_of(house, source).result == "receipt 1"


def test_a_task_under_way_is_sent_by_the_fork_as_well_and_each_hears_its_own_answer(house: "House", post: Post) -> None:
    source = tasks.begun(house, post, tasks.script("load"), tasks.task("pay"))
    made = fork(house, source, "load")
    tasks.go(house, post, made)
    assert len(post.sent) == 2

    assert tasks.answer(house, made, result="of the fork")
    tasks.go(house, post, made)

    assert house.statuses(made)["pay"] == "succeeded"
    assert house.row(source, "pay").status == "waiting"


def approved(house: "House", worker: Worker) -> UUID:
    """A run whose gate approved one price, which was sent."""
    source = house.start(gates.price(), gates.gate("price"), gates.send("price", "ok"))
    gates.run(house, worker, source, "price")
    gates.decide(house, gates.question(house, source), "approve")
    gates.go(house, source)
    gates.run(house, worker, source, "send")
    assert house.run_row(source).status == "succeeded"
    return source


def test_an_approval_was_for_once_and_the_fork_asks_again(house: "House", worker: Worker, sent: list[str]) -> None:
    source = approved(house, worker)

    made = fork(house, source, "send")
    gates.go(house, made)
    gates.run(house, worker, made, "send")

    asked = gates.question(house, made)
    assert (asked.step_key, asked.guards[0].arguments) == ("send", {"price": "14.70 EUR"})
    assert "was not approved in this run at 'ok'" in asked.question
    assert sent == ["14.70 EUR"]
    gates.decide(house, asked, "approve")
    gates.go(house, made)
    gates.run(house, worker, made, "send")
    assert sent == ["14.70 EUR", "14.70 EUR"]
    assert house.run_row(made).status == "succeeded"
    gates.ends_whole(house, made)


def test_other_arguments_are_shown_as_they_are_and_can_be_refused(
    house: "House", worker: Worker, sent: list[str]
) -> None:
    source = approved(house, worker)

    made = fork(house, source, "send", price="9,999 EUR")
    gates.go(house, made)
    gates.run(house, worker, made, "send")

    asked = gates.question(house, made)
    assert (asked.step_key, asked.guards[0].arguments) == ("send", {"price": "9,999 EUR"})
    assert sent == ["14.70 EUR"]
    gates.decide(house, asked, "reject")
    gates.go(house, made)
    gates.run(house, worker, made, "send")
    assert sent == ["14.70 EUR"]
    assert house.run_row(made).status == "failed"
    gates.ends_whole(house, made)


def test_a_gate_whose_own_input_is_done_anew_asks_again(house: "House", worker: Worker, sent: list[str]) -> None:
    source = approved(house, worker)

    made = fork(house, source, "price")
    gates.go(house, made)
    gates.run(house, worker, made, "price")

    assert gates.question(house, made).step_key == "ok"
    assert sent == ["14.70 EUR"]
    statuses: dict[str, Any] = house.statuses(made)
    assert statuses["send"] == "pending"

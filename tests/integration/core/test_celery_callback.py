"""The callback in a real Celery worker of somebody else's app, over a real broker, into real Postgres."""

import base64
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from pydantic import JsonValue

from chargehand import connect_celery, idempotency_key
from chargehand.orchestrator import views
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import ARGS, CeleryTask, Step, step_id
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.dispatch import Dispatcher
from chargehand.orchestrator.task_brokers import CeleryBrokers
from tests.conftest import WaitUntil

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


class Broken(Exception):
    """What the task raises."""


class Billing:
    """An app with tasks of every temper, its worker, and a supervisor that sends to it."""

    def __init__(self, house: "House", app: Celery, brokers: CeleryBrokers) -> None:
        self.house, self.app, self.brokers = house, app, brokers
        self.keys: list[str | None] = []
        self.may_end = threading.Event()

    def go(self, run_id: UUID) -> None:
        while self.house.rings(run_id):
            self.house.advance(run_id)
        Dispatcher(self.house.supervisor, self.brokers).dispatch(run_id)

    def start(self, task: str, *args: Any, **fields: Any) -> UUID:
        spec = CeleryTask(task=f"billing.{task}", queue="billing")
        step = Step(key="do", kind="celery_task", celery_task=spec, arguments={ARGS: list(args)}, **fields)
        run_id = self.house.submit(step)
        self.go(run_id)
        return run_id

    def end_of(self, run_id: UUID, wait_until: WaitUntil) -> StepFinished:
        def has_ended() -> bool:
            self.go(run_id)
            return self.house.row(run_id, "do").finished_at is not None

        wait_until(has_ended)
        with self.house.as_tenant() as session:
            return views.results(session, run_id, ["do"])["do"]


@pytest.fixture
def billing(house: "House", redis_url: str) -> Iterator[Billing]:
    app = Celery("billing", broker=redis_url, set_as_current=False)
    app.conf.update(task_ignore_result=False, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    settings = house.settings.model_copy(update={"database_url": house.database_url, "redis_url": redis_url})
    connect_celery(app, settings=settings)
    brokers = CeleryBrokers(Settings(), redis_url)
    billing = Billing(house, app, brokers)

    @app.task(name="billing.give", shared=False)
    def give(value: object) -> object:
        billing.keys.append(idempotency_key())
        inner.delay()
        return value

    @app.task(name="billing.inner", shared=False)
    def inner() -> str:
        billing.keys.append(idempotency_key())
        return "not the answer"

    @app.task(name="billing.large", shared=False)
    def large() -> object:
        return "x" * 5_000_000

    @app.task(name="billing.odd", shared=False)
    def odd() -> object:
        return {"what": object}

    @app.task(name="billing.fail", shared=False)
    def fail() -> None:
        raise Broken("the books are closed")

    @app.task(name="billing.stubborn", bind=True, max_retries=5, shared=False)
    def stubborn(self: Any, order: dict[str, int]) -> dict[str, int]:
        billing.keys.append(idempotency_key())
        order["tries"] = order.get("tries", 0) + 1
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return order

    @app.task(name="billing.wait", shared=False)
    def wait() -> str:
        billing.may_end.wait(60)
        return "done"

    app.conf.task_default_queue = "billing"
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, queues=["billing"]):
        yield billing
        billing.may_end.set()
    for sender in brokers._apps.values():
        sender.close()
    app.close()


def test_a_task_answers_and_what_it_starts_does_not(billing: Billing, wait_until: WaitUntil) -> None:
    run_id = billing.start("give", {"a": [1, None, "ä"]})
    assert billing.end_of(run_id, wait_until).result == {"a": [1, None, "ä"]}
    wait_until(lambda: len(billing.keys) == 2)
    assert billing.keys == [str(step_id(run_id, "do")), None]
    assert billing.house.drift(run_id) == []


def test_a_task_that_raises_fails_its_step(billing: Billing, wait_until: WaitUntil) -> None:
    end = billing.end_of(billing.start("fail"), wait_until)
    assert (end.outcome, end.error) == ("failed", "Broken: the books are closed")


@pytest.mark.parametrize(("task", "said"), [("large", "at most 4,000,000 are kept"), ("odd", "JSON cannot hold")])
def test_a_result_that_does_not_fit_fails_the_step_and_says_so(
    billing: Billing, wait_until: WaitUntil, task: str, said: str
) -> None:
    end = billing.end_of(billing.start(task), wait_until)
    assert end.outcome == "failed"
    assert "The task succeeded" in end.error
    assert said in end.error


def test_a_task_keeps_its_key_through_its_own_retries_and_may_change_its_arguments(
    billing: Billing, wait_until: WaitUntil
) -> None:
    run_id = billing.start("stubborn", {"order_id": 7})
    assert billing.end_of(run_id, wait_until).result == {"order_id": 7, "tries": 3}
    assert billing.keys == [str(step_id(run_id, "do"))] * 3


def test_a_message_that_is_made_up_runs_and_does_not_answer(
    billing: Billing, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = billing.start("wait")
    headers = {
        f"chargehand_{name}": str(value)
        for name, value in {
            "tenant": billing.house.tenant,
            "run": run_id,
            "step": step_id(run_id, "do"),
            "wait": step_id(run_id, "do"),
            "sending": 1,
        }.items()
    }
    forged = {"task_id": str(step_id(run_id, "do")), "headers": headers, "queue": "billing", "ignore_result": True}
    billing.app.send_task("billing.give", args=["forged"], **forged)
    wait_until(lambda: "answer refused" in caplog.text)
    billing.go(run_id)
    assert billing.house.row(run_id, "do").status == "waiting"

    billing.may_end.set()

    assert billing.end_of(run_id, wait_until).result == "done"


def test_a_message_that_is_delivered_twice_answers_once(
    billing: Billing, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="chargehand.orchestrator.callback")
    run_id = billing.start("wait")
    # What a supervisor does that was killed before it could note the first sending.
    billing.house.execute(
        "UPDATE steps SET run_after = clock_timestamp(), queued_at = NULL WHERE id = :step",
        {"step": step_id(run_id, "do")},
    )
    Dispatcher(billing.house.supervisor, billing.brokers).dispatch(run_id)
    billing.may_end.set()
    assert billing.end_of(run_id, wait_until).result == "done"
    wait_until(lambda: "answered before" in caplog.text)


def test_a_message_that_has_expired_asks_a_person_at_once(billing: Billing, wait_until: WaitUntil) -> None:
    # Both threads are busy, and the third task waits in the queue for longer than its deadline.
    busy = [billing.start("wait"), billing.start("wait")]
    run_id = billing.start("give", 1, deadline_seconds=0.3)
    del busy

    def is_asked() -> bool:
        billing.go(run_id)
        return billing.house.row(run_id, "do").wait_reason == "human"

    wait_until(is_asked)
    assert billing.keys == []
    billing.may_end.set()


def test_a_broker_that_is_away_is_left_alone_for_a_while(house: "House") -> None:
    brokers = CeleryBrokers(Settings(connect_timeout_seconds=0.3), "redis://127.0.0.1:1/0")
    spec = CeleryTask(task="billing.give", queue="billing")
    run_id = house.submit(Step(key="do", kind="celery_task", celery_task=spec))
    house.advance(run_id)
    Dispatcher(house.supervisor, brokers).dispatch(run_id)
    assert brokers.away() == {"default"}
    assert house.row(run_id, "do").queued_at is None
    brokers.revoke("default", uuid4())


def test_a_message_lies_where_the_users_app_looks_for_it(house: "House", redis_url: str) -> None:
    other = redis_url.removesuffix("/0") + "/1"
    options: dict[str, dict[str, JsonValue]] = {"legacy": {"global_keyprefix": "shop."}}
    settings = Settings(celery_tasks_brokers={"legacy": other}, celery_tasks_transport_options=options)
    brokers = CeleryBrokers(settings, redis_url)
    spec = CeleryTask(task="billing.give", queue="billing", broker="legacy")
    run_id = house.submit(Step(key="do", kind="celery_task", celery_task=spec, arguments={ARGS: [1], "b": 2}))
    house.advance(run_id)
    Dispatcher(house.supervisor, brokers).dispatch(run_id)
    with redis.Redis.from_url(other) as client:
        message = json.loads(client.lindex("shop.billing", 0) or b"{}")
    assert message["headers"]["id"] == message["headers"]["chargehand_idempotency_key"] == str(step_id(run_id, "do"))
    assert message["headers"]["task"] == "billing.give"
    assert message["content-type"] == "application/json"
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[1], {"b": 2}]
    brokers._apps["legacy"].close()

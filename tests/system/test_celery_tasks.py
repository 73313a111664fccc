"""Tasks of the billing app, run by real workers of that app, which are killed, and sent by real supervisors."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from chaos import machine as chaos_machine
from chaos.ledger import Ledger as ChaosLedger
from chaos.machine import Fleet, Machine, machine, until

from chargehand import Draft, Plan, celery_task
from chargehand.orchestrator import verification
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.errors import RunFailed
from chargehand.orchestrator.facts import StepFinished, TaskReturned, TaskSent
from chargehand.orchestrator.laptop.specs import ProcessSpec
from chargehand.orchestrator.plan import ARGS, ITEM, CeleryTask, Map, Step, step_id
from chargehand.orchestrator.plan_files import load_plan

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
BILLING = EXAMPLES / "billing"
HERE = Path(__file__).parent
RUN_SECONDS = 60.0
START_SECONDS = 40.0
ENVIRONMENT = chaos_machine.environment


def paths(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def with_the_examples(ledger: ChaosLedger) -> dict[str, str]:
    found = ENVIRONMENT(ledger)
    modules = json.dumps(["steps", "billing.plan"])
    return {**found, "PYTHONPATH": paths(EXAMPLES / "plans", BILLING, HERE.parent), "CHARGEHAND_MODULES": modules}


class WithRules(Fleet):
    """A fleet with the offline model that everybody has: the harness's own knows errands only."""

    def _model(self, spec: ProcessSpec) -> ProcessSpec:
        return spec


@pytest.fixture(scope="module")
def laptop(home: Path) -> Iterator[Machine]:
    with (
        mock.patch.object(chaos_machine, "environment", with_the_examples),
        machine(home, WithRules(call_seconds=0.0, pools=("research",), twins=("supervisor",), forged=True)) as up,
    ):
        yield up


@pytest.fixture(scope="module")
def billing(home: Path) -> Iterator[Any]:
    """The program's own modules, as whoever submits has them."""
    sys.path.insert(0, str(BILLING))
    try:
        yield import_module("billing.plan"), import_module("billing.ledger").Ledger(home / "billing.sqlite")
    finally:
        sys.path.remove(str(BILLING))


@dataclass
class Shop:
    """The billing app's own workers: a parent and two children, as Celery starts them."""

    laptop: Machine
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def hazard(self) -> Path:
        return self.folder / "hazard"

    @property
    def log(self) -> str:
        return (self.folder / "billing.log").read_text(errors="replace")

    def open(self, *options: str) -> None:
        """Start the worker and wait until it is ready."""
        log = self.folder / "billing.log"
        log.write_bytes(b"")
        endpoints = self.laptop.laptop.services.endpoints
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHARGEHAND_")},
            "PYTHONPATH": paths(BILLING, HERE),
            "BILLING_LEDGER": str(self.folder / "billing.sqlite"),
            "BILLING_HAZARD": str(self.hazard),
            "CHARGEHAND_HOME": str(self.folder),
            "CHARGEHAND_DATABASE_URL": endpoints.database_url,
            "CHARGEHAND_REDIS_URL": endpoints.redis_url,
        }
        command = [sys.executable, "-m", "celery", "-A", "billing_hazards", "worker", "-Q", "billing", "-c", "2"]
        command += ["--without-gossip", "--without-mingle", "--loglevel", "INFO", *options]
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        until(lambda: " ready." in self.log, START_SECONDS, "the billing worker is ready")

    def close(self) -> None:
        """Stop it, and every child that it may have left."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None


@pytest.fixture(scope="module")
def shop(laptop: Machine, home: Path) -> Iterator[Shop]:
    opened = Shop(laptop, home)
    yield opened
    opened.close()


@contextmanager
def opened(shop: Shop) -> Iterator[Shop]:
    if shop.process is None or shop.process.poll() is not None:
        shop.open()
    yield shop


def facts(run: RunHandle, kind: type[Any]) -> list[Any]:
    return [event.fact for event in run.events(follow=False) if isinstance(event.fact, kind)]


def check(laptop: Machine, run: RunHandle) -> None:
    with laptop.client.session() as session:
        assert verification.verify_run(session, run.run_id).objections == ()
        assert verification.drift(session, run.run_id) == []


def answer_when_asked(laptop: Machine, run: RunHandle, choice: str, body: Any = None) -> str:
    until(lambda: laptop.client.escalations(run.run_id), RUN_SECONDS, "a person is asked")
    [asked] = laptop.client.escalations(run.run_id)
    assert laptop.client.answer(asked, choice, body)
    return asked.question


def test_agents_people_and_tasks_of_the_billing_app_refund_an_order(laptop: Machine, shop: Shop, billing: Any) -> None:
    plan, books = billing
    with opened(shop):
        refund = plan.refund_plan(7)
        run = laptop.client.submit(plan=refund, roles=refund.roles)
        answer_when_asked(laptop, run, "approve")
        run.wait(RUN_SECONDS)
    key = str(step_id(run.run_id, "refund"))
    assert [payment for payment in books.payments() if payment[0] == key] == [(key, 7, 4_990)]
    assert any(order == 7 and "49.90" in text for order, text in books.mails())
    workers = {fact.by for fact in facts(run, TaskReturned)}
    assert all(by.startswith("celery@") for by in workers)
    check(laptop, run)


def test_a_task_that_raises_fails_its_step_with_its_words(laptop: Machine, shop: Shop, billing: Any) -> None:
    plan, _ = billing
    with opened(shop):
        refund = plan.refund_plan(9)
        run = laptop.client.submit(plan=refund, roles=refund.roles)
        with pytest.raises(RunFailed, match="NoSuchOrder: There is no order 9; there are: 7, 8"):
            run.wait(RUN_SECONDS)
    check(laptop, run)


def test_the_example_plan_hands_a_scripts_result_to_the_billing_app(laptop: Machine, shop: Shop) -> None:
    with opened(shop):
        run = laptop.client.submit(plan=load_plan(EXAMPLES / "plans" / "celery_task.yaml"))
        result = run.wait(RUN_SECONDS)
    assert result == {"refund": {"receipt": mock.ANY, "order_id": 7, "cents": 700, "reason": "broken"}}
    check(laptop, run)


def refund_of(key: str, cents: int, **fields: Any) -> Step:
    task = CeleryTask(task="billing.refund", queue="billing", **fields)
    arguments: dict[str, Any] = {ARGS: [{"order_id": 7, "cents": cents}], "reason": "test"}
    return Step(key=key, kind="celery_task", celery_task=task, arguments=arguments, deadline_seconds=30)


def mailing(receipt: int, *, deadline_seconds: float) -> Draft:
    mail = celery_task("billing.mail", queue="billing", deadline_seconds=deadline_seconds)
    return mail.step(7, receipt={"cents": 1, "receipt": receipt})


def test_an_effect_whose_callback_is_lost_with_the_worker_is_sent_again_and_happens_once(
    laptop: Machine, shop: Shop, billing: Any
) -> None:
    _, books = billing
    with opened(shop):
        shop.hazard.write_text("worker")
        step = refund_of("refund", 111, effect="idempotent", resend_seconds=2)
        run = laptop.client.submit(plan=Plan.of([step]))
        process = shop.process
        assert process is not None
        until(lambda: process.poll() is not None, RUN_SECONDS, "the worker dies after the effect")
    with opened(shop):
        run.wait(RUN_SECONDS)
    assert [cents for key, _, cents in books.payments() if key == str(step_id(run.run_id, "refund"))] == [111]
    assert len(facts(run, TaskSent)) > 1
    check(laptop, run)


def test_an_effect_that_cannot_be_told_is_put_before_a_person_after_its_deadline(
    laptop: Machine, shop: Shop, billing: Any
) -> None:
    _, books = billing
    mail = mailing(222, deadline_seconds=2)
    with opened(shop):
        shop.hazard.write_text("worker")
        run = laptop.client.submit(plan=Plan(mail))
        question = answer_when_asked(laptop, run, "override", "a person has looked: it went out")
    assert "nothing came back within 2 s: whether it has happened is not known" in question
    assert run.wait(RUN_SECONDS) == "a person has looked: it went out"
    assert len([text for _, text in books.mails() if "receipt 222" in text]) == 1
    check(laptop, run)


def test_a_child_that_is_killed_in_the_middle_of_a_task_is_told_by_its_parent_at_once(
    laptop: Machine, shop: Shop, billing: Any
) -> None:
    _, books = billing
    mail = mailing(333, deadline_seconds=600)
    with opened(shop):
        shop.hazard.write_text("child")
        run = laptop.client.submit(plan=Plan(mail))
        question = answer_when_asked(laptop, run, "skip")
    assert "WorkerLostError" in question
    assert run.wait(RUN_SECONDS) is None
    assert len([text for _, text in books.mails() if "receipt 333" in text]) == 1
    check(laptop, run)


def test_tasks_reach_the_billing_app_and_come_back_while_supervisors_are_killed(
    laptop: Machine, shop: Shop, billing: Any
) -> None:
    _, books = billing
    spec = CeleryTask(task="billing.refund", queue="billing", effect="idempotent", resend_seconds=5)
    arguments: dict[str, Any] = {ARGS: [{ITEM: None}], "reason": "storm"}
    body = Step(key="pay", kind="celery_task", celery_task=spec, arguments=arguments, deadline_seconds=120)
    items: list[Any] = [{"order_id": number, "cents": number} for number in range(40)]
    plan = Plan.of([Step(key="each", kind="map", map=Map(items=items, body=(body,), max_parallel=8))])
    with opened(shop):
        run = laptop.client.submit(plan=plan)
        for name in ("supervisor", "supervisor-2", "supervisor", "supervisor-2"):
            wait_for_some(run)
            until(lambda name=name: name in laptop.laptop.processes.pids(), RUN_SECONDS, f"{name} is back")  # type: ignore[misc]
            laptop.signal(name)
        result = run.wait(RUN_SECONDS)
    assert isinstance(result, list)
    assert len(result) == 40
    keys = {str(step_id(run.run_id, f"each/{number}/pay")) for number in range(40)}
    assert sorted(cents for key, _, cents in books.payments() if key in keys) == list(range(40))
    check(laptop, run)


def wait_for_some(run: RunHandle) -> None:
    """Until a few more of its tasks have come back."""
    before = len(facts(run, StepFinished))
    until(lambda: len(facts(run, StepFinished)) > before or run.status().finished_at, RUN_SECONDS, "it goes on")


def test_what_was_sent_waits_in_the_queue_for_the_billing_app_to_come_up(
    laptop: Machine, shop: Shop, billing: Any
) -> None:
    _, books = billing
    shop.close()
    run = laptop.client.submit(plan=Plan.of([refund_of("refund", 999)]))
    until(lambda: facts(run, TaskSent), RUN_SECONDS, "it is sent")
    with opened(shop):
        run.wait(RUN_SECONDS)
    assert 999 in [cents for _, _, cents in books.payments()]


def test_whoever_learns_it_otherwise_completes_the_step_and_the_second_is_told(laptop: Machine, shop: Shop) -> None:
    shop.close()
    run = laptop.client.submit(plan=Plan.of([refund_of("refund", 5)]))
    until(lambda: facts(run, TaskSent), RUN_SECONDS, "it is sent")
    assert laptop.client.complete(run.run_id, "refund", {"receipt": "by hand"}, by="reconciliation")
    assert not laptop.client.complete(run.run_id, "refund", {"receipt": "again"})
    assert run.wait(RUN_SECONDS) == {"receipt": "by hand"}


def test_the_billing_apps_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [*command, str(BILLING / "tests")],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLES.parent,
    )
    assert done.returncode == 0, done.stdout

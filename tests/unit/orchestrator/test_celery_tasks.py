"""Tasks of a user's own Celery app: how they are written, what they are sent, what follows from what comes back."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, JsonValue

from chargehand import InvalidPlan, Plan, celery_task, gate, parse_plan
from chargehand.orchestrator import completion
from chargehand.orchestrator.celery_tasks import (
    Again,
    Answer,
    ArgumentsMissing,
    Ended,
    Labels,
    Lost,
    UnfitResult,
    arguments_hash,
    asked_id,
    called_with,
    judge,
    lost_id,
    wait_in_words,
    when_due,
)
from chargehand.orchestrator.drawing.figure import figure_of_plan
from chargehand.orchestrator.drawing.mermaid import draw_mermaid
from chargehand.orchestrator.drawing.svg import draw_svg
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.plan import ARGS, RESULT_OF, CeleryTask, Step
from chargehand.orchestrator.plan_hints import hints_of
from chargehand.orchestrator.rounds import UNATTENDED
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.task_brokers import CeleryBrokers, make_sender, tasks_broker_url

STEP = UUID(int=7)
EFFECTFUL = CeleryTask(task="billing.refund", queue="billing")
IDEMPOTENT = EFFECTFUL.model_copy(update={"effect": "idempotent", "resend_seconds": 5.0})


def task(key: str = "refund", **fields: Any) -> Step:
    return Step.model_validate({"key": key, "kind": "celery_task", "celery_task": EFFECTFUL, **fields})


# --- written ----------------------------------------------------------------------------------------------------------


def test_a_task_is_written_by_its_name_and_waits_for_the_step_whose_result_it_takes() -> None:
    order = celery_task("billing.load_order", queue="billing").step(7)
    refund = celery_task("billing.refund", queue="billing", deadline_seconds=60)

    plan = Plan(gate("Refund?") >> refund.step(order, reason="broken"))

    step = plan.by_key["refund"]
    assert step.arguments == {ARGS: [{RESULT_OF: "load_order"}], "reason": "broken"}
    assert set(step.after) == {"load_order", "gate"}
    assert step.celery_task == CeleryTask(task="billing.refund", queue="billing")
    assert step.deadline_seconds == 60.0


def test_a_task_of_celery_is_taken_by_its_name() -> None:
    @dataclass
    class Task:
        name: str = "billing.refund"

    assert celery_task(Task(), queue="billing").spec.task == "billing.refund"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": "billing", "resend_seconds": 5.0}, "only an idempotent one is sent again"),
        ({"queue": "billing", "effect": "idempotent", "resend_seconds": 0.0}, "resend_seconds"),
    ],
)
def test_a_task_that_cannot_be_is_refused_where_it_is_written(written: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        celery_task("billing.refund", **written)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"retries": 2}, "let the task retry itself"),
        ({"arguments": {ARGS: 7}}, "is no list"),
        ({"celery_task": EFFECTFUL.model_copy(update={"resend_seconds": 5.0})}, "only an idempotent one is sent again"),
        ({"celery_task": None}, "has no field 'celery_task'"),
    ],
)
def test_a_step_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        Plan(steps=[task(**fields)])


def test_what_is_wrong_in_a_file_is_named_with_its_line_and_the_nearest_field() -> None:
    text = "steps:\n- key: refund\n  kind: celery_task\n  celery_task:\n    task: billing.refund\n    que: billing\n"
    with pytest.raises(InvalidPlan, match=r"plan:(4|6): step 'refund', celery_task\.que"):
        parse_plan(text)


def test_a_task_is_drawn_with_its_name_and_its_queue() -> None:
    figure = figure_of_plan(Plan(steps=[task()]))
    assert figure.nodes[0].what == "task billing.refund on billing"
    assert '[/"refund<br/>task billing.refund on billing"/]' in draw_mermaid(figure)
    assert "task billing.refund on billing" in draw_svg(figure, title="")


def test_a_task_without_a_deadline_is_hinted_at() -> None:
    assert [hint.rule for hint in hints_of(Plan(steps=[task()]))] == ["no-deadline"]
    assert hints_of(Plan(steps=[task(deadline_seconds=60.0)])) == []


def test_no_message_of_ours_is_sent_for_it() -> None:
    assert "celery_task" in UNATTENDED


# --- sent -------------------------------------------------------------------------------------------------------------


def test_results_are_put_in_wherever_they_stand() -> None:
    arguments: dict[str, JsonValue] = {ARGS: [{RESULT_OF: "a"}, 2], "deep": {"list": [{RESULT_OF: "a"}]}}
    call = called_with(arguments, lambda key: {"of": key})
    assert call.args == ({"of": "a"}, 2)
    assert call.kwargs == {"deep": {"list": [{"of": "a"}]}}


def test_too_much_is_not_sent() -> None:
    with pytest.raises(ArgumentsMissing, match="at most 1,000,000 are sent"):
        called_with({"text": "x" * 1_000_000}, lambda _key: None)


def test_the_same_arguments_have_the_same_hash_whatever_their_order_and_others_have_not() -> None:
    assert arguments_hash([1], {"a": 1, "b": 2}) == arguments_hash((1,), {"b": 2, "a": 1})
    assert arguments_hash([1], {"a": 1}) != arguments_hash([], {"a": 1})
    assert arguments_hash([object], {}) != arguments_hash([], {})


def test_headers_are_read_as_they_were_written_and_those_of_another_task_are_not() -> None:
    labels = Labels(tenant=uuid4(), run_id=uuid4(), step_id=uuid4(), sending=2)
    assert Labels.read(labels.headers(), task_id=str(labels.task_id)) == labels
    assert Labels.read(labels.headers(), task_id=str(uuid4())) is None, "a task that ours has started"
    assert Labels.read({}, task_id="1") is None
    assert Labels.read({**labels.headers(), "chargehand_run": "no id"}, task_id=str(labels.task_id)) is None


def test_a_broker_is_named_by_the_settings() -> None:
    settings = Settings(celery_tasks_brokers={"legacy": "amqp://there"}, redis_url="redis://here")
    assert CeleryBrokers(settings, "redis://here").known() == {"default", "legacy"}
    assert tasks_broker_url(settings=settings) == "redis://here"
    assert tasks_broker_url("legacy", settings=settings) == "amqp://there"
    with pytest.raises(InvalidSettings, match="CHARGEHAND_CELERY_TASKS_BROKERS"):
        tasks_broker_url("lost", settings=settings)
    own = Settings(celery_tasks_broker_url="amqp://own", redis_url="redis://here")
    assert tasks_broker_url(settings=own) == "amqp://own"


def test_rabbitmq_is_asked_to_confirm_and_the_users_own_options_count() -> None:
    rabbit = make_sender("amqp://there", {}, timeout_seconds=1.0)
    assert rabbit.conf.broker_transport_options == {"confirm_publish": True}
    redis = make_sender("redis://there", {"global_keyprefix": "billing."}, timeout_seconds=1.0)
    assert redis.conf.broker_transport_options["global_keyprefix"] == "billing."
    assert redis.conf.broker_transport_options["socket_timeout"] == 1.0


# --- what follows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "is_sent", "is_overdue", "then"),
    [
        (EFFECTFUL, False, False, "send"),
        (EFFECTFUL, True, True, "ask"),
        (EFFECTFUL.model_copy(update={"when_lost": "fail"}), True, True, "fail"),
        (IDEMPOTENT, True, False, "send"),
        (IDEMPOTENT, True, True, "ask"),
    ],
)
def test_what_its_time_brings(given: CeleryTask, is_sent: bool, is_overdue: bool, then: str) -> None:
    assert when_due(given, is_sent=is_sent, is_overdue=is_overdue) == then


def verdict(given: CeleryTask = EFFECTFUL, *, wait_id: UUID = STEP, **answers: Answer) -> object:
    ids = {"own": STEP, "lost": lost_id(STEP, 1), "earlier": lost_id(STEP, 0), "person": asked_id(STEP, 1)}
    found = {ids[name]: answer for name, answer in answers.items()}
    return judge(given, step_id=STEP, wait_id=wait_id, sending=1, answers=found)


PAID = Answer(choice="succeeded", body={"result": {"receipt": 1}, "by": "worker"})
CUT_OFF = Answer(choice="lost", body={"error": "signal 9"})


def person(choice: str, body: JsonValue = None) -> Answer:
    return Answer(choice=choice, body=body)


def test_what_the_task_says_ends_the_step() -> None:
    assert verdict(own=PAID) == Ended(outcome="succeeded", result={"receipt": 1}, returned=PAID)
    failed = Answer(choice="failed", body={"error": "no such order"})
    assert verdict(own=failed) == Ended(outcome="failed", error="no such order", returned=failed)
    assert verdict() is None


def test_the_task_knows_better_than_whoever_was_asked() -> None:
    asked = asked_id(STEP, 1)
    found = verdict(wait_id=asked, own=PAID, person=person("abort"))
    assert isinstance(found, Ended)
    assert found.outcome == "succeeded"


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (person("retry"), Again()),
        (person("skip"), Ended(outcome="succeeded")),
        (person("override", 4), Ended(outcome="succeeded", result=4)),
        (person("abort"), Ended(outcome="failed", error="a person chose 'abort'")),
    ],
)
def test_what_a_person_decides_is_done(answer: Answer, then: object) -> None:
    assert verdict(wait_id=asked_id(STEP, 1), person=answer) == then


def test_a_worker_that_was_cut_off_ends_the_waiting_of_what_may_not_be_sent_again() -> None:
    assert verdict(lost=CUT_OFF) == Lost(report=CUT_OFF)
    assert verdict(earlier=CUT_OFF) is None, "of a sending that was followed by another"
    assert verdict(IDEMPOTENT, lost=CUT_OFF) is None
    assert verdict(wait_id=asked_id(STEP, 1), lost=CUT_OFF) is None, "a person is asked already"


def test_why_it_waits_is_said_in_words() -> None:
    said = wait_in_words(EFFECTFUL, sending=2, sent_seconds_ago=3.2, left_seconds=7.0)
    assert said == "waits for task 'billing.refund' on queue 'billing', sent 3 s ago (2 times), given up in 7 s"
    said = wait_in_words(EFFECTFUL, sending=0, sent_seconds_ago=None, left_seconds=None)
    assert (
        said
        == "waits for task 'billing.refund' on queue 'billing', which is not sent yet; does broker 'default' answer?"
    )


# --- results ----------------------------------------------------------------------------------------------------------


class Receipt(BaseModel):
    cents: Decimal
    day: date


def test_a_result_becomes_plain_json_that_postgres_can_hold() -> None:
    given = {"receipt": Receipt(cents=Decimal("4.90"), day=date(2026, 1, 2)), "text": "a\x00b", "ids": (UUID(int=1),)}
    assert completion.as_result(given) == {
        "receipt": {"cents": "4.90", "day": "2026-01-02"},
        "text": "a\ufffdb",
        "ids": [str(UUID(int=1))],
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "gave a object, which JSON cannot hold"),
        ("x" * 4_000_000, "at most 4,000,000 are kept"),
        ({"a": lambda: 1}, "which JSON cannot hold"),
    ],
)
def test_a_result_that_does_not_fit_says_that_the_task_succeeded_and_what_to_do(value: object, said: str) -> None:
    with pytest.raises(UnfitResult, match=f"The task succeeded.*{said}"):
        completion.as_result(value)

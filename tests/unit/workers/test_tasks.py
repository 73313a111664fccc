"""The doors of the pools: what a message may ask for, and what becomes of one that this worker does not know."""

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject

from chargehand.orchestrator import broker
from chargehand.workers import tasks

TENANT, RUN, STEP = uuid4(), uuid4(), uuid4()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[UUID]]:
    """The steps that the executor was asked for."""
    seen: list[list[UUID]] = []

    def execute(_: Any, *, tenant: UUID, step_id: UUID) -> str:
        assert tenant == TENANT
        seen.append([step_id])
        return "go_on"

    def execute_pack(_: Any, *, tenant: UUID, run_id: UUID, step_ids: list[UUID]) -> str:
        assert (tenant, run_id) == (TENANT, RUN)
        seen.append(step_ids)
        return "stop"

    monkeypatch.setattr(tasks, "execute", execute)
    monkeypatch.setattr(tasks, "execute_pack", execute_pack)
    return seen


def door(stopping: bool = False) -> Callable[..., None]:
    app = Celery("test", set_as_current=False)
    event = threading.Event()
    if stopping:
        event.set()
    tasks.register_tasks(app, "audit", lambda: None, event)  # type: ignore[arg-type, return-value]
    task: Callable[..., None] = app.tasks[broker.task_name("audit")]
    return task


def test_a_message_names_one_step_or_the_steps_of_a_pack(asked: list[list[UUID]]) -> None:
    door()(tenant=str(TENANT), run_id=str(RUN), version=1, step_id=str(STEP))
    with pytest.raises(Ignore):
        door()(tenant=str(TENANT), run_id=str(RUN), version=1, step_ids=[str(STEP), str(RUN)])
    assert asked == [[STEP], [STEP, RUN]]


def test_a_message_from_before_there_were_versions_is_understood(asked: list[list[UUID]]) -> None:
    door()(tenant=str(TENANT), run_id=str(RUN), step_id=str(STEP))
    assert asked == [[STEP]]


def test_a_message_of_a_newer_version_is_left_alone_whatever_it_says(asked: list[list[UUID]]) -> None:
    with pytest.raises(Ignore):
        door()(tenant=str(TENANT), run_id=str(RUN), version=broker.MESSAGE_VERSION + 1, bundle="unheard of")
    assert asked == []


def test_a_stopping_worker_gives_the_message_to_another_one(asked: list[list[UUID]]) -> None:
    with pytest.raises(Reject) as rejected:
        door(stopping=True)(tenant=str(TENANT), run_id=str(RUN), version=1, step_id=str(STEP))
    assert rejected.value.requeue
    assert asked == []


@pytest.mark.parametrize("steps", [{"step_id": str(STEP)}, {"step_ids": [str(STEP)]}])
def test_a_message_that_postgres_did_not_hear_of_is_given_back_and_not_lost(
    monkeypatch: pytest.MonkeyPatch, steps: dict[str, Any]
) -> None:
    monkeypatch.setattr(tasks, "execute", lambda *_, **__: "again")
    monkeypatch.setattr(tasks, "execute_pack", lambda *_, **__: "again")
    monkeypatch.setattr(tasks, "OUTAGE_PAUSE_SECONDS", 0.0)
    with pytest.raises(Reject) as rejected:
        door()(tenant=str(TENANT), run_id=str(RUN), version=1, **steps)
    assert rejected.value.requeue

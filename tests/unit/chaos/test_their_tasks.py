"""The rule of tasks of a user's own app is content when all is well, and objects to every way it can be wrong."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from chaos.case import Case
from chaos.evidence import Evidence
from chaos.ledger import Knock
from chaos.plans import delivered
from chaos.world_rules import attempts, effects, tasks

from chargehand.orchestrator.facts import Fact, StepFinished, TaskRequested, TaskReturned, TaskSent
from tests.unit.chaos.stories import BEGAN, effect, knock, story

TASK = UUID(int=77)
KEY = str(TASK)


def told(facts: list[tuple[float, Fact]], begun: list[Knock], *, happened: int = 1) -> Evidence:
    """A step that is a task of theirs, with these facts, and what the ledger saw of it."""
    evidence = story().evidence()
    template = evidence.journal[0]
    rows = []
    for number, (at, fact) in enumerate(facts, start=1):
        moment, body = BEGAN + timedelta(seconds=at), fact.model_dump_json()
        rows.append(replace(template, step=TASK, seq=number, kind=fact.kind, body=body, at=moment))
    spec = delivered("task").model_dump(mode="json")
    step = replace(evidence.steps[0], id=TASK, key="task", epoch=0, spec=spec, status="succeeded")
    seen = [replace(effect("task", 3.5, key=KEY, pid=99), name="deliver")] * happened
    return replace(evidence, steps=[step], journal=rows, edges=frozenset(), knocks=begun, effects=seen)


def asked() -> TaskRequested:
    return TaskRequested(
        task="theirs.deliver",
        queue="theirs",
        broker="default",
        task_id=TASK,
        key=KEY,
        arguments_hash="h",
        effect="idempotent",
        deadline_seconds=60,
    )


def sent(number: int) -> TaskSent:
    return TaskSent(task_id=TASK, sending=number)


ANSWERED = TaskReturned(outcome="succeeded", by="celery@theirs")
DONE = StepFinished(outcome="succeeded")
WELL: list[tuple[float, Fact]] = [(1, asked()), (2, sent(1)), (5, sent(2)), (6, ANSWERED), (6, DONE)]
BEGUN = [knock("task", 3, key=KEY, pid=99), knock("task", 5.5, key=KEY, pid=98)]


def test_a_task_that_was_sent_twice_under_one_key_and_answered_once_is_well() -> None:
    case = Case(told(WELL, BEGUN))
    assert [*tasks(case), *effects(case), *attempts(case)] == []


WRONG: dict[str, tuple[Callable[[], Evidence], str]] = {
    "another key": (
        lambda: told(WELL, [*BEGUN, knock("task", 5.6, key="mine", pid=97)]),
        "was sent under key mine, which is not its step's",
    ),
    "never asked for": (lambda: told(WELL[1:], BEGUN), "began and was never asked for"),
    "too early": (lambda: told(WELL, [knock("task", 0.5, key=KEY, pid=99)]), "began before it was asked for"),
    "a sending left out": (
        lambda: told([(1, asked()), (2, sent(2)), (6, ANSWERED), (6, DONE)], BEGUN),
        "was noted as sent for the times [2]",
    ),
    "answered twice": (lambda: told([*WELL[:4], (6, ANSWERED), (6, DONE)], BEGUN), "was answered 2 times"),
    "no answer": (lambda: told([*WELL[:3], (6, DONE)], BEGUN), "succeeded and nothing came back"),
    "an effect of nobody": (lambda: told(WELL, []), f"took effect under key {KEY} and never began"),
    "no effect": (lambda: told(WELL, BEGUN, happened=0), "succeeded and took no effect"),
}


@pytest.mark.parametrize(("make", "objection"), WRONG.values(), ids=WRONG.keys())
def test_the_checker_objects_to_a_task_that_went_wrong(make: Callable[[], Evidence], objection: str) -> None:
    assert [line for line in tasks(Case(make())) if objection in line]

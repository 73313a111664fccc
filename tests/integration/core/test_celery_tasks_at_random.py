"""Tasks of a user's own app under whatever may happen to them, in an order that a seed decides."""

import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import JsonValue

from chargehand.memory import journal
from chargehand.orchestrator import completion, runs, views
from chargehand.orchestrator.celery_tasks import Message
from chargehand.orchestrator.completion import Completion
from chargehand.orchestrator.facts import TaskReturned, parse_fact
from chargehand.orchestrator.plan import CeleryTask, Step, step_id
from chargehand.orchestrator.supervisor.dispatch import Dispatcher

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

TASKS: dict[str, dict[str, Any]] = {
    "mail": {},
    "pay": {"effect": "idempotent", "resend_seconds": 10.0},
    "look": {"when_lost": "fail"},
}
EVENTS = 30


class Killed(BaseException):
    """The process is gone."""


class World:
    """Supervisors that die, a broker that comes and goes, workers that answer or do not, people who decide."""

    def __init__(self, house: "House", seed: int) -> None:
        self.house, self.chance = house, random.Random(seed)
        self.sent: list[Message] = []
        self.retries = dict.fromkeys(TASKS, 0)
        self.first: dict[str, JsonValue] = {}
        steps = [
            Step(
                key=key,
                kind="celery_task",
                celery_task=CeleryTask(task=f"shop.{key}", queue="shop", **fields),
                arguments={"of": key},
                deadline_seconds=25.0,
            )
            for key, fields in TASKS.items()
        ]
        self.run_id = house.submit(*steps)

    # --- the broker

    def known(self) -> frozenset[str]:
        return frozenset({"default"})

    def away(self) -> frozenset[str]:
        return frozenset()

    def send(self, message: Message) -> bool:
        fate = self.chance.random()
        if fate < 0.1:
            raise Killed
        if fate < 0.2:
            return False
        self.sent.append(message)
        if fate < 0.3:
            raise Killed
        # Nobody knows whether it has left, and it has.
        return fate > 0.35

    def revoke(self, broker: str, task_id: UUID) -> None:
        pass

    # --- what happens

    def supervise(self) -> None:
        try:
            while self.house.rings(self.run_id):
                self.house.advance(self.run_id)
            Dispatcher(self.house.supervisor, self).dispatch(self.chance.choice((None, self.run_id)))
        except Killed:
            pass

    def pass_time(self) -> None:
        self.house.execute(
            "UPDATE steps SET run_after = run_after - make_interval(secs => :s), "
            "deadline_at = deadline_at - make_interval(secs => :s) WHERE run = :run AND status = 'waiting'",
            {"s": self.chance.choice((4, 11, 16, 30)), "run": self.run_id},
        )

    def answer(self) -> None:
        arrived = [message.labels.step_id for message in self.sent]
        key = self.chance.choice(list(TASKS))
        step = step_id(self.run_id, key)
        if step not in arrived:
            return
        result = self.chance.randrange(1_000_000)
        with self.house.as_tenant() as session:
            told = Completion(outcome="succeeded", by="worker", result=result)
            first = completion.complete(session, self.house.tenant, run_id=self.run_id, step=step, completion=told)
        assert not (first and key in self.first), "two answers were each told to be the first"
        if first:
            self.first[key] = result

    def lose(self) -> None:
        if self.sent:
            with self.house.as_tenant() as session:
                completion.report_lost(session, self.chance.choice(self.sent).labels, by="worker", why="signal 9")

    def decide(self) -> None:
        with self.house.as_tenant() as session:
            for asked in views.escalations(session, self.run_id):
                choice = self.chance.choice(asked.options)
                first = runs.answer(
                    session,
                    self.house.tenant,
                    run_id=self.run_id,
                    step=asked.step_id,
                    wait_id=asked.wait_id,
                    choice=choice,
                    body="looked up",
                )
                self.retries[asked.step_key] += first and choice == "retry"

    def rest(self) -> None:
        change = self.chance.choice((runs.pause, runs.resume))
        with self.house.as_tenant() as session:
            change(session, self.house.tenant, self.run_id)

    def end(self) -> None:
        """Let everybody do their duty."""
        with self.house.as_tenant() as session:
            runs.resume(session, self.house.tenant, self.run_id)
        for _ in range(200):
            self.supervise()
            self.pass_time()
            self.answer()
            self.decide()
            if self.house.run_row(self.run_id).finished_at is not None:
                return
        raise AssertionError(f"it hangs: {self.house.statuses(self.run_id)}")


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_each_task_ends_once_and_no_effect_is_repeated_unasked(house: "House", seed: int) -> None:
    world = World(house, seed)
    acts = (world.supervise, world.supervise, world.pass_time, world.answer, world.lose, world.decide, world.rest)
    for _ in range(EVENTS):
        world.chance.choice(acts)()
    world.end()

    assert house.drift(world.run_id) == []
    assert house.objections(world.run_id) == []
    for key in TASKS:
        step = step_id(world.run_id, key)
        mine = [message for message in world.sent if message.labels.step_id == step]
        assert len({message.call.digest for message in mine}) <= 1
        kinds = house.kinds(world.run_id, key)
        assert kinds.count("step.finished") == 1
        if key != "pay":
            # Sent under its number again by whoever follows one that died; under a new one only when a person says so.
            assert {message.labels.sending for message in mine} <= set(range(1, world.retries[key] + 2))
        with house.as_tenant() as session:
            end = views.results(session, world.run_id, [key])[key]
            entries = journal.read(session, world.run_id, step=step, kinds=["task.returned"])
            told = [parse_fact(entry.body or "", schema_version=entry.schema_version) for entry in entries]
        if any(isinstance(fact, TaskReturned) and fact.outcome == "succeeded" for fact in told):
            assert (end.outcome, end.result) == ("succeeded", world.first[key])
        else:
            assert end.result in (None, "looked up")

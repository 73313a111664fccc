"""A user's own Celery app: its broker loses and doubles messages, its workers die, and its answers come late."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from chargehand.orchestrator.celery_tasks import Message, lost_id
from chargehand.orchestrator.facts import TaskRequested
from simulation import writers
from simulation.ledger import Effect

if TYPE_CHECKING:
    from simulation.world import World

TAPE = "their app"
# Of an answer that finds no Postgres.
RETRY_SECONDS = 1.0
LONGEST_QUEUE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How often what goes wrong there."""

    lose: float = 0.0
    """Messages that are lost."""
    double: float = 0.0
    """Messages that are delivered twice."""
    die: float = 0.0
    """Tasks whose worker is killed in their middle."""
    refuse: float = 0.0
    """Messages that its broker does not take."""


class TheirApp:
    """Everything between a message and its answer."""

    def __init__(self, world: "World", habits: Habits) -> None:
        """It takes messages from now on."""
        self._world = world
        self.habits = habits
        self.answered_in_time: dict[UUID, str] = {}
        """step → its task's answer, if it came while somebody waited for it."""
        self.done: Counter[UUID] = Counter()

    def take(self, message: Message) -> bool:
        """A message of a supervisor; whether the broker took it."""
        world, step, choices = self._world, message.labels.step_id, self._world.choices
        facts = world.tables.facts(message.labels.run_id, step)
        if not any(isinstance(fact, TaskRequested) and fact.arguments_hash == message.call.digest for fact in facts):
            world.object_(f"a task of step {self._key(step)!r} was sent that its journal does not know")
        if choices.happens(TAPE, self.habits.refuse):
            return False
        world.say(f"task sent, {message.labels.sending}", step)
        copies = 2 if choices.happens(TAPE, self.habits.double) else 1
        for _ in range(0 if choices.happens(TAPE, self.habits.lose) else copies):
            wait = choices.between(TAPE, 0.01, LONGEST_QUEUE_SECONDS)
            if wait < message.expires_seconds:
                world.clock.after(wait, lambda: self._run(message))
        return True

    def _run(self, message: Message) -> None:
        world, step, key = self._world, message.labels.step_id, message.labels.idempotency_key
        given = message.call.kwargs
        seconds = given.get("seconds")
        assert isinstance(seconds, float)
        world.ledger.effects[key].append(Effect(step, message.task.task, "task", key))
        self.done[step] += 1
        end = seconds
        if world.choices.happens(TAPE, self.habits.die):
            if world.choices.happens(TAPE, 0.5):
                world.clock.after(end, lambda: self._report_lost(message))
            return
        failed = self.done[step] <= int(str(given.get("fails", 0)))
        world.clock.after(end, lambda: self._answer(message, "failed" if failed else "succeeded"))

    def _answer(self, message: Message, outcome: str) -> None:
        world, step = self._world, message.labels.step_id
        if world.postgres_is_down:
            world.clock.after(RETRY_SECONDS, lambda: self._answer(message, outcome))
            return
        body = {"by": "their worker", "result": f"done {step}"}
        if outcome == "failed":
            body = {"by": "their worker", "error": "as planned over there"}
        row = world.tables.steps[step]
        is_waited_for = row.status == "waiting" and world.tables.run_of(row).status in {"running", "paused"}
        if writers.answer(world.tables, step, step, outcome, body):
            world.say(f"task answers {outcome}", step)
            if is_waited_for:
                self.answered_in_time[step] = outcome
        world.on_commit()

    def _report_lost(self, message: Message) -> None:
        world, labels = self._world, message.labels
        if world.postgres_is_down:
            return
        wait_id = lost_id(labels.step_id, labels.sending)
        body = {"by": "their worker", "error": "its worker was killed"}
        if writers.answer(world.tables, labels.step_id, wait_id, "lost", body):
            world.say("task reported lost", labels.step_id)
        world.on_commit()

    def _key(self, step: UUID) -> str:
        return self._world.tables.steps[step].key

"""People: they submit twice, answer at the same time, cancel, pause and resume, and in the end answer everything."""

from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

from chargehand.orchestrator.facts import StepWaiting
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import writers
from simulation.tables import RunIsLocked, StepLine

if TYPE_CHECKING:
    from simulation.world import World

TAPE = "people"
DEEDS = ("pause", "resume", "pause", "resume", "tell", "pause", "resume", "pause", "resume", "cancel")
# Whoever has asked to try again so often gives up.
MOST_RETRIES = 2
LOOK_SECONDS = 3.0
# Deeds of one flurry come that soon after each other.
MOST_APART_SECONDS = 0.2
WAIT_FOR_LOCK_SECONDS = 0.01


class People:
    """Everybody who may act on a run."""

    def __init__(self, world: "World", *, flurries: int) -> None:
        """Lay out what they will do, in advance."""
        self._world = world
        self.deeds: Counter[str] = Counter()
        self._retries: Counter[UUID] = Counter()
        self._is_late = False
        choices = world.choices
        for _ in range(choices.number(TAPE, flurries + 1)):
            # Most of it early, when most is under way.
            when = choices.between(TAPE, 0.0, 1.0) ** 2 * world.conditions.troubled_seconds
            run = choices.number(TAPE, 4)
            for _ in range(1 + choices.number(TAPE, 4)):
                deed = choices.one_of(TAPE, DEEDS)
                world.clock.after(when, lambda run=run, deed=deed: self._act(run, deed))  # type: ignore[misc]
                when += choices.between(TAPE, 0.0, MOST_APART_SECONDS)
        world.clock.after(LOOK_SECONDS, self._look)

    def settle_down(self) -> None:
        """From now on they only answer, and let everything go on."""
        self._is_late = True
        for run in self._world.tables.runs.values():
            self._do(run.id, "resume")

    # --- deeds

    def _act(self, number: int, deed: str) -> None:
        runs = list(self._world.tables.runs)
        if runs and not self._is_late:
            self._do(runs[number % len(runs)], deed)

    def _do(self, run_id: UUID, deed: str) -> None:
        tables, run = self._world.tables, self._world.tables.runs[run_id]
        before = run.status
        try:
            match deed:
                case "cancel":
                    did = writers.cancel(tables, run)
                    expected = before not in RUN_ENDINGS
                case "pause":
                    did = writers.pause(tables, run)
                    expected = before == "running"
                case "resume":
                    did = writers.resume(tables, run)
                    expected = before == "paused"
                case "raise":
                    did = writers.raise_budget(tables, run, run.cap_microusd + 2_000)
                    expected = before not in RUN_ENDINGS
                case _:
                    did = writers.tell(tables, run, "hurry")
                    expected = before not in RUN_ENDINGS
        except RunIsLocked:
            # They wait for the lock, but not for ever.
            if self._is_late and deed in {"pause", "cancel"}:
                return
            self._world.clock.after(WAIT_FOR_LOCK_SECONDS, lambda: self._do(run_id, deed))
            return
        self.deeds[deed] += 1
        if did:
            self._world.say(f"somebody chose to {deed} run {run.goal}")
        if did != expected:
            self._world.object_(f"{deed} of a run that was {before} said {did}")
        self._world.on_commit()

    # --- answers

    def _look(self) -> None:
        """Read the questions; not all of them are answered at once while there is trouble."""
        choices = self._world.choices
        for row in list(self._world.tables.steps.values()):
            asked = self._question(row)
            if asked is None or not asked.options or self._world.tables.signal(row) is not None:
                continue
            if self._is_late or not choices.happens(TAPE, 0.3):
                self._answer(row, asked)
                if choices.happens(TAPE, 0.2):
                    self._answer(row, asked)
        self._world.clock.after(LOOK_SECONDS, self._look)

    def _question(self, row: StepLine) -> StepWaiting | None:
        if row.status != "waiting":
            return None
        facts = self._world.tables.facts(row.run, row.id)
        return next(fact for fact in reversed(facts) if isinstance(fact, StepWaiting))

    def _answer(self, row: StepLine, asked: StepWaiting) -> None:
        world = self._world
        if asked.reason == "budget" and world.choices.happens(TAPE, 0.5):
            self._do(row.run, "raise")
            return
        choice = self._choose(row, asked.options)
        self.deeds["answer"] += 1
        had_answer = world.tables.signal(row) is not None
        won = writers.answer(world.tables, row.id, asked.wait_id, choice)
        if won == had_answer:
            world.object_(f"an answer to step {row.key!r} was taken twice, or not at all")
        if won:
            world.say(f"a person answers {choice!r}", row.id)
            world.ledger.answers[row.id].append(choice)
            self._retries[row.id] += choice == "retry"

    def _choose(self, row: StepLine, options: tuple[str, ...]) -> str:
        if self._retries[row.id] >= MOST_RETRIES:
            options = tuple(option for option in options if option not in {"retry", "answer"})
        if "reject" in options and self._world.choices.happens(TAPE, 0.8):
            return "approve"
        return self._world.choices.one_of(TAPE, options)

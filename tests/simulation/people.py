"""People: they submit twice, answer at the same time, cancel, pause and resume, and in the end answer everything."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING
from uuid import UUID

from chargehand.orchestrator.facts import StepWaiting
from chargehand.orchestrator.replanning import REPLANNER
from chargehand.orchestrator.switches import Kind
from chargehand.orchestrator.transitions import RUN_ENDINGS
from simulation import switching, writers
from simulation.tables import RunIsLocked, RunLine, StepLine

if TYPE_CHECKING:
    from simulation.world import World

TAPE = "people"
DEEDS = (
    "pause", "resume", "pause", "resume", "tell", "pause", "resume", "retry", "answer", "pause", "resume", "cancel",
    "switch off", "switch on",
)  # fmt: skip
# Of the whole fleet.
SWITCHES: tuple[tuple[Kind, str], ...] = (
    ("role", "agent"), ("tool", "put"), ("model", "simulated"), ("all", ""), ("role", "helper"), ("tool", "look"),
    ("model", "spare"), ("tool", "send"), ("role", "chooser"), ("tool", "delegate"), ("role", "third"),
)  # fmt: skip
# These race each other.
RACING = frozenset({"cancel", "pause", "resume", "answer", "deadline"})
# Whoever has asked to try again so often gives up.
MOST_RETRIES = 2
LOOK_SECONDS = 3.0
# A planner thinks for some seconds.
GLANCE_SECONDS = 0.5
# Deeds of one flurry come that soon after each other.
MOST_APART_SECONDS = 0.2
WAIT_FOR_LOCK_SECONDS = 0.01


class People:
    """Everybody who may act on a run."""

    def __init__(self, world: "World", *, flurries: int) -> None:
        """Lay out what they will do, in advance."""
        self._world = world
        self.deeds: Counter[str] = Counter()
        self.sequences: dict[UUID, list[str]] = defaultdict(list)
        """run → what was done to it while it was under way, and how it stood then."""
        self._retries: Counter[UUID] = Counter()
        self._is_late = False
        choices = world.choices
        for _ in range(choices.number(TAPE, flurries + 1)):
            # Most of it early, when most is under way.
            when = choices.between(TAPE, 0.0, 1.0) ** 2 * world.conditions.troubled_seconds
            run = choices.number(TAPE, 4)
            for _ in range(2 + choices.number(TAPE, 4)):
                deed = choices.one_of(TAPE, DEEDS)
                world.clock.after(when, lambda run=run, deed=deed: self._act(run, deed))  # type: ignore[misc]
                when += choices.between(TAPE, 0.0, MOST_APART_SECONDS)
        world.clock.after(LOOK_SECONDS, self._look)
        if world.conditions.most_replans:
            world.clock.after(GLANCE_SECONDS, self._forestall_planners)

    def settle_down(self) -> None:
        """From now on they only answer, and let everything go on."""
        self._is_late = True
        for run in self._world.tables.runs.values():
            self._do(run.id, "resume")
        for kind, name in SWITCHES:
            self._switch("switch on", kind, name)

    # --- deeds

    def _act(self, number: int, deed: str) -> None:
        runs = list(self._world.tables.runs)
        if runs and not self._is_late:
            run = runs[number % len(runs)]
            if deed.startswith("switch"):
                self._switch(deed, *self._world.choices.one_of(TAPE, SWITCHES))
            elif deed == "answer":
                self._answer_something(run)
            else:
                self._do(run, deed)

    def _switch(self, deed: str, kind: Kind, name: str) -> None:
        tables = self._world.tables
        did = (switching.switch_off if deed == "switch off" else switching.switch_on)(tables, kind, name)
        if did:
            self.deeds[deed] += 1
            self._world.say(f"somebody decides to {deed} {kind} {name}")
            self._world.rules.fleet.on_switch()
            self._world.on_commit()

    def _to_do_again(self, run: RunLine, wanted: str | None = None) -> str:
        """A step that was in the plan from the start or grew out of it, and counts; the wanted one if it still does."""
        rows = [
            row for row in self._world.tables.of_run[run.id] if row.spec.parent is None and row.status != "superseded"
        ]
        if any(row.key == wanted for row in rows):
            return str(wanted)
        return rows[self._world.choices.number(TAPE, 16) % len(rows)].key

    def _retry(self, run: RunLine, key: str) -> bool:
        """Let a step be done again; who lets a planner think again has wanted it to be asked once more."""
        asks = next(row for row in self._world.tables.of_run[run.id] if row.key == key).spec.role == REPLANNER
        # Noted first: what is written is looked at while it is written.
        self._world.ledger.planners_asked_again[run.id] += asks
        did = False
        try:
            did = writers.retry(self._world.tables, run, key)
        finally:
            self._world.ledger.planners_asked_again[run.id] -= asks and not did
        return did

    def _answer_something(self, run_id: UUID) -> None:
        """Whatever the run asks just now, several people answer."""
        for row in list(self._world.tables.of_run[run_id]):
            asked = self._question(row)
            if asked is not None and asked.options:
                self._answer(row, asked)

    def _do(self, run_id: UUID, deed: str, step: str | None = None) -> None:
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
                case "retry":
                    did = self._retry(run, self._to_do_again(run, step))
                    expected = before not in RUN_ENDINGS
                case _:
                    did = writers.tell(tables, run, "hurry")
                    expected = before not in RUN_ENDINGS
        except RunIsLocked:
            # They wait for the lock, but not for ever.
            if self._is_late and deed in {"pause", "cancel"}:
                return
            self._world.clock.after(WAIT_FOR_LOCK_SECONDS, lambda: self._do(run_id, deed, step))
            return
        self.deeds[deed] += 1
        self.note(run_id, deed, was=before)
        if did:
            self._world.say(f"somebody chose to {deed} run {run.goal}")
        if did != expected:
            self._world.object_(f"{deed} of a run that was {before} said {did}")
        self._world.on_commit()

    def note(self, run_id: UUID, deed: str, *, was: str) -> None:
        """A person, or a deadline, did something to a run that `was` so; only while there is trouble."""
        if deed in RACING and not self._is_late and was not in RUN_ENDINGS:
            standing = Counter(row.status for row in self._world.tables.of_run[run_id])
            self.sequences[run_id].append(f"{deed} {was} {sorted(standing.items())}")

    @property
    def interleavings(self) -> list[str]:
        """One for each run that at least two different deeds raced for: which, and in which states it was then."""
        return ["; ".join(deeds) for deeds in self.sequences.values() if len({deed.split()[0] for deed in deeds}) > 1]

    # --- answers

    def _look(self) -> None:
        """Read the questions; not all of them are answered at once while there is trouble."""
        choices = self._world.choices
        for row in list(self._world.tables.open_rows()):
            asked = self._question(row)
            if asked is None or not asked.options or self._world.tables.signal(row) is not None:
                continue
            if self._is_late or not choices.happens(TAPE, 0.3):
                self._answer(row, asked)
                if choices.happens(TAPE, 0.2):
                    self._answer(row, asked)
        self._world.clock.after(LOOK_SECONDS, self._look)

    def _forestall_planners(self) -> None:
        """While a planner thinks, let it think anew, or do what has failed again and leave it with an old plan."""
        choices, tables = self._world.choices, self._world.tables
        for asked in list(tables.open_rows()):
            is_asked = asked.spec.role == REPLANNER and asked.spec.parent is None and not asked.has_ended
            if is_asked and choices.happens(TAPE, 0.12):
                rows = tables.of_run[asked.run]
                failed = [row.key for row in rows if row.status == "failed" and row.spec.parent is None]
                self._do(asked.run, "retry", choices.one_of(TAPE, (asked.key, *failed, *failed)))
        if not self._is_late:
            self._world.clock.after(GLANCE_SECONDS, self._forestall_planners)

    def _question(self, row: StepLine) -> StepWaiting | None:
        if row.status != "waiting":
            return None
        facts = self._world.tables.facts(row.run, row.id)
        asked = next(fact for fact in reversed(facts) if isinstance(fact, StepWaiting))
        # Children and colleagues answer for themselves.
        return asked if asked.reason != "children" else None

    def _answer(self, row: StepLine, asked: StepWaiting) -> None:
        world = self._world
        if asked.reason == "budget" and world.choices.happens(TAPE, 0.5):
            self._do(row.run, "raise")
            return
        choice = self._choose(row, asked.options)
        self.deeds["answer"] += 1
        self.note(row.run, "answer", was=world.tables.runs[row.run].status)
        had_answer = world.tables.signal(row) is not None
        body = {"by": "a person"} if choice == "override" else None
        won = writers.answer(world.tables, row.id, asked.wait_id, choice, body)
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

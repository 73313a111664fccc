"""Faults by dice: at any commit, and now and then to a whole process, the broker or Postgres."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import SOLO
from simulation.broker import SUPERVISOR

if TYPE_CHECKING:
    from simulation.world import World

TAPE = "faults"
AT_COMMIT = (
    "kill after", "kill before", "reply lost", "refused", "freeze after", "freeze before", "freeze after", "kill after",
)  # fmt: skip
STRIKES = (
    "kill a worker", "kill a supervisor", "drain a worker", "freeze a worker", "freeze a supervisor",
    "empty the broker", "lose the chords", "stop the broker", "stop Postgres", "stop a pool",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Malice:
    """How bad it is."""

    at_commit: float = 0.0
    """Share of commits that something happens to."""
    strikes: int = 0
    """Most strikes at something whole."""


class Nemesis:
    """Strikes until it is told to stop."""

    def __init__(self, world: "World", malice: Malice) -> None:
        """Lay out all strikes in advance."""
        self._world = world
        self._malice = malice
        self._is_over = False
        for _ in range(world.choices.number(TAPE, malice.strikes + 1)):
            world.clock.after(world.choices.between(TAPE, 0.5, world.conditions.troubled_seconds), self._strike)

    def stop(self) -> None:
        """Nothing happens from now on."""
        self._is_over = True

    def strikes_commit(self) -> str:
        """What happens to this commit, or nothing."""
        if self._is_over or not self._world.choices.happens(TAPE, self._malice.at_commit):
            return ""
        return self._world.choices.one_of(TAPE, AT_COMMIT)

    def _strike(self) -> None:
        if self._is_over:
            return
        world, choices = self._world, self._world.choices
        what = choices.one_of(TAPE, STRIKES)
        seconds = choices.between(TAPE, 0.5, 30.0)
        victim = choices.number(TAPE, 8)
        world.say(what, seconds=seconds)
        match what:
            case "kill a worker" | "drain a worker" | "freeze a worker":
                self._strike_worker(what, victim, seconds)
            case "kill a supervisor":
                for one in world.supervisors[victim % 3 : victim % 3 + 1]:
                    one.kill()
            case "freeze a supervisor":
                for one in world.supervisors[victim % 3 : victim % 3 + 1]:
                    one.freeze(seconds)
            case "empty the broker":
                world.broker.empty()
            case "lose the chords":
                world.broker.lose_chords()
            case "stop the broker":
                world.broker.is_down = True
                world.clock.after(seconds, lambda: self._start_broker())
            case "stop Postgres":
                self._stop_postgres(seconds)
            case _:
                self._stop_pool((*POOLS, SOLO)[victim % 4], seconds * 3)

    def _strike_worker(self, what: str, victim: int, seconds: float) -> None:
        workers = [one for one in self._world.workers if one.is_alive and not one.is_frozen]
        if not workers:
            return
        busy = [one for one in workers if one.is_busy] or workers
        worker = busy[victim % len(busy)]
        if what == "drain a worker":
            worker.drain()
            return
        worker.on_violence()
        if what == "kill a worker":
            worker.kill()
        else:
            worker.freeze(seconds)

    def _start_broker(self) -> None:
        self._world.broker.is_down = False
        for worker in self._world.workers:
            worker.after(0.0, worker.poke)
        for supervisor in self._world.supervisors:
            supervisor.after(0.0, supervisor._poke)

    def _stop_postgres(self, seconds: float) -> None:
        world = self._world
        world.postgres_is_down = True
        for worker in world.workers:
            worker.on_violence()
        world.clock.after(seconds, world.start_postgres)

    def _stop_pool(self, pool: str, seconds: float) -> None:
        world = self._world
        if pool == SUPERVISOR:
            return
        world.down_until[pool] = world.clock.now + seconds
        for worker in [one for one in world.workers if one.pool == pool]:
            worker.on_violence()
            worker.kill()

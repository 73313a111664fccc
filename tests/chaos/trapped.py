"""A fleet that has the crash points in it: its supervisors, its workers, and workers of a user's own app if wanted."""

from dataclasses import dataclass, replace
from typing import Any

from chaos.machine import Fleet
from chaos.plans import THEIR_QUEUE
from chaos.points import TRAP_VARIABLE
from chargehand.orchestrator.laptop.specs import ProcessSpec
from chargehand.orchestrator.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class TrappedFleet(Fleet):
    """Start them as `python -m chaos.points celery …`; the trap is in the folder `trap` of the home."""

    theirs: bool = False
    """With a worker of `chaos.their_app`, which is started again like the others when it dies."""

    def specs(self, settings: Settings, endpoints: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        """The processes of the fleet."""
        trap = {TRAP_VARIABLE: str(settings.home / "trap")}
        chosen = Fleet.specs(self, settings, endpoints, **rest)
        if self.theirs:
            chosen += (_theirs(next(spec for spec in chosen if spec.name in self.pools)),)
        return tuple(
            replace(
                spec,
                argv=(spec.argv[0], "-m", "chaos.points", *spec.argv[2:]),
                environment={**spec.environment, **trap},
            )
            if spec.argv[1:3] == ("-m", "celery")
            else spec
            for spec in chosen
        )


def _theirs(worker: ProcessSpec) -> ProcessSpec:
    argv = (
        worker.argv[0],
        "-m",
        "celery",
        "-A",
        "chaos.their_app",
        "worker",
        "-P",
        "threads",
        "-c",
        "2",
        "-Q",
        THEIR_QUEUE,
    )
    options = ("-n", f"{THEIR_QUEUE}@%h", "--loglevel", "INFO", "--without-gossip", "--without-mingle")
    return replace(worker, name=THEIR_QUEUE, argv=(*argv, *options))

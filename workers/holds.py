"""What a step must not use now: what people have paused for the fleet, and what an open circuit keeps from failing."""

from typing import Literal

from chargehand.orchestrator.circuits import Circuits
from chargehand.orchestrator.switches import Switches
from chargehand.workers.held import Held

# A pause ends when a person ends it, who wakes the steps that wait. This is for the wait that its end just missed.
PAUSED_SECONDS = 60.0


class Holds:
    """Asked before each use, and told how it went; any thread may call it."""

    def __init__(self, switches: Switches | None = None, circuits: Circuits | None = None) -> None:
        """Without the one or the other nothing is held by it."""
        self._switches, self._circuits = switches, circuits

    def role(self, name: str) -> Held | None:
        """Why agents of this role stop."""
        return self._paused("role", name)

    def everything(self) -> Held | None:
        """Why the whole fleet stops."""
        return self._paused("all", "")

    def tool(self, name: str) -> Held | None:
        """Why this tool is not called."""
        return self._paused("tool", name) or self._open("tool", name)

    def model(self, name: str) -> Held | None:
        """Why this model is not asked."""
        return self._paused("model", name) or self._open("model", name)

    def tool_passed(self, name: str) -> None:
        """The tool worked, or refused what it was given."""
        if self._circuits is not None:
            self._circuits.passed("tool", name)

    def tool_failed(self, name: str, why: str) -> None:
        """What is behind the tool does not answer."""
        if self._circuits is not None:
            self._circuits.failed("tool", name, why)

    def model_passed(self, name: str) -> None:
        """The model's server answered."""
        if self._circuits is not None:
            self._circuits.passed("model", name)

    def model_failed(self, name: str, why: str) -> None:
        """The model's server gave no answer."""
        if self._circuits is not None:
            self._circuits.failed("model", name, why)

    def _paused(self, kind: Literal["all", "role", "tool", "model"], name: str) -> Held | None:
        found = self._switches.find(kind, name) if self._switches is not None else None
        return Held(reason="paused", why=found.why, seconds=PAUSED_SECONDS) if found is not None else None

    def _open(self, kind: Literal["tool", "model"], name: str) -> Held | None:
        found = self._circuits.ask(kind, name) if self._circuits is not None else None
        if found is None:
            return None
        return Held(
            reason="circuit",
            why=f"{kind} {name!r} is left alone for {found.seconds:.0f} s: {found.why}",
            seconds=max(found.seconds, 0.5),
        )


NOTHING_HELD = Holds()

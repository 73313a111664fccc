"""How an attempt at an agent step can end."""

from dataclasses import dataclass

from pydantic import JsonValue

from chargehand.orchestrator.approval import Guarded
from chargehand.orchestrator.errors import ChargehandError
from chargehand.orchestrator.facts import WaitReason
from chargehand.orchestrator.plan import Expiry, PlanPatch, Step

# What a person may do with a step that waits for one.
GO_ON_OPTIONS = ("retry", "answer", "override", "skip", "abort")
# reject: the model is told, and goes on without the call.
CALL_OPTIONS = ("approve", "reject", "abort")
NO_MORE_TURNS_OPTIONS = ("override", "skip", "abort")
# A failed call or service is tried again after 2, 4, 8 … 60 s.
RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 60.0


class Drained(ChargehandError):
    """The process is stopping: everything is recorded up to here, hand the step back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The role's typed result."""

    result: JsonValue
    commit: str | None = None
    """Where the workspace ended, when a tool has edited it."""
    patch: PlanPatch | None = None
    """What a planner adds to the graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The step cannot succeed."""

    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """The step has to wait and holds no worker meanwhile."""

    reason: WaitReason
    question: str
    options: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """`step:seq` of the journal rows that show why."""
    run_after_seconds: float | None = None
    """When to go on by itself; None: when it is answered."""
    child: Step | None = None
    """The colleague that it waits for."""
    tool_use_id: str | None = None
    """The call that the colleague, or the person, answers."""
    guards: tuple[Guarded, ...] = ()
    """What a person approves by letting it go on."""
    cause: str = ""
    """Equal for questions of one run that one answer settles."""
    wants_fix: bool = False
    """The answer has to be a repair of one line."""
    expires: Expiry | None = None
    """What becomes of it when nobody answers, where neither the step nor its role says so."""


Outcome = Finished | Failed | Wait


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return float(min(RETRY_BASE_SECONDS * 2 ** max(failures - 1, 0), RETRY_CAP_SECONDS))

"""When a question to a person expires, and what it comes to then; pure but for the database's clock.

The nearest word counts: the step's own `expires`, then its role's, then the settings.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, func

from chargehand.memory.procedural import Role
from chargehand.orchestrator.facts import SignalReceived, StepWaiting
from chargehand.orchestrator.plan import Expiry
from chargehand.orchestrator.settings import Settings

# Who answers what nobody answered.
EXPIRY = "expiry"
# Who answers an agent that asked a colleague.
COLLEAGUE = "colleague"
NOBODY = "nobody answered in time"
FAIL = "fail"
# The answer that ends a step without a result, whatever it asked.
ABORT = "abort"
# A question that comes back each time would be answered with "retry" for ever.
MOST_UNATTENDED_RETRIES = 3


def expiring(asked: StepWaiting, *policies: Expiry | None) -> StepWaiting:
    """The question with the first of these policies; unchanged when there is none, or when it is for nobody.

    What the policy would answer and the question does not offer becomes `fail`.
    """
    policy = next((one for one in policies if one is not None), None)
    asks_person = asked.reason in ("human", "gate") or (asked.reason == "budget" and bool(asked.options))
    if policy is None or not asks_person:
        return asked
    then = policy.then if policy.then in asked.options else FAIL
    return asked.model_copy(update={"expires_after_seconds": policy.after_seconds, "expires_then": then})


def of_settings(settings: Settings) -> Expiry | None:
    """The policy where neither a step nor its role has one."""
    if settings.question_seconds is None:
        return None
    return Expiry(after_seconds=settings.question_seconds, then=settings.question_then)


def of_role(role: Role | None) -> Expiry | None:
    """The policy in a role's front matter."""
    if role is None or role.expires is None:
        return None
    return Expiry(after_seconds=role.expires.after_seconds, then=role.expires.then)


def deadline_after(seconds: float | None) -> ColumnElement[datetime] | None:
    """The moment so many seconds from now, by the database's clock."""
    return None if seconds is None else func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def unattended_choice(asked: StepWaiting, retries: int) -> str:
    """What a question comes to that has expired; `retries`: how often its step has been let try again unattended."""
    if asked.expires_then == FAIL or (asked.expires_then == "retry" and retries >= MOST_UNATTENDED_RETRIES):
        return ABORT
    return asked.expires_then


def why_ended(heard: SignalReceived) -> str:
    """The error of a step that a person, or nobody, has ended."""
    if heard.by == EXPIRY:
        return NOBODY
    return "A person ended the step." if heard.choice == ABORT else f"a person chose {heard.choice!r}"

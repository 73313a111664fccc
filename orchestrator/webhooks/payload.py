"""What a webhook is told of a fact: `{"type", "timestamp", "data"}`; pure, and the same in every attempt."""

import json
from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.facts import AnyFact, BudgetWarned, RunFinished, StepWaiting

EVENTS = ("escalation.opened", "run.finished", "budget.warning")
# A goal is a line in a message, not a document.
GOAL_CHARACTERS = 500


def payload(*, event: str, at: datetime, run_id: UUID, goal: str, step_key: str | None, fact: AnyFact | None) -> bytes:
    """The body of the request; without details when the fact was erased meanwhile."""
    data: dict[str, JsonValue] = {"run_id": str(run_id), "goal": goal[:GOAL_CHARACTERS]}
    if step_key is not None:
        data["step"] = step_key
    data |= _details(fact)
    message = {"type": event, "timestamp": at.isoformat(), "data": data}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _details(fact: AnyFact | None) -> dict[str, JsonValue]:
    match fact:
        case StepWaiting():
            return {
                "wait_id": str(fact.wait_id),
                "reason": fact.reason,
                "question": fact.question,
                "options": list(fact.options),
                "approves": [{"step": one.step, "does": one.does, "hash": one.hash} for one in fact.guards],
                "expires_after_seconds": fact.expires_after_seconds,
                "expires_then": fact.expires_then,
            }
        case RunFinished():
            return {"outcome": fact.outcome, "reason": fact.reason}
        case BudgetWarned():
            return {
                "percent": fact.percent,
                "spent_microusd": fact.spent_microusd,
                "budget_microusd": fact.budget_microusd,
            }
        case _:
            return {}

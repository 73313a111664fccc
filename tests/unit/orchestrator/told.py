"""Calls of a run as the detectors see them."""

from typing import Any

from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.facts import ToolFinished


def call(
    seq: int,
    tool: str,
    gave: str = "",
    *,
    error: str = "",
    step: str = "a",
    role: str | None = None,
    turn: int | None = None,
    commit: str | None = None,
    **arguments: Any,
) -> Observed:
    """A call of the step, whose role is called like it unless it is named."""
    fact = ToolFinished(
        tool_use_id=f"t{seq}",
        tool=tool,
        arguments=arguments,
        outcome="error" if error else "ok",
        content=error or gave,
        error_type="ToolRetry" if error else "",
        commit=commit,
    )
    return Observed(step=step, seq=seq, fact=fact, role=step if role is None else role, turn=turn)

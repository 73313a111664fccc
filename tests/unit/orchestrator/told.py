"""Calls of a run as the detectors see them."""

from typing import Any

from chargehand.orchestrator.breaker import Observed
from chargehand.orchestrator.facts import ToolFinished


def call(seq: int, tool: str, gave: str = "", *, error: str = "", step: str = "a", **arguments: Any) -> Observed:
    """A call of the step, whose role is called like it."""
    fact = ToolFinished(
        tool_use_id=f"t{seq}",
        tool=tool,
        arguments=arguments,
        outcome="error" if error else "ok",
        content=error or gave,
        error_type="ToolRetry" if error else "",
    )
    return Observed(step=step, seq=seq, fact=fact, role=step)

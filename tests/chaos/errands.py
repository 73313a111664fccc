"""Agents with effects: two tools that the ledger sees, the typed end of their role, and the role itself."""

import os
import time
from pathlib import Path

from pydantic import BaseModel, Field

from chaos.ledger import EffectKind, Ledger
from chargehand.memory.procedural import parse_role
from chargehand.orchestrator.outputs import register_output
from chargehand.workers.tools.registry import ToolContext, tool

LEDGER_VARIABLE = "CHAOS_LEDGER"
# A person is asked about a payment of unknown outcome when this has passed.
TIMEOUT_SECONDS = 2.0


class ErrandReport(BaseModel):
    """What the role hands in."""

    done: int = Field(ge=0)


register_output(ErrandReport)

RUNNER = parse_role(
    """---
name: runner
description: Runs errands.
pool: audit
tier: small
tools: [post, pay]
output: errand_report
---
Run the errands of your arguments one by one, then hand in how many they were.
""",
    origin="a role of the chaos harness",
)


def ledger() -> Ledger:
    """The ledger of this process's machine."""
    return Ledger(Path(os.environ[LEDGER_VARIABLE]))


@tool(effect="idempotent", timeout_seconds=TIMEOUT_SECONDS)
def post(number: int, seconds: float, context: ToolContext, *, idempotency_key: str) -> str:
    """Post a letter; the post office knows its key and carries it once."""
    return _run("post", "idempotent", number, seconds, context, idempotency_key)


@tool(effect="effectful", timeout_seconds=TIMEOUT_SECONDS)
def pay(number: int, seconds: float, context: ToolContext, *, idempotency_key: str) -> str:
    """Pay in cash; who pays twice has paid twice."""
    return _run("pay", "effectful", number, seconds, context, idempotency_key)


def _run(name: str, kind: EffectKind, number: int, seconds: float, context: ToolContext, key: str) -> str:
    # Half of the time before the effect and half after it, so that a strike may come on both sides.
    ledger().knock(context.run_id, context.step_key, key, name=name)
    time.sleep(seconds / 2)
    ledger().take_effect(context.run_id, context.step_key, key, name=name, kind=kind)
    time.sleep(seconds / 2)
    return f"errand {number}: done"

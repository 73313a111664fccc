"""What the facts of a step count as, once they are committed: metrics are a fold of the journal too."""

from collections.abc import Mapping, Sequence
from typing import Any

from chargehand.orchestrator.facts import (
    BreakerTripped,
    ModelFailed,
    ModelResponded,
    StepFact,
    StepFinished,
    StepReleased,
    StepWaiting,
    ToolFinished,
)
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.telemetry import meters, metrics


def role_of(step: Step) -> str:
    """The label `role`: the role of an agent, the name of a script, or what kind of step it is."""
    return step.role or step.script or step.kind


def claimed(step: Step, *, queued_seconds: float) -> None:
    """Count that a worker has taken the step, which was queued for so long."""
    meters.observe(metrics.STEP_PHASE, queued_seconds, phase="queued", pool=step.pool, role=role_of(step))


def waited(pool: str, spec: Mapping[str, Any], *, seconds: float) -> None:
    """Count that what the step waited for has come; `spec`: its step as JSON."""
    role = spec.get("role") or spec.get("script") or spec.get("kind") or ""
    meters.observe(metrics.STEP_PHASE, seconds, phase="waiting", pool=pool, role=role)


def committed(step: Step, facts: Sequence[StepFact], *, held_seconds: float) -> None:
    """Count what was just committed; `held_seconds`: for how long the worker has held the step."""
    if not meters.is_heard():
        return
    role = role_of(step)
    for fact in facts:
        match fact:
            case ModelResponded():
                _answered(step, role, fact)
            case ModelFailed():
                meters.count(metrics.MODEL_FAILURES, retryable="yes" if fact.retryable else "no")
            case ToolFinished():
                # A name that a model made up is no label.
                known = "" if fact.error_type == "UnknownTool" else fact.tool
                meters.observe(metrics.TOOL_CALL, fact.duration_ms / 1000, tool=known, outcome=fact.outcome)
            case BreakerTripped():
                meters.count(metrics.BREAKER_TRIPS, rule=fact.rule)
            case StepFinished():
                meters.count(metrics.STEPS_FINISHED, pool=step.pool, role=role, outcome=fact.outcome)
                meters.observe(metrics.STEP_PHASE, held_seconds, phase="running", pool=step.pool, role=role)
            case StepWaiting() | StepReleased():
                meters.observe(metrics.STEP_PHASE, held_seconds, phase="running", pool=step.pool, role=role)
            case _:
                pass


def _answered(step: Step, role: str, fact: ModelResponded) -> None:
    meters.count(metrics.TURNS, pool=step.pool, role=role, model=fact.model)
    meters.count(metrics.COST, fact.cost_microusd, role=role, model=fact.model)
    meters.observe(metrics.MODEL_CALL, fact.duration_ms / 1000, model=fact.model)
    usage = fact.usage
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("cache_read", usage.cache_read_tokens),
    ):
        meters.count(metrics.TOKENS, tokens, model=fact.model, kind=kind)

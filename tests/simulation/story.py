"""What happened in a world, in lines that a person can follow."""

import re

from chargehand.orchestrator.facts import (
    AnyFact,
    CallAbandoned,
    ModelResponded,
    PlanPatched,
    RunFinished,
    StepClaimed,
    StepFinished,
    StepRecovered,
    StepReleased,
    StepsSkipped,
    StepWaiting,
    ToolFinished,
    ToolStarted,
)


def told_by(fact: AnyFact) -> str:
    """A fact in a few words."""
    match fact:
        case StepClaimed():
            return f"{fact.kind} by {fact.holder}"
        case StepReleased():
            return f"{fact.kind} ({fact.reason})"
        case StepRecovered():
            alone = ", alone from now on" if fact.solo else ""
            return f"{fact.kind} after a {fact.cause}, {fact.crashes} in a row{alone}"
        case StepWaiting():
            return f"{fact.kind} for {fact.reason}: {fact.question[:60]}"
        case StepFinished() | RunFinished():
            why = getattr(fact, "error", "") or getattr(fact, "reason", "")
            return f"{fact.kind}: {fact.outcome} {why}".rstrip()
        case StepsSkipped():
            return f"{fact.kind}: {len(fact.steps)} {fact.outcome}"
        case PlanPatched():
            added = ", ".join(step.key for step in fact.patch.add)
            return f"{fact.kind}: adds {added or 'nothing'}, drops {', '.join(fact.patch.drop) or 'nothing'}"
        case ModelResponded():
            return f"{fact.kind}: {', '.join(str(block.get('name')) for block in fact.content)}"
        case ToolStarted() | ToolFinished():
            return f"{fact.kind}: {fact.tool} {fact.tool_use_id}"
        case CallAbandoned():
            return f"{fact.kind}, charged as reserved"
        case _:
            return fact.kind


# A story that is longer is not read.
MOST_LINES = 30
# What every story has, and few are about.
_SMALL_TALK = ("steps.anchored", "run.submitted", "gather")


def shortened(story: tuple[str, ...], objection: str = "") -> list[str]:
    """The story without small talk and without other runs than the one in question; long ones without their middle."""
    concerned = re.search(r"(?:step|run) '([a-z])", objection)
    others = re.compile(rf"\s*[\d.]+ s  [^{concerned.group(1)} ]\S*\d") if concerned else None
    told = [
        line
        for line in story
        if not any(word in line for word in _SMALL_TALK) and not (others is not None and others.match(line))
    ]
    if len(told) <= MOST_LINES:
        return told
    kept = MOST_LINES - 1
    head, tail = told[: kept // 3], told[-(kept - kept // 3) :]
    return [*head, f"{'':>10}  … {len(told) - len(head) - len(tail)} lines …", *tail]

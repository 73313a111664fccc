"""What the planners of these worlds think of when a step has failed: sensible things, foolish ones, and nothing."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from chargehand.orchestrator.replanning import REPLANNER
from simulation.choices import Choices

TAPE = "planner"
# Whoever was corrected so often changes nothing.
MOST_TRIES = 2
MOST_REASONS = 2


def change_of(choices: Choices, arguments: Mapping[str, JsonValue], turn: int) -> dict[str, JsonValue]:
    """A `PlanChange`: steps once more or in another way, dropped, added; what does not fit comes about by itself."""
    shown: Any = arguments["steps"]
    reasons: Any = arguments["reasons"]
    steps: dict[str, Any] = {str(one["key"]): one for one in shown if one.get("does") != REPLANNER}
    planners = [str(one["key"]) for one in shown if one.get("does") == REPLANNER]
    again: list[JsonValue] = []
    drop: list[JsonValue] = []
    add: list[JsonValue] = []
    if turn <= MOST_TRIES:
        failed = [str(one["step"]) for one in reasons if str(one["step"]) in steps][:MOST_REASONS]
        for key in failed:
            match choices.number(TAPE, 5):
                case 0:
                    again.append({"step": key, "by": None})
                case 1:
                    again.append({"step": key, "by": _in_another_way(key, steps[key])})
                case 2:
                    drop.append(key)
                case 3:
                    drop.append(key)
                    add.append(_in_another_way(f"{key}.{arguments['round']}.{turn}", steps[key]))
                case _:
                    pass
        others = [key for key in steps if key not in failed]
        if others and choices.happens(TAPE, 0.3):
            # Whatever it is doing, or has done.
            other = choices.one_of(TAPE, others)
            if choices.happens(TAPE, 0.5):
                drop.append(other)
            else:
                again.append({"step": other, "by": None})
        if planners and choices.happens(TAPE, 0.15):
            # It would rather be asked again.
            again.append({"step": choices.one_of(TAPE, planners), "by": None})
    return {"rationale": "as planned", "again": again, "drop": drop, "add": add}


def _in_another_way(key: str, instead_of: Mapping[str, JsonValue]) -> JsonValue:
    """A script that works, where the other stood."""
    return {
        "key": key,
        "kind": "script",
        "script": "pure",
        "pool": "coding",
        "after": instead_of["after"],
        "join": instead_of["join"],
        "arguments": {"seconds": 0.5},
    }

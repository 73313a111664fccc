"""A changed copy is what `dataclasses.replace` gives, of every class that the folds copy."""

from dataclasses import FrozenInstanceError, replace
from typing import Any
from uuid import UUID

import pytest

from chargehand.orchestrator.copying import changed
from chargehand.orchestrator.facts import ModelResponded, Usage
from chargehand.orchestrator.transitions import StepState
from chargehand.workers.conversation import Conversation, Exchange

ANSWER = ModelResponded(
    call_id=UUID(int=2), model="m", content=(), stop_reason="end_turn", usage=Usage(), cost_microusd=1, duration_ms=1
)


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (StepState(step_id=UUID(int=1), key="a", after=(UUID(int=3),), join="all"), {"seq": 4, "status": "waiting"}),
        (Exchange(answer=ANSWER), {"notes": ("one",)}),
        (Conversation(opening_notes=("one",)), {"exchanges": (Exchange(answer=ANSWER),), "waits": ()}),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_changed_copy_is_what_replace_gives_and_leaves_the_value_alone(value: Any, changes: dict[str, Any]) -> None:
    before = replace(value)
    copy = changed(value, **changes)
    assert copy == replace(value, **changes)
    assert copy != value
    assert value == before
    assert type(copy) is type(value)
    with pytest.raises(FrozenInstanceError):
        setattr(copy, next(iter(changes)), None)

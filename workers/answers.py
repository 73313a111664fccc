"""An answer of a model as the journal has it."""

from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.facts import ModelResponded
from chargehand.workers.models.interface import Block, ModelAnswer
from chargehand.workers.tools.registry import storable


def responded(call_id: UUID, answer: ModelAnswer, *, summarises: int = 0) -> ModelResponded:
    """The fact that records the answer; what Postgres cannot store is replaced.

    `summarises`: as many of the oldest turns it stands for, where it was asked for that.
    """
    content = tuple(_storable_block(block) for block in answer.content)
    return ModelResponded(
        call_id=call_id,
        model=answer.model,
        content=content,
        stop_reason=answer.stop_reason,
        usage=answer.usage,
        cost_microusd=answer.cost_microusd,
        duration_ms=answer.duration_ms,
        message_id=answer.message_id,
        cache_miss=answer.cache_miss,
        summarises=summarises,
    )


def _storable_block(block: Block) -> Block:
    return {storable(key): _storable_value(value) for key, value in block.items()}


def _storable_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return _storable_block(value)
    if isinstance(value, list):
        return [_storable_value(item) for item in value]
    return value

"""An answer of a model as the journal has it."""

from uuid import UUID

from chargehand.orchestrator.facts import ModelResponded
from chargehand.orchestrator.storable import storable, storable_json
from chargehand.workers.models.interface import Block, ModelAnswer


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
    return {storable(key): storable_json(value) for key, value in block.items()}

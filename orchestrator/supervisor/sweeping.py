"""Memories whose time is over are removed, some each round."""

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.forgetting import sweep

# Memories that one round takes.
BATCH = 100


def sweep_memories(engine: Engine) -> int:
    """Remove the memories that have expired by the database's clock; gives how many."""
    with Session(engine) as session, session.begin():
        return sweep(session, most=BATCH)

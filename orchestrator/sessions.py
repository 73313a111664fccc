"""A tenant's transaction whose outages are told apart from mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.orchestrator.errors import Unavailable


@contextmanager
def open_session(engine: Engine, tenant: UUID) -> Iterator[Session]:
    """A transaction bound to `tenant`; commits when the block ends, rolls back when it raises.

    Raises `Unavailable` where Postgres is away: nothing is wrong with the request, and no step may fail for it.
    """
    with unless_away(), tenant_session(engine, tenant) as session:
        yield session


@contextmanager
def unless_away() -> Iterator[None]:
    """Turns what a server that is away raises into `Unavailable`."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("Postgres does not answer: no connection was free in time; try again.") from error
    except OperationalError as error:
        raise Unavailable(f"Postgres does not answer: {str(error.orig).strip().splitlines()[0]}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"Postgres broke off: {str(error.orig).strip()}") from error
        raise

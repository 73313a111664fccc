"""Engines, sessions and the binding of a tenant to a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

SCHEMA = "chargehand"
# The role of clients and workers: sees one tenant, through row-level security.
APP_ROLE = "chargehand_app"
# The role of supervisors and of SECURITY DEFINER functions: sees every tenant.
SUPERVISOR_ROLE = "chargehand_supervisor"
# Longer than the longest honest one, which embeds a batch on a busy machine or verifies a long journal.
TRANSACTION_SECONDS = 120
# Dead hosts are noticed by the kernel: a thread that waits for libpq has no clock of its own.
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}


class Base(DeclarativeBase):
    """Root of the tables of `memory` and `orchestrator`; one metadata, one schema."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        },
    )


def open_engine(
    database_url: str,
    *,
    role: str | None = None,
    pool_size: int = 5,
    connect_timeout_seconds: float = 3.0,
    keeps_connections: bool = True,
) -> Engine:
    """An engine whose connections act as `role` (`APP_ROLE`, `SUPERVISOR_ROLE`, or None: as the URL's own user).

    Sessions carry `transaction_timeout` and `idle_in_transaction_session_timeout`, so that a stopped process
    never holds a lock for ever. `keeps_connections`: False closes each when its transaction has ended.
    """
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    options = session_options(role=role)
    pool: dict[str, Any] = {"poolclass": NullPool}
    if keeps_connections:
        pool = {"pool_size": pool_size, "max_overflow": pool_size, "pool_timeout": connect_timeout_seconds}
    engine = create_engine(
        url,
        pool_pre_ping=keeps_connections,
        **pool,
        connect_args={"connect_timeout": max(1, round(connect_timeout_seconds)), "options": options, **KEEPALIVE},
    )
    event.listen(engine, "connect", _limit_transactions)
    return engine


def _limit_transactions(connection: psycopg.Connection[Any], record: object) -> None:
    """Set `transaction_timeout` where the server has it (Postgres 17); an unknown setting would refuse the session."""
    del record
    if connection.info.server_version >= 170000:
        connection.autocommit = True
        connection.execute(f"SET transaction_timeout = '{TRANSACTION_SECONDS}s'")
        connection.autocommit = False


def session_options(*, role: str | None, generic_plans: bool = False) -> str:
    """The `options` of a libpq connection: search path, role and the time-outs of a session that may be stopped."""
    options = {
        "search_path": f"{SCHEMA},public",
        "lock_timeout": "5s",
        # Nothing of a supervisor waits inside a transaction: one that does so was frozen, and others need its locks.
        "idle_in_transaction_session_timeout": "5s" if role == SUPERVISOR_ROLE else "30s",
        "timezone": "UTC",
    }
    if role is not None:
        options["role"] = role
    if generic_plans:
        # Custom plans double the price of a claim (.61 against .33 ms).
        options["plan_cache_mode"] = "force_generic_plan"
        # Such a plan is often made while a table is small, and kept when it is not: these look up a few rows by key.
        options["enable_seqscan"] = "off"
    return " ".join(f"-c {name}={value}" for name, value in options.items())


def bind_tenant(session: Session, tenant: UUID) -> None:
    """Let this transaction see and write the rows of `tenant` only (row-level security)."""
    session.execute(text("SELECT set_config('chargehand.tenant', :tenant, true)"), {"tenant": str(tenant)})


@contextmanager
def tenant_session(engine: Engine, tenant: UUID) -> Iterator[Session]:
    """A transaction bound to `tenant`; commits when the block ends, rolls back when it raises."""
    with Session(engine) as session, session.begin():
        bind_tenant(session, tenant)
        yield session

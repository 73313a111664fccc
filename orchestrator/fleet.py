"""What an operator does with the whole fleet: pause roles, tools, models or all, see circuits, cap tenants."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Self
from uuid import UUID

import redis
from sqlalchemy.orm import Session

from chargehand.memory import keyspace
from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import circuits, endpoints, switches
from chargehand.orchestrator.circuits import CircuitView
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.requests import microusd
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import Settings, load_settings
from chargehand.orchestrator.switches import Kind, Switch, SwitchChange
from chargehand.orchestrator.tenant_caps import TenantCaps, caps_of, set_caps
from chargehand.orchestrator.tenant_counts import CountCaps, set_count_caps


class Fleet:
    """The fleet's switches and circuits; acts as the supervisors' role, because they concern all tenants."""

    def __init__(self, settings: Settings | None = None, *, database_url: str | None = None) -> None:
        """Nothing is connected yet; raises `Unavailable` when nothing says where Postgres is."""
        self.settings = settings or load_settings()
        self._engine = open_engine(
            database_url or endpoints.database_url(self.settings),
            role=SUPERVISOR_ROLE,
            connect_timeout_seconds=self.settings.connect_timeout_seconds,
        )

    def __enter__(self) -> Self:
        """The fleet itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection."""
        self._engine.dispose()

    def pause(self, kind: Kind, name: str = "", *, reason: str = "", by: str | None = None) -> bool:
        """Stop it everywhere within a turn; False when it is paused already.

        Raises `UserError` for a database user who may not act for all tenants.
        """
        with self._session() as session:
            return switches.pause(session, kind, name, by=by or switches.whoever_asks(), reason=reason)

    def resume(self, kind: Kind, name: str = "", *, reason: str = "", by: str | None = None) -> bool:
        """Let it go on; False when it is not paused."""
        with self._session() as session:
            return switches.resume(session, kind, name, by=by or switches.whoever_asks(), reason=reason)

    def switches(self) -> list[Switch]:
        """What is paused, the longest first."""
        with self._session() as session:
            return switches.listed(session)

    def changes(self, limit: int = 50) -> list[SwitchChange]:
        """Who paused and resumed what, the newest first."""
        with self._session() as session:
            return switches.changes(session, limit=limit)

    def circuits(self) -> list[CircuitView]:
        """Circuits of tools and models that were used within a quarter of an hour, open ones first.

        Raises `Unavailable` when Redis does not answer.
        """
        url = endpoints.redis_url(self.settings)
        try:
            with keyspace.connect(url, connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0) as client:
                return circuits.look(client, key_prefix=self.settings.key_prefix)
        except redis.RedisError as error:
            raise Unavailable(f"Redis does not answer ({error}); without it every circuit is closed.") from error

    def caps(self, tenant: UUID | None = None) -> TenantCaps:
        """What a tenant may spend; this installation's own, unless another is named."""
        with self._session() as session:
            return caps_of(session, tenant or self.settings.tenant)

    def set_caps(
        self, tenant: UUID | None = None, *, total_usd: str | Decimal | None, day_usd: str | Decimal | None
    ) -> TenantCaps:
        """Cap what all runs of a tenant together may spend, in all and in a day (UTC); None: no cap."""
        chosen = tenant or self.settings.tenant
        total = None if total_usd is None else microusd(total_usd)
        day = None if day_usd is None else microusd(day_usd)
        with self._session() as session:
            set_caps(session, chosen, cap_microusd=total, day_cap_microusd=day)
            return caps_of(session, chosen)

    def set_count_caps(self, tenant: UUID | None = None, *, caps: CountCaps) -> TenantCaps:
        """Cap the calls, the tokens and the time of all agents of a tenant, in all and in a day."""
        chosen = tenant or self.settings.tenant
        with self._session() as session:
            set_count_caps(session, chosen, caps)
            return caps_of(session, chosen)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with open_session(self._engine, self.settings.tenant) as session:
                yield session
        except Unavailable as error:
            if "permission denied to set role" in str(error.__cause__):
                raise UserError(
                    f"A fleet switch concerns all tenants; name a database user who may act as {SUPERVISOR_ROLE} in "
                    "CHARGEHAND_DATABASE_URL."
                ) from error
            raise

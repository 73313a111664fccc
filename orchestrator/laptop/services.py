"""The two servers of a laptop, real ones where the settings name them and embedded ones where not."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from chargehand.orchestrator.laptop.postgres import Postgres
from chargehand.orchestrator.laptop.valkey import Valkey
from chargehand.orchestrator.settings import Settings

__all__ = ["Endpoints", "Postgres", "Services", "Valkey", "running_services"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """Where Postgres and Redis are; both URLs may carry a password."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The servers in use: an embedded one, or None where the settings name a server of yours."""

    endpoints: Endpoints
    postgres: Postgres | None
    valkey: Valkey | None

    def revive(self) -> list[str]:
        """Start embedded servers that died by themselves again, and name them."""
        return [
            name
            for name, server in (("postgres", self.postgres), ("valkey", self.valkey))
            if server is not None and server.revive()
        ]

    def pids(self) -> dict[str, int]:
        """Process ids of the embedded servers, by name."""
        servers = (("postgres", self.postgres), ("valkey", self.valkey))
        return {name: server.pid for name, server in servers if server is not None}


@contextmanager
def running_services(settings: Settings, *, progress: Callable[[str], None]) -> Iterator[Services]:
    """The servers while the block runs; embedded ones are stopped after it."""
    with ExitStack() as stack:
        postgres = valkey = None
        if not settings.database_url:
            progress("starting Postgres 18 + pgvector")
            postgres = Postgres.start(settings.home)
            stack.callback(postgres.stop)
        if not settings.redis_url:
            progress("starting Valkey")
            valkey = Valkey.start(settings.home)
            stack.callback(valkey.stop)
        endpoints = Endpoints(
            database_url=settings.database_url or postgres.url,  # type: ignore[union-attr]
            redis_url=settings.redis_url or valkey.url,  # type: ignore[union-attr]
        )
        yield Services(endpoints=endpoints, postgres=postgres, valkey=valkey)

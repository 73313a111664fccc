"""Each process's own way to Postgres and to Valkey, so that one can be cut off while its neighbours see nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from chaos.proxy import Link, Network
from chargehand.orchestrator.laptop import Endpoints
from chargehand.orchestrator.laptop.specs import ProcessSpec

SOCKET = ".s.PGSQL.5432"


class Wires:
    """Two links for each name that was asked for."""

    def __init__(self, network: Network, endpoints: Endpoints, folder: Path) -> None:
        """Nothing is linked yet."""
        self._network, self._folder = network, folder
        self._database, self._redis = urlsplit(endpoints.database_url), urlsplit(endpoints.redis_url)
        self.postgres: dict[str, Link] = {}
        self.valkey: dict[str, Link] = {}

    def wired(self, spec: ProcessSpec) -> ProcessSpec:
        """The process with its URLs leading through links of its own."""
        endpoints = self.endpoints(spec.name)
        urls = {"CHARGEHAND_DATABASE_URL": endpoints.database_url, "CHARGEHAND_REDIS_URL": endpoints.redis_url}
        return replace(spec, environment={**spec.environment, **urls})

    def endpoints(self, name: str) -> Endpoints:
        """New links, and where they begin."""
        upstream = Path(parse_qs(self._database.query)["host"][0]) / SOCKET
        socket = self._folder / name / SOCKET
        self.postgres[name] = self._network.link(f"{name} to postgres", upstream, listen=socket, is_postgres=True)
        valkey = (self._redis.hostname or "", self._redis.port or 0)
        self.valkey[name] = self._network.link(f"{name} to valkey", valkey, listen=("127.0.0.1", 0))
        address = f"127.0.0.1:{self._network.port_of(self.valkey[name])}"
        credentials, at, _ = self._redis.netloc.rpartition("@")
        return Endpoints(
            database_url=urlunsplit(self._database._replace(query=f"host={quote(str(socket.parent), safe='')}")),
            redis_url=urlunsplit(self._redis._replace(netloc=f"{credentials}{at}{address}")),
        )

    def heal(self) -> None:
        """Make every link an ordinary wire again."""
        for link in self.links():
            link.heal()

    def links(self) -> Iterator[Link]:
        """All of them."""
        yield from self.postgres.values()
        yield from self.valkey.values()

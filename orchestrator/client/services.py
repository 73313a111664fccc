"""The servers and folders that clients of one process share: Postgres, Redis, the broker, the artifacts."""

import getpass
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory import keyspace, procedural
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.memory.procedural import Role
from chargehand.orchestrator import broker, endpoints
from chargehand.orchestrator.bells import Bells
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.hints import Follower, Hints
from chargehand.orchestrator.progress import Progress
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import Settings

# One connection for each thread that asks at the same time, and as many in a rush.
POOL_SIZE = 5
# Of the statement that makes a run; it holds one for the time of a commit.
BUSY_CONNECTIONS = 8
# A role that was changed is used after this at the latest; to look at their files takes a tenth of a submission.
ROLES_KEPT_SECONDS = 1.0


class Services:
    """Connections of one process; thread-safe, and of no tenant."""

    def __init__(
        self,
        settings: Settings,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        pool_size: int = POOL_SIZE,
        is_busy: bool = False,
    ) -> None:
        """Nothing is connected yet; raises `Unavailable` when nothing says where Postgres is.

        `is_busy`: of a server of many; what it asks for all the time has connections and a thread of its own.
        """
        self.settings = settings
        self._redis_url = redis_url
        url = database_url or endpoints.database_url(settings)
        self.connections = Connections(url, max_size=BUSY_CONNECTIONS) if is_busy else None
        self.engine: Engine = open_engine(
            url,
            role=APP_ROLE,
            pool_size=pool_size,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        )
        self.artifacts = Artifacts(settings.artifacts)
        self._celery: Any = None
        self._redis: redis.Redis | None = None
        self._bells = Bells(self._ring_each) if is_busy else None
        self._roles_for_seconds = ROLES_KEPT_SECONDS if is_busy else 0.0
        self._roles: tuple[float, Mapping[str, Role]] = (0.0, {})

    def close(self) -> None:
        """Close every connection."""
        if self._bells is not None:
            self._bells.close()
        if self.connections is not None:
            self.connections.close()
        self.engine.dispose()
        if self._celery is not None:
            self._celery.close()
        if self._redis is not None:
            self._redis.close()

    @contextmanager
    def session(self, tenant: UUID) -> Iterator[Session]:
        """A transaction bound to the tenant; raises `Unavailable` when Postgres does not answer."""
        with open_session(self.engine, tenant) as session:
            yield session

    def redis_url(self) -> str:
        """Where Redis is; raises `Unavailable` when nothing says so."""
        return self._redis_url or endpoints.redis_url(self.settings)

    def redis(self) -> "redis.Redis":
        """A client that gives up quickly; raises `Unavailable` when nothing says where Redis is."""
        if self._redis is None:
            self._redis = keyspace.connect(
                self.redis_url(), connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0
            )
        return self._redis

    def broker(self) -> Any:
        """The Celery app; raises `Unavailable` when nothing says where Redis is."""
        if self._celery is None:
            self._celery = broker.make_app(self.settings, self.redis_url())
        return self._celery

    def ring(self, run_id: UUID) -> bool:
        """Tell a supervisor now; False when the broker is down, then it finds out within a second or two.

        A busy process tells it in a moment, of many runs together, and always says True.
        """
        if self._bells is not None:
            self._bells.ring(run_id)
            return True
        return self._ring_each([run_id])

    def _ring_each(self, run_ids: Sequence[UUID]) -> bool:
        try:
            return broker.ring_bells(self.broker(), self.settings, run_ids)
        except Unavailable:
            return False

    def installed_roles(self) -> Mapping[str, Role]:
        """The roles of the installed folders by name; a busy process reads them once a second. Raises `InvalidRole`."""
        until, roles = self._roles
        now = time.monotonic()
        if now >= until:
            roles = procedural.load_roles(*self.settings.role_folders)
            self._roles = (now + self._roles_for_seconds, roles)
        return roles

    def progress(self, run_id: UUID) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return Progress(self.redis(), key_prefix=self.settings.key_prefix).lines(run_id)

    @contextmanager
    def follower(self, run_id: UUID) -> Iterator[Follower]:
        """Waits for a run to go on while the block lasts; where no Redis is known it looks by the clock."""
        try:
            client = self.redis()
        except Unavailable:
            yield Follower(None)
            return
        with Hints(client, key_prefix=self.settings.key_prefix).follow(run_id) as follower:
            yield follower


def user_name() -> str:
    """The user of this process, as the operating system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        return f"user {os.getuid()}"

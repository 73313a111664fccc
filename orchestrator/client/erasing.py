"""A client's request to erase runs: made as the supervisors' role, which alone may take bodies out of the journal."""

from collections.abc import Collection
from uuid import UUID

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.memory.keyspace import Keyspace
from chargehand.orchestrator import erasure
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.erasure import Also, Erased
from chargehand.orchestrator.errors import Unavailable


def erase(services: Services, tenant: UUID, run_ids: Collection[UUID], also: Also) -> Erased:
    """Erase these runs and their copies, see `erasure`; the database user must be allowed to act as that role."""
    engine = open_engine(
        services.engine.url.render_as_string(hide_password=False),
        role=SUPERVISOR_ROLE,
        connect_timeout_seconds=services.settings.connect_timeout_seconds,
        keeps_connections=False,
    )
    try:
        client = services.redis()
    except Unavailable:
        client = None
    try:
        return erasure.erase(
            engine,
            tenant,
            run_ids,
            artifacts=services.artifacts,
            client=client,
            keyspace=Keyspace(services.settings.key_prefix),
            also=also,
        )
    finally:
        engine.dispose()

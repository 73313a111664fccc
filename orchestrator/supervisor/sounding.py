"""What a watch round asks of the broker: whether it answers, since when it has lost nothing, how long its queues are.

A broker that was emptied (killed without persistence, flushed, started anew elsewhere) is told by a key that it has
lost with the rest. Whoever misses the key sets it to the time of the database: what was sent before is lost for sure.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import redis
from sqlalchemy import Engine, func, select

from chargehand.orchestrator import broker
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.admit import SOLO

log = logging.getLogger(__name__)

# A watch round does not stand still for a broker that keeps silent.
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sounding:
    """The broker as it was found."""

    whole_since: float | None = None
    """Nothing that was sent later was lost with the broker; seconds since the epoch, by Postgres's clock."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Pool → messages that wait for it; one that is missing has none."""


def key_of(settings: Settings) -> str:
    """The key that is gone when the broker was emptied; it never expires."""
    return f"{settings.key_prefix}.whole_since"


def sound(client: "redis.Redis", settings: Settings, *, now: Callable[[], float]) -> Sounding | None:
    """One look, in one round trip; None when the broker does not answer. `now` gives Postgres's time.

    Any number of supervisors look: the first one that misses the key sets it, the others take what it has set.
    """
    key, pools = key_of(settings), (*POOLS, SOLO)
    try:
        since, lengths = _read(client, settings, pools)
        if since is None:
            # A broker that is emptied between the two is taken for one that was emptied once: what was sent in between
            # is found by its age.
            client.set(key, repr(now()), nx=True)
            since = client.get(key)
            log.warning("broker emptied", extra={"whole_since": since})
    except redis.exceptions.RedisError as error:
        log.warning("broker does not answer", extra={"error": str(error)})
        return None
    return Sounding(whole_since=_seconds(since), lengths=lengths)


def _read(client: "redis.Redis", settings: Settings, pools: tuple[str, ...]) -> tuple[object, dict[str, int]]:
    with client.pipeline(transaction=False) as asked:
        asked.get(key_of(settings))
        for pool in pools:
            asked.llen(broker.queue_name(settings, pool))
        since, *lengths = asked.execute()
    return since, dict(zip(pools, map(int, lengths), strict=True))


def _seconds(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        # Somebody else's key.
        return None


def database_seconds(engine: Engine) -> float:
    """Postgres's time, in seconds since the epoch."""
    with engine.connect() as connection:
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

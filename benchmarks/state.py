"""What shared state costs: a lease and its commit over one, three and five nodes beside a bare compare-and-set."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import redis
from psycopg.types.json import Jsonb
from pydantic import JsonValue
from sqlalchemy import Engine

from benchmarks.figures import Figure, percentile
from benchmarks.ground import Ground
from chargehand.memory.database import tenant_session
from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.shared_state import StaleState, lease, read, update
from chargehand.orchestrator.laptop import Valkey

NODES = (1, 3, 5)
ROUNDS = 400
WARM_UP_ROUNDS = 40
VALUE: JsonValue = {"steps": ["read", "judge", "write"], "open": 3}

UPDATES = 1_000
WRITERS = 4
OVERRUNS = 0.1
SHORT_LEASE_SECONDS = 0.015
SEED = 5

FLOOR_TABLE = "CREATE TABLE IF NOT EXISTS public.bench_cas (key text PRIMARY KEY, value jsonb, version bigint)"
FLOOR_READ = "SELECT value, version FROM public.bench_cas WHERE key = 'plan'"
FLOOR_WRITE = "UPDATE public.bench_cas SET value = %s, version = version + 1 WHERE key = 'plan' AND version = %s"


def measure(ground: Ground, *, rounds: int = ROUNDS, updates: int = UPDATES) -> Iterator[Figure]:
    """Each way to replace a value, by turns in one loop; then a thousand updates of which some holders overrun."""
    with redis_nodes(max(NODES)) as clients, ExitStack() as stack:
        floor = stack.enter_context(psycopg.connect(ground.database_url))
        floor.execute(FLOOR_TABLE)
        floor.execute("INSERT INTO public.bench_cas VALUES ('plan', 'null', 0) ON CONFLICT DO NOTHING")
        floor.commit()
        redlocks = {count: Redlock(clients[:count], Keyspace("bench")) for count in NODES}
        for redlock in redlocks.values():
            stack.callback(redlock.close)
        ways: dict[str, Callable[[], None]] = {
            "floor": lambda: bare(floor),
            "update": lambda: _update(ground),
            **{f"lease_{count}": lambda one=one: _lease(ground, one) for count, one in redlocks.items()},  # type: ignore[misc]
            **{f"lock_{count}": lambda one=one: _lock(one) for count, one in redlocks.items()},  # type: ignore[misc]
        }
        seconds = by_turns(ways, rounds=rounds)
        p50 = {name: percentile(values, 50) * 1000 for name, values in seconds.items()}
        yield Figure(name="state_bare_cas_p50_ms", value=p50["floor"], unit="ms")
        yield Figure(name="state_update_p50_ms", value=p50["update"], unit="ms")
        yield Figure(name="state_update_ratio", value=p50["update"] / p50["floor"], unit="x")
        for count in NODES:
            yield Figure(name=f"state_lock_{count}_nodes_p50_ms", value=p50[f"lock_{count}"], unit="ms")
            yield Figure(name=f"state_lease_commit_{count}_nodes_p50_ms", value=p50[f"lease_{count}"], unit="ms")
            yield Figure(
                name=f"state_lease_commit_{count}_nodes_p99_ms",
                value=percentile(seconds[f"lease_{count}"], 99) * 1000,
                unit="ms",
            )
            ratio = p50[f"lease_{count}"] / p50["floor"]
            yield Figure(name=f"state_lease_commit_{count}_nodes_ratio", value=ratio, unit="x")
        hammered = hammer(ground.application, ground.tenant, clients, updates=updates)
        yield Figure(name="state_lost_updates", value=hammered.lost, unit="updates", target=0)
        yield Figure(name="state_refused_holders", value=hammered.refused, unit="commits")
        yield Figure(
            name="state_hammer_updates_per_second", value=updates / hammered.seconds, unit="1/s", better="higher"
        )


@contextmanager
def redis_nodes(count: int) -> Iterator[list[redis.Redis]]:
    """Clients of so many independent servers, which go when the block ends."""
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="chb-nodes-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        clients = []
        for number in range(count):
            server = Valkey.start(home / str(number))
            stack.callback(server.stop)
            clients.append(connect(server.url, connect_timeout_seconds=0.2, socket_timeout_seconds=0.2, retries=0))
            stack.callback(clients[-1].close)
        yield clients


def by_turns(ways: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, one of each in every round, so that a slow minute of the disk meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def bare(connection: "psycopg.Connection[tuple[object, int]]") -> None:
    """Read and replace one row of a table with nothing but a key, without tenants, audit or notices."""
    row = connection.execute(FLOOR_READ).fetchone()
    assert row is not None
    connection.execute(FLOOR_WRITE, [Jsonb(VALUE), row[1]])
    connection.commit()


def _update(ground: Ground) -> None:
    with tenant_session(ground.application, ground.tenant) as session:
        update(session, tenant=ground.tenant, scope="bench", key="plan", change=lambda _: VALUE)


def _lock(redlock: Redlock) -> None:
    redlock.release(redlock.acquire("alone"))


def _lease(ground: Ground, redlock: Redlock) -> None:
    with (
        lease(
            lambda: tenant_session(ground.application, ground.tenant),
            redlock,
            tenant=ground.tenant,
            scope="bench",
            key="plan",
            wait_seconds=1.0,
        ) as held,
        tenant_session(ground.application, ground.tenant) as session,
    ):
        held.commit(session, VALUE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hammered:
    """What became of many updates under leases, some of whose holders stayed too long."""

    lost: int
    refused: int
    """Commits of holders that had been overtaken."""
    seconds: float


def hammer(
    engine: Engine,
    tenant: UUID,
    clients: Sequence[redis.Redis],
    *,
    updates: int,
    writers: int = WRITERS,
    lease_seconds: float = SHORT_LEASE_SECONDS,
) -> Hammered:
    """Count to `updates` from several threads, each step under a lease; one holder in ten outstays its own.

    Whoever is refused does it again. Whatever is missing at the end was lost.
    """
    redlock = Redlock(clients, Keyspace("hammer"), ttl_seconds=lease_seconds, retry_seconds=0.002)
    dice, refused = random.Random(SEED), [0] * writers
    plans = [[dice.random() < OVERRUNS for _ in range(updates // writers)] for _ in range(writers)]

    def count(number: int) -> None:
        for overruns in plans[number]:
            late = overruns
            while not _count_one(engine, tenant, redlock, stay_seconds=lease_seconds * 1.5 if late else 0.0):
                refused[number], late = refused[number] + 1, False

    started = time.monotonic()
    with ThreadPoolExecutor(writers) as threads:
        for _ in threads.map(count, range(writers)):
            pass
    redlock.close()
    with tenant_session(engine, tenant) as session:
        counted = read(session, tenant=tenant, scope="bench", key="count").value
    asked = sum(map(len, plans))
    return Hammered(lost=asked - _number(counted), refused=sum(refused), seconds=time.monotonic() - started)


def _count_one(engine: Engine, tenant: UUID, redlock: Redlock, *, stay_seconds: float) -> bool:
    try:
        with lease(
            lambda: tenant_session(engine, tenant),
            redlock,
            tenant=tenant,
            scope="bench",
            key="count",
            wait_seconds=30.0,
        ) as held:
            time.sleep(stay_seconds)
            with tenant_session(engine, tenant) as session:
                held.commit(session, _number(held.view.value) + 1)
    except (StaleState, LockBusy):
        return False
    return True


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0

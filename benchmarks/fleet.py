"""Figures of a whole laptop with real processes: the wait until work starts, the hop of a chain, a wide fan-out."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from benchmarks.figures import Figure, percentile
from chargehand.orchestrator import schema
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.laptop import Laptop, up
from chargehand.orchestrator.laptop.specs import ProcessSpec, process_specs
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.settings import Settings

CHAIN_LENGTH = 100
SUBMISSIONS = 20
FAN_OUT = 1_000
RUN_TIMEOUT_SECONDS = 600.0

_TIMES = """
SELECT s.ordinal, j.kind, j.at FROM chargehand.journal j JOIN chargehand.steps s ON s.id = j.step
WHERE j.run = %s AND j.kind IN ('step.claimed', 'step.finished') ORDER BY s.ordinal, j.seq
"""


def measure(*, chain: int = CHAIN_LENGTH, submissions: int = SUBMISSIONS, fan_out: int = FAN_OUT) -> Iterator[Figure]:
    """All figures of this module, on one laptop."""
    with open_fleet() as laptop:
        client, database_url = laptop.client, laptop.database_url
        # The first run meets cold caches and connections that are not open yet.
        client.submit(plan=line(3)).wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        yield from first_claims(client, database_url, count=submissions)
        yield from hops(client, database_url, length=chain)
        yield from fan(client, database_url, width=fan_out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """A laptop that is up, and a client of it."""

    home: Path
    laptop: Laptop
    client: Client

    @property
    def database_url(self) -> str:
        """Its Postgres."""
        return self.laptop.services.endpoints.database_url


@contextmanager
def open_fleet(settings: Settings | None = None, *, threads: Mapping[str, int] | None = None) -> Iterator[Fleet]:
    """A laptop of its own, with the usual settings and threads where no others are given."""
    changed = threads or {}

    def specs(*given: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        return tuple(
            replace(spec, argv=with_threads(spec.argv, changed[spec.name])) if spec.name in changed else spec
            for spec in process_specs(*given, **rest)
        )

    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="chf-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        settings = (settings or Settings()).model_copy(update={"home": home})
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "CHARGEHAND_MODULES": json.dumps(["benchmarks.scripts"]),
        }
        laptop = stack.enter_context(
            up(settings, migrate=schema.migrate, progress=lambda line: None, environment=environment, specs=specs)
        )
        endpoints = laptop.services.endpoints
        client = stack.enter_context(Client(endpoints.database_url, endpoints.redis_url, settings=settings))
        yield Fleet(home=home, laptop=laptop, client=client)


def with_threads(argv: Sequence[str], threads: int) -> tuple[str, ...]:
    """The command of a worker with so many threads."""
    option = argv.index("-c")
    return (*argv[: option + 1], str(threads), *argv[option + 2 :])


def first_claims(client: Client, database_url: str, *, count: int) -> Iterator[Figure]:
    """From the caller's call until a worker holds the first step."""
    waits: list[float] = []
    for _ in range(count):
        called_at = time.time()
        run = client.submit(plan=line(1))
        run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        waits.append(claims(database_url, run)[0].timestamp() - called_at)
    yield Figure(name="submit_to_first_claim_p50_ms", value=percentile(waits, 50) * 1000, unit="ms")
    yield Figure(name="submit_to_first_claim_p99_ms", value=percentile(waits, 99) * 1000, unit="ms")


def hops(client: Client, database_url: str, *, length: int) -> Iterator[Figure]:
    """From the end of one link of a Celery chain to the claim of the next one."""
    run = client.submit(plan=line(length))
    run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
    times = step_times(database_url, run.run_id)
    gaps = [
        (times[index + 1][0] - times[index][1]).total_seconds() for index in range(length - 1) if index + 1 in times
    ]
    yield Figure(name="chain_hop_p50_ms", value=percentile(gaps, 50) * 1000, unit="ms")
    yield Figure(name="chain_hop_p99_ms", value=percentile(gaps, 99) * 1000, unit="ms")


def fan(client: Client, database_url: str, *, width: int) -> Iterator[Figure]:
    """Scripts side by side and one that waits for them all."""
    heads = tuple(_nothing(f"part-{index}") for index in range(width))
    join = _nothing("join", *(step.key for step in heads))
    called_at = time.time()
    run = client.submit(plan=Plan.of((*heads, join)))
    run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
    times = step_times(database_url, run.run_id)
    ended_at = max(finished for _, finished in times.values()).timestamp()
    yield Figure(name=f"fan_out_{width}_scripts_seconds", value=ended_at - called_at, unit="s")


def line(length: int) -> Plan:
    """Scripts one after the other."""
    return Plan.of(_nothing(f"link-{index}", *([f"link-{index - 1}"] if index else [])) for index in range(length))


def claims(database_url: str, run: RunHandle) -> list[datetime]:
    """When each step was first claimed, in plan order."""
    return [claimed for claimed, _ in step_times(database_url, run.run_id).values()]


def step_times(database_url: str, run_id: UUID) -> dict[int, tuple[datetime, datetime]]:
    """Ordinal → first claim and end, as the journal has them."""
    claimed: dict[int, datetime] = {}
    finished: dict[int, datetime] = {}
    with psycopg.connect(database_url) as connection:
        for ordinal, kind, at in connection.execute(_TIMES, [run_id]):
            (claimed if kind == "step.claimed" else finished).setdefault(ordinal, at)
    return {ordinal: (claimed[ordinal], finished[ordinal]) for ordinal in claimed if ordinal in finished}


def _nothing(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="bench_nothing", pool="audit", after=after)

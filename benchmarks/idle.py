"""What supervisor and pools weigh when they idle after the main job, as the kernel counts it for each process."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from chargehand.memory.embedder import IDLE_SECONDS
from chargehand.orchestrator import schema
from chargehand.orchestrator.cli.demo_workspace import demo_workspace
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.laptop import up
from chargehand.orchestrator.settings import Settings

TARGET_MB = 700.0
MEASURED = ("supervisor", "research", "coding", "audit")
GOAL = "Audit this repository, fix what is safe to fix, prove it by its tests, and report"
RUN_TIMEOUT_SECONDS = 300.0
LOOK_SECONDS = 1.0
# The rules model: the figure must not depend on anybody's key.
OFFLINE_MODEL = "offline-rules-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """Memory of one process in MB (2^20 bytes)."""

    name: str
    rss_mb: float
    pss_mb: float
    """Like `rss_mb`, with pages that processes share counted once in all."""
    embeds: bool
    """Whether the embedding model's runtime is mapped into it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Afterwards:
    """The four processes just after the demo run has ended, and once they idle."""

    run_seconds: float
    at_once: tuple[Weight, ...]
    idle: tuple[Weight, ...]


def measure() -> Iterator[Figure]:
    """The figures of one demo run on a laptop of its own."""
    found = after_a_demo_run()
    yield Figure(name="demo_run_seconds", value=found.run_seconds, unit="s", target=60.0)
    yield Figure(
        name="rss_after_demo_mb", value=sum(one.rss_mb for one in found.at_once), unit="MB", durability="memory"
    )
    yield Figure(
        name="idle_rss_mb",
        value=sum(one.rss_mb for one in found.idle),
        unit="MB",
        target=TARGET_MB,
        durability="memory",
    )
    yield Figure(name="idle_pss_mb", value=sum(one.pss_mb for one in found.idle), unit="MB", durability="memory")
    for one in found.idle:
        yield Figure(name=f"idle_rss_{one.name}_mb", value=one.rss_mb, unit="MB", durability="memory")


def after_a_demo_run(*, until_mb: float = 0.0) -> Afterwards:
    """Start a laptop, run the main job on the demo's repository, wait until the pools idle, and weigh them.

    `until_mb`: they are waited for no longer than until they weigh less.
    """
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="chi-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        workspace = stack.enter_context(demo_workspace())
        models = dict.fromkeys(("small_model", "medium_model", "large_model"), OFFLINE_MODEL)
        # Nobody is there to answer the coder.
        settings = Settings(home=home, ask_seconds=0.5, **models)
        laptop = stack.enter_context(up(settings, migrate=schema.migrate, progress=lambda line: None))
        endpoints = laptop.services.endpoints
        client = stack.enter_context(Client(endpoints.database_url, endpoints.redis_url, settings=settings))
        started = time.monotonic()
        client.submit(GOAL, workspace=workspace).wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
        run_seconds = time.monotonic() - started
        pids = laptop.processes.pids()
        at_once = tuple(weigh(name, pids[name]) for name in MEASURED)
        # Nothing tells when a process has dropped its model: it does so this long after the last use.
        deadline, idle = time.monotonic() + IDLE_SECONDS + 2, at_once
        while time.monotonic() < deadline and sum(one.rss_mb for one in idle) >= until_mb:
            time.sleep(LOOK_SECONDS)
            idle = tuple(weigh(name, pids[name]) for name in MEASURED)
        return Afterwards(run_seconds=run_seconds, at_once=at_once, idle=idle)


def weigh(name: str, pid: int) -> Weight:
    """The memory of a process, from its `smaps_rollup`; children that it runs for a moment are not counted."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        sizes[key.rstrip(":")] = int(value) / 1024
    maps = Path(f"/proc/{pid}/maps").read_text()
    return Weight(name=name, rss_mb=sizes["Rss"], pss_mb=sizes["Pss"], embeds="onnxruntime" in maps)

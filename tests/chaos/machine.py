"""A whole laptop for a test: services, supervisors, pools, a client, the counter; and the means to break it."""

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import redis
from sqlalchemy import text

from chaos.checker import objections
from chaos.counter import Counter
from chaos.scripts import COUNTER_VARIABLE
from chargehand.orchestrator import broker, schema
from chargehand.orchestrator.canvas import Link
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import WaitTimeout
from chargehand.orchestrator.laptop import Laptop, processes, up
from chargehand.orchestrator.laptop.specs import MODEL_VARIABLES, POOLS, ProcessSpec, process_specs
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.transitions import RUN_ENDINGS

# Short, so that a test sees a lease expire; three times the pause that a busy machine makes.
LEASE_SECONDS = 3.0
OFFLINE_MODEL = "offline-rules-1"
# The account of calls that the offline model keeps, not we.
CALLS = "calls.jsonl"
LOOK_SECONDS = 0.05
TWIN = "-2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Which of a laptop's processes a test needs."""

    pools: Collection[str] = POOLS
    twins: Collection[str] = ()
    """Processes that run twice; the second is called `NAME-2`."""
    threads: Mapping[str, int] = field(default_factory=dict)
    call_seconds: float | None = None
    """How long the offline model takes for an answer; None: no agent runs."""
    flower: bool = False

    def specs(self, settings: Settings, endpoints: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        """The processes as `chargehand up` would start them, less what is not needed."""
        chosen: list[ProcessSpec] = []
        for spec in process_specs(settings, endpoints, **rest):
            if (spec.name == "flower" and not self.flower) or (spec.name == "offline" and self.call_seconds is None):
                continue
            if spec.name in POOLS and spec.name not in self.pools:
                continue
            if spec.name == "offline":
                ledger = str(settings.home / CALLS)
                spec = replace(spec, argv=(*spec.argv, "--delay-seconds", str(self.call_seconds), "--ledger", ledger))
            if spec.name in self.threads:
                argv = list(spec.argv)
                argv[argv.index("-c") + 1] = str(self.threads[spec.name])
                spec = replace(spec, argv=tuple(argv))
            chosen.append(spec)
            if spec.name in self.twins:
                argv = tuple(f"{spec.name}{TWIN}@%h" if part == f"{spec.name}@%h" else part for part in spec.argv)
                chosen.append(replace(spec, name=f"{spec.name}{TWIN}", argv=argv))
        return tuple(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A laptop that is up, seen from a test."""

    settings: Settings
    laptop: Laptop
    client: Client
    counter: Counter
    said: list[str]
    specs: list[ProcessSpec]
    """What was started."""

    def pid(self, name: str) -> int:
        """The process of that name; raises `KeyError` while it is dead."""
        return self.laptop.processes.pids()[name]

    def signal(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a process; gives its pid."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def is_whole(self) -> bool:
        """Whether every pool's process has been heard of since it was started."""
        with self.client.session() as session:
            heard = {int(holder.rpartition(":")[2]) for (holder,) in session.execute(text("SELECT holder FROM pools"))}
        pids = self.laptop.processes.pids()
        return (
            all(pid in heard for name, pid in pids.items() if name.removesuffix(TWIN) in POOLS) and not self.missing()
        )

    def missing(self) -> set[str]:
        """Processes that are dead now."""
        return {spec.name for spec in self.specs} - self.laptop.processes.pids().keys()

    def log(self, name: str) -> str:
        """Everything that the processes of that name have logged."""
        return (self.settings.home / "logs" / f"{name}.log").read_text(errors="replace")

    def empty_valkey(self) -> None:
        """SIGKILL Valkey and start it again, empty, on its port."""
        server = self.laptop.services.valkey
        assert server is not None
        server.kill()
        server.restart()

    def redis(self) -> "redis.Redis":
        """A client of the broker's Redis."""
        return redis.Redis.from_url(self.laptop.services.endpoints.redis_url)

    def wait(self, run: RunHandle, timeout_seconds: float = 60.0) -> str:
        """Wait for the end and give the status; on a time-out says why it does not go on."""
        deadline = time.monotonic() + timeout_seconds
        while (status := run.status().status) not in RUN_ENDINGS:
            if time.monotonic() > deadline:
                raise WaitTimeout(f"{run} is {status} after {timeout_seconds} s: {self.explain(run)}")
            time.sleep(LOOK_SECONDS)
        return status

    def explain(self, run: RunHandle) -> str:
        """Why its open steps do not go on."""
        return "; ".join(
            f"{step.key} {step.status} epoch={step.epoch} crashes={step.crashes} holder={step.holder}"
            for step in run.steps()
            if step.finished_at is None
        )

    def calls(self) -> list[dict[str, Any]]:
        """Every call that reached the offline model, oldest first."""
        ledger = self.settings.home / CALLS
        return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []

    def holder(self, run: RunHandle, key: str) -> str:
        """Name of the process that runs the step."""
        holder = next(step.holder for step in run.steps() if step.key == key) or ""
        return next(name for name, pid in self.laptop.processes.pids().items() if holder.endswith(f":{pid}"))

    def statuses(self, run: RunHandle) -> dict[str, str]:
        """step key → status."""
        return {step.key: step.status for step in run.steps()}

    def epochs(self, run: RunHandle) -> dict[str, int]:
        """step key → number of claims."""
        return {step.key: step.epoch for step in run.steps()}

    def objections(self, run: RunHandle, plan: Plan, *, status: str = "succeeded") -> list[str]:
        """What the checker says of a run that has ended."""
        return objections(run, plan, self.counter, status=status)

    def send_again(self, run: RunHandle, key: str) -> None:
        """Deliver the message of a step once more, as a broker may."""
        step = next(step for step in run.steps() if step.key == key)
        link = Link(step_id=step.step_id, pool=step.pool, label=f"{step.pool}/{step.label}")
        app = self.client._app()
        broker.step_signature(app, self.settings, tenant=self.client.tenant, run_id=run.run_id, link=link).apply_async()


@contextmanager
def machine(home: Path, fleet: Fleet | None = None, **changes: Any) -> Iterator[Machine]:
    """Everything up and ready while the block runs. `changes`: settings other than the test's usual ones."""
    fleet = fleet or Fleet()
    values: dict[str, Any] = {
        "home": home,
        "database_url": "",
        "redis_url": "",
        "lease_seconds": LEASE_SECONDS,
        "visibility_timeout_seconds": LEASE_SECONDS,
        **dict.fromkeys(("small_model", "medium_model", "large_model"), OFFLINE_MODEL),
        **changes,
    }
    settings = Settings(**values)
    counter = Counter(home / "counter.sqlite")
    said: list[str] = []
    started: list[ProcessSpec] = []

    def specs(*given: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        started.extend(fleet.specs(*given, **rest))
        return tuple(started)

    with ExitStack() as stack:
        # A machine that is killed every two seconds is not broken: it starts again at once.
        stack.enter_context(mock.patch.object(processes, "BACKOFF_LAST_SECONDS", processes.BACKOFF_FIRST_SECONDS))
        laptop = stack.enter_context(
            up(
                settings,
                migrate=schema.migrate,
                progress=said.append,
                environment=environment(counter.path),
                specs=specs,
            )
        )
        endpoints = laptop.services.endpoints
        client = stack.enter_context(Client(endpoints.database_url, endpoints.redis_url, settings=settings))
        yield Machine(settings=settings, laptop=laptop, client=client, counter=counter, said=said, specs=started)


def environment(counter: Path) -> dict[str, str]:
    """What the processes get: nothing of the person's own settings and keys, our scripts, the counter."""
    foreign = {name for name in os.environ if name.startswith("CHARGEHAND_") or name in MODEL_VARIABLES}
    return {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "CHARGEHAND_MODULES": json.dumps(["chaos.scripts"]),
        COUNTER_VARIABLE: str(counter),
    }


def until(condition: Callable[[], object], timeout_seconds: float = 20.0, message: str = "") -> float:
    """Wait for a condition; gives the seconds that it took, raises `AssertionError` after the time-out."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_seconds:
            raise AssertionError(f"Not within {timeout_seconds} s: {message or condition!r}")
        time.sleep(LOOK_SECONDS / 2)
    return time.monotonic() - began

"""A whole laptop for a test: services, supervisors, pools, a client, the ledger; and the means to break it."""

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
from chaos.disk import SmallDisk, small_disk
from chaos.errands import LEDGER_VARIABLE
from chaos.forge import Forge, running_forge
from chaos.ledger import Call, Ledger, running_ledger
from chaos.proxy import Network
from chaos.wires import Wires
from chargehand.orchestrator import broker, schema
from chargehand.orchestrator.canvas import Link
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import WaitTimeout
from chargehand.orchestrator.laptop import Laptop, processes, up
from chargehand.orchestrator.laptop.specs import MODEL_VARIABLES, POOLS, ProcessSpec, process_specs
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.transitions import RUN_ENDINGS

# Short, so that a test sees a lease expire; three times the pause that a busy machine makes.
LEASE_SECONDS = 3.0
OFFLINE_MODEL = "offline-rules-1"
LOOK_SECONDS = 0.05
# Only a test that fails waits for so long.
PATIENCE_SECONDS = 60.0
TWIN = "-2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Which of a laptop's processes a test needs."""

    pools: Collection[str] = POOLS
    """`solo` may be among them: one thread, for steps that take their worker down."""
    twins: Collection[str] = ()
    """Processes that run twice; the second is called `NAME-2`."""
    threads: Mapping[str, int] = field(default_factory=dict)
    call_seconds: float | None = None
    """How long the offline model takes for an answer; None: no agent runs."""
    weather: int | None = None
    """Seed of the model's faults; None: it has none."""
    prices: str = ""
    """What the model's answers cost, as `CHARGEHAND_MODEL_PRICES`; empty: nothing."""
    ahead: Mapping[str, float] = field(default_factory=dict)
    """Processes whose clock is wrong, and by how many seconds."""
    wired: bool = False
    """Every process has links of its own to Postgres and Valkey, which can break."""
    small_disk: bool = False
    """The workspaces lie on a small disk, if we may mount one."""
    forged: bool = False
    """Workers and supervisors are forked by a process that has imported everything."""
    flower: bool = False
    api: bool = False
    """Its start costs as much as a pool's, and the tests of the API have one of their own."""

    def specs(self, settings: Settings, endpoints: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        """The processes as `chargehand up` would start them, less what is not needed, and with what is added."""
        needed = {"flower": self.flower, "api": self.api, "offline": self.call_seconds is not None}
        unneeded = {name for name, is_needed in needed.items() if not is_needed}
        chosen: list[ProcessSpec] = []
        for spec in process_specs(settings, endpoints, **rest):
            if spec.name in unneeded:
                continue
            if spec.name == "offline":
                chosen.append(self._model(spec))
                continue
            if spec.name == POOLS[0] and SOLO in self.pools:
                chosen.append(solo_beside(spec))
            if spec.name in POOLS and spec.name not in self.pools:
                continue
            chosen.append(self._threaded(spec))
            if spec.name in self.twins:
                chosen.append(self._threaded(_renamed(spec, f"{spec.name}{TWIN}")))
        return tuple(self._dated(self._priced(spec)) for spec in chosen)

    def _model(self, spec: ProcessSpec) -> ProcessSpec:
        weather = () if self.weather is None else ("--weather", str(self.weather))
        port = spec.argv[spec.argv.index("--port") + 1]
        argv = (spec.argv[0], "-m", "chaos.model", "--port", port, "--ledger", spec.environment[LEDGER_VARIABLE])
        return replace(spec, argv=(*argv, "--delay-seconds", str(self.call_seconds), *weather))

    def _threaded(self, spec: ProcessSpec) -> ProcessSpec:
        threads = self.threads.get(spec.name.removesuffix(TWIN))
        return spec if threads is None else replace(spec, argv=_replaced(spec.argv, "-c", str(threads)))

    def _priced(self, spec: ProcessSpec) -> ProcessSpec:
        return replace(spec, environment={**spec.environment, "CHARGEHAND_MODEL_PRICES": self.prices})

    def _dated(self, spec: ProcessSpec) -> ProcessSpec:
        if spec.name not in self.ahead:
            return spec
        python, _, *rest = spec.argv
        return replace(spec, argv=(python, "-m", "chaos.clock", str(self.ahead[spec.name]), *rest))


def solo_beside(spec: ProcessSpec) -> ProcessSpec:
    """The pool `solo`, of one thread, started as this one is."""
    queue = spec.argv[spec.argv.index("-Q") + 1].replace(spec.name, SOLO)
    renamed = _renamed(spec, SOLO)
    return replace(renamed, argv=_replaced(_replaced(renamed.argv, "-Q", queue), "-c", "1"))


def _renamed(spec: ProcessSpec, name: str) -> ProcessSpec:
    return replace(spec, name=name, argv=_replaced(spec.argv, "-n", f"{name}@%h"))


def _replaced(argv: tuple[str, ...], option: str, value: str) -> tuple[str, ...]:
    position = argv.index(option) + 1
    return (*argv[:position], value, *argv[position + 1 :])


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A laptop that is up, seen from a test."""

    settings: Settings
    laptop: Laptop
    client: Client
    ledger: Ledger
    said: list[str]
    specs: list[ProcessSpec]
    """What was started."""
    wires: Wires | None = None
    """The links of a fleet that is wired."""
    forge: Forge | None = None
    disk: SmallDisk | None = None
    """The disk of the workspaces, if it is a small one."""

    def pid(self, name: str) -> int:
        """The process of that name; raises `KeyError` while it is dead."""
        return self.laptop.processes.pids()[name]

    def expected_pids(self) -> set[int]:
        """Processes that should be there."""
        forge = set() if self.forge is None else {self.forge.process.pid}
        return {*self.laptop.processes.pids().values(), *forge}

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
            all(pid in heard for name, pid in pids.items() if name.removesuffix(TWIN) in (*POOLS, SOLO))
            and not self.missing()
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

    def wait(self, run: RunHandle, timeout_seconds: float = 2 * PATIENCE_SECONDS) -> str:
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

    def calls(self) -> list[Call]:
        """Every call that reached the model's server, oldest first."""
        return self.ledger.calls()

    def holder(self, run: RunHandle, key: str) -> str:
        """Name of the process that runs the step; empty when nobody does."""
        holder = next(step.holder for step in run.steps() if step.key == key) or ""
        pids = self.laptop.processes.pids()
        return next((name for name, pid in pids.items() if holder.endswith(f":{pid}")), "")

    def holders(self) -> set[int]:
        """The processes that hold a step now; raises `Unavailable`."""
        with self.client.session() as session:
            rows = session.execute(text("SELECT DISTINCT holder FROM steps WHERE status = 'running'"))
            return {int(holder.rpartition(":")[2]) for (holder,) in rows}

    def statuses(self, run: RunHandle) -> dict[str, str]:
        """step key → status."""
        return {step.key: step.status for step in run.steps()}

    def epochs(self, run: RunHandle) -> dict[str, int]:
        """step key → number of claims."""
        return {step.key: step.epoch for step in run.steps()}

    def objections(self, run: RunHandle, plan: Plan, *, status: str = "succeeded") -> list[str]:
        """What the checker says of a run that has ended."""
        return objections(run, plan, self.ledger, status=status)

    def send_again(self, run: RunHandle, key: str) -> None:
        """Deliver the message of a step once more, as a broker may."""
        step = next(step for step in run.steps() if step.key == key)
        link = Link(step_id=step.step_id, pool=step.pool, label=f"{step.pool}/{step.label}")
        app = self.client.services.broker()
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
    said: list[str] = []
    started: list[ProcessSpec] = []
    with ExitStack() as stack:
        ledger = stack.enter_context(running_ledger(home / "ledger"))
        network = stack.enter_context(Network()) if fleet.wired else None
        wires: list[Wires] = []

        def specs(settings: Settings, endpoints: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
            chosen = fleet.specs(settings, endpoints, **rest)
            if network is not None:
                wires.append(Wires(network, endpoints, home / "wires"))
                chosen = tuple(wires[0].wired(spec) for spec in chosen)
            started.extend(chosen)
            return chosen

        disk = stack.enter_context(small_disk(home / "workspaces")) if fleet.small_disk else None
        # A machine that is killed every two seconds is not broken: it starts again at once.
        stack.enter_context(mock.patch.object(processes, "BACKOFF_LAST_SECONDS", processes.BACKOFF_FIRST_SECONDS))
        forge = stack.enter_context(running_forge(home)) if fleet.forged else None
        if forge is not None:
            stack.enter_context(mock.patch.object(processes, "spawn", forge.spawn))
        laptop = stack.enter_context(
            up(
                settings,
                migrate=schema.migrate,
                progress=said.append,
                environment=environment(ledger),
                specs=specs,
            )
        )
        endpoints = laptop.services.endpoints
        client = stack.enter_context(Client(endpoints.database_url, endpoints.redis_url, settings=settings))
        running = Machine(
            settings=settings,
            laptop=laptop,
            client=client,
            ledger=ledger,
            said=said,
            specs=started,
            wires=wires[0] if wires else None,
            forge=forge,
            disk=disk,
        )
        try:
            yield running
        finally:
            # The test has seen what it wanted to see; how a laptop stops in peace is for others to show.
            laptop.processes.hurry()


def environment(ledger: Ledger) -> dict[str, str]:
    """What the processes get: nothing of the person's own settings and keys, our scripts and tools, the ledger."""
    foreign = {name for name in os.environ if name.startswith("CHARGEHAND_") or name in MODEL_VARIABLES}
    return {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "CHARGEHAND_MODULES": json.dumps(["chaos.scripts", "chaos.errands"]),
        LEDGER_VARIABLE: str(ledger.folder),
    }


def until(condition: Callable[[], object], timeout_seconds: float = PATIENCE_SECONDS, message: str = "") -> float:
    """Wait for a condition; gives the seconds that it took, raises `AssertionError` after the time-out."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_seconds:
            raise AssertionError(f"Not within {timeout_seconds} s: {message or condition!r}")
        time.sleep(LOOK_SECONDS / 2)
    return time.monotonic() - began

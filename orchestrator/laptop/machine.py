"""Chargehand on one machine while a block runs: servers, schema, processes; afterwards nothing is left."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from chargehand.orchestrator.laptop.flower_password import flower_password
from chargehand.orchestrator.laptop.ground import free_port, prepare_home
from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.laptop.services import Services, running_services
from chargehand.orchestrator.laptop.specs import (
    Ports,
    ProcessSpec,
    api_url,
    flower_url,
    metrics_folder,
    process_specs,
)
from chargehand.orchestrator.laptop.state import (
    LaptopState,
    exclusive,
    process_started_at,
    remove_state,
    write_state,
)
from chargehand.orchestrator.settings import Settings

FLOWER_PORT = 5555
API_PORT = 8420
Progress = Callable[[str], None]
Specs = Callable[..., tuple[ProcessSpec, ...]]


class Laptop:
    """What is up: its servers and processes, and the state that others read."""

    def __init__(self, *, services: Services, processes: Processes, state: Callable[[], LaptopState]) -> None:
        """Made by `up`."""
        self.services, self.processes, self._state = services, processes, state

    @property
    def state(self) -> LaptopState:
        """Endpoints, Flower's URL and the process ids as they are now."""
        return self._state()


@contextmanager
def up(
    settings: Settings,
    *,
    migrate: Callable[[str], None],
    progress: Progress,
    environment: Mapping[str, str] | None = None,
    specs: Specs = process_specs,
) -> Iterator[Laptop]:
    """Everything running and ready while the block runs.

    In the main thread SIGTERM and SIGHUP end the block by `SystemExit`, Ctrl-C by `KeyboardInterrupt`; a second one
    while it stops ends the grace of the processes. If this process is killed, the kernel ends the others.
    """
    home = prepare_home(settings.home)
    settings = settings.model_copy(update={"home": home})
    environment = os.environ if environment is None else environment
    with exclusive(home), stop_signals() as signals, running_services(settings, progress=progress) as services:
        progress("migrating the schema")
        migrate(services.endpoints.database_url)
        flower_password(settings)
        # Counts of an earlier life are no one's any more.
        shutil.rmtree(metrics_folder(settings), ignore_errors=True)
        metrics_folder(settings).mkdir(mode=0o700)
        ports = Ports(flower=free_port(preferred=FLOWER_PORT), offline=free_port(), api=free_port(preferred=API_PORT))
        started_at = process_started_at(os.getpid()) or time.time()

        def state() -> LaptopState:
            return LaptopState(
                pid=os.getpid(),
                started_at=started_at,
                endpoints=services.endpoints,
                flower_url=flower_url(ports),
                api_url=api_url(ports),
                pids={**services.pids(), **processes.pids()},
            )

        processes = Processes(
            logs=home / "logs",
            cwd=home,
            progress=progress,
            tend=services.revive,
            changed=lambda: write_state(home, state()),
        )
        signals.on_second = processes.hurry
        try:
            processes.start(specs(settings, services.endpoints, ports=ports, environment=environment))
            write_state(home, state())
            yield Laptop(services=services, processes=processes, state=state)
        finally:
            signals.stopping = True
            progress("stopping")
            remove_state(home)
            processes.stop()


class StopSignals:
    """The first signal raises, so that blocks unwind; the next ones only hurry."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self.stopping = False
        self.on_second: Callable[[], None] = lambda: None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal of the main thread."""
        del frame
        if self.stopping:
            self.on_second()
            return
        self.stopping = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle SIGINT, SIGTERM and SIGHUP while the block runs; outside the main thread Python allows no handlers."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signals) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

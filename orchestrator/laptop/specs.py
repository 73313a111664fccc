"""Which processes `chargehand up` runs, as values: a pure function of settings, endpoints and the environment."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.settings import Settings

# Looks at what the process has logged since it started, or elsewhere, and says whether it is ready.
Probe = Callable[[str], bool]

POOLS = ("research", "coding", "audit")
SUPERVISOR_THREADS = 4
# Threads wait for a model or a child process; on a laptop sixteen agents a pool are plenty.
POOL_THREADS = 16
PROBE_TIMEOUT_SECONDS = 2.0
# Any of them means that a real model is meant.
MODEL_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL")
# What the offline server calls itself; routing and budgets then know that it costs nothing.
OFFLINE_MODEL = "offline-rules-1"
# Makes each answer of the offline server take this long, so that something can be killed in the middle.
OFFLINE_DELAY_VARIABLE = "CHARGEHAND_OFFLINE_DELAY_SECONDS"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpec:
    """One process: what to run, in which environment, and how to see that it is ready."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Probe
    foundation: bool = False
    """Others need it to begin and to end: started before them and stopped after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Loopback ports chosen for this `up`."""

    flower: int
    offline: int
    api: int


def process_specs(
    settings: Settings, endpoints: Endpoints, *, ports: Ports, environment: Mapping[str, str]
) -> tuple[ProcessSpec, ...]:
    """The processes in the order of their start.

    Without a key and a base URL of a model the first is the offline model, and everybody talks to it.
    """
    common = {
        **environment,
        **settings_environment(settings),
        "CHARGEHAND_HOME": str(settings.home),
        "CHARGEHAND_DATABASE_URL": endpoints.database_url,
        "CHARGEHAND_REDIS_URL": endpoints.redis_url,
        "PYTHONUNBUFFERED": "1",
        # Arenas beyond two keep what sixteen threads have freed; Python allocates under its lock anyway.
        "MALLOC_ARENA_MAX": "2",
    }
    specs = []
    if needs_offline_model(environment):
        url = f"http://127.0.0.1:{ports.offline}"
        common |= {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "offline"}
        common |= {f"CHARGEHAND_{tier}_MODEL": OFFLINE_MODEL for tier in ("SMALL", "MEDIUM", "LARGE")}
        delay_seconds = environment.get(OFFLINE_DELAY_VARIABLE)
        delay = ("--delay-seconds", delay_seconds) if delay_seconds else ()
        specs.append(
            ProcessSpec(
                name="offline",
                argv=(sys.executable, "-m", "chargehand.workers.offline", "--port", str(ports.offline), *delay),
                environment=common,
                ready=answers(f"{url}/healthz"),
                foundation=True,
            )
        )
    prefix = settings.key_prefix
    # Not for Flower: it has metrics of its own, and exports them from its memory.
    measured = {**common, "PROMETHEUS_MULTIPROC_DIR": str(metrics_folder(settings))}
    supervisor = "chargehand.orchestrator.supervisor.app"
    specs.append(_worker("supervisor", supervisor, SUPERVISOR_THREADS, prefix, environment=measured))
    specs += [_worker(pool, "chargehand.workers.app", POOL_THREADS, prefix, environment=measured) for pool in POOLS]
    specs.append(_api(ports.api, environment={"CHARGEHAND_FLOWER_URL": flower_url(ports), **measured}))
    # Each links to the other, unless the settings say where people reach them.
    specs.append(_flower(ports.flower, environment={"CHARGEHAND_PAGES_URL": api_url(ports), **common}))
    return tuple(specs)


def metrics_folder(settings: Settings) -> Path:
    """Where the processes of `chargehand up` keep what they count."""
    return settings.home / "metrics"


def needs_offline_model(environment: Mapping[str, str]) -> bool:
    """Whether neither a key nor a base URL of a model is set; an empty variable is not set."""
    return not any(environment.get(name) for name in MODEL_VARIABLES)


def settings_environment(settings: Settings) -> dict[str, str]:
    """The variables that give another process these settings: of all that were set, here or by the environment."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {f"CHARGEHAND_{name.upper()}": _as_variable(value) for name, value in values.items() if value is not None}


def _as_variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, tuple | dict) else str(value)


def flower_url(ports: Ports) -> str:
    """Where Flower shows the fleet."""
    return f"http://127.0.0.1:{ports.flower}"


def api_url(ports: Ports) -> str:
    """Where the HTTP API is, without `/v1`."""
    return f"http://127.0.0.1:{ports.api}"


def _worker(name: str, app: str, threads: int, prefix: str, *, environment: Mapping[str, str]) -> ProcessSpec:
    argv: tuple[str, ...] = (sys.executable, "-m", "celery", "-A", app, "worker", "-P", "threads", "-c", str(threads))
    argv += ("-Q", f"{prefix}.{name}", "-n", f"{name}@%h", "--loglevel", "INFO")
    # Gossip and mingle wait for other workers and tell us nothing that Postgres does not know; -E is for Flower.
    argv += ("--without-gossip", "--without-mingle", "--without-heartbeat", "-E")
    return ProcessSpec(name=name, argv=argv, environment=environment, ready=says(" ready."))


def _api(port: int, *, environment: Mapping[str, str]) -> ProcessSpec:
    argv = (sys.executable, "-m", "chargehand.orchestrator.cli", "api", "--port", str(port))
    # Who has the key of this home may read its folders anyway.
    local = {"CHARGEHAND_API_LOCAL_WORKSPACES": "true", "CHARGEHAND_API_METRICS": "true"}
    return ProcessSpec(
        name="api", argv=argv, environment={**environment, **local}, ready=answers(f"http://127.0.0.1:{port}/readyz")
    )


def _flower(port: int, *, environment: Mapping[str, str]) -> ProcessSpec:
    configuration = Path(__file__).with_name("flowerconfig.py")
    argv: tuple[str, ...] = (sys.executable, "-m", "celery", "-A", "chargehand.orchestrator.broker", "flower")
    argv += (f"--conf={configuration}", "--address=127.0.0.1", f"--port={port}")
    return ProcessSpec(
        name="flower", argv=argv, environment=environment, ready=answers(f"http://127.0.0.1:{port}/healthcheck")
    )


def says(words: str) -> Probe:
    """Ready when the words are in the log of this start."""
    return lambda logged: words in logged


def answers(url: str) -> Probe:
    """Ready when the URL answers 200."""

    def probe(logged: str) -> bool:
        del logged
        try:
            # No proxy stands between us and a loopback port.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=PROBE_TIMEOUT_SECONDS) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return probe

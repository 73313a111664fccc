"""What deploy/ starts is there, with settings that exist, as nobody's root, and reachable from nowhere else.

No Docker is needed. `SCHEMA` writes down what the compose specification says of the keys that we use, and refuses
others.
"""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from chargehand.orchestrator import broker
from chargehand.orchestrator.cli import _Chargehand
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("chargehand")}
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SETTINGS = {f"CHARGEHAND_{field.upper()}" for field in Settings.model_fields}
QUEUES = {broker.queue_name(Settings(), pool) for pool in (*POOLS, broker.SUPERVISOR, "solo")}


def _of(properties, required=()):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
    }


def _named(value):
    return {"type": "object", "patternProperties": {r"^[a-zA-Z0-9._-]+$": value}, "additionalProperties": False}


STRING = {"type": "string"}
STRINGS = {"type": "array", "items": STRING}
DISTINCT = {**STRINGS, "uniqueItems": True}
WORDS = {"oneOf": [STRING, STRINGS]}
DURATION = {"type": "string", "pattern": r"^(\d+(\.\d+)?(us|ms|s|m|h))+$"}
SERVICE = _of(
    {
        "image": STRING,
        "build": _of({"context": STRING, "dockerfile": STRING}),
        "restart": {"type": "string", "pattern": r"^(no|always|unless-stopped|on-failure(:\d+)?)$"},
        "init": {"type": "boolean"},
        "cap_drop": DISTINCT,
        "security_opt": DISTINCT,
        "environment": {
            "type": "object",
            "patternProperties": {".+": {"type": ["string", "number", "boolean", "null"]}},
            "additionalProperties": False,
        },
        "volumes": DISTINCT,
        "depends_on": _named(
            _of(
                {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}},
                ["condition"],
            )
        ),
        "stop_grace_period": DURATION,
        "command": WORDS,
        "ports": DISTINCT,
        "healthcheck": _of(
            {
                "test": {**STRINGS, "prefixItems": [{"enum": ["CMD", "CMD-SHELL", "NONE"]}]},
                "interval": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            }
        ),
        "deploy": _of({"replicas": {"type": "integer", "minimum": 0}}),
        "shm_size": {"type": ["integer", "string"], "pattern": r"^\d+(b|k|m|g|kb|mb|gb)?$"},
    },
    ["image"],
)
SCHEMA = _of(
    {"name": {"type": "string", "pattern": r"^[a-z0-9][a-z0-9_-]*$"}, "services": _named(SERVICE),
     "volumes": _named({"type": "null"})},
    ["services"],
)  # fmt: skip


def commands():
    """Every command line of ours, in containers and in units."""
    yield from ((name, [str(word) for word in service["command"]]) for name, service in OURS.items())
    for unit in UNITS:
        (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        for name in ("research", "solo") if "%i" in line else ("",):
            yield unit.name, shlex.split(line.replace("%i", name))


def test_the_fleet_of_the_design_is_there():
    assert {"postgres", "valkey", "supervisor", *POOLS, "api", "flower", "prometheus", "grafana"} <= set(SERVICES)
    assert SERVICES["supervisor"]["deploy"]["replicas"] == 2
    assert len({service["image"] for service in OURS.values()}) == 1


def test_the_compose_file_keeps_the_schema():
    assert [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(
    "mistake",
    [
        {"comand": ["celery"]},
        {"restart": "sometimes"},
        {"deploy": {"replicas": "two"}},
        {"depends_on": {"postgres": {"condition": "healthy"}}},
        {"healthcheck": {"test": ["pg_isready"]}},
        {"stop_grace_period": 120},
        {"command": ["celery", "-c", 4]},
        {"ports": ["127.0.0.1:1:1", "127.0.0.1:1:1"]},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_mistake_in_the_compose_file_is_refused(mistake):
    services = {**SERVICES, "api": {**SERVICES["api"], **mistake}}
    assert not Draft202012Validator(SCHEMA).is_valid({**COMPOSE, "services": services})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_there_is(name):
    service = SERVICES[name]
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    for dependency, wanted in service.get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[dependency]


def test_nothing_is_published_beyond_loopback_and_no_password_has_a_default():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    text = (DEPLOY / "compose.yaml").read_text()
    assert re.findall(r"\$\{\w*(?:PASSWORD|AUDIT_KEY):-", text) == []
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked <= set(re.findall(r"^(\w+)=$", (DEPLOY / "env.example").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_has_no_more_rights_than_it_needs(name):
    service = OURS[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    # Only where repository code runs are namespaces of its own needed.
    loose = [option for option in service["security_opt"] if option != "no-new-privileges:true"]
    assert bool(loose) == (name in POOLS)
    assert {key for key in service["environment"] if key.startswith("CHARGEHAND_")} <= SETTINGS


@pytest.mark.parametrize(("name", "words"), [*commands()], ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_line_starts_what_there_is(name, words):
    line = " ".join(words)
    for module in re.findall(r"-A (\S+)", line):
        assert importlib.util.find_spec(module) is not None
    for queue in re.findall(r"-Q (\S+)", line):
        assert queue in QUEUES
        assert {"threads", "--without-gossip", "--without-mingle", "--without-heartbeat", "-E"} <= set(words)
    if Path(words[0]).name == "chargehand":
        assert words[1] in _Chargehand.entries


def test_the_image_ends_as_somebody_who_is_not_root_and_copies_what_there_is():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("USER ")][-1] not in {"root", "0"}
    assert sum(line.startswith("FROM ") for line in lines) == 2
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert [word for word in line.split()[1:-1] if not (DEPLOY.parent / word).exists()] == []


def test_the_seccomp_profile_lets_bubblewrap_work_and_refuses_what_nobody_needs():
    profile = json.loads((DEPLOY / "seccomp-bubblewrap.json").read_text())
    refused = {name for rule in profile["syscalls"] for name in rule["names"] if rule["action"] == "SCMP_ACT_ERRNO"}
    needed = {"clone", "unshare", "mount", "umount2", "pivot_root", "setns", "seccomp", "prctl", "sethostname"}
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert not refused & needed
    assert {"bpf", "ptrace", "kexec_load", "init_module", "keyctl", "perf_event_open", "io_uring_setup"} <= refused

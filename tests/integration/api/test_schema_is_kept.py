"""What the API answers is what its OpenAPI says, whatever it is asked: schemathesis with every check on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chargehand.orchestrator import keys
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[2]))

from api_serving import serving

# `make schemathesis` asks for more.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "1")
PHASES = os.environ.get("SCHEMATHESIS_PHASES", "fuzzing")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(3_600)
def test_every_answer_fits_the_schema(database_url: str, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, api_requests_per_second=1e6, api_stream_seconds=0.2, connect_timeout_seconds=30)
    services = Services(settings, database_url=database_url, redis_url=redis_url, is_busy=True)
    client = Client.sharing(services, tenant=uuid4(), name="test")
    with client.session() as session:
        secret = keys.add(session, client.tenant, "test", ("admin",)).secret
    with serving(settings, services) as port:
        done = schemathesis(port, str(secret))
    services.close()
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


def schemathesis(port: int, secret: str) -> "subprocess.CompletedProcess[str]":
    command: list[Any] = [Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIGURATION, "run"]
    command += [f"http://127.0.0.1:{port}/v1/openapi.json", "--header", f"Authorization: Bearer {secret}"]
    command += ["--checks", "all", "--phases", PHASES, "--max-examples", EXAMPLES, "--generation-deterministic"]
    command += ["--generation-allow-x00", "false", "--continue-on-failure"]
    command += [
        "--no-shrink",
        "--no-color",
        "--warnings",
        "off",
        "--request-timeout",
        "120",
        "--seed",
        "1",
        # Python 3.11 counts one recursion for all threads that parse source, and calls it a mistake when two do
        # (gh-106905).
        "--workers",
        "4" if sys.version_info >= (3, 12) else "1",
        # A replay starts a process, which a busy machine lets wait.
        "--max-response-time",
        "110",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)

"""Flower with our configuration is closed without the password and open with it."""

import base64
import os
import sys
import urllib.error
import urllib.request

import pytest

from chargehand.orchestrator.laptop import specs
from chargehand.orchestrator.laptop.ground import free_port
from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.settings import Settings

# A Celery application without tasks: the password is Flower's matter.
APP = "import os, celery; app = celery.Celery('bare', broker=os.environ['CHARGEHAND_REDIS_URL'])"


@pytest.fixture
def flower(laptop_home, valkey):
    """Address and password of a running Flower."""
    (laptop_home / "bare.py").write_text(APP)
    port = free_port()
    endpoints = Endpoints(database_url="postgresql://unused", redis_url=valkey.url)
    settings = Settings(home=laptop_home)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHARGEHAND_")}
    ports = specs.Ports(flower=port, offline=0)
    by_name = {
        spec.name: spec for spec in specs.process_specs(settings, endpoints, ports=ports, environment=environment)
    }
    ours = by_name["flower"]
    argv = tuple("bare" if part == "chargehand.orchestrator.broker" else part for part in ours.argv)
    spec = specs.ProcessSpec(name="flower", argv=argv, environment=ours.environment, ready=ours.ready)
    processes = Processes(logs=laptop_home, cwd=laptop_home, progress=print)
    try:
        processes.start([spec])
        yield f"http://127.0.0.1:{port}", (laptop_home / "flower.password").read_text().strip()
    finally:
        processes.stop(grace_seconds=2)


def status_of(url, *, user=None, password=None, data=None):
    request = urllib.request.Request(url, data=data)
    if user is not None:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pages_and_api_answer_401_without_the_password_and_200_with_it(flower):
    url, password = flower
    for path in ("/workers", "/tasks", "/broker", "/api/tasks"):
        assert status_of(url + path) == 401
        assert status_of(url + path, user="chargehand", password="wrong") == 401
        assert status_of(url + path, user="chargehand", password=password) == 200

    # Who may look may still not send a task.
    sending = status_of(url + "/api/task/send-task/any", user="chargehand", password=password, data=b"{}")
    assert sending == 403


def test_flower_is_started_by_the_interpreter_of_this_environment():
    settings = Settings()
    endpoints = Endpoints(database_url="postgresql://unused", redis_url="redis://unused")
    ports = specs.Ports(flower=1, offline=2)
    flower = specs.process_specs(settings, endpoints, ports=ports, environment={})[-1]
    assert flower.argv[0] == sys.executable
    assert "--address=127.0.0.1" in flower.argv

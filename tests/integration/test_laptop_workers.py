"""The command line of a pool starts a real Celery worker that takes from its queue and listens to SIGTERM."""

import os
import time

import celery
import pytest

from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.laptop.specs import Ports, ProcessSpec, process_specs
from chargehand.orchestrator.settings import Settings

# A pool's command line with an application of one task: this test is about the line, not about our tasks.
APP = """
import os, pathlib, celery
app = celery.Celery("bare", broker=os.environ["CHARGEHAND_REDIS_URL"])

@app.task(name="touch")
def touch(path):
    pathlib.Path(path).touch()
"""


@pytest.mark.system
def test_a_pool_takes_from_its_queue_and_ends_on_sigterm(laptop_home, redis_url, wait_until):
    (laptop_home / "bare.py").write_text(APP)
    settings = Settings(home=laptop_home, key_prefix="blue")
    endpoints = Endpoints(database_url="postgresql://unused", redis_url=redis_url)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHARGEHAND_")}
    specs = process_specs(settings, endpoints, ports=Ports(flower=1, offline=2, api=3), environment=environment)
    audit = next(spec for spec in specs if spec.name == "audit")
    argv = tuple("bare" if part == "chargehand.workers.app" else part for part in audit.argv)
    processes = Processes(logs=laptop_home, cwd=laptop_home, progress=print)
    try:
        processes.start([ProcessSpec(name="audit", argv=argv, environment=audit.environment, ready=audit.ready)])
        with celery.Celery("client", broker=redis_url) as client:
            client.send_task("touch", [str(laptop_home / "touched")], queue="blue.audit")

        wait_until((laptop_home / "touched").exists, message="the task did not run")

        began = time.monotonic()
        processes.stop(grace_seconds=60)
        # It ended by itself: nobody had to kill it when the grace was over.
        assert time.monotonic() - began < 60
        assert "Warm shutdown" in (laptop_home / "audit.log").read_text()
    finally:
        processes.stop(grace_seconds=0)

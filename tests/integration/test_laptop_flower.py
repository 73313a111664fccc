"""Flower with our configuration is closed without the password and open with it."""

import base64
import json
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from uuid import uuid4

import pytest
from celery.contrib.testing.worker import start_worker

from chargehand.orchestrator import broker
from chargehand.orchestrator.canvas import Chain, Link
from chargehand.orchestrator.laptop import specs
from chargehand.orchestrator.laptop.ground import free_port
from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.telemetry import endings
from chargehand.workers import tasks

# A Celery application without tasks: the password is Flower's matter.
APP = "import os, celery; app = celery.Celery('bare', broker=os.environ['CHARGEHAND_REDIS_URL'])"


@pytest.fixture
def flower(laptop_home, valkey):
    """Address and password of a running Flower."""
    (laptop_home / "bare.py").write_text(APP)
    port = free_port()
    endpoints = Endpoints(database_url="postgresql://unused", redis_url=valkey.url)
    settings = Settings(home=laptop_home, pages_url="https://agents.example.org/")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHARGEHAND_")}
    ports = specs.Ports(flower=port, offline=0, api=0)
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


def status_of(url, *, user=None, password=None, data=None, method=None):
    return answer_of(url, user=user, password=password, data=data, method=method)[0]


def answer_of(url, *, user=None, password=None, data=None, method=None):
    request = urllib.request.Request(url, data=data, method=method)
    if user is not None:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_person_finds_what_runs_and_nobody_else_reads_or_forges_anything(
    flower, laptop_home, valkey, monkeypatch, wait_until
):
    """One test, because Flower takes seconds to start."""
    url, password = flower
    person = {"user": "chargehand", "password": password}
    run, waits, fails = uuid4(), uuid4(), uuid4()
    with a_worker(laptop_home, valkey, monkeypatch, outcomes={waits: "waiting", fails: "step_failed"}) as (
        app,
        settings,
    ):
        # Nobody has given it anything yet.
        wait_until(lambda: workers_of(url, person) == {"audit@here": True}, 60, "Flower lists the idle worker")
        early = uuid4()

        def publish(run_id, step, label):
            emission = Chain(links=(Link(step_id=step, pool="audit", label=label),))
            assert broker.publish(app, settings, tenant=uuid4(), run_id=run_id, emissions=[emission])

        def is_heard():
            publish(early, fails, "audit/early")
            return tasks_of(url, person, early)

        # Flower answers before it listens, and what it has missed it never learns.
        wait_until(is_heard, 60, "Flower hears of tasks")
        publish(run, waits, "audit/triager")
        publish(run, fails, "audit/scan")
        wait_until(lambda: len(ended(tasks_of(url, person, run))) == 2, 60, "both tasks have ended in Flower")
        found = {task["name"]: task for task in tasks_of(url, person, run)}
    wait_until(lambda: workers_of(url, person) == {"audit@here": False}, 60, "Flower has heard that the worker went")

    # The list: a name by pool and role, the ids of run and step, how it ended, the worker by its pool.
    assert set(found) == {"audit/triager", "audit/scan"}
    assert (found["audit/triager"]["state"], found["audit/scan"]["state"]) == ("WAITING", "STEP_FAILED")
    # Whole ids would be cut off behind the run's: they are searched for all the same, and stand on the task's page.
    assert found["audit/triager"]["kwargs"] == f"run {str(run)[-8:]} step {str(waits)[:8]}"
    assert found["audit/triager"]["worker"].startswith("audit@")

    # From the task to its run, from there to our page; and the run's page links back to its tasks.
    uuid = found["audit/triager"]["uuid"]
    details = answer_of(f"{url}/task/{uuid}", **person)[1]
    assert f'href="/runs/{run}"' in details
    assert str(waits) in details
    status, page = answer_of(f"{url}/runs/{run}", **person)
    assert status == 200, (laptop_home / "flower.log").read_text()[-3000:]
    assert f'href="https://agents.example.org/runs/{run}"' in page
    assert f'href="/task/{uuid}"' in page
    assert "audit/scan" in page
    assert status_of(f"{url}/runs/{'0' * 40}", **person) == 404
    assert "no task of this run" in answer_of(f"{url}/runs/{uuid4()}", **person)[1]

    reads = ["/", "/workers", "/tasks", "/broker", "/metrics", f"/task/{uuid}", f"/runs/{run}", DATATABLE]
    reads += ["/api/workers", "/api/tasks", "/api/task/types", f"/api/task/info/{uuid}", "/api/queues/length"]
    for path in reads:
        for who in ({}, {"user": "chargehand", "password": "wrong"}):
            status, text = answer_of(url + path, **who)
            assert status == 401, path
            assert "audit" not in text
            assert str(run) not in text
        assert status_of(url + path, **person) == 200, path
    assert answer_of(f"{url}/healthcheck") == (200, "OK")

    for path in FORGERIES:
        path = path.format(uuid=uuid)
        assert status_of(url + path, data=b"{}") == 401, path
        assert status_of(url + path, **person, data=b"{}") == 403, path
    assert app.connection().default_channel.client.llen(broker.queue_name(settings, "audit")) == 0


DATATABLE = "/tasks/datatable?draw=1&start=0&length=50&order[0][column]=0&columns[0][data]=name&order[0][dir]=asc"
FORGERIES = (
    "/api/task/send-task/chargehand.audit",
    "/api/task/apply/chargehand.audit",
    "/api/task/async-apply/chargehand.audit",
    "/api/task/abort/{uuid}",
    "/api/task/revoke/{uuid}",
    "/api/task/timeout/chargehand.audit",
    "/api/task/rate-limit/chargehand.audit",
    "/api/worker/shutdown/audit@host",
    "/api/worker/pool/restart/audit@host",
    "/api/worker/pool/grow/audit@host",
    "/api/worker/pool/shrink/audit@host",
    "/api/worker/pool/autoscale/audit@host",
    "/api/worker/queue/add-consumer/audit@host",
    "/api/worker/queue/cancel-consumer/audit@host",
)


def tasks_of(url, person, run):
    """The rows of Flower's list for the search that a person types."""
    search = urllib.parse.quote(f"kwargs:run_id={run}")
    return json.loads(answer_of(f"{url}{DATATABLE}&search[value]={search}", **person)[1])["data"]


def workers_of(url, person):
    """Whether each worker is online, in Flower's list."""
    rows = json.loads(answer_of(f"{url}/workers?json=1", **person)[1])["data"]
    return {row["hostname"]: row["status"] for row in rows}


def ended(rows):
    return [row for row in rows if row["state"] not in {"PENDING", "RECEIVED", "STARTED"}]


@contextmanager
def a_worker(laptop_home, valkey, monkeypatch, *, outcomes):
    """A worker of the audit pool whose steps end as `outcomes` says."""
    settings = Settings(home=laptop_home)
    app = broker.make_app(settings, valkey.url)

    def execute(_, *, tenant, step_id):
        endings._ending.get().how = outcomes[step_id]
        return "stop"

    monkeypatch.setattr(tasks, "execute", execute)
    # Celery's worker for tests leaves out by what tasks of a real one know whose they are.
    monkeypatch.setattr("celery.app.trace.gethostname", lambda: "audit@here")
    tasks.register_tasks(app, "audit", lambda: None, threading.Event())
    queues = [broker.queue_name(settings, "audit")]
    with start_worker(
        app,
        pool="threads",
        concurrency=2,
        perform_ping_check=False,
        queues=queues,
        hostname="audit@here",
        task_events=True,
    ):
        yield app, settings
    app.close()


def test_flower_is_started_by_the_interpreter_of_this_environment():
    settings = Settings()
    endpoints = Endpoints(database_url="postgresql://unused", redis_url="redis://unused")
    ports = specs.Ports(flower=1, offline=2, api=3)
    flower = specs.process_specs(settings, endpoints, ports=ports, environment={})[-1]
    assert flower.argv[0] == sys.executable
    assert "--address=127.0.0.1" in flower.argv

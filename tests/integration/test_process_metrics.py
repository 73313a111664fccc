"""Several processes count, one answers for all of them, and those that were killed lose nothing."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from threading import Thread

import pytest

from chargehand.orchestrator.errors import InvalidSettings, UserError
from chargehand.orchestrator.telemetry import dead_counts
from chargehand.orchestrator.telemetry.exporter import make_server, parse_address
from chargehand.orchestrator.telemetry.exposition import FOLDER_VARIABLE, render

# Counts what it is told to, says so, and waits to be killed.
COUNTER = """
import sys, time
from chargehand.orchestrator.telemetry import meters, metrics
from chargehand.orchestrator.telemetry.exposition import ProcessMeter
meters.install(ProcessMeter())
meters.count(metrics.MESSAGES_LOST, int(sys.argv[1]))
meters.observe(metrics.MODEL_CALL, 0.2, model="small")
print("counted", flush=True)
time.sleep(60)
"""


@pytest.fixture
def counting(tmp_path):
    """Starts a process that counts, and waits until it has."""
    processes = []

    def start(number):
        environment = {**os.environ, FOLDER_VARIABLE: str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(number)], env=environment, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "counted\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def lines(folder):
    return render(folder=folder).decode().splitlines()


def test_counts_of_all_processes_are_added_and_outlive_a_kill(counting, tmp_path):
    first, second = counting(3), counting(4)
    assert "chargehand_messages_lost_total 7.0" in lines(tmp_path)

    first.send_signal(signal.SIGKILL)
    first.wait()
    for _ in range(2):
        found = lines(tmp_path)
        assert "chargehand_messages_lost_total 7.0" in found
        assert 'chargehand_model_call_seconds_count{model="small"} 2.0' in found
        assert 'chargehand_model_call_seconds_bucket{le="0.25",model="small"} 2.0' in found
    # Its files are gone: folders do not grow with each restart.
    assert {file.name for file in tmp_path.glob("*.db")} == {
        "counter_dead.db",
        "histogram_dead.db",
        f"counter_{second.pid}.db",
        f"histogram_{second.pid}.db",
    }
    second.kill()
    second.wait()
    assert dead_counts.fold(tmp_path) == 2
    assert "chargehand_messages_lost_total 7.0" in lines(tmp_path)


def test_the_exporter_answers_metrics_and_nothing_else():
    server = make_server("127.0.0.1", 0, lambda: b"chargehand_database_up 1.0\n")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:
            assert response.read() == b"chargehand_database_up 1.0\n"
            assert response.headers["Content-Type"].startswith("text/plain")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/", timeout=5)
        refused.value.close()
        assert refused.value.code == 404
        with pytest.raises(UserError, match="choose another port"):
            make_server("127.0.0.1", server.server_port, lambda: b"")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_without_a_port_is_refused():
    assert parse_address("0.0.0.0:9464") == ("0.0.0.0", 9464)
    assert parse_address("[::]:9464") == ("::", 9464)
    with pytest.raises(InvalidSettings, match=r"0\.0\.0\.0:9464"):
        parse_address("9464")

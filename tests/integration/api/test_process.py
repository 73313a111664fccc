"""`chargehand api` as a process: it ends when it is told to, however many watch."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.api.conftest import Api

READERS = 3


def test_a_signal_ends_the_process_within_its_grace_while_readers_follow(
    api: "Api", database_url: str, redis_url: str, tmp_path: Path, wait_until: "WaitUntil"
) -> None:
    run_id = api.submit()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    named = {"HOME": str(tmp_path), "DATABASE_URL": database_url, "REDIS_URL": redis_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "chargehand.orchestrator.cli", "api", "--port", str(port)],
        env={**os.environ, **{f"CHARGEHAND_{name}": value for name, value in named.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    readers: list[HTTPConnection] = []
    try:
        wait_until(lambda: answers(port), timeout_seconds=60)
        readers += [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(READERS)]
        streams = []
        for reader in readers:
            reader.request("GET", f"/v1/runs/{run_id}/events", headers={"Authorization": f"Bearer {api.key}"})
            streams.append(reader.getresponse())
        assert [stream.readline() for stream in streams] == [b": chargehand\n"] * READERS
        # What there was is read before the signal: who comes in between resumes elsewhere.
        for stream in streams:
            while b"run.submitted" not in stream.readline():
                pass

        process.send_signal(signal.SIGTERM)
        # Streams end as HTTP says, so that readers know it from a cut: those that are still open when the grace is over
        # are cut, and to read them is an error.
        assert all(b"event:" not in stream.read() for stream in streams)
        process.wait(timeout=60)
    finally:
        for reader in readers:
            reader.close()
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_processes_share_a_port_are_made_again_and_none_outlives_the_first(
    end: signal.Signals, database_url: str, redis_url: str, tmp_path: Path, wait_until: "WaitUntil"
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    named = {"HOME": str(tmp_path), "DATABASE_URL": database_url, "REDIS_URL": redis_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "chargehand.orchestrator.cli", "api", "--port", str(port), "--processes", "2"],
        env={**os.environ, **{f"CHARGEHAND_{name}": value for name, value in named.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = psutil.Process(process.pid)
    seen: set[psutil.Process] = set()
    try:
        wait_until(lambda: len(listening(first)) == 2 and answers(port), timeout_seconds=200)
        seen |= listening(first)
        if end == signal.SIGTERM:
            died = min(seen, key=lambda one: one.pid)
            died.kill()
            wait_until(lambda: len(listening(first) - {died}) == 2 and answers(port), timeout_seconds=200)
            seen |= listening(first)
        process.send_signal(end)
        process.wait(timeout=200)
        wait_until(lambda: not any(is_alive(one) for one in seen), timeout_seconds=200)
    finally:
        for one in seen:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()


def listening(first: psutil.Process) -> set[psutil.Process]:
    """Children that serve: what Python starts beside them listens to nothing."""
    found = set()
    for one in first.children():
        with suppress(psutil.Error):
            if any(place.status == psutil.CONN_LISTEN for place in one.net_connections("tcp")):
                found.add(one)
    return found


def is_alive(one: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    return False


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

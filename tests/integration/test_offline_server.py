"""The offline server as a process: light, quick, clear about bad input, and countable from outside."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

BODY = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def process(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A running server and its URL, which it names in its first line."""
    argv = [sys.executable, "-m", "chargehand.workers.offline", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def send(url: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of a request."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as response:
            return response.status, json.loads(response.read()), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), dict(error.headers)


def test_server_is_light_and_starts_at_once() -> None:
    with process() as (running, url):
        # Of the processor, because tests share theirs.
        used = psutil.Process(running.pid).cpu_times()
        assert send(f"{url}/healthz")[1]["model"] == "offline-rules-1"
        send(f"{url}/v1/messages", BODY)
        megabytes = psutil.Process(running.pid).memory_info().rss / 1e6

    # Half a second on an idle machine.
    assert used.user + used.system < 2
    assert megabytes < 40


def test_sigterm_ends_it_cleanly() -> None:
    with process() as (running, url):
        send(f"{url}/healthz")
        running.send_signal(signal.SIGTERM)

        assert running.wait(timeout=60) == 0


def test_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        argv = [sys.executable, "-m", "chargehand.workers.offline", "--port", str(port)]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ledger_outlives_the_server(tmp_path: Path) -> None:
    ledger = tmp_path / "calls.jsonl"

    with process("--ledger", str(ledger)) as (running, url):
        for _ in range(3):
            send(f"{url}/v1/messages", BODY)
        send(f"{url}/v1/messages", {**BODY, "max_tokens": None})
        running.kill()

    calls = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [call["billed"] for call in calls] == [True, True, True, False]
    assert len({call["prompt_hash"] for call in calls[:3]}) == 1


def test_faults_and_records_are_closed_unless_asked_for() -> None:
    with process() as (_, url):
        assert send(f"{url}/_faults", [{"kind": "overloaded"}])[0] == 404
        assert send(f"{url}/_calls")[0] == 404
        assert send(f"{url}/v1/messages", BODY)[0] == 200


def test_faults_strike_as_often_as_asked() -> None:
    fault = {"kind": "rate_limited", "times": 2, "after": 1, "retry_after_seconds": 3}

    with process("--allow-faults", "--faults", json.dumps([fault])) as (_, url):
        answers = [send(f"{url}/v1/messages", BODY) for _ in range(4)]
        calls = send(f"{url}/_calls")[1]["calls"]

    assert [status for status, _, _ in answers] == [200, 429, 429, 200]
    assert answers[1][2]["retry-after"] == "3"
    assert answers[1][1]["error"]["type"] == "rate_limit_error"
    assert [call["billed"] for call in calls] == [True, False, False, True]


def test_unknown_fault_is_refused_with_the_known_ones() -> None:
    with process("--allow-faults") as (_, url):
        status, said, _ = send(f"{url}/_faults", [{"kind": "earthquake"}])

    assert status == 400
    assert "cut_stream" in said["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/messages", b"{", 400),
        ("/v1/messages", b"\xff\xfe", 400),
        ("/v1/messages", b"[" * 100_000, 400),
        ("/v1/messages", {"model": "m"}, 400),
        ("/v1/messages/count_tokens", {"model": "m"}, 400),
        ("/v2/what", {}, 404),
        ("/what", None, 404),
    ],
)
def test_bad_requests_get_an_error_in_the_format(path: str, body: Any, status: int) -> None:
    with process() as (_, url):
        got, said, _ = send(url + path, body)
        healthy = send(f"{url}/healthz")[0]

    assert got == status
    assert said["type"] == "error"
    assert said["error"]["message"]
    assert healthy == 200

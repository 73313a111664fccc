"""The HTTP API as a process of its own: how soon it accepts runs, what readers weigh, how late they hear of facts."""

import http.client
import itertools
import json
import os
import random
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.ground import LEASE_SECONDS, Ground, script_steps
from benchmarks.turn import facts_of_a_turn
from chargehand.memory import keyspace
from chargehand.memory.database import tenant_session
from chargehand.orchestrator import keys
from chargehand.orchestrator.hints import Hints
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.turns import StepRecorder

# A key may ask a hundred times a second; callers of a busy server have one each.
KEYS = 8
CONNECTIONS = 16
SUBMISSIONS_PER_SECOND = 200
SUBMISSIONS = 3_000
WARM_UP = 400
TARGET_SUBMIT_P99_MS = 100.0
RUNS = 50
READERS = 500
TURNS_OF_A_RUN = 10
# Two facts a turn: fifty runs write fifty facts a second, which ten readers each are shown.
TURN_SECONDS = 2.0
TARGET_RSS_MB = 300.0
TARGET_HEARD_P95_MS = 300.0
START_SECONDS = 30.0
REST_SECONDS = 10.0
SEED = 1

_EVENT = re.compile(rb'data: \{"run_id": "[^"]*", "step_id": "([^"]*)", "step": "[^"]*", "seq": (\d+),[^\n]*\n\n')


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A process that serves the API."""

    port: int
    pid: int
    secrets: tuple[str, ...]

    def memory_mb(self, of: str) -> float:
        """`VmRSS`, its memory now, or `VmHWM`, the most it has had."""
        found = re.search(rf"^{of}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


def measure(
    ground: Ground,
    *,
    submissions: int = SUBMISSIONS,
    warm_up: int = WARM_UP,
    run_count: int = RUNS,
    reader_count: int = READERS,
    turns: int = TURNS_OF_A_RUN,
) -> Iterator[Figure]:
    """All figures of this module; nobody works on the runs that are submitted."""
    with serving(ground) as server:
        submitted(server, count=warm_up)
        started = time.perf_counter()
        latencies = submitted(server, count=submissions)
        per_second = submissions / (time.perf_counter() - started)
        # The last answer comes a little after the last slot.
        yield Figure(
            name="api_submissions_per_second",
            value=per_second,
            unit="1/s",
            target=SUBMISSIONS_PER_SECOND * 0.99 if submissions >= SUBMISSIONS else None,
            better="higher",
        )
        for percent, target in ((50, None), (99, TARGET_SUBMIT_P99_MS)):
            value = percentile(latencies, percent) * 1000
            yield Figure(name=f"api_submit_p{percent}_ms", value=value, unit="ms", target=target)

        yield Figure(name="api_rss_mb", value=server.memory_mb("VmRSS"), unit="MB", durability="memory")
        heard = followed(ground, server, run_count=run_count, reader_count=reader_count, turns=turns)
        yield Figure(name="api_readers", value=reader_count, unit="1", durability="memory")
        yield Figure(
            name="api_peak_rss_mb",
            value=server.memory_mb("VmHWM"),
            unit="MB",
            target=TARGET_RSS_MB,
            durability="memory",
        )
        for percent, target in ((50, None), (95, TARGET_HEARD_P95_MS), (99, None)):
            value = percentile(heard, percent) * 1000
            yield Figure(name=f"api_event_to_reader_p{percent}_ms", value=value, unit="ms", target=target)


@contextmanager
def serving(ground: Ground) -> Iterator[Server]:
    """`chargehand api` on the servers of the ground, with keys of its tenant."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with tenant_session(ground.application, ground.tenant) as session:
        secrets = tuple(
            str(keys.add(session, ground.tenant, f"bench {number}", ("read", "submit")).secret)
            for number in range(KEYS)
        )
    environment = {
        **os.environ,
        "CHARGEHAND_HOME": str(ground.settings.home),
        "CHARGEHAND_DATABASE_URL": ground.database_url,
        "CHARGEHAND_REDIS_URL": ground.redis_url,
    }
    with (ground.settings.home / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "chargehand.orchestrator.cli", "api", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(process, port)
            yield Server(port=port, pid=process.pid, secrets=secrets)
        finally:
            process.terminate()
            process.wait(timeout=REST_SECONDS)


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise NotMeasured("The API did not start; `chargehand api` says why.")


def submitted(server: Server, *, count: int, connections: int = CONNECTIONS) -> list[float]:
    """Seconds from when each request was due until its answer was read; one that waits for a connection waits."""
    taken = itertools.count()
    latencies: list[float] = []
    started = time.perf_counter() + 0.1

    def caller(number: int) -> None:
        secret = server.secrets[number % len(server.secrets)]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        while (index := next(taken)) < count:
            due = started + index / SUBMISSIONS_PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request(
                "POST",
                "/v1/runs",
                body=json.dumps({"goal": f"Audit the repository, part {index}", "budget_microusd": 500_000}),
                headers={
                    "Authorization": f"Bearer {secret}",
                    "Content-Type": "application/json",
                    "Idempotency-Key": f"bench-{started}-{index}",
                },
            )
            answer = connection.getresponse()
            answer.read()
            latencies.append(time.perf_counter() - due)
            if answer.status != 202:
                raise NotMeasured(f"A submission was answered by {answer.status}.")
        connection.close()

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(caller, range(connections)))
    return latencies


def followed(
    ground: Ground,
    server: Server,
    *,
    run_count: int,
    reader_count: int,
    turns: int,
    beside: Callable[[Sequence[UUID]], None] = lambda run_ids: None,
) -> list[float]:
    """Seconds from before a fact's commit until a reader has read it, for each fact and reader.

    Agents write as workers do, with a hint after each commit; the commit itself is in the figure. `beside` is called
    with the runs before the first turn.
    """
    redis_client = keyspace.connect(
        ground.redis_url, connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0
    )
    hints = Hints(redis_client, key_prefix=ground.settings.key_prefix)
    run_ids = [ground.queued_run(*script_steps(1)) for _ in range(run_count)]
    recorders = [
        StepRecorder(
            ground.connections,
            ground.claim(run_id, "work-0", committed=lambda run_id=run_id: hints.give(run_id)),
            lease_seconds=LEASE_SECONDS,
        )
        for run_id in run_ids
    ]
    written: dict[tuple[UUID, int], float] = {}
    readers = Readers(server, [run_ids[number % run_count] for number in range(reader_count)])
    readers.start()
    beside(run_ids)

    def agent(number: int) -> None:
        recorder, step = recorders[number], step_id(run_ids[number], "work-0")
        chance = random.Random(f"{SEED} {number}")
        for index in range(turns):
            request, response = facts_of_a_turn(index)
            time.sleep(TURN_SECONDS / 2 * chance.uniform(0.5, 1.5))
            written[step, recorder.seq + 1] = time.perf_counter()
            recorder.request([], request)
            time.sleep(TURN_SECONDS / 2 * chance.uniform(0.5, 1.5))
            written[step, recorder.seq + 1] = time.perf_counter()
            recorder.respond(response)

    with ThreadPoolExecutor(run_count) as pool:
        list(pool.map(agent, range(run_count)))
    readers_of_a_run = reader_count // run_count
    expected = len(written) * readers_of_a_run
    readers.stop(after=expected)
    redis_client.close()
    heard = [at - written[place] for place, at in readers.heard if place in written]
    if len(heard) != expected:
        raise NotMeasured(f"Readers were shown {len(heard)} facts, of {expected}.")
    return heard


@dataclass(eq=False)
class Readers:
    """Connections that follow runs, all in one thread."""

    server: Server
    run_ids: Sequence[UUID]
    heard: list[tuple[tuple[UUID, int], float]] = field(default_factory=list)
    """Step and place of each fact, and when it was read."""
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Open all of them, and return when each has been shown its step's claim."""
        self._selector = selectors.DefaultSelector()
        for number, run_id in enumerate(self.run_ids):
            connection = socket.create_connection(("127.0.0.1", self.server.port))
            secret = self.server.secrets[number % len(self.server.secrets)]
            head = f"GET /v1/runs/{run_id}/events HTTP/1.1", "Host: bench", f"Authorization: Bearer {secret}", "", ""
            connection.sendall("\r\n".join(head).encode())
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, bytearray())
        self._thread = threading.Thread(target=self._read, name="readers")
        self._thread.start()
        self._wait_for(len(self.run_ids), START_SECONDS)

    def stop(self, *, after: int) -> None:
        """Close all of them when they have been shown so many facts beside the claims, or after a while."""
        self._wait_for(len(self.run_ids) + after, REST_SECONDS)
        self._stopping.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _wait_for(self, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(self.heard) < count and time.monotonic() < deadline:
            time.sleep(0.02)

    def _read(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                assert isinstance(key.fileobj, socket.socket)
                received = key.fileobj.recv(65_536)
                now = time.perf_counter()
                if not received:
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()
                    continue
                unread: bytearray = key.data
                unread += received
                end = 0
                for event in _EVENT.finditer(unread):
                    self.heard.append(((UUID(event[1].decode()), int(event[2])), now))
                    end = event.end()
                del unread[:end]

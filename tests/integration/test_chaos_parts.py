"""The instruments of the chaos harness: the ledger, the model that fails, the wires that break, a clock, a disk."""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import psutil
import psycopg
import pytest
import redis

from tests.conftest import WaitUntil

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos import model
from chaos.__main__ import SIZES
from chaos.clock import DAY_SECONDS
from chaos.commits import CommitWatch
from chaos.disk import small_disk
from chaos.ledger import Ledger, running_ledger
from chaos.machine import until
from chaos.message_strikes import COPIES
from chaos.model import FOR_EVER_SECONDS, HEALED, Weather
from chaos.nemesis import STRIKES, deck
from chaos.proxy import Link, Network
from chaos.story import idle_transaction, storm_fleet
from chaos.wires import SOCKET

SERVICES = ("postgres", "valkey")

# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ledger(_session_home: Path) -> Iterator[Ledger]:
    """A ledger of this module; tests tell their rows apart by run."""
    with running_ledger(_session_home / "ledger") as running:
        yield running


def test_an_effect_is_written_when_the_report_returns_and_its_key_tells_whether_it_happened_before(
    ledger: Ledger,
) -> None:
    before = time.time()
    ledger.knock("effects", "a", "key", name="post")
    ledger.take_effect("effects", "a", "key", name="post")
    ledger.take_effect("effects", "a", "key", name="post", kind="effectful")
    ledger.take_effect("effects", "a", "other", name="post")

    (knock,) = ledger.knocks("effects")
    assert (knock.step, knock.key, knock.name, knock.pid) == ("a", "key", "post", os.getpid())
    effects = ledger.effects("effects")
    assert [(one.key, one.kind, one.repeated) for one in effects] == [
        ("key", "idempotent", False),
        ("key", "effectful", True),
        ("other", "idempotent", False),
    ]
    assert before <= knock.at <= effects[0].at <= time.time()
    assert ledger.effects("another run") == []


def test_a_call_is_received_then_answered_and_says_whose_it_is(ledger: Ledger) -> None:
    receipt = ledger.call_received("calls/step/7", model="m", finish_tool="f", prompt_hash="h", stream=True)
    (open_call,) = ledger.calls("calls")
    ledger.call_answered(receipt, outcome="ok", billed=True, tokens={"input_tokens": 3, "output_tokens": 4})
    ledger.call_answered(receipt, outcome="too late", billed=False, tokens={})

    (call,) = ledger.calls("calls")
    assert (open_call.outcome, open_call.billed, open_call.answered_at) == ("", False, None)
    assert (call.step, call.call, call.outcome, call.billed, call.stream) == ("step", "7", "ok", True, True)
    assert (call.input_tokens, call.output_tokens, call.cache_read_tokens) == (3, 4, 0)


def test_many_reporters_at_once_are_all_heard(ledger: Ledger) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ledger.take_effect("many", "s", f"{number % 50}"), range(400)))

    effects = ledger.effects("many")
    assert len(effects) == 400
    assert sum(not one.repeated for one in effects) == 50


def test_a_reporter_waits_for_a_ledger_that_is_slow_and_is_counted_once(
    laptop_home: Path, wait_until: WaitUntil
) -> None:
    with running_ledger(laptop_home / "slow") as slow:
        (pid,) = _pids_of(str(laptop_home / "slow"))
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            report = pool.submit(slow.take_effect, "run", "s", "k")
            time.sleep(0.3)
            assert not report.done()
            os.kill(pid, signal.SIGCONT)
            report.result(30)
        assert len(slow.effects("run")) == 1


def _pids_of(argument: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if f"chaos.ledger {argument}" in " ".join(process.info["cmdline"] or ())
    ]


def test_a_door_is_closed_until_somebody_opens_it(ledger: Ledger) -> None:
    assert not ledger.is_open("door")
    ledger.open("door")
    ledger.open("door")
    assert ledger.is_open("door")
    assert not ledger.is_open("another door")


# --- the model --------------------------------------------------------------------------------------------------------

BODY = b'{"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}'


class Storm:
    """Weather in which every call is struck by the same fault."""

    def __init__(self, **fault: Any) -> None:
        self.fault = model.Fault(**fault)

    def take(self, request: Any) -> model.Fault:
        del request
        return self.fault


@contextmanager
def serving(ledger: Ledger, weather: Any = None) -> Iterator[str]:
    """The URL of a running server."""
    with model.serve(ledger, port=0, seed=None) as server:
        if weather is not None:
            server.faults = weather
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.base_url
        server.shutdown()
        thread.join(timeout=5)


def ask(url: str, run: str) -> int:
    """The status of a call of this run; 0 when the answer never came."""
    headers = {"X-Client-Request-Id": f"{run}/step/call", "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/messages", BODY, headers), timeout=30) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, http.client.HTTPException):
        return 0


@pytest.mark.parametrize(
    ("fault", "status", "billed"),
    [
        ({"kind": "rate_limited", "retry_after_seconds": 1.0}, 429, False),
        ({"kind": "overloaded"}, 529, False),
        ({"kind": "cut_stream"}, 0, True),
        ({"kind": "pings", "seconds": 0.1}, 0, True),
        ({"kind": "lost_after_billing"}, 0, True),
    ],
)
def test_the_ledger_knows_what_was_billed_whether_or_not_an_answer_came(
    ledger: Ledger, fault: dict[str, Any], status: int, billed: bool
) -> None:
    run = f"billed {fault['kind']}"
    with serving(ledger, Storm(**fault)) as url:
        assert ask(url, run) == status

    (call,) = ledger.calls(run)
    assert (call.call, call.outcome, call.billed) == ("call", fault["kind"], billed)
    assert bool(call.input_tokens and call.output_tokens) == billed


def test_a_call_is_written_down_before_its_answer_is_decided(ledger: Ledger, wait_until: WaitUntil) -> None:
    with serving(ledger, Storm(kind="delay", seconds=1.0)) as url, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, url, "decided")
        wait_until(lambda: ledger.calls("decided"))
        assert ledger.calls("decided")[0].outcome == ""
        assert answer.result() == 200
    assert ledger.calls("decided")[0].outcome == "delay"


def test_the_same_seed_gives_the_same_weather_and_healing_ends_it(laptop_home: Path) -> None:
    with running_ledger(laptop_home / "weather") as ledger:
        first, second = Weather(ledger, 7), Weather(ledger, 7)
        drawn = [first.take({}) for _ in range(150)]
        assert drawn == [second.take({}) for _ in range(150)]
        struck = [fault.kind for fault in drawn if fault is not None]
        assert 15 < len(struck) < 60
        assert len({*struck}) >= 4

        ledger.open(HEALED)
        assert [first.take({}) for _ in range(50)] == [None] * 50
        assert Weather(ledger, None).take({}) is None


# --- wires ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Network]:
    """A network without links."""
    with Network() as running:
        yield running


@pytest.fixture
def wire(network: Network, postgres: Any, laptop_home: Path) -> Link:
    """A link to Postgres that begins in the home."""
    upstream = Path(parse_qs(urlsplit(postgres.url).query)["host"][0]) / SOCKET
    return network.link("wire", upstream, listen=laptop_home / SOCKET, is_postgres=True)


@pytest.fixture
def connect(wire: Link, empty_database_url: str, laptop_home: Path) -> Iterator[Callable[..., Any]]:
    """Opens connections through the wire."""
    parts = urlsplit(empty_database_url)
    url = urlunsplit(parts._replace(query=f"host={quote(str(laptop_home), safe='')}"))
    opened: list[psycopg.Connection[Any]] = []

    def open_one(**options: Any) -> "psycopg.Connection[Any]":
        opened.append(psycopg.connect(url, **options))
        return opened[-1]

    with open_one(autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (x integer)")
        connection.execute("TRUNCATE t")
    yield open_one
    wire.heal()
    for connection in opened:
        connection.close()


def rows(database_url: str) -> list[int]:
    """What is in the table, asked on a way that never breaks."""
    with psycopg.connect(database_url) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]


def test_a_statement_that_commits_is_done_and_its_reply_is_lost(
    wire: Link, connect: Callable[..., Any], empty_database_url: str
) -> None:
    connection = connect(autocommit=True)
    wire.lose_replies()

    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("INSERT INTO t VALUES (%s)", [1])

    assert rows(empty_database_url) == [1]
    assert [lost.statement for lost in wire.lost] == ["INSERT INTO t VALUES ($1)"]
    connect(autocommit=True).execute("INSERT INTO t VALUES (2)")
    assert rows(empty_database_url) == [1, 2]


def test_of_a_transaction_only_the_commits_reply_is_lost(
    wire: Link, connect: Callable[..., Any], empty_database_url: str
) -> None:
    connection = connect()
    wire.lose_replies()
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("WITH u AS (UPDATE t AS q SET x = 2 WHERE x = 1 RETURNING x) SELECT x FROM u")

    with pytest.raises(psycopg.OperationalError):
        connection.commit()

    assert rows(empty_database_url) == [2]
    assert [lost.statement for lost in wire.lost] == ["COMMIT"]


def test_a_prepared_statement_is_known_by_its_name_and_a_refused_one_is_no_commit(
    wire: Link, connect: Callable[..., Any], empty_database_url: str
) -> None:
    connection = connect(autocommit=True, prepare_threshold=0)
    for x in (1, 2):
        connection.execute("INSERT INTO t VALUES (%s)", [x])
    wire.lose_replies()

    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("INSERT INTO t VALUES (1 / %s)", [0])
    with pytest.raises(psycopg.OperationalError):
        connection.execute("INSERT INTO t VALUES (%s)", [3])

    assert rows(empty_database_url) == [1, 2, 3]


def test_a_cut_wire_breaks_what_is_open_and_lets_new_connections_in(wire: Link, connect: Callable[..., Any]) -> None:
    connection = connect(autocommit=True)
    assert wire.cut() >= 1
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert connect(autocommit=True).execute("SELECT 1").fetchone() == (1,)


def test_a_slow_wire_takes_its_time_in_both_directions(wire: Link, connect: Callable[..., Any]) -> None:
    connection = connect(autocommit=True)
    wire.delay(0.2)
    began = time.monotonic()
    connection.execute("SELECT 1")
    assert time.monotonic() - began >= 0.4
    wire.heal()
    took = []
    for _ in range(10):
        began = time.monotonic()
        connection.execute("SELECT 1")
        took.append(time.monotonic() - began)
    # Whatever else the machine does meets one of them, not all.
    assert min(took) < 0.4


@pytest.mark.parametrize("fault", ["silence", "half_close"])
def test_a_wire_without_an_end_keeps_its_client_waiting_until_it_is_healed(
    wire: Link, connect: Callable[..., Any], fault: str
) -> None:
    connection = connect(autocommit=True)
    getattr(wire, fault)()
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Any] = pool.submit(connection.execute, "INSERT INTO t VALUES (1)")
        time.sleep(0.5)
        assert not waiting.done()
        wire.heal()
        with pytest.raises(psycopg.OperationalError):
            waiting.result(60)
    assert connect(autocommit=True).execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_silent_wire_also_takes_new_connections_and_says_nothing(network: Network, valkey: Any) -> None:
    parts = urlsplit(valkey.url)
    link = network.link("redis", (parts.hostname or "", parts.port or 0), listen=("127.0.0.1", 0))
    options: dict[str, Any] = {"host": "127.0.0.1", "port": network.port_of(link), "password": parts.password}
    with redis.Redis(**options, socket_timeout=0.3, retry=None) as client:
        assert client.ping()
        link.silence()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
            redis.Redis(**options, socket_timeout=0.3, retry=None).ping()
        link.heal()
        assert client.ping()


def test_a_client_sees_a_service_that_is_away_as_it_would_without_a_wire(network: Network, tmp_path: Path) -> None:
    link = network.link("nowhere", tmp_path / "nothing.sock", listen=("127.0.0.1", 0))
    with socket.create_connection(("127.0.0.1", network.port_of(link)), timeout=30) as connection:
        connection.settimeout(30)
        assert connection.recv(1) == b""


def test_answers_that_come_in_pieces_are_followed_to_their_end() -> None:
    watch = CommitWatch()
    watch.client_said(b"\0\0\0\x08\0\x03\0\0")
    query = b"insert into t values (1)\0"
    watch.client_said(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
    answers = b"Z\0\0\0\x05I" + b"C\0\0\0\x0fINSERT 0 1\0" + b"Z\0\0\0\x05I"

    heard = [answer for byte in answers for answer in watch.server_said(bytes([byte]))]

    assert b"".join(answer.data for answer in heard) == answers
    assert [answer.committed for answer in heard] == [b"", b"", query.rstrip(b"\0")]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_process_a_day_ahead_believes_it_everywhere_and_waits_no_longer() -> None:
    program = (
        "import datetime, time; from pydantic import TypeAdapter; began = time.monotonic(); time.sleep(.01);"
        "moment = datetime.datetime.now(datetime.UTC); TypeAdapter(datetime.datetime).validate_python(moment);"
        "print(time.time(), time.time_ns() / 1e9, moment.timestamp(), time.monotonic() - began < 60)"
    )
    run = [sys.executable, "-c", f"from chaos.clock import set_ahead; set_ahead(86400)\n{program}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    told = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.split()

    assert all(86_300 < float(moment) - time.time() < 86_500 for moment in told[:3])
    assert told[3] == "True"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_a_full_disk_refuses_a_byte_until_it_is_freed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=2) as disk:
        if disk is None:
            pytest.skip("mounting is forbidden here")
        (disk.folder / "a").write_bytes(b"a")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "b").write_bytes(b"b" * 10_000)
        disk.free()
        (disk.folder / "b").write_bytes(b"b" * 10_000)
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_storm_has_every_fault_that_is_promised() -> None:
    fleet = storm_fleet(1, SIZES["short"])
    wires = {f"{fault} {service}" for fault in ("cut", "delay", "half-close", "silence") for service in SERVICES}
    processes = {"kill worker", "kill pool", "kill supervisor", "freeze worker", "freeze before an effect"}
    servers = {"kill valkey", "stop postgres", "fill disk", "lose replies"}
    messages = {"duplicate messages", "reorder messages", "drop messages"}
    assert {*STRIKES} >= wires | processes | servers | messages
    assert {gust.fault["kind"] for gust in model.WEATHER} >= {
        "rate_limited",
        "overloaded",
        "cut_stream",
        "pings",
        "lost_after_billing",
    }
    # Nobody waits as long as the last pings do, nor for the answer that was billed.
    endless = {gust.fault["kind"] for gust in model.WEATHER if gust.fault.get("seconds", 0) >= FOR_EVER_SECONDS}
    assert endless == {"pings", "lost_after_billing"}
    assert (COPIES, fleet.wired, fleet.small_disk, fleet.weather) == (100, True, True, 1)
    # One of the two workers of a pool.
    assert fleet.ahead == {"audit-2": DAY_SECONDS}
    assert "audit" in fleet.twins


def test_somebody_sits_in_a_transaction_of_the_cluster_while_a_storm_lasts(postgres: Any) -> None:
    running: Any = SimpleNamespace(laptop=SimpleNamespace(services=SimpleNamespace(postgres=postgres)))
    sits = "SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = 'postgres' AND state <> 'active'"

    def sit_there() -> bool:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            return bool(connection.execute(sits).fetchall())

    with idle_transaction(running):
        until(sit_there)
    until(lambda: not sit_there())


def test_every_strike_is_in_every_deck() -> None:
    drawn = deck(random.Random(1))
    size = sum(times for times, _ in STRIKES.values())
    assert {next(drawn) for _ in range(size)} == {*STRIKES}


# --- the forge --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_what_is_forged_runs_as_if_it_had_been_started_and_dies_as_such(tmp_path: Path, wait_until: WaitUntil) -> None:
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from chaos.forge import running_forge
home = Path({str(tmp_path)!r})
with running_forge(home) as forge:
    argv = (sys.executable, "-m", "celery", "--version")
    shown = forge.spawn(argv, log=home / "shown.log", environment={{"CHARGEHAND_HOME": str(home), "WHOSE": "mine"}})
    code = shown.wait(60)
    argv = (sys.executable, "-m", "celery", "-b", "memory://", "worker", "-P", "solo", "--without-mingle")
    killed = forge.spawn(argv, log=home / "killed.log", environment={{"CHARGEHAND_HOME": str(home)}})
    runs, group = killed.poll() is None, __import__("os").getpgid(killed.pid) == killed.pid
    killed.kill()
    print(json.dumps([code, runs, group, killed.wait(60), forge.process.poll()]))
"""
    # A process of its own: from then on it adopts what its descendants leave behind.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=170)

    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == [0, True, True, -signal.SIGKILL, None]
    assert re.search(r"\d+\.\d+", (tmp_path / "shown.log").read_text())

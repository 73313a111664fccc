"""Children of a laptop: readiness, restart, the end of them all; and the whole `up`, with small programs as pools."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import redis

from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.laptop import running_laptop, up
from chargehand.orchestrator.laptop.processes import Processes, backoff_seconds
from chargehand.orchestrator.laptop.specs import ProcessSpec, says
from chargehand.orchestrator.settings import Settings

READY_THEN_WAIT = "import time; print('I am ready.', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY_THEN_WAIT}"
TALKATIVE = "import time; print('I am ready.\\n' + 'x' * 500_000, flush=True); time.sleep(600)"
WITH_A_CHILD = f"import subprocess; subprocess.Popen(['sleep', '601']); {READY_THEN_WAIT}"


def spec(name, program, **fields):
    argv = (sys.executable, "-c", program)
    return ProcessSpec(name=name, argv=argv, environment=dict(os.environ), ready=says(" ready."), **fields)


def alive(pid):
    return pid in psutil.pids() and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def said():
    """What the laptop told its user."""
    return []


@pytest.fixture
def processes(tmp_path, said):
    running = Processes(logs=tmp_path, cwd=tmp_path, progress=said.append)
    yield running
    running.stop(grace_seconds=0)


def test_start_returns_when_all_are_ready_and_foundations_come_first(processes, said):
    processes.start([spec("pool", READY_THEN_WAIT), spec("model", READY_THEN_WAIT, foundation=True)])
    assert said == ["starting model", "starting pool"]
    assert set(processes.pids()) == {"model", "pool"}


def test_a_process_that_says_much_behind_it_is_ready_all_the_same(processes):
    processes.start([spec("pool", TALKATIVE)])
    assert processes.ready() == {"pool"}


def test_a_process_that_dies_while_starting_is_shown_with_the_end_of_its_log(processes, tmp_path):
    with pytest.raises(Unavailable) as caught:
        processes.start([spec("pool", "raise SystemExit('no such queue: blue')")])
    lines = str(caught.value).splitlines()
    assert lines == [
        "pool ended while it started (exit code 1).",
        "  no such queue: blue",
        f"Whole log: {tmp_path / 'pool.log'}",
    ]


def test_a_process_that_is_killed_is_started_again_and_its_children_are_not_left(processes, said, wait_until):
    processes.start([spec("pool", WITH_A_CHILD)])
    before = processes.pids()["pool"]
    grandchild = psutil.Process(before).children()[0].pid

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: processes.pids().get("pool", before) != before)
    assert not alive(grandchild)
    assert any(line.startswith("pool died (SIGKILL); it starts again in 1 s") for line in said)


def test_a_broken_process_is_started_ever_more_slowly():
    assert [backoff_seconds(deaths) for deaths in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_stop_kills_what_does_not_listen_and_what_it_had_started(processes, wait_until):
    processes.start([spec("deaf", DEAF), spec("parent", WITH_A_CHILD)])
    pids = processes.pids()
    grandchild = psutil.Process(pids["parent"]).children()[0].pid

    processes.stop(grace_seconds=0.2)

    wait_until(lambda: not any(alive(pid) for pid in (*pids.values(), grandchild)))
    assert processes.pids() == {}


PROGRAM = """
import os, sys, time
from pathlib import Path
from chargehand.orchestrator.laptop import up
from chargehand.orchestrator.laptop.specs import ProcessSpec, says
from chargehand.orchestrator.settings import Settings

POOL = "import time; print('I am ready.', flush=True); time.sleep(600)"

def specs(settings, endpoints, *, ports, environment):
    return tuple(
        ProcessSpec(name=name, argv=(sys.executable, "-c", POOL), environment=environment, ready=says(" ready."))
        for name in ("supervisor", "audit")
    )

with up(Settings(home=Path(sys.argv[1])), migrate=lambda url: None, progress=lambda line: None, specs=specs) as laptop:
    print(*laptop.state.pids.values(), flush=True)
    # In one long sleep a signal that comes just before it begins is seen at its end.
    while True:
        time.sleep(.1)
"""


def start_program(home):
    # Only what the test sets: a laptop of the person who runs the tests must not be used.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CHARGEHAND_")}
    program = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(PROGRAM), str(home)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env=environment,
    )
    return program, [int(pid) for pid in program.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_of_an_up_outlives_it_whatever_ends_it(used_home, wait_until, number):
    program, pids = start_program(used_home)
    try:
        assert len(pids) == 4
        assert running_laptop(used_home).pid == program.pid
        program.send_signal(number)
        program.wait(timeout=60)
    finally:
        # If it has not ended, it says where it is.
        program.send_signal(signal.SIGABRT)
        program.wait()
        program.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids), 60, "an orphan remains")
    assert running_laptop(used_home) is None


def test_a_second_up_in_one_home_is_refused_and_the_first_goes_on(used_home):
    program, pids = start_program(used_home)
    try:
        with (
            pytest.raises(UserError, match=rf"already up in {used_home} \(pid {program.pid}\)"),
            up(Settings(home=used_home), migrate=lambda url: None, progress=lambda line: None),
        ):
            pass
        assert all(alive(pid) for pid in pids)
        assert running_laptop(used_home) is not None
    finally:
        program.terminate()
        program.wait()
        program.stdout.close()


def test_up_uses_the_servers_that_the_settings_name_and_starts_none(laptop_home, postgres, valkey, said):
    migrated = []
    settings = Settings(home=laptop_home, database_url=postgres.url, redis_url=valkey.url)

    with up(settings, migrate=migrated.append, progress=said.append, specs=lambda *_, **__: ()) as laptop:
        assert migrated == [postgres.url]
        assert laptop.state.pids == {}
        assert laptop.state.endpoints.redis_url == valkey.url

    assert not any("Postgres" in line or "Valkey" in line for line in said)
    assert postgres.is_running
    assert valkey.is_running


def test_a_valkey_that_is_killed_under_an_up_comes_back_empty_where_it_was(used_home, said, wait_until):
    settings = Settings(home=used_home, database_url="", redis_url="")
    with up(settings, migrate=lambda url: None, progress=said.append, specs=lambda *_, **__: ()) as laptop:
        before = laptop.state
        os.kill(before.pids["valkey"], signal.SIGKILL)

        wait_until(lambda: "valkey had died; it is up again" in said)

        with redis.Redis.from_url(before.endpoints.redis_url) as client:
            assert client.dbsize() == 0
        wait_until(lambda: running_laptop(used_home).pids["valkey"] != before.pids["valkey"])


def test_nothing_is_left_when_the_migration_fails(used_home):
    pids = []

    def fail(url):
        pids.extend(child.pid for child in psutil.Process().children() if str(used_home) in " ".join(child.cmdline()))
        raise Unavailable("no")

    settings = Settings(home=used_home, database_url="", redis_url="")
    with (
        pytest.raises(Unavailable, match="no"),
        up(settings, migrate=fail, progress=lambda line: None, specs=lambda *_, **__: ()),
    ):
        pass
    assert pids
    assert not any(alive(pid) for pid in pids)
    assert running_laptop(used_home) is None

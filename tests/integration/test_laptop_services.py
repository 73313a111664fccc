"""The embedded servers: start, stop, kill, restart, leftovers, a taken port, no orphans."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from chargehand.orchestrator.errors import InvalidSettings, Unavailable
from chargehand.orchestrator.laptop import ground
from chargehand.orchestrator.laptop.postgres import LEFTOVER_TIMEOUT_SECONDS
from chargehand.orchestrator.laptop.services import Postgres, Valkey


def test_postgres_is_durable_and_has_pgvector_and_room_for_every_pool(postgres):
    with psycopg.connect(postgres.url) as connection:
        version = connection.execute("SELECT current_setting('server_version_num')::int").fetchone()[0]
        fsync = connection.execute("SHOW fsync").fetchone()[0]
        connections = connection.execute("SHOW max_connections").fetchone()[0]
        vector = connection.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name='vector'"
        ).fetchone()
    assert version >= 180000
    assert (fsync, connections) == ("on", "300")
    assert tuple(int(part) for part in vector[0].split(".")) >= (0, 8, 5)


def test_postgres_does_not_run_as_root_and_listens_on_no_port(postgres):
    process = psutil.Process(postgres.pid)
    assert process.uids().effective != 0
    assert process.net_connections(kind="tcp") == []


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_committed_rows_survive_every_way_to_end_postgres(used_home, how):
    server = Postgres.start(used_home)
    try:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept (value int)")
            connection.execute("INSERT INTO kept VALUES (42)")
        server.kill() if how == "kill" else server.stop(how)
        assert not server.is_running

        server.restart()

        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (42,)
    finally:
        server.stop("immediate")


def test_a_postgres_that_was_stopped_on_purpose_stays_down_and_one_that_died_is_revived(used_home, wait_until):
    server = Postgres.start(used_home)
    try:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running)
        assert server.revive()
        assert server.is_running
        server.stop()
        assert not server.revive()
    finally:
        server.stop("immediate")


def test_a_stale_pid_file_of_a_program_that_now_has_that_pid_is_removed(used_home):
    server = Postgres.start(used_home)
    server.stop()
    pid_file = (used_home / "postgres" / "data" / "postmaster.pid").resolve()
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n5432\n\n\n\nready\n")

    server = Postgres.start(used_home)

    server.stop("immediate")


def test_a_second_postgres_in_one_home_names_the_first(used_home, monkeypatch):
    server = Postgres.start(used_home)
    try:
        monkeypatch.setattr("chargehand.orchestrator.laptop.postgres.LEFTOVER_TIMEOUT_SECONDS", 0.2)
        with pytest.raises(Unavailable, match=rf"\(pid {server.pid}\) already runs on .*kill -INT {server.pid}"):
            Postgres.start(used_home)
        assert server.is_running
    finally:
        server.stop("immediate")


def test_an_initdb_that_was_killed_half_way_is_started_over(laptop_home):
    folder = ground.postgres_folder(laptop_home, ground.server_account())
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18\n")

    server = Postgres.start(laptop_home)

    server.stop("immediate")


def test_a_home_too_deep_for_a_socket_still_works(laptop_home):
    deep = laptop_home / ("a" * 60) / ("b" * 60)
    deep.parent.mkdir()
    deep.parent.chmod(0o711)
    server = Postgres.start(deep)
    try:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop("immediate")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_a_home_that_only_root_may_enter_keeps_its_mode(laptop_home):
    private = laptop_home / "private"
    private.mkdir(mode=0o700)
    server = Postgres.start(private / "home")
    link = private / "home" / "postgres"
    try:
        assert private.stat().st_mode & 0o777 == 0o700
        assert link.is_symlink()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop("immediate")
        subprocess.run(["rm", "-r", str(link.resolve())], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_binaries_that_only_root_may_reach_are_copied_with_their_libraries(laptop_home, monkeypatch):
    monkeypatch.setattr(ground, "SYSTEM_ROOT", laptop_home / "system")
    monkeypatch.setattr(ground, "open_to_others", lambda path: "pginstall18" not in str(path))
    server = Postgres.start(laptop_home)
    try:
        assert psutil.Process(server.pid).exe().startswith(str(laptop_home / "system"))
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE EXTENSION vector")
    finally:
        server.stop("immediate")


def test_a_home_that_cannot_be_written_is_refused_in_one_line(laptop_home):
    (laptop_home / "file").write_text("")
    with pytest.raises(InvalidSettings, match=r"Cannot write to .*/file/home .*; set CHARGEHAND_HOME"):
        ground.prepare_home(laptop_home / "file" / "home")


def test_a_full_disk_is_named_with_what_is_left(laptop_home, monkeypatch):
    monkeypatch.setattr(ground, "FREE_DISK_BYTES", 10**15)
    with pytest.raises(Unavailable, match=r"The disk of .* is full \(\d+ MB free, .* set CHARGEHAND_HOME"):
        Postgres.start(laptop_home)


def test_valkey_wants_its_password_and_never_evicts_or_writes_to_disk(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
    with redis.Redis(host="127.0.0.1", port=valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert all(c.laddr.ip == "127.0.0.1" for c in psutil.Process(valkey.pid).net_connections(kind="tcp"))


def test_a_killed_valkey_comes_back_empty_on_its_port(laptop_home):
    server = Valkey.start(laptop_home)
    try:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        server.kill()
        assert not server.is_running
        server.restart()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("key") is None
    finally:
        server.stop()


def test_a_restarted_valkey_keeps_its_keys_when_asked(laptop_home):
    server = Valkey.start(laptop_home)
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        server.restart(empty=False)
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") == b"value"
    finally:
        server.stop()


def test_a_taken_port_is_named(laptop_home):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"Port {port} of 127.0.0.1 is taken"):
            Valkey.start(laptop_home, port=port)


STARTER = """
import sys, threading, time
from pathlib import Path
from chargehand.orchestrator.laptop.services import Postgres, Valkey
def start():
    home = Path(sys.argv[1])
    print(Postgres.start(home).pid, Valkey.start(home).pid, flush=True)
# The thread that asked is gone while the servers are in use.
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(600)
"""


def test_servers_outlive_the_thread_that_asked_and_end_with_the_process_even_by_sigkill(used_home, wait_until):
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(used_home)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert [psutil.Process(pid).ppid() for pid in pids] == [parent.pid, parent.pid]
        assert all(psutil.pid_exists(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), LEFTOVER_TIMEOUT_SECONDS, "an orphan remains")

    # The next start waits for the old server's shutdown instead of failing on it.
    server = Postgres.start(used_home)
    server.stop("immediate")

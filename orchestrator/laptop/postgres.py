"""The embedded Postgres 18 with pgvector: one server, one folder, one Unix socket."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psutil
import psycopg

from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.laptop.ground import (
    disk_full,
    own,
    postgres_binaries,
    postgres_folder,
    prepare_home,
    server_account,
    socket_folder,
)
from chargehand.orchestrator.laptop.spawning import Account, spawn, tail

DATABASE = "chargehand"
SUPERUSER = "postgres"
# The default of 100 is two pools of 50 threads; the embedded server serves a supervisor, three pools, API and tests.
MAX_CONNECTIONS = 300
# Memory is taken as tables and indexes grow into it. With the default of 128 MB the vectors of 200,000 memories come
# page by page from the system's cache, and a search by HNSW takes a quarter longer.
SHARED_BUFFERS = "512MB"
# Until tables that were filled at once have statistics, a search takes ten times as long: seconds and not the default
# minute.
AUTOVACUUM_NAP = "10s"
# Recovery after a crash replays at most a checkpoint interval of WAL.
START_TIMEOUT_SECONDS = 60.0
# A fast shutdown writes a checkpoint; after this something is wrong and WAL replay is the better way.
STOP_TIMEOUT_SECONDS = 20.0
# How long the server of a dead `chargehand up` gets to finish its own shutdown.
LEFTOVER_TIMEOUT_SECONDS = 15.0

SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A running server; it ends with this process, however that ends.

    Durable as a real one (`fsync` on). Reached only through a socket in a folder of mode 700, so no password.
    """

    def __init__(self, *, folder: Path, binaries: Path, log: Path, account: Account | None) -> None:
        """Use `start`."""
        self._folder, self._binaries, self._log, self._account = folder, binaries, log, account
        self._run = folder / "run"
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._lock = threading.RLock()

    @classmethod
    def start(cls, home: Path) -> Self:
        """Start the server of `home`, making its data folder and database the first time."""
        home = prepare_home(home)
        account = server_account()
        folder = postgres_folder(home, account)
        server = cls(
            folder=folder,
            binaries=postgres_binaries(account),
            log=home / "logs" / "postgres.log",
            account=account,
        )
        if not server._data.exists():
            server._initialise()
        server.restart()
        return server

    @property
    def url(self) -> str:
        """The URL of the database `chargehand`, as its owner."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self._run), safe='')}"

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._process is not None and self._process.poll() is None

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End the server: `fast` closes sessions and writes a checkpoint, `immediate` leaves it to WAL replay."""
        with self._lock:
            self._wanted = False
            if self._process is None:
                return
            if self._process.poll() is None:
                self._process.send_signal(SIGNALS[mode])
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._run.parent != self._folder:
                # The short folder under /tmp; `restart` makes it again.
                shutil.rmtree(self._run, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL the postmaster, as the kernel does when memory runs out; its children notice and end."""
        with self._lock:
            self._wanted = False
            process = self._running()
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Start it again on the same data and socket, after `stop`, `kill` or an accident."""
        with self._lock:
            if self.is_running:
                self.stop()
            self._run = socket_folder(self._folder, self._account)
            deadline = time.monotonic() + LEFTOVER_TIMEOUT_SECONDS
            self._clear_leftovers(deadline)
            while not self._try_start():
                # Children of a killed postmaster still hold its shared memory.
                if time.monotonic() > deadline:
                    raise self._start_failure()
                time.sleep(0.1)
            self._wanted = True

    def revive(self) -> bool:
        """Start it again if it died by itself; whether that was needed."""
        with self._lock:
            if not self._wanted or self.is_running:
                return False
            self.restart()
            return True

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise Unavailable("The embedded Postgres is not started; call restart().")
        return self._process

    def _initialise(self) -> None:
        # In a folder beside, renamed when complete: a killed initdb leaves something that looks initialised.
        building = self._folder / "data.new"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        own(building, self._account, mode=0o700)
        command = [str(self._binaries / "initdb"), "--pgdata", str(building), "--username", SUPERUSER]
        command += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
        start = self._log.stat().st_size if self._log.exists() else 0
        process = spawn(command, log=self._log, cwd=self._folder, account=self._account, environment=_environment())
        if process.wait() != 0:
            output = tail(self._log, offset=start)
            shutil.rmtree(building, ignore_errors=True)
            if "No space left" in output:
                raise disk_full(self._folder)
            raise Unavailable(f"initdb failed in {self._folder}: {_last_line(output)} (whole log: {self._log})")
        building.rename(self._data)

    def _try_start(self) -> bool:
        """Start and wait for the first answer; False if it should be tried again."""
        self._offset = self._log.stat().st_size if self._log.exists() else 0
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._run),
            "unix_socket_permissions": "0700",
            "max_connections": str(MAX_CONNECTIONS),
            "shared_buffers": SHARED_BUFFERS,
            "autovacuum_naptime": AUTOVACUUM_NAP,
            "fsync": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = spawn(
            command,
            log=self._log,
            cwd=self._folder,
            account=self._account,
            environment=_environment(),
            death_signal=signal.SIGINT,
        )
        try:
            return self._wait_for_an_answer(self._process)
        except BaseException:
            # Also when the wait was interrupted by Ctrl-C.
            self._process.kill()
            self._process.wait()
            raise

    def _wait_for_an_answer(self, process: "subprocess.Popen[bytes]") -> bool:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if "still in use" in tail(self._log, offset=self._offset):
                    return False
                raise self._start_failure()
            if self._answers():
                return True
            time.sleep(0.02)
        raise self._start_failure()

    def _answers(self) -> bool:
        """Whether it takes connections; makes the database the first time."""
        try:
            with psycopg.connect(self.url_of("postgres"), autocommit=True, connect_timeout=5) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if found is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _clear_leftovers(self, deadline: float) -> None:
        """Wait for a server that is shutting down, and remove what a dead one left."""
        pid_file = self._data / "postmaster.pid"
        while (pid := _recorded_pid(pid_file)) is not None and _is_postmaster(pid, self._data):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"A Postgres server (pid {pid}) already runs on {self._data}; "
                    f"stop it with 'kill -INT {pid}' or set CHARGEHAND_HOME to another folder."
                )
            time.sleep(0.1)
        # Nobody owns them: Postgres would refuse to start if that pid now belongs to another program of this user.
        for stale in (pid_file, self._run / ".s.PGSQL.5432", self._run / ".s.PGSQL.5432.lock"):
            stale.unlink(missing_ok=True)

    def _start_failure(self) -> Unavailable:
        output = tail(self._log, offset=self._offset)
        if "No space left" in output:
            return disk_full(self._folder)
        return Unavailable(f"Postgres did not start on {self._data}: {_last_line(output)} (whole log: {self._log})")


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG… variables or locale."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _recorded_pid(pid_file: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return int(pid_file.read_text().splitlines()[0])
    return None


def _is_postmaster(pid: int, data: Path) -> bool:
    """Whether that process is the server of `data`, and not a program that was given its old number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
    except psutil.Error:
        return False


def _last_line(output: str) -> str:
    """The line that says why: the last FATAL or error, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line or "ERROR" in line]
    return (telling or lines or ["it said nothing"])[-1]

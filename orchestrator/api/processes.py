"""Several processes that serve one port: made, made again when one dies, and ended together."""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

log = logging.getLogger(__name__)

# One that dies at once would be made again without end.
REST_SECONDS = 1.0
LOOK_SECONDS = 0.2

Member = subprocess.Popen[bytes]


class Crew:
    """The processes of one port; each accepts what the others are too busy for."""

    def __init__(self, command: Sequence[str], listening: socket.socket, *, processes: int) -> None:
        """Nothing runs yet; `listening` is bound, and every process listens on it.

        `command` is followed by two file descriptors: of the socket, and of a pipe that ends with this process.
        """
        self._command, self._listening, self._count = command, listening, processes
        self._members: list[Member] = []
        self._ending = threading.Event()

    def run(self, *, grace_seconds: float) -> None:
        """Serve until a signal comes; who has not ended so long after it is killed. Of the main thread only."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._end)
        lives, kept = os.pipe()
        try:
            self._members = [self._started(lives) for _ in range(self._count)]
            while not self._ending.wait(LOOK_SECONDS):
                self._replace_the_dead(lives)
        finally:
            self._end_all(grace_seconds)
            os.close(lives)
            os.close(kept)

    def _end(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        self._ending.set()

    def _started(self, lives: int) -> Member:
        place = self._listening.fileno()
        return subprocess.Popen([*self._command, str(place), str(lives)], pass_fds=(place, lives))

    def _replace_the_dead(self, lives: int) -> None:
        for index, member in enumerate(self._members):
            if member.poll() is None:
                continue
            log.warning("a process of the API died", extra={"pid": member.pid, "exit_code": member.returncode})
            if not self._ending.wait(REST_SECONDS):
                self._members[index] = self._started(lives)

    def _end_all(self, grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        for member in self._members:
            member.terminate()
        for member in self._members:
            with suppress(subprocess.TimeoutExpired):
                member.wait(max(0.0, deadline - time.monotonic()))
            member.kill()
            member.wait()


def end_with(lives: int) -> None:
    """Tell this process to end when the pipe does: nobody else would when the first process is killed."""

    def wait() -> None:
        os.read(lives, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()

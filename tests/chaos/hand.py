"""A worker's hand: a process that knocks and takes effect when it is told to, so that the ledger knows its pid.

`python -m chaos.hand FOLDER` reads `["knock", run, step, key]` and `["effect", run, step, key]`, a line each, and
answers each with a line. Two workers that share one process would be one worker to the ledger.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.ledger import Ledger


class Hand:
    """The process, seen from a story."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """It waits for its first line."""
        self._process = process

    @property
    def pid(self) -> int:
        """As the kernel tells the ledger."""
        return self._process.pid

    @property
    def holder(self) -> str:
        """As a worker of this process names itself in a claim."""
        return f"audit@here:{self.pid}"

    def knock(self, run: object, step: str, key: object) -> None:
        """Begin."""
        self._do("knock", run, step, key)

    def take_effect(self, run: object, step: str, key: object) -> None:
        """Do it."""
        self._do("effect", run, step, key)

    def _do(self, *what: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) for word in what]) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ok\n":
            raise RuntimeError("The hand is gone.")


@contextmanager
def running_hand(folder: Path) -> Iterator[Hand]:
    """A hand that reports to the ledger of this folder, while the block runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-m", "chaos.hand", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield Hand(process)
        finally:
            process.kill()


def main() -> None:
    """Obey until there are no more lines."""
    ledger = Ledger(Path(sys.argv[1]))
    for line in sys.stdin:
        what, run, step, key = json.loads(line)
        (ledger.knock if what == "knock" else ledger.take_effect)(run, step, key)
        sys.stdout.write("ok\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The independent ledger: what the outside world saw, kept by a process that engine and nemesis leave alone.

`python -m chaos.ledger FOLDER` serves `<folder>/ledger.sock` and writes `<folder>/ledger.sqlite`. The model server, the
tools and the scripts of the harness report to it at the moment when something happens; the time is the ledger's own, so
that a worker whose clock is wrong cannot date its reports, and the process that reports is named by the kernel.
"""

import argparse
import json
import os
import signal
import socket
import socketserver
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from chargehand.orchestrator.laptop.spawning import spawn

# A report waits this long for a ledger that is slow; a report that is lost would be a lie of the instrument.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.02
# Many workers may report at once.
BACKLOG = 512
# <linux/socket.h>: pid, uid and gid of whoever connected.
_CREDENTIALS = struct.Struct("3i")

_TABLES = """
CREATE TABLE IF NOT EXISTS knocks (
    nonce TEXT PRIMARY KEY, run TEXT, step TEXT, key TEXT, name TEXT, pid INTEGER, at REAL);
CREATE TABLE IF NOT EXISTS effects (
    nonce TEXT PRIMARY KEY, run TEXT, step TEXT, key TEXT, name TEXT, kind TEXT, pid INTEGER, at REAL);
CREATE TABLE IF NOT EXISTS calls (
    nonce TEXT PRIMARY KEY, run TEXT, step TEXT, call TEXT, model TEXT, finish_tool TEXT, prompt_hash TEXT,
    stream INTEGER, received_at REAL, outcome TEXT NOT NULL DEFAULT '', answered_at REAL, billed INTEGER,
    input_tokens INTEGER, output_tokens INTEGER, cache_write_tokens INTEGER, cache_read_tokens INTEGER);
CREATE TABLE IF NOT EXISTS doors (name TEXT PRIMARY KEY);
CREATE INDEX IF NOT EXISTS knocks_of_run ON knocks (run);
CREATE INDEX IF NOT EXISTS effects_of_run ON effects (run);
CREATE INDEX IF NOT EXISTS calls_of_run ON calls (run);
"""
# What a report may write: its name, and the statement that takes its fields. A report that comes twice, because its
# sender did not wait for the answer, is one report.
_STATEMENTS = {
    "knock": "INSERT OR IGNORE INTO knocks VALUES (:nonce, :run, :step, :key, :name, :pid, :now)",
    "effect": "INSERT OR IGNORE INTO effects VALUES (:nonce, :run, :step, :key, :name, :kind, :pid, :now)",
    "received": "INSERT OR IGNORE INTO calls (nonce, run, step, call, model, finish_tool, prompt_hash, stream, "
    "received_at) VALUES (:nonce, :run, :step, :call, :model, :finish_tool, :prompt_hash, :stream, :now)",
    "answered": "UPDATE calls SET outcome = :outcome, answered_at = :now, billed = :billed, "
    "input_tokens = :input_tokens, output_tokens = :output_tokens, cache_write_tokens = :cache_write_tokens, "
    "cache_read_tokens = :cache_read_tokens WHERE nonce = :nonce AND answered_at IS NULL",
    "open": "INSERT OR IGNORE INTO doors VALUES (:name)",
    "ping": "SELECT 1",
}
# Of the newest only: it is asked a hundred times a second, and the knocks become hundreds of thousands.
_BEGUN = """
SELECT run, step, key, name, pid, at FROM knocks
WHERE rowid > (SELECT max(rowid) - 500 FROM knocks) AND at > ?
  AND NOT EXISTS (SELECT 1 FROM effects e WHERE e.run = knocks.run AND e.key = knocks.key AND e.pid = knocks.pid)
ORDER BY rowid DESC
"""

TOKENS = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
EffectKind = Literal["idempotent", "effectful"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knock:
    """Somebody began to do work that has an effect."""

    run: str
    step: str
    """The step's key in its plan."""
    key: str
    """The idempotency key that the engine gave."""
    name: str
    """The script or tool."""
    pid: int
    at: float
    """Seconds since the epoch, by the ledger's clock, which is Postgres's too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The work took effect."""

    run: str
    step: str
    key: str
    name: str
    kind: EffectKind
    """idempotent: the outside world knows the key and does nothing the second time; effectful: it does it again."""
    pid: int
    at: float
    repeated: bool
    """An effect with this key had happened before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request that reached the model's server."""

    run: str
    step: str
    """The step's id."""
    call: str
    """The journal's `call_id`; run, step and call are empty when the request did not say which it is."""
    model: str
    finish_tool: str
    prompt_hash: str
    """Two equal ones are one prompt that was sent twice."""
    stream: bool
    received_at: float
    outcome: str
    """`ok` or the fault that struck it; empty: the server has not decided yet, or was ended before it could."""
    answered_at: float | None
    billed: bool
    """The server counts it as used, whether or not the answer reached anybody."""
    input_tokens: int
    output_tokens: int
    cache_write_tokens: int
    cache_read_tokens: int


class LedgerSilent(Exception):
    """The ledger did not take a report for a minute; nothing the harness says can be trusted any more."""


class Ledger:
    """Reports to the ledger of a folder, and reads it.

    Every report has a connection of its own, so that a SIGKILL breaks nothing, and returns when it is written. Reading
    goes to the file, without the process.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is connected before the first report."""
        self.folder = folder

    # --- report -------------------------------------------------------------------------------------------------------

    def knock(self, run: object, step: str, key: str, *, name: str = "") -> None:
        """An attempt at something with an effect begins."""
        self._report("knock", run=str(run), step=step, key=key, name=name)

    def take_effect(self, run: object, step: str, key: str, *, name: str = "", kind: EffectKind = "idempotent") -> None:
        """The effect happens now."""
        self._report("effect", run=str(run), step=step, key=key, name=name, kind=kind)

    def call_received(self, request_id: str, *, model: str, finish_tool: str, prompt_hash: str, stream: bool) -> str:
        """A request has reached the model's server; gives what `call_answered` names it by.

        `request_id` is the header that workers send: `<run>/<step>/<call>`.
        """
        run, step, call = request_id.split("/") if request_id.count("/") == 2 else ("", "", request_id)
        return self._report(
            "received",
            run=run,
            step=step,
            call=call,
            model=model,
            finish_tool=finish_tool,
            prompt_hash=prompt_hash,
            stream=stream,
        )

    def call_answered(self, receipt: str, *, outcome: str, billed: bool, tokens: Mapping[str, int]) -> None:
        """The server has decided what becomes of the call: said before the first byte of the answer is sent.

        `tokens`: the four counters of `Call`, by name; those that are missing are 0.
        """
        counters = {name: tokens.get(name, 0) for name in TOKENS}
        self._report("answered", nonce=receipt, outcome=outcome, billed=billed, **counters)

    def open(self, door: str) -> None:
        """Let the steps go on that are held at this door."""
        self._report("open", name=door)

    # --- read ---------------------------------------------------------------------------------------------------------

    def knocks(self, run: object = None, step: str | None = None) -> list[Knock]:
        """Beginnings, oldest first: of all runs, of one, or of one step."""
        rows = self._rows(f"SELECT run, step, key, name, pid, at FROM knocks {_of(run)} ORDER BY rowid", run)
        return [Knock(**row) for row in rows if step in (None, row["step"])]

    def begun(self, *, within_seconds: float) -> list[Knock]:
        """What somebody began in the last seconds and has not taken effect under his hands, oldest first."""
        rows = self._rows(_BEGUN, time.time() - within_seconds)
        return [Knock(**row) for row in reversed(rows)]

    def effects(self, run: object = None) -> list[Effect]:
        """Every effect as it arrived, oldest first."""
        rows = self._rows(f"SELECT run, step, key, name, kind, pid, at FROM effects {_of(run)} ORDER BY rowid", run)
        seen: set[str] = set()
        effects = []
        for row in rows:
            effects.append(Effect(**row, repeated=row["key"] in seen))
            seen.add(row["key"])
        return effects

    def calls(self, run: object = None) -> list[Call]:
        """Every model call, in the order of arrival."""
        rows = self._rows(f"SELECT * FROM calls {_of(run)} ORDER BY rowid", run)
        return [_call(row) for row in rows]

    def runs(self) -> frozenset[str]:
        """Every run that anything was reported of; an empty name: of none."""
        union = " UNION ".join(f"SELECT run FROM {table}" for table in ("knocks", "effects", "calls"))
        return frozenset(row["run"] for row in self._rows(union, None))

    def is_open(self, door: str) -> bool:
        """Whether the door was opened."""
        return bool(self._rows("SELECT name FROM doors WHERE name = ?", door))

    # --- how ----------------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Return when the ledger answers."""
        self._report("ping")

    def _report(self, what: str, *, nonce: str = "", **fields: Any) -> str:
        nonce = nonce or uuid4().hex
        line = json.dumps({"what": what, "nonce": nonce, **fields}).encode() + b"\n"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._send(line, nonce)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LedgerSilent(f"{what!r} was not taken within {PATIENCE_SECONDS:.0f} s: {error}") from error
                time.sleep(RETRY_SECONDS)

    def _send(self, line: bytes, nonce: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(str(_socket_of(self.folder)))
            connection.sendall(line)
            if connection.makefile("rb").readline() != b"ok\n":
                raise OSError("the ledger broke off")
        return nonce

    def _rows(self, statement: str, parameter: object) -> list[dict[str, Any]]:
        uri = f"file:{_file_of(self.folder)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS)) as connection:
            connection.row_factory = sqlite3.Row
            parameters = () if parameter is None else (parameter if isinstance(parameter, float) else str(parameter),)
            return [dict(row) for row in connection.execute(statement, parameters)]


def _of(run: object) -> str:
    # By its index: a story of hours is asked about one run at a time.
    return "" if run is None else "WHERE run = ?"


def _call(row: Mapping[str, Any]) -> Call:
    counters = {name: row[name] or 0 for name in TOKENS}
    plain = {name: row[name] for name in ("run", "step", "call", "model", "finish_tool", "prompt_hash", "outcome")}
    return Call(
        **plain,
        **counters,
        stream=bool(row["stream"]),
        received_at=row["received_at"],
        answered_at=row["answered_at"],
        billed=bool(row["billed"]),
    )


@contextmanager
def running_ledger(folder: Path) -> Iterator[Ledger]:
    """A ledger of this folder with its process while the block runs; what it wrote stays."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-m", "chaos.ledger", str(folder)]
    process = spawn(argv, log=folder / "ledger.log", environment=environment, death_signal=signal.SIGTERM)
    ledger = Ledger(folder)
    try:
        ledger.ping()
        yield ledger
    finally:
        process.terminate()
        process.wait()


# --- the process ------------------------------------------------------------------------------------------------------


class Book:
    """The file, written by one thread at a time."""

    def __init__(self, file: Path) -> None:
        """Open it, and make its tables the first time."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        # What was written survives every death of a process; only the machine's own could take it, and us with it.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_TABLES)

    def write(self, report: dict[str, Any], pid: int) -> None:
        """Write one report down with the time of now."""
        statement = _STATEMENTS[report.pop("what")]
        with self._lock:
            self._connection.execute(statement, {**report, "pid": pid, "now": time.time()})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes reports, one line each; one thread a connection."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, folder: Path) -> None:
        """Listen in the folder."""
        self.book = Book(_file_of(folder))
        path = _socket_of(folder)
        path.unlink(missing_ok=True)
        super().__init__(str(path), Reports)

    def __enter__(self) -> Self:
        """The server itself."""
        return self


class Reports(socketserver.StreamRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Write each line down, then answer it; whoever was killed in the middle of one said nothing."""
        pid, _, _ = _CREDENTIALS.unpack(
            self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        with suppress(ConnectionError):
            for line in self.rfile:
                if not line.endswith(b"\n"):
                    return
                self.server.book.write(json.loads(line), pid)
                self.wfile.write(b"ok\n")


def _file_of(folder: Path) -> Path:
    return folder / "ledger.sqlite"


def _socket_of(folder: Path) -> Path:
    return folder / "ledger.sock"


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="chaos.ledger", description=__doc__)
    parser.add_argument("folder", type=Path)
    with Server(parser.parse_args().folder) as server:
        # `shutdown` waits for the loop that runs in this very thread.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.1)
        server.book.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

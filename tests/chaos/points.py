"""Named points around each commit at which a process of the fleet is killed or loses a reply: once, when it is armed.

`python -m chaos.points celery …` wraps the production functions that are named here, then runs `celery …` in the same
process. Production code knows nothing of it, and a function that is not there any more stops the process at its start.

A commit of the hot path is told by the facts that it appends, where the statement is sent: whoever sends it, and in
whatever function, cannot pass unseen. The supervisors' transactions are told by the function that they belong to.
"""

import json
import os
import re
import runpy
import signal
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

import psycopg
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from chargehand.orchestrator import broker, callback, task_brokers
from chargehand.orchestrator.prepared import PreparedStatements
from chargehand.orchestrator.supervisor import admit, advance, dispatch

# Where the trap is laid; without it `python -m chaos.points` refuses to start.
TRAP_VARIABLE = "CHAOS_TRAP"

Moment = Literal["before", "after", "reply lost"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

# A statement that appends several kinds is the first of these: results of pure tools go with the next request.
_PLACES_BY_FACT = {
    "step.claimed": "claim",
    "model.requested": "request",
    "model.responded": "respond",
    "tool.started": "tool started",
    "tool.finished": "tool finished",
    "step.finished": "finish",
    "signal.received": "signal",
}
# Many steps at once, by one statement.
_PACKED = {"claim": "claim of a pack", "finish": "finish of a pack"}
_APPENDS = "INSERT INTO journal"
_FACT_IN_STATEMENT = re.compile("'(" + "|".join(map(re.escape, _PLACES_BY_FACT)) + ")'")
_TRANSACTIONS = {"advance": (advance, "advance"), "admit": (admit, "admit")}
_PUBLISH = "publish"
PLACES: tuple[str, ...] = (*_PLACES_BY_FACT.values(), *_PACKED.values(), *_TRANSACTIONS, _PUBLISH)

# Of tasks of a user's own app. Two are the commits of an advance in which one of these did something,
_TASK_MOVES = {"task requested": (dispatch, "_wait"), "task's answer taken": (dispatch, "_end")}
# two are transactions of the supervisor that sends them, one is of the user's worker,
_TASK_TRANSACTIONS = {
    "task taken for sending": (dispatch, "take_due"),
    "task noted as sent": (dispatch, "note_sent"),
    "task answers": (callback._Line, "write"),
}
# and one is the message itself.
_SEND_TASK = "task sent"
TASK_PLACES: tuple[str, ...] = (*_TASK_MOVES, *_TASK_TRANSACTIONS, _SEND_TASK)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a process dies or loses a reply: next to the commit at `place`."""

    place: str
    moment: Moment

    def __str__(self) -> str:
        """As a test's name shows it."""
        return f"{self.place}, {self.moment}"


POINTS: tuple[Point, ...] = tuple(Point(place, moment) for place in PLACES for moment in MOMENTS)
TASK_POINTS: tuple[Point, ...] = tuple(Point(place, moment) for place in TASK_PLACES for moment in MOMENTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprung:
    """A point that was passed."""

    point: Point
    pid: int
    at: float
    """Seconds since the epoch."""


class Trap:
    """A folder that the fleet shares; at most one point is armed, and it springs in one process, once."""

    def __init__(self, folder: Path) -> None:
        """Nothing is armed; the folder is made by `arm`."""
        self._folder = folder
        self._passed: Tally[str] = Tally()
        self._guard = threading.Lock()

    def arm(self, point: Point, *, passes: int = 1) -> None:
        """Spring in the process that is the first to pass the point for the `passes`-th time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.disarm()
        armed = {"place": point.place, "moment": point.moment, "passes": passes, "at": time.time()}
        self._write("armed", armed)

    def disarm(self) -> None:
        """Let the fleet alone, and forget what has sprung."""
        for name in ("armed", "sprung"):
            self._file(name).unlink(missing_ok=True)

    def sprung(self) -> Sprung | None:
        """What has sprung since it was armed."""
        told = self._read("sprung")
        if told is None:
            return None
        return Sprung(point=Point(told["place"], told["moment"]), pid=told["pid"], at=told["at"])

    # --- in the processes of the fleet

    def concerns(self, place: str) -> bool:
        """Whether something is armed at this place."""
        armed = self._read("armed")
        return armed is not None and armed["place"] == place

    def springs(self, place: str, moment: Moment) -> bool:
        """Whether it happens here and now; one process of the fleet hears yes, and hears it once."""
        armed = self._read("armed")
        if armed is None or (armed["place"], armed["moment"]) != (place, moment):
            return False
        with self._guard:
            # Each arming counts anew.
            self._passed[armed["at"]] += 1
            if self._passed[armed["at"]] < armed["passes"]:
                return False
        try:
            self._file("armed").rename(self._file(f"taken-{os.getpid()}"))
        except FileNotFoundError:
            return False
        self._write("sprung", {**armed, "pid": os.getpid(), "at": time.time()})
        self._file(f"taken-{os.getpid()}").unlink()
        return True

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._file(name).read_text()))
        except FileNotFoundError:
            return None

    def _write(self, name: str, value: Mapping[str, object]) -> None:
        # Never half of it: the fleet reads at every commit.
        draft = self._file(f"{name}-{os.getpid()}")
        draft.write_text(json.dumps(value))
        draft.rename(self._file(name))


def place_of(statement: str, parameters: Mapping[str, object]) -> str | None:
    """Which commit a statement of the hot path is, by the facts that it appends; None: none that has a point."""
    if _APPENDS not in statement:
        return None
    kinds = set(_FACT_IN_STATEMENT.findall(statement))
    for name, value in parameters.items():
        if name.startswith("kind"):
            kinds.update(value if isinstance(value, list | tuple) else [value])
    place = next((place for kind, place in _PLACES_BY_FACT.items() if kind in kinds), None)
    return _PACKED.get(place or "", place) if "steps" in parameters else place


# --- in a process of the fleet


def wrap_production(trap: Trap) -> None:
    """Put the points into the functions of this process; raises `AttributeError` when one of them has gone."""
    _wrap_statements(trap)
    _wrap_transactions(trap)
    _wrap_publishing(trap)


def _wrap_statements(trap: Trap) -> None:
    original = PreparedStatements.run

    @wraps(original)
    def run(self: PreparedStatements, statement: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        place = place_of(statement, parameters)
        if place is None:
            return original(self, statement, parameters)
        _die_if(trap.springs(place, "before"))
        rows = original(self, statement, parameters)
        # Without a row nothing was written: there is no commit whose reply could be lost.
        if rows:
            _die_if(trap.springs(place, "after"))
            if trap.springs(place, "reply lost"):
                self.connection.close()
                raise psycopg.OperationalError("the reply was lost (chaos)")
        return rows

    PreparedStatements.run = run


def _wrap_transactions(trap: Trap) -> None:
    inside = threading.local()
    for place, (owner, name) in {**_TRANSACTIONS, **_TASK_TRANSACTIONS}.items():
        setattr(owner, name, _entered(getattr(owner, name), inside, place))
    for place, (owner, name) in _TASK_MOVES.items():
        setattr(owner, name, _moving(getattr(owner, name), inside, place))
    original = PGDialect_psycopg.do_commit

    @wraps(original)
    def do_commit(self: PGDialect_psycopg, dbapi_connection: Any) -> None:
        places = (getattr(inside, "place", None), *getattr(inside, "moves", ()))
        place = next((place for place in places if place is not None and trap.concerns(place)), None)
        if place is None or not _has_written(dbapi_connection):
            original(self, dbapi_connection)
            return
        _die_if(trap.springs(place, "before"))
        original(self, dbapi_connection)
        _die_if(trap.springs(place, "after"))
        if trap.springs(place, "reply lost"):
            dbapi_connection.close()
            raise psycopg.OperationalError("the reply was lost (chaos)")

    PGDialect_psycopg.do_commit = do_commit


def _has_written(connection: "psycopg.Connection[Any]") -> bool:
    row = connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


def _wrap_publishing(trap: Trap) -> None:
    inside = threading.local()
    for place, (owner, name) in {
        _PUBLISH: (broker, "publish"),
        _SEND_TASK: (task_brokers.CeleryBrokers, "send"),
    }.items():
        setattr(owner, name, _published(getattr(owner, name), trap, inside, place))
    read, send = AbstractConnection.read_response, AbstractConnection.send_packed_command

    @wraps(send)
    def send_packed_command(self: Any, command: Any, *arguments: Any, **named: Any) -> Any:
        # A connection that is made on the way has replies of its own.
        inside.has_pushed = b"LPUSH" in b"".join([command] if isinstance(command, bytes) else command)
        return send(self, command, *arguments, **named)

    @wraps(read)
    def read_response(self: Any, *arguments: Any, **named: Any) -> Any:
        # The broker has taken what was sent; whoever sent it cannot know and sends it again.
        response = read(self, *arguments, **named)
        place = getattr(inside, "place", None)
        if place is not None and getattr(inside, "has_pushed", False) and trap.springs(place, "reply lost"):
            self.disconnect()
            raise RedisConnectionError("the reply was lost (chaos)")
        return response

    AbstractConnection.read_response = read_response
    AbstractConnection.send_packed_command = send_packed_command


def _published(function: Callable[..., Any], trap: Trap, inside: threading.local, place: str) -> Callable[..., Any]:
    entered = _entered(function, inside, place)

    @wraps(function)
    def published(*arguments: Any, **named: Any) -> Any:
        _die_if(trap.springs(place, "before"))
        given = entered(*arguments, **named)
        _die_if(trap.springs(place, "after"))
        return given

    return published


def _entered(function: Callable[..., Any], inside: threading.local, place: str) -> Callable[..., Any]:
    """The function; while it runs, its thread is known to be at `place`."""

    @contextmanager
    def at_place() -> Iterator[None]:
        inside.place, inside.moves = place, []
        try:
            yield
        finally:
            inside.place, inside.moves = None, []

    @wraps(function)
    def entered(*arguments: Any, **named: Any) -> Any:
        with at_place():
            return function(*arguments, **named)

    return entered


def _moving(function: Callable[..., Any], inside: threading.local, place: str) -> Callable[..., Any]:
    """The function; the transaction in which it is called, by its thread, has done what `place` names."""

    @wraps(function)
    def moved(*arguments: Any, **named: Any) -> Any:
        given = function(*arguments, **named)
        if getattr(inside, "place", None) is not None:
            inside.moves = [*inside.moves, place]
        return given

    return moved


def _die_if(springs: bool) -> None:
    if springs:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module that the arguments name, with the points in it."""
    folder = os.environ.get(TRAP_VARIABLE)
    if not folder:
        raise SystemExit(f"Set {TRAP_VARIABLE} to the folder where the trap is laid.")
    wrap_production(Trap(Path(folder)))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

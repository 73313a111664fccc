"""The independent counter: effects as the outside world sees them, in a file that neither Postgres nor Valkey knows."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Sixteen threads of three pools write to one file.
BUSY_SECONDS = 30.0

_TABLES = """
CREATE TABLE IF NOT EXISTS knocks (run TEXT, step TEXT, key TEXT, pid INTEGER, at REAL);
CREATE TABLE IF NOT EXISTS effects (key TEXT PRIMARY KEY, run TEXT, step TEXT, at REAL);
CREATE TABLE IF NOT EXISTS doors (name TEXT PRIMARY KEY);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Knock:
    """Somebody began to do a step's work."""

    step: str
    key: str
    pid: int
    at: float
    """Of the machine's monotonic clock, which all processes share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A step's work took effect; a second one with the same key is not counted."""

    step: str
    key: str
    at: float


class Counter:
    """Counts knocks and effects; each call opens a connection of its own, so that a SIGKILL breaks nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_TABLES)

    def knock(self, run: str, step: str, key: str) -> None:
        """An attempt begins."""
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO knocks VALUES (?, ?, ?, ?, ?)", (run, step, key, os.getpid(), time.monotonic())
            )

    def take_effect(self, run: str, step: str, key: str) -> None:
        """The effect happens, once for each key."""
        with self._connection() as connection:
            connection.execute("INSERT OR IGNORE INTO effects VALUES (?, ?, ?, ?)", (key, run, step, time.monotonic()))

    def knocks(self, run: object, step: str | None = None) -> list[Knock]:
        """Beginnings of a run, or of one of its steps, oldest first."""
        rows = self._rows("SELECT step, key, pid, at FROM knocks WHERE run = ? ORDER BY at", run)
        return [Knock(step=row[0], key=row[1], pid=row[2], at=row[3]) for row in rows if step in (None, row[0])]

    def effects(self, run: object) -> list[Effect]:
        """Effects of a run, oldest first."""
        rows = self._rows("SELECT step, key, at FROM effects WHERE run = ? ORDER BY at", run)
        return [Effect(step=row[0], key=row[1], at=row[2]) for row in rows]

    def open(self, door: str) -> None:
        """Let the steps go on that are held at this door."""
        with self._connection() as connection:
            connection.execute("INSERT OR IGNORE INTO doors VALUES (?)", (door,))

    def is_open(self, door: str) -> bool:
        """Whether the door was opened."""
        return bool(self._rows("SELECT 1 FROM doors WHERE name = ?", door))

    def _rows(self, statement: str, parameter: object) -> list[Any]:
        with self._connection() as connection:
            return connection.execute(statement, (str(parameter),)).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection, connection:
            yield connection

"""Parcels and their events, in SQLite."""

import sqlite3
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS parcels (
    code TEXT PRIMARY KEY, sender TEXT NOT NULL, city TEXT NOT NULL, weight_grams INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'accepted'
);
CREATE TABLE IF NOT EXISTS events (
    code TEXT NOT NULL REFERENCES parcels (code), at TEXT NOT NULL, what TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS invoices (
    code TEXT NOT NULL REFERENCES parcels (code), amount_cents INTEGER NOT NULL, status TEXT NOT NULL
);
"""

SORTABLE = frozenset({"code", "sender", "city", "weight_grams"})


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    connection.executescript(SCHEMA)
    return connection


def accept(connection: sqlite3.Connection, code: str, sender: str, city: str, weight_grams: int) -> None:
    with connection:
        connection.execute(
            "INSERT INTO parcels (code, sender, city, weight_grams) VALUES (?, ?, ?, ?)",
            (code, sender, city, weight_grams),
        )


def parcels_of(connection: sqlite3.Connection, sender: str) -> list[dict[str, Any]]:
    query = f"SELECT code, city, state FROM parcels WHERE sender = '{sender}' ORDER BY code"
    return [dict(row) for row in connection.execute(query)]


def all_parcels(connection: sqlite3.Connection, sort: str) -> list[dict[str, Any]]:
    """Every parcel, sorted by one of `SORTABLE`; anything else sorts by code."""
    column = sort if sort in SORTABLE else "code"
    query = f"SELECT code, sender, city, weight_grams FROM parcels ORDER BY {column}"  # noqa: S608
    return [dict(row) for row in connection.execute(query)]


def deliver(connection: sqlite3.Connection, code: str, at: str) -> None:
    with connection:
        connection.execute("UPDATE parcels SET state = 'delivered' WHERE code = ?", (code,))
        connection.execute("INSERT INTO events (code, at, what) VALUES (?, ?, 'delivered')", (code, at))


def record(connection: sqlite3.Connection, code: str, at: str, what: str) -> None:
    with connection:
        connection.execute("INSERT INTO events (code, at, what) VALUES (?, ?, ?)", (code, at, what))


def events_of(connection: sqlite3.Connection, code: str) -> list[str]:
    """What happened to a parcel, oldest first."""
    rows = connection.execute("SELECT what FROM events WHERE code = ? ORDER BY at, rowid", (code,))
    return [row["what"] for row in rows]

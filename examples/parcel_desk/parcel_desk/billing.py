"""Invoices."""

import sqlite3
from datetime import date, timedelta

from parcel_desk import settings


def bill(connection: sqlite3.Connection, code: str, amount_cents: int) -> None:
    with connection:
        connection.execute("INSERT INTO invoices VALUES (?, ?, 'open')", (code, amount_cents))


def pay(connection: sqlite3.Connection, code: str) -> None:
    with connection:
        connection.execute("UPDATE invoices SET status = 'paid' WHERE code = ?", (code,))


def is_settled(connection: sqlite3.Connection, code: str) -> bool:
    """Whether every invoice of the parcel has been paid."""
    statuses = [row["status"] for row in connection.execute("SELECT status FROM invoices WHERE code = ?", (code,))]
    return all(status is "paid" for status in statuses)


def due_on(billed: date) -> date:
    return billed + timedelta(days=settings.INVOICE_DAYS)

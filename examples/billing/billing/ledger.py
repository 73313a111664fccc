"""The books: what was paid and what was mailed, in SQLite, so that the example needs no other server."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "BILLING_LEDGER"


@dataclass(frozen=True)
class Receipt:
    """A payment, as it was booked first."""

    number: int
    order_id: int
    cents: int


class Ledger:
    """One file of books; any process may write."""

    def __init__(self, file: Path | None = None) -> None:
        """`file`: by default what `BILLING_LEDGER` names, or one in the temporary folder."""
        self.file = file or Path(os.environ.get(VARIABLE) or Path(tempfile.gettempdir()) / "billing.sqlite")

    def pay(self, key: str, order_id: int, cents: int) -> Receipt:
        """Send the money, once for each key: a second call gives the first one's receipt."""
        with self._books() as books:
            books.execute(
                "INSERT INTO payments (key, order_id, cents) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (key, order_id, cents),
            )
            row = books.execute("SELECT number, order_id, cents FROM payments WHERE key = ?", (key,)).fetchone()
        return Receipt(*row)

    def mail(self, order_id: int, text: str) -> None:
        """Send a mail; nobody can tell whether it was sent before."""
        with self._books() as books:
            books.execute("INSERT INTO mails (order_id, text) VALUES (?, ?)", (order_id, text))

    def payments(self) -> list[tuple[str, int, int]]:
        """Key, order and cents of all payments, in their order."""
        with self._books() as books:
            return list(books.execute("SELECT key, order_id, cents FROM payments ORDER BY number"))

    def mails(self) -> list[tuple[int, str]]:
        """Order and text of all mails, in their order."""
        with self._books() as books:
            return list(books.execute("SELECT order_id, text FROM mails ORDER BY number"))

    @contextmanager
    def _books(self) -> Iterator[sqlite3.Connection]:
        books = sqlite3.connect(self.file, timeout=10.0)
        try:
            with books:
                books.execute(
                    "CREATE TABLE IF NOT EXISTS payments "
                    "(number INTEGER PRIMARY KEY, key TEXT UNIQUE, order_id INTEGER, cents INTEGER)"
                )
                books.execute(
                    "CREATE TABLE IF NOT EXISTS mails (number INTEGER PRIMARY KEY, order_id INTEGER, text TEXT)"
                )
                yield books
        finally:
            books.close()

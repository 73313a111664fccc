"""Statements on libpq's own prepared path, for those that run in every turn.

A psycopg cursor costs as much as the round trip that it makes (.1 ms of CPU): a turn has two of them. Here a statement
is prepared once a connection and then sent as it is, with the few types of parameters that our statements have.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg import abc, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

Row = dict[str, Any]
Parameters = Mapping[str, object]

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A statement as one connection knows it."""

    name: bytes
    parameters: tuple[str, ...]
    """Names in the order of `$1`, `$2`, …"""
    columns: tuple[str, ...]
    transformer: abc.Transformer
    """Knows how the columns are read: to look up their loaders costs more than to read a row."""

    def rows(self, result: "pq.abc.PGresult") -> list[Row]:
        """What the statement gave."""
        if result.ntuples == 0:
            return []
        self.transformer.set_pgresult(result, set_loaders=False)
        try:
            loaded = self.transformer.load_rows(0, result.ntuples, tuple)
        finally:
            # A long history is not kept until the statement's next result.
            self.transformer.set_pgresult(None, set_loaders=False)
        return [dict(zip(self.columns, row, strict=True)) for row in loaded]


@dataclass(kw_only=True, slots=True, eq=False)
class PreparedStatements:
    """What has been prepared on one connection; whoever calls it has that connection for itself.

    While a statement runs, its thread waits without the interpreter's lock.
    """

    connection: "psycopg.Connection[Any]"
    known: dict[str, Prepared] = field(default_factory=dict)

    def run(self, statement: str, parameters: Parameters) -> list[Row]:
        """All rows of `statement`, whose parameters are written `%(name)s`.

        Raises what psycopg raises; `psycopg.OperationalError` when the connection broke.
        """
        prepared = self.known.get(statement) or self._prepare(statement)
        values = [
            None if (value := parameters[name]) is None else _TEXT.get(type(value), _refused)(value)
            for name in prepared.parameters
        ]
        # NULL is None, which the declaration forgets.
        result = self.connection.pgconn.exec_prepared(prepared.name, values)  # type: ignore[arg-type]
        if result.status == pq.ExecStatus.TUPLES_OK:
            return prepared.rows(result)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise self._error(result)
        return []

    def _prepare(self, statement: str) -> Prepared:
        sql, names = numbered(statement)
        name = f"chargehand_{len(self.known)}".encode()
        connection = self.connection.pgconn
        for result in (connection.prepare(name, sql.encode()), connection.describe_prepared(name)):
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise self._error(result)
        columns = tuple((result.fname(index) or b"").decode() for index in range(result.nfields))
        transformer = Transformer(self.connection)
        transformer.set_pgresult(result)
        prepared = Prepared(name=name, parameters=names, columns=columns, transformer=transformer)
        self.known[statement] = prepared
        return prepared

    def _error(self, result: "pq.abc.PGresult") -> psycopg.Error:
        connection = self.connection.pgconn
        if connection.status == pq.ConnStatus.BAD:
            return psycopg.OperationalError(connection.get_error_message() or "the connection is lost")
        return error_from_result(result)


@cache
def numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$1`, `$2`, … for its `%(name)s`, and the names in that order."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found.group(1)
        return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

    return _PLACEHOLDER.sub(number, statement), tuple(names)


def as_text(value: object) -> bytes | None:
    """A parameter in Postgres's text format; raises `TypeError` for a type that no statement here has."""
    if value is None:
        return None
    return _TEXT.get(type(value), _refused)(value)


def _refused(value: object) -> bytes:
    raise TypeError(f"A parameter of type {type(value).__name__} has no text form here; add it to `_TEXT`.")


def _string(value: str) -> bytes:
    if "\x00" in value:
        raise psycopg.DataError("Postgres text cannot hold NUL; remove it from the value.")
    return value.encode()


def _array(values: list[object]) -> bytes:
    return b"{%s}" % b",".join(map(_element, values))


def _element(value: object) -> bytes:
    text = as_text(value)
    if text is None:
        return b"NULL"
    if isinstance(value, str | bytes):
        return b'"%s"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return text


# By their exact type: a turn has thirty parameters, and a chain of `isinstance` is most of their time.
_TEXT: dict[type, Callable[[Any], bytes]] = {
    str: _string,
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"%d" % value,
    float: lambda value: repr(value).encode(),
    UUID: lambda value: str(value).encode(),
    date: lambda value: value.isoformat().encode(),
    datetime: lambda value: value.isoformat().encode(),
    bytes: lambda value: b"\\x" + value.hex().encode(),
    list: _array,
}

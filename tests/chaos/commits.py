"""Which answers of Postgres tell that something was committed: the wire protocol, read in passing; pure.

Only framing is read: a message is a type, a length and a body, and the first one of a client has no type. A client's
batch ends with Sync or is one Query, and the server ends its answer to each with ReadyForQuery, in their order.
"""

import re
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

_LENGTH = struct.Struct("!I")
# Statements whose answer, outside of a transaction block, says that rows are on the disk.
_WRITES = re.compile(
    rb"\b(?:insert\s+into|delete\s+from|update\s+[\w.\"]+(?:\s+(?:as\s+)?\w+)?\s+set|commit)\b", re.IGNORECASE
)
_IDLE = b"I"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Some bytes of a server, up to the end of a message."""

    data: bytes
    ends_batch: bool = False
    committed: bytes = b""
    """The statement that this batch has committed, if it has."""


@dataclass(kw_only=True, slots=True)
class CommitWatch:
    """Follows one connection."""

    _out: bytearray = field(default_factory=bytearray)
    _back: bytearray = field(default_factory=bytearray)
    _started: bool = False
    _prepared: dict[bytes, bytes] = field(default_factory=dict)
    """Name of a prepared statement → its text."""
    _batch: bytes = b""
    """The writing statement of the batch that the client has not ended yet."""
    _awaited: deque[bytes] = field(default_factory=deque)
    """The same of the batches that the server has not answered yet."""
    _failed: bool = False

    def client_said(self, data: bytes) -> None:
        """Take note of what goes to the server."""
        self._out += data
        if not self._started:
            if len(self._out) < 4 or len(self._out) < (length := _LENGTH.unpack_from(self._out)[0]):
                return
            del self._out[:length]
            self._started = True
            # The answer to the start-up ends with ReadyForQuery too.
            self._awaited.append(b"")
        for kind, body in _messages(self._out):
            self._note(kind, body)

    def server_said(self, data: bytes) -> Iterator[Answer]:
        """What came back, cut where its messages end; the beginning of a message waits for its rest."""
        self._back += data
        for kind, body in _messages(self._back):
            whole = kind + _LENGTH.pack(len(body) + 4) + body
            if kind == b"E":
                self._failed = True
            if kind != b"Z":
                yield Answer(data=whole)
                continue
            statement = self._awaited.popleft() if self._awaited else b""
            committed = statement if body == _IDLE and not self._failed else b""
            self._failed = False
            yield Answer(data=whole, ends_batch=True, committed=committed)

    @property
    def writes(self) -> bool:
        """Whether the batch that is answered now writes."""
        return bool(self._awaited and self._awaited[0])

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            self._prepared[name] = text
        elif kind == b"B":
            text = self._prepared.get(body.split(b"\0", 2)[1], b"")
            self._batch = text if _WRITES.search(text) else self._batch
        elif kind == b"Q":
            self._awaited.append(body.rstrip(b"\0") if _WRITES.search(body) else b"")
        elif kind == b"S":
            self._awaited.append(self._batch)
            self._batch = b""


def _messages(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the complete messages out of the buffer."""
    start = 0
    while len(buffer) >= start + 5:
        end = start + 1 + _LENGTH.unpack_from(buffer, start + 1)[0]
        if len(buffer) < end:
            break
        yield bytes(buffer[start : start + 1]), bytes(buffer[start + 5 : end])
        start = end
    del buffer[:start]

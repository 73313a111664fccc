"""Gathers what several threads hand in within a short window, so that one request to a server takes it all.

Whoever comes first waits for the window, sends for all, and everybody gets what became of it. Nothing is kept: a
process that dies takes what it had gathered with it, and each call is found open in its own step's journal.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Entry = TypeVar("Entry")
Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Group(Generic[Entry]):
    entries: list[Entry] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    result: str = ""
    error: BaseException | None = None


class Gathering(Generic[Key, Entry]):
    """One group of entries for each key that is open; safe to use from many threads."""

    def __init__(self, send: Callable[[Key, Sequence[Entry]], str], *, window_seconds: float, most: int) -> None:
        """`send`: hands in the entries of one key; `most`: so many are sent without waiting for the window's end."""
        self._send = send
        self._window_seconds = window_seconds
        self._most = most
        self._open: dict[Key, _Group[Entry]] = {}
        self._lock = threading.Lock()

    def add(self, key: Key, entry: Entry, *, alone_after: Callable[[BaseException], bool]) -> str:
        """Hand the entry in with those of others and give what `send` gave; raises what it raised.

        After an error of several entries that may be about one of them (`alone_after`) each is sent alone.
        """
        with self._lock:
            group = self._open.get(key)
            is_first = group is None
            if group is None:
                group = self._open[key] = _Group()
            group.entries.append(entry)
            if len(group.entries) >= self._most:
                self._close(key, group)
        if is_first:
            self._lead(key, group)
        else:
            group.done.wait()
        if group.error is not None:
            if len(group.entries) > 1 and alone_after(group.error):
                return self._send(key, [entry])
            raise group.error
        return group.result

    def _lead(self, key: Key, group: _Group[Entry]) -> None:
        try:
            group.full.wait(self._window_seconds)
            with self._lock:
                self._close(key, group)
            group.result = self._send(key, tuple(group.entries))
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            group.error = error
        finally:
            group.done.set()

    def _close(self, key: Key, group: _Group[Entry]) -> None:
        """Nobody joins any more; the caller holds the lock."""
        if self._open.get(key) is group:
            del self._open[key]
        group.full.set()

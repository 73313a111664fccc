"""Gathering: who comes within the window, or fills the group, is sent for once; errors reach everybody they concern."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from chargehand.workers.models.gathering import Gathering

# Longer than any machine takes: where a group is full, nobody waits for it.
LONG_SECONDS = 300.0


class Refused(Exception):
    """What a server says of a request."""


class Server:
    """Takes what is sent; refuses whatever holds "bad"."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.error = error

    def send(self, key: str, entries: Sequence[str]) -> str:
        self.sent.append((key, tuple(sorted(entries))))
        if self.error is not None:
            raise self.error
        if "bad" in entries:
            raise Refused("bad")
        return f"{key}-{len(self.sent)}"


def is_refused(error: BaseException) -> bool:
    return isinstance(error, Refused)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_entries_that_come_together_are_sent_once_and_all_get_the_same(threads: ThreadPoolExecutor) -> None:
    server = Server()
    gathering = Gathering(server.send, window_seconds=LONG_SECONDS, most=8)
    got = list(threads.map(lambda number: gathering.add("s", str(number), alone_after=is_refused), range(8)))
    assert server.sent == [("s", tuple("01234567"))]
    assert got == ["s-1"] * 8


def test_one_that_nobody_joins_is_sent_when_its_window_ends() -> None:
    server = Server()
    gathering = Gathering(server.send, window_seconds=0.01, most=8)
    assert [gathering.add("s", one, alone_after=is_refused) for one in "ab"] == ["s-1", "s-2"]
    assert server.sent == [("s", ("a",)), ("s", ("b",))]


def test_entries_of_different_servers_are_never_together(threads: ThreadPoolExecutor) -> None:
    server = Server()
    gathering = Gathering(server.send, window_seconds=LONG_SECONDS, most=4)
    list(threads.map(lambda number: gathering.add("st"[number % 2], str(number), alone_after=is_refused), range(8)))
    assert sorted(server.sent) == [("s", ("0", "2", "4", "6")), ("t", ("1", "3", "5", "7"))]


def test_one_that_is_refused_spoils_nothing_for_the_others(threads: ThreadPoolExecutor) -> None:
    server = Server()
    gathering = Gathering(server.send, window_seconds=LONG_SECONDS, most=3)
    asked = [threads.submit(gathering.add, "s", one, alone_after=is_refused) for one in ("a", "bad", "c")]
    assert isinstance(asked[1].exception(), Refused)
    assert all(asked[place].result().startswith("s-") for place in (0, 2))
    assert sorted(entries for _, entries in server.sent[1:]) == [("a",), ("bad",), ("c",)]


def test_what_may_have_been_sent_is_not_sent_again(threads: ThreadPoolExecutor) -> None:
    server = Server(ConnectionError("cut off"))
    gathering = Gathering(server.send, window_seconds=LONG_SECONDS, most=3)
    asked = [threads.submit(gathering.add, "s", one, alone_after=is_refused) for one in "abc"]
    assert [type(one.exception()) for one in asked] == [ConnectionError] * 3
    assert len(server.sent) == 1

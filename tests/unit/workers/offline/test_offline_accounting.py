"""Tokens and the prompt cache of the offline server."""

from typing import Any

import pytest

from chargehand.workers.offline.accounting import LOOK_BACK_BLOCKS, TTL_SECONDS, Counted, PromptCache

LONG = "word " * 1_200
MARK = {"cache_control": {"type": "ephemeral"}}


class Clock:
    """Time that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def request(*texts: str, marked: tuple[int, ...] = (), model: str = "m") -> dict[str, Any]:
    """A request of text blocks, with breakpoints at the marked ones."""
    blocks = [{"type": "text", "text": text, **(MARK if index in marked else {})} for index, text in enumerate(texts)]
    return {"model": model, "messages": [{"role": "user", "content": blocks}]}


def test_without_a_breakpoint_nothing_is_cached() -> None:
    cache = PromptCache()

    assert cache.count(request(LONG)).fresh > 1_000
    assert cache.count(request(LONG)).read == 0


def test_second_request_reads_what_the_first_wrote() -> None:
    cache = PromptCache()

    first = cache.count(request(LONG, "a", marked=(0,)))
    second = cache.count(request(LONG, "other", marked=(0,)))

    assert first.written == second.read > 0
    assert (first.read, second.written) == (0, 0)
    assert first.total == sum((first.fresh, first.written))


def test_moving_breakpoint_reads_the_prefix_and_writes_the_rest() -> None:
    cache = PromptCache()
    first = cache.count(request(LONG, marked=(0,)))

    second = cache.count(request(LONG, "more", marked=(1,)))

    assert second.read == first.written
    assert second.written > 0
    assert second.fresh == 0


def test_prefix_that_differs_is_not_read() -> None:
    cache = PromptCache()
    cache.count(request(LONG, marked=(0,)))

    assert cache.count(request("x" + LONG, marked=(0,))).read == 0
    assert cache.count(request(LONG, marked=(0,), model="other")).read == 0


@pytest.mark.parametrize(("added", "hit"), [(LOOK_BACK_BLOCKS - 1, True), (LOOK_BACK_BLOCKS, False)])
def test_look_back_ends_after_twenty_blocks(added: int, hit: bool) -> None:
    cache = PromptCache()
    cache.count(request(LONG, marked=(0,)))

    counted = cache.count(request(LONG, *[f"b{index}" for index in range(added)], marked=(added,)))

    assert (counted.read > 0) is hit


def test_entry_is_forgotten_after_its_time_and_kept_by_use() -> None:
    clock = Clock()
    cache = PromptCache(clock=clock)
    cache.count(request(LONG, marked=(0,)))

    clock.now += TTL_SECONDS - 1
    assert cache.count(request(LONG, marked=(0,))).read > 0
    clock.now += TTL_SECONDS - 1
    assert cache.count(request(LONG, marked=(0,))).read > 0
    clock.now += TTL_SECONDS + 1
    assert cache.count(request(LONG, marked=(0,))).read == 0


def test_short_prefix_is_not_cached() -> None:
    cache = PromptCache()

    assert [cache.count(request("short", marked=(0,))) for _ in range(2)] == [Counted(fresh=8, written=0, read=0)] * 2


def test_tools_and_system_come_before_messages() -> None:
    cache = PromptCache()
    tools = [{"name": "t", "input_schema": {"type": "object", "description": LONG}}]
    system = [{"type": "text", "text": "s", **MARK}]
    first = cache.count({**request("a"), "tools": tools, "system": system})

    second = cache.count({**request("b"), "tools": tools, "system": system})

    assert second.read == first.written > 1_000


def test_automatic_breakpoint_stands_at_the_end() -> None:
    cache = PromptCache()
    cache.count({**request(LONG, "a"), **MARK})

    assert cache.count({**request(LONG, "a"), **MARK}).fresh == 0

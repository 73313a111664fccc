"""Episodic memory on a real Valkey, and on a Redis 7 where there is one: order, trimming, lives, summaries, tears."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from chargehand.memory.episodic import (
    Appended,
    Entry,
    PrefixChanged,
    append,
    compact,
    newest_within,
    read,
    rebuild,
    window,
)
from chargehand.memory.keyspace import Keyspace, connect

KEYS = Keyspace("test")
CHAT = "c1"


# The scripts have to run on both. A Redis of Debian or of a container: TEST_REDIS_SERVER names its binary.
REDIS = os.environ.get("TEST_REDIS_SERVER") or shutil.which("redis-server")


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[str]:
    """The socket of a real Redis."""
    if REDIS is None:
        pytest.skip("no redis-server here: shown on Valkey only; TEST_REDIS_SERVER names a binary")
    folder = Path(tempfile.mkdtemp(prefix="ch-redis-", dir="/tmp"))
    options = ["--port", "0", "--unixsocket", f"{folder}/socket", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([REDIS, *options], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 10
            while not (folder / "socket").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield f"unix://{folder}/socket"
        finally:
            server.kill()
            shutil.rmtree(folder)


@pytest.fixture(params=["valkey", "redis"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    url = request.getfixturevalue("redis_url" if request.param == "valkey" else "redis_socket")
    client = connect(url, connect_timeout_seconds=1)
    client.flushall()
    assert ("valkey_version" in client.info("server")) == (request.param == "valkey")
    yield client
    client.close()


def entry(seq: int, previous_seq: int, tokens: int = 10) -> Entry:
    return Entry(seq=seq, previous_seq=previous_seq, tokens=tokens, body={"role": "user", "content": f"message {seq}"})


CHAIN = (entry(2, 0), entry(5, 2), entry(6, 5), entry(9, 6))


def append_all(client: redis.Redis, entries: tuple[Entry, ...] = CHAIN, max_tokens: int = 1000) -> None:
    for message in entries:
        assert append(client, KEYS, CHAT, message, max_tokens=max_tokens).stored


def test_messages_come_back_in_the_order_of_the_journal(client: redis.Redis) -> None:
    append_all(client)
    conversation = read(client, KEYS, CHAT, newest_seq=9)
    assert conversation.entries == CHAIN
    assert conversation.whole


def test_the_same_message_twice_is_kept_once(client: redis.Redis) -> None:
    append_all(client)
    assert append(client, KEYS, CHAT, CHAIN[-1], max_tokens=1000) == Appended(stored=True, newest_seq=9)
    assert read(client, KEYS, CHAT, newest_seq=9).entries == CHAIN


def test_a_message_after_a_gap_is_refused_and_shows_the_gap(client: redis.Redis) -> None:
    append_all(client, CHAIN[:2])
    assert append(client, KEYS, CHAT, CHAIN[3], max_tokens=1000) == Appended(stored=False, newest_seq=5)
    assert not read(client, KEYS, CHAT, newest_seq=9).whole


def test_the_oldest_messages_make_room_and_the_rest_is_whole(client: redis.Redis) -> None:
    append_all(client, max_tokens=25)
    conversation = read(client, KEYS, CHAT, newest_seq=9)
    assert [message.seq for message in conversation.entries] == [6, 9]
    assert conversation.whole


def test_the_newest_message_stays_however_long_it_is(client: redis.Redis) -> None:
    append_all(client, (entry(1, 0), entry(2, 1, tokens=500)), max_tokens=25)
    assert [message.seq for message in read(client, KEYS, CHAT, newest_seq=2).entries] == [2]


def test_every_append_refreshes_the_time_to_live(client: redis.Redis) -> None:
    append_all(client, CHAIN[:1])
    client.expire(KEYS.conversation(CHAT), 5)
    append(client, KEYS, CHAT, CHAIN[1], max_tokens=1000, ttl_seconds=600)
    assert 590 < client.ttl(KEYS.conversation(CHAT)) <= 600


def test_an_expired_conversation_refuses_what_follows_until_it_is_rebuilt(client: redis.Redis) -> None:
    append_all(client, CHAIN[:3])
    client.delete(KEYS.conversation(CHAT))
    assert append(client, KEYS, CHAT, CHAIN[3], max_tokens=1000) == Appended(stored=False, newest_seq=0)
    assert client.exists(KEYS.conversation(CHAT)) == 0
    assert not read(client, KEYS, CHAT, newest_seq=6).whole

    rebuild(client, KEYS, CHAT, CHAIN[:3], max_tokens=1000)

    assert append(client, KEYS, CHAT, CHAIN[3], max_tokens=1000).stored
    assert read(client, KEYS, CHAT, newest_seq=9).entries == CHAIN


def test_a_hole_in_the_middle_shows(client: redis.Redis) -> None:
    append_all(client)
    client.xdel(KEYS.conversation(CHAT), "5-0")
    assert not read(client, KEYS, CHAT, newest_seq=9).whole


def test_a_foreign_entry_shows(client: redis.Redis) -> None:
    client.xadd(KEYS.conversation(CHAT), {"body": "not json"}, id="3-0")
    assert not read(client, KEYS, CHAT, newest_seq=0).whole


def test_a_conversation_nobody_began_is_whole_and_empty(client: redis.Redis) -> None:
    conversation = read(client, KEYS, CHAT, newest_seq=0)
    assert conversation.whole
    assert conversation.entries == ()


def test_a_rebuilt_conversation_keeps_the_newest_that_fit_and_goes_on(client: redis.Redis) -> None:
    append_all(client, CHAIN[:1])
    rebuild(client, KEYS, CHAT, CHAIN, max_tokens=25)
    assert [message.seq for message in read(client, KEYS, CHAT, newest_seq=9).entries] == [6, 9]
    assert client.ttl(KEYS.conversation(CHAT)) > 0
    assert append(client, KEYS, CHAT, entry(12, 9), max_tokens=25).stored
    assert [message.seq for message in read(client, KEYS, CHAT, newest_seq=12).entries] == [9, 12]


def test_entries_that_do_not_follow_each_other_are_refused(client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="but 2 is"):
        rebuild(client, KEYS, CHAT, (CHAIN[0], CHAIN[2]), max_tokens=1000)
    with pytest.raises(ValueError, match="smaller number"):
        append(client, KEYS, CHAT, entry(3, 3), max_tokens=1000)


def call(seq: int, previous_seq: int, tokens: int = 10) -> Entry:
    return entry(seq, previous_seq, tokens)


def result(seq: int, previous_seq: int, tokens: int = 10) -> Entry:
    return replace(entry(seq, previous_seq, tokens), belongs_to_previous=True)


# Two questions with a call and two results each, and a last message.
CALLS = (call(1, 0), result(2, 1), result(3, 2), call(4, 3), result(5, 4), result(6, 5), entry(7, 6))


@pytest.mark.parametrize("most", range(5, 75, 10))
def test_trimming_never_parts_a_call_from_its_result(client: redis.Redis, most: int) -> None:
    append_all(client, CALLS, max_tokens=most)
    kept = read(client, KEYS, CHAT, newest_seq=7)
    assert kept.whole
    assert kept.entries == newest_within(CALLS, max_tokens=most)
    assert not kept.entries[0].belongs_to_previous
    rebuild(client, KEYS, CHAT, CALLS, max_tokens=most)
    assert read(client, KEYS, CHAT, newest_seq=7) == kept


@pytest.mark.parametrize("most", range(5, 75, 10))
def test_a_window_is_the_newest_that_fit_and_parts_nothing(client: redis.Redis, most: int) -> None:
    append_all(client, CALLS)
    shown = window(client, KEYS, CHAT, newest_seq=7, max_tokens=most)
    assert shown.whole
    assert shown.entries == newest_within(CALLS, max_tokens=most)
    assert shown.tokens <= most or len(shown.entries) == 1
    assert read(client, KEYS, CHAT, newest_seq=7).entries == CALLS


def test_a_long_conversation_is_read_from_its_end(client: redis.Redis) -> None:
    chain = tuple(entry(seq, seq - 1) for seq in range(1, 201))
    rebuild(client, KEYS, CHAT, chain, max_tokens=10_000)
    assert window(client, KEYS, CHAT, newest_seq=200, max_tokens=1_005).entries == chain[100:]


def test_numbers_as_large_as_microseconds_since_1970_stay_exact(client: redis.Redis) -> None:
    first, second = entry(1_764_126_000_123_457, 0), entry(1_764_126_000_123_458, 1_764_126_000_123_457)
    append_all(client, (first, second))
    assert read(client, KEYS, CHAT, newest_seq=second.seq).entries == (first, second)


def test_a_summary_takes_the_place_of_what_it_stands_for(client: redis.Redis) -> None:
    append_all(client, CALLS, max_tokens=1000)
    client.expire(KEYS.conversation(CHAT), 100)
    compact(client, KEYS, CHAT, prefix=CALLS[:3], summary="asked twice", tokens=4)
    held = read(client, KEYS, CHAT, newest_seq=7)
    assert held.whole
    assert held.entries[0] == Entry(seq=3, previous_seq=0, tokens=4, body="asked twice", is_summary=True)
    assert held.entries[1:] == CALLS[3:]
    assert 90 < client.ttl(KEYS.conversation(CHAT)) <= 100
    # It counts for what it has, not for what it stands for.
    append_all(client, (entry(9, 7),), max_tokens=54)
    assert read(client, KEYS, CHAT, newest_seq=9).entries[0].is_summary
    append_all(client, (entry(10, 9),), max_tokens=54)
    assert not read(client, KEYS, CHAT, newest_seq=10).entries[0].is_summary


def test_a_summary_of_what_somebody_changed_meanwhile_is_refused(client: redis.Redis) -> None:
    append_all(client, CALLS)
    seen = read(client, KEYS, CHAT, newest_seq=7).entries
    append_all(client, (entry(8, 7),))  # what comes behind does not matter
    compact(client, KEYS, CHAT, prefix=seen[:3], summary="mine", tokens=4)
    with pytest.raises(PrefixChanged):
        compact(client, KEYS, CHAT, prefix=seen[:6], summary="late", tokens=4)
    client.delete(KEYS.conversation(CHAT))
    with pytest.raises(PrefixChanged):
        compact(client, KEYS, CHAT, prefix=seen[:3], summary="of nothing", tokens=4)
    rebuild(client, KEYS, CHAT, CALLS[3:], max_tokens=1000)
    with pytest.raises(PrefixChanged):
        compact(client, KEYS, CHAT, prefix=seen[:3], summary="of what was trimmed", tokens=4)


def test_a_summary_never_parts_a_call_from_its_result(client: redis.Redis) -> None:
    append_all(client, CALLS)
    with pytest.raises(ValueError, match="belong together"):
        compact(client, KEYS, CHAT, prefix=CALLS[:2], summary="half", tokens=4)
    assert read(client, KEYS, CHAT, newest_seq=7).entries == CALLS


def test_a_conversation_does_not_outlive_its_cap_however_often_it_is_continued(client: redis.Redis) -> None:
    key = KEYS.conversation(CHAT)
    append(client, KEYS, CHAT, CHAIN[0], max_tokens=1000, ttl_seconds=600, life_seconds=100)
    assert 95 < client.ttl(key) <= 100
    # As if it had been begun 90 s ago.
    ((_, fields),) = client.xrange(key)
    client.delete(key)
    client.xadd(key, {**fields, "born": int(fields["born"]) - 90}, id="2-0")
    append(client, KEYS, CHAT, CHAIN[1], max_tokens=1000, ttl_seconds=600, life_seconds=100)
    assert 5 < client.ttl(key) <= 10
    append(client, KEYS, CHAT, CHAIN[2], max_tokens=1000, ttl_seconds=600, life_seconds=100)
    assert 5 < client.ttl(key) <= 10
    compact(client, KEYS, CHAT, prefix=CHAIN[:2], summary="two", tokens=4)
    append(client, KEYS, CHAT, CHAIN[3], max_tokens=1000, ttl_seconds=600, life_seconds=100)
    assert 5 < client.ttl(key) <= 10


def test_a_server_that_lost_its_scripts_is_given_them(client: redis.Redis) -> None:
    append_all(client, CHAIN[:1])
    client.script_flush()
    append_all(client, CHAIN[1:])
    assert read(client, KEYS, CHAT, newest_seq=9).entries == CHAIN

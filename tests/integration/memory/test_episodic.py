"""Episodic memory on a real Valkey: order, trimming, time to live, and what shows when a stream is torn."""

from collections.abc import Iterator

import pytest
import redis

from chargehand.memory.episodic import Appended, Entry, append, read, rebuild
from chargehand.memory.keyspace import Keyspace, connect

KEYS = Keyspace("test")
CHAT = "c1"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = connect(redis_url, connect_timeout_seconds=1)
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

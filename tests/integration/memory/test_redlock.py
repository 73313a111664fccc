"""Redlock over several nodes: five databases of one Valkey stand for five servers, a closed port for a dead one."""

from collections.abc import Iterator
from threading import Barrier, Thread

import pytest
import redis

from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import Lock, LockBusy, Redlock

KEYS = Keyspace("test")
DEAD = "redis://127.0.0.1:1/0"


def node(url: str) -> redis.Redis:
    return connect(url, connect_timeout_seconds=0.5, socket_timeout_seconds=0.5, retries=0)


@pytest.fixture
def nodes(redis_url: str) -> Iterator[list[redis.Redis]]:
    joint = "&" if "?" in redis_url else "?"
    clients = [node(f"{redis_url}{joint}db={number}") for number in range(5)]
    yield clients
    for client in clients:
        client.close()


def test_every_node_holds_the_lock_and_frees_it(nodes: list[redis.Redis]) -> None:
    redlock = Redlock(nodes, KEYS)
    lock = redlock.acquire("plan")
    assert [client.get(KEYS.lock("plan")) for client in nodes] == [lock.token] * 5
    assert 9 < lock.remaining_seconds() < 10
    redlock.release(lock)
    assert [client.exists(KEYS.lock("plan")) for client in nodes] == [0] * 5


def test_three_of_five_nodes_are_enough(nodes: list[redis.Redis]) -> None:
    redlock = Redlock([*nodes[:3], node(DEAD), node(DEAD)], KEYS)
    lock = redlock.acquire("plan")
    with pytest.raises(LockBusy, match="'plan' is held"):
        redlock.acquire("plan")
    redlock.release(lock)
    redlock.release(redlock.acquire("plan"))


def test_two_of_five_nodes_are_not_and_take_their_votes_back(nodes: list[redis.Redis]) -> None:
    redlock = Redlock([*nodes[:2], node(DEAD), node(DEAD), node(DEAD)], KEYS)
    with pytest.raises(LockBusy):
        redlock.acquire("plan")
    assert [client.exists(KEYS.lock("plan")) for client in nodes] == [0] * 5


def test_of_many_that_try_at_once_one_holds_it(nodes: list[redis.Redis]) -> None:
    barrier, held = Barrier(8), list[Lock]()

    def attempt() -> None:
        barrier.wait(timeout=10)
        try:
            held.append(Redlock(nodes, KEYS).acquire("plan"))
        except LockBusy:
            return

    threads = [Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(held) <= 1  # a split vote leaves none, never two


def test_connections_are_given_back(nodes: list[redis.Redis]) -> None:
    redlock = Redlock(nodes, KEYS)
    for _ in range(50):
        redlock.release(redlock.acquire("plan"))
    assert all(len(client.connection_pool._available_connections) == 1 for client in nodes)


def test_an_expired_lock_is_not_freed_by_its_old_holder(nodes: list[redis.Redis]) -> None:
    redlock = Redlock(nodes, KEYS, ttl_seconds=0.2)
    old = redlock.acquire("plan")
    new = redlock.acquire("plan", wait_seconds=5)
    redlock.release(old)
    with pytest.raises(LockBusy):
        redlock.acquire("plan")
    assert redlock.extend(new).valid_until > new.valid_until
    with pytest.raises(LockBusy, match="was lost"):
        redlock.extend(old)


def test_no_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        Redlock([], KEYS)

"""Shared state: B never acts on a view that A has replaced."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.shared_state import StaleState, lease, read, require_fresh, update_value, write_value

OpenSession = Callable[[], AbstractContextManager[Session]]


@pytest.fixture
def redlock(redis_url: str) -> Iterator[Redlock]:
    client = connect(redis_url, connect_timeout_seconds=1, socket_timeout_seconds=1, retries=0)
    yield Redlock([client], Keyspace("test"), ttl_seconds=0.3)
    client.close()


def increment(value: JsonValue) -> JsonValue:
    return (value if isinstance(value, int) else 0) + 1


def test_an_unwritten_value_is_none_at_version_0(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        seen = read(session, tenant=tenant, scope="run", key="plan")
    assert (seen.value, seen.version) == (None, 0)


def test_two_threads_that_count_lose_no_step(open_session: OpenSession, tenant: UUID) -> None:
    def count() -> None:
        for _ in range(40):
            with open_session() as session:
                update_value(session, tenant=tenant, scope="run", key="n", change=increment)

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    with open_session() as session:
        seen = read(session, tenant=tenant, scope="run", key="n")
    assert (seen.value, seen.version) == (80, 80)


def test_what_was_replaced_meanwhile_cannot_be_written_over(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        view_of_b = read(session, tenant=tenant, scope="run", key="plan")
        update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "A's plan")

    with pytest.raises(StaleState, match="version 0"), open_session() as session:
        write_value(session, tenant=tenant, scope="run", seen=view_of_b, value="B's plan")

    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="plan").value == "A's plan"


def test_acting_on_a_replaced_view_is_refused_with_everything_in_its_transaction(
    open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        seen = update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "one")
        update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "two")

    def act() -> None:
        with open_session() as session:
            update_value(session, tenant=tenant, scope="run", key="effect", change=lambda _: "done")
            require_fresh(session, tenant=tenant, scope="run", versions={"plan": seen.version, "unwritten": 0})

    with pytest.raises(StaleState, match="'plan'"):
        act()

    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="effect").version == 0


def test_a_view_that_is_acted_on_cannot_be_replaced_before_the_commit(
    engine: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        seen = update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "one")
    order: list[str] = []
    replacing = threading.Event()

    def replace() -> None:
        with open_session() as session:
            replacing.set()
            update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "two")
        order.append("replaced")

    with tenant_session(engine, tenant) as session:
        require_fresh(session, tenant=tenant, scope="run", versions={"plan": seen.version})
        other = threading.Thread(target=replace)
        other.start()
        assert replacing.wait(timeout=10)
        other.join(timeout=0.3)  # long enough to have replaced it if nothing held it
        order.append("acted")
    other.join(timeout=10)

    assert order == ["acted", "replaced"]


def test_a_lease_commits_over_what_it_saw(open_session: OpenSession, redlock: Redlock, tenant: UUID) -> None:
    with lease(open_session, redlock, tenant=tenant, scope="run", key="plan") as held, open_session() as session:
        written = held.commit(session, {"steps": 3})

    assert written.version == 1
    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="plan").value == {"steps": 3}


def test_a_second_lease_waits_for_the_first(open_session: OpenSession, redlock: Redlock, tenant: UUID) -> None:
    with lease(open_session, redlock, tenant=tenant, scope="run", key="plan"):
        with pytest.raises(LockBusy), lease(open_session, redlock, tenant=tenant, scope="run", key="plan"):
            pytest.fail("two hold the lease")
        with lease(open_session, redlock, tenant=tenant, scope="run", key="other") as other:
            assert other.fence == 1
    with lease(open_session, redlock, tenant=tenant, scope="run", key="plan") as held:
        assert held.fence == 2


def test_a_holder_that_was_stopped_too_long_is_refused_by_its_fence(
    open_session: OpenSession, redlock: Redlock, tenant: UUID
) -> None:
    # The lock's time runs out while the first holder stands still, and another takes it without writing yet.
    with (
        lease(open_session, redlock, tenant=tenant, scope="run", key="plan") as stopped,
        lease(open_session, redlock, tenant=tenant, scope="run", key="plan", wait_seconds=5) as successor,
    ):
        assert stopped.lock.remaining_seconds() < 0
        with pytest.raises(StaleState, match="fence 1"), open_session() as session:
            stopped.commit(session, "late")
        with open_session() as session:
            successor.commit(session, "timely")

    with open_session() as session:
        seen = read(session, tenant=tenant, scope="run", key="plan")
    assert (seen.value, seen.version) == ("timely", 1)


def test_an_update_without_a_lease_makes_the_holder_stale(
    open_session: OpenSession, redlock: Redlock, tenant: UUID
) -> None:
    with lease(open_session, redlock, tenant=tenant, scope="run", key="plan") as held:
        with open_session() as session:
            update_value(session, tenant=tenant, scope="run", key="plan", change=lambda _: "A")
        with pytest.raises(StaleState), open_session() as session:
            held.commit(session, "B")


def test_the_guard_of_a_lost_step_stops_the_write(open_session: OpenSession, tenant: UUID) -> None:
    def refuse(session: Session) -> None:
        raise PermissionError("lease lost")

    with pytest.raises(PermissionError), open_session() as session:
        update_value(session, tenant=tenant, scope="run", key="n", change=increment, guard=refuse)


def test_another_tenant_sees_nothing(engine: Engine, open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        update_value(session, tenant=tenant, scope="run", key="n", change=increment)
    with tenant_session(engine, uuid4()) as session:
        assert read(session, tenant=tenant, scope="run", key="n").version == 0

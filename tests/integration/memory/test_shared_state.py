"""Shared state: B never acts on a view that A has replaced."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.shared_state import (
    Replaced,
    StaleState,
    commit_on_view,
    lease,
    read,
    require_fresh,
    transact,
    update,
)
from chargehand.memory.state_changes import NOBODY, Author, Listener, changes

OpenSession = Callable[[], AbstractContextManager[Session]]


@pytest.fixture
def redlock(redis_url: str) -> Iterator[Redlock]:
    client = connect(redis_url, connect_timeout_seconds=1, socket_timeout_seconds=1, retries=0)
    yield Redlock([client], Keyspace("test"), ttl_seconds=60.0)
    client.close()


@pytest.fixture
def short_redlock(redis_url: str) -> Iterator[Redlock]:
    """Its locks end while a test looks on."""
    client = connect(redis_url, connect_timeout_seconds=1, socket_timeout_seconds=1, retries=0)
    yield Redlock([client], Keyspace("test"), ttl_seconds=0.3)
    client.close()


A = Author(run=uuid4(), step=uuid4(), step_key="a", epoch=3)


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
                update(session, tenant=tenant, scope="run", key="n", change=increment)

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
        update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "A's plan", author=A)

    with pytest.raises(StaleState, match=r"'plan' \(0 → 1\)") as refused, open_session() as session:
        commit_on_view(
            session,
            tenant=tenant,
            scope="run",
            view={"plan": view_of_b.version},
            values={"plan": "B's plan"},
            author=NOBODY,
        )

    assert refused.value.replaced == (Replaced(key="plan", seen_version=0, version=1, by="a"),)

    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="plan").value == "A's plan"


def test_acting_on_a_replaced_view_is_refused_with_everything_in_its_transaction(
    open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        seen = update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "one")
        update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "two")

    def act() -> None:
        with open_session() as session:
            update(session, tenant=tenant, scope="run", key="effect", change=lambda _: "done")
            require_fresh(session, tenant=tenant, scope="run", versions={"plan": seen.version, "unwritten": 0})

    with pytest.raises(StaleState, match="'plan'"):
        act()

    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="effect").version == 0


def test_a_view_that_is_acted_on_cannot_be_replaced_before_the_commit(
    engine: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        seen = update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "one")
    order: list[str] = []
    replacing = threading.Event()

    def replace() -> None:
        with open_session() as session:
            replacing.set()
            update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "two")
        order.append("replaced")

    with tenant_session(engine, tenant) as session:
        require_fresh(session, tenant=tenant, scope="run", versions={"plan": seen.version})
        other = threading.Thread(target=replace)
        other.start()
        assert replacing.wait(timeout=60)
        other.join(timeout=0.3)  # long enough to have replaced it if nothing held it
        order.append("acted")
    other.join(timeout=60)

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
    open_session: OpenSession, redlock: Redlock, short_redlock: Redlock, tenant: UUID
) -> None:
    # The lock's time runs out while the first holder stands still, and another takes it without writing yet.
    with (
        lease(open_session, short_redlock, tenant=tenant, scope="run", key="plan") as stopped,
        lease(open_session, redlock, tenant=tenant, scope="run", key="plan", wait_seconds=30) as successor,
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
            update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "A")
        with pytest.raises(StaleState), open_session() as session:
            held.commit(session, "B")


def test_the_guard_of_a_lost_step_stops_the_write(open_session: OpenSession, tenant: UUID) -> None:
    def refuse(session: Session) -> None:
        raise PermissionError("lease lost")

    with pytest.raises(PermissionError), open_session() as session:
        update(session, tenant=tenant, scope="run", key="n", change=increment, guard=refuse)


def test_another_tenant_sees_nothing(engine: Engine, open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        update(session, tenant=tenant, scope="run", key="n", change=increment)
    with tenant_session(engine, uuid4()) as session:
        assert read(session, tenant=tenant, scope="run", key="n").version == 0


def test_several_values_are_replaced_together_or_not_at_all(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        update(session, tenant=tenant, scope="run", key="ann", change=lambda _: 10)

    def move(values: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        ann, bob = values["ann"], values["bob"] or 0
        assert isinstance(ann, int)
        assert isinstance(bob, int)
        return {"ann": ann - 3, "bob": bob + 3}

    with open_session() as session:
        moved = transact(session, tenant=tenant, scope="run", keys=["bob", "ann", "eve"], change=move)
    assert {key: (one.value, one.version) for key, one in moved.items()} == {
        "bob": (3, 1),
        "ann": (7, 2),
        "eve": (None, 0),
    }
    with pytest.raises(ValueError, match="'carl' was not asked for"), open_session() as session:
        transact(session, tenant=tenant, scope="run", keys=["ann"], change=lambda _: {"carl": 1})


def test_transactions_that_cross_each_other_lose_nothing_and_never_deadlock(
    open_session: OpenSession, tenant: UUID
) -> None:
    def count(keys: list[str]) -> None:
        for _ in range(30):
            with open_session() as session:
                transact(
                    session,
                    tenant=tenant,
                    scope="run",
                    keys=keys,
                    change=lambda values: {key: increment(value) for key, value in values.items()},
                )

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(count, (["a", "b", "c"], ["c", "b", "a"], ["b", "d"])))

    with open_session() as session:
        assert [read(session, tenant=tenant, scope="run", key=key).value for key in "abcd"] == [60, 90, 60, 30]


def test_a_call_that_is_made_again_writes_once(open_session: OpenSession, tenant: UUID) -> None:
    author = Author(call_key="call 1")

    def write(value: str) -> int:
        with open_session() as session:
            written = commit_on_view(
                session, tenant=tenant, scope="run", view={"plan": 0}, values={"plan": value}, author=author
            )
        return written["plan"].version

    assert write("one") == 1
    with open_session() as session:
        update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "two")
    # Its answer was lost; meanwhile another has replaced the value.
    assert write("one") == 1
    with open_session() as session:
        assert read(session, tenant=tenant, scope="run", key="plan").value == "two"


def test_who_replaced_a_value_is_written_down_in_the_same_commit(
    engine: Engine, open_session: OpenSession, redlock: Redlock, tenant: UUID
) -> None:
    with open_session() as session:
        update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "one", author=A)
    with open_session() as session:
        update(session, tenant=tenant, scope="run", key="plan", change=lambda _: "lost", author=A)
        session.rollback()
    with (
        lease(open_session, redlock, tenant=tenant, scope="run", key="plan", author=A) as held,
        open_session() as session,
    ):
        held.commit(session, "two")

    with open_session() as session:
        first, second = changes(session, tenant=tenant, scope="run", key="plan")
    assert (first.old_version, first.new_version, first.fence) == (0, 1, None)
    assert (second.old_version, second.new_version, second.fence) == (1, 2, 1)
    assert (second.run, second.step, second.step_key, second.epoch) == (A.run, A.step, "a", 3)
    other = uuid4()
    with tenant_session(engine, other) as session:
        assert changes(session, tenant=tenant, scope="run", key="plan") == []
    for forbidden in ("DELETE FROM shared_state_changes", "UPDATE shared_state_changes SET step_key = ''"):
        with pytest.raises(ProgrammingError, match="permission denied"), open_session() as session:
            session.execute(text(forbidden))


def test_who_listens_is_told_by_the_commit_and_by_nothing_else(
    database_url: str, open_session: OpenSession, tenant: UUID
) -> None:
    with Listener(database_url, tenant) as listener, Listener(database_url, uuid4()) as stranger:
        with open_session() as session:
            update(session, tenant=tenant, scope="run", key="plan", change=increment)
            session.rollback()
        with open_session() as session:
            # Anybody may send a notice; it is not believed.
            session.execute(text("SELECT pg_notify(:channel, '1')"), {"channel": f"chargehand_state_{tenant.hex}"})
        assert listener.wait(0.05) == []
        with open_session() as session:
            update(session, tenant=tenant, scope="run", key="plan", change=increment)
        (heard,) = listener.wait(60)
        assert (heard.key, heard.old_version, heard.new_version) == ("plan", 0, 1)
        assert stranger.wait(0.05) == []

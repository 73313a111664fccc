"""The heartbeat: renews what this process holds, learns what it lost, on a connection of its own."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.heartbeat import Heartbeat, new_holder
from chargehand.orchestrator.plan import Step, step_id

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

# A third of it is the beat.
LEASE_SECONDS = 0.15
# Longer than a beat may take and be late.
STANDSTILL_SECONDS = 2.5


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


@pytest.fixture
def heartbeat(house: "House") -> Iterator[Heartbeat]:
    beating = Heartbeat(
        house.database_url, holder=f"test-{uuid4()}", pool="audit", slots=3, lease_seconds=LEASE_SECONDS
    )
    yield beating
    beating.stop()


def lease_is_fresh(house: "House", run_id: UUID, key: str) -> bool:
    """Renewed within the beat's lease, which is far shorter than the claim's."""
    rows = house.execute(
        "SELECT lease_until < clock_timestamp() + interval '1 s' AND lease_until > clock_timestamp() "
        "FROM steps WHERE id = :step",
        {"step": step_id(run_id, key)},
    )
    return bool(rows[0][0])


def renew(house: "House", steps: list[UUID], epochs: list[int]) -> set[UUID]:
    rows = house.connections.rows(
        house.tenant,
        "SELECT renew_leases(%(steps)s::uuid[], %(epochs)s::integer[], 60) AS step",
        {"steps": steps, "epochs": epochs},
    )
    return {row["step"] for row in rows}


def test_leases_of_every_tenant_are_renewed_if_the_epoch_is_theirs(house: "House") -> None:
    other = uuid4()
    mine = house.start(script("a"))
    foreign = house.submit(script("a"), tenant=other)
    house.advance(foreign)
    house.admit()
    held, theirs = house.claim(mine, "a"), house.claim(foreign, "a", tenant=other)
    ids = [held.claim.step_id, theirs.claim.step_id]

    assert renew(house, ids, [1, 1]) == set(ids)
    assert renew(house, ids, [1, 2]) == {ids[0]}
    assert renew(house, ids, [0, 0]) == set()


def test_only_a_running_step_is_renewed(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    held.finish(StepFinished(outcome="succeeded"))
    assert renew(house, [held.claim.step_id], [1]) == set()


def test_a_locked_step_is_not_waited_for_and_not_lost(house: "House") -> None:
    # A client that was frozen in the middle of a pause holds its steps' rows: waiting cost the others their leases.
    run_id = house.start(script("a"), script("b"))
    helds = [house.claim(run_id, key) for key in ("a", "b")]
    ids = [held.claim.step_id for held in helds]
    house.execute("UPDATE steps SET lease_until = clock_timestamp() + interval '1 s' WHERE run = :run", {"run": run_id})
    soon = house.row(run_id, "a").lease_until
    with house.owner.connect() as frozen:
        frozen.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{ids[0]}' FOR NO KEY UPDATE")
        frozen.exec_driver_sql(f"SELECT FROM chargehand.runs WHERE id = '{run_id}' FOR NO KEY UPDATE")
        assert renew(house, ids, [1, 1]) == set(ids), "both are held"
        frozen.rollback()
    assert house.row(run_id, "a").lease_until == soon, "what is locked is not renewed"
    assert house.row(run_id, "b").lease_until > soon


def test_a_process_says_that_its_pool_lives_and_that_it_is_gone(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    heartbeat.start()
    wait_until(lambda: house.execute("SELECT FROM pools WHERE pool = 'audit' AND slots = 3"))
    heartbeat.stop()
    assert house.execute("SELECT FROM pools WHERE pool = 'audit' AND slots = 3") == []


def test_what_is_held_is_renewed_and_what_is_lost_is_reported_once(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"), script("b"))
    helds = {key: house.claim(run_id, key) for key in ("a", "b")}
    lost: list[str] = []
    for key, held in helds.items():
        heartbeat.hold(held.claim.step_id, held.claim.epoch, lambda key=key: lost.append(key))  # type: ignore[misc]
    heartbeat.start()
    wait_until(lambda: lease_is_fresh(house, run_id, "a") and lease_is_fresh(house, run_id, "b"))

    with tenant_session(house.app, house.tenant) as session:
        runs.cancel(session, house.tenant, run_id)

    wait_until(lambda: len(lost) == 2)
    beats = house.execute("SELECT seen_at FROM pools WHERE pool = 'audit'")[0][0]
    wait_until(lambda: house.execute("SELECT seen_at FROM pools WHERE pool = 'audit'")[0][0] > beats)
    assert sorted(lost) == ["a", "b"]


def test_what_was_dropped_is_not_lost(house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil") -> None:
    run_id = house.start(script("a"), script("b"))
    first, second = house.claim(run_id, "a"), house.claim(run_id, "b")
    lost: list[str] = []
    heartbeat.hold(first.claim.step_id, 1, lambda: lost.append("a"))
    heartbeat.hold(second.claim.step_id, 1, lambda: lost.append("b"))
    first.finish(StepFinished(outcome="succeeded"))
    heartbeat.drop(first.claim.step_id, 1)
    heartbeat.start()
    wait_until(lambda: lease_is_fresh(house, run_id, "b"))
    assert lost == []


def test_a_step_that_has_just_ended_is_not_called_lost(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil", caplog: pytest.LogCaptureFixture
) -> None:
    # The executor drops it after its end has committed; a beat in between misses it.
    run_id = house.start(script("a"), script("b"))
    ended, held = house.claim(run_id, "a"), house.claim(run_id, "b")
    looks = 0

    def looked() -> bool:
        return looks > 0

    renew_leases = heartbeat._renew

    def look(connection: psycopg.Connection) -> None:
        nonlocal looks
        renew_leases(connection)
        looks += 1

    heartbeat._renew = look  # type: ignore[method-assign]
    lost: list[str] = []
    for one in (ended, held):
        heartbeat.hold(one.claim.step_id, 1, lambda: lost.append("?"))
    ended.finish(StepFinished(outcome="succeeded"))
    heartbeat.start()
    wait_until(looked)
    heartbeat.drop(ended.claim.step_id, 1)
    beats = looks
    wait_until(lambda: looks > beats + 2)
    assert (lost, [record.message for record in caplog.records if record.message == "lease lost"]) == ([], [])


def test_a_server_that_keeps_silent_is_left_for_a_new_connection(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    lost: list[str] = []
    heartbeat.hold(held.claim.step_id, 1, lambda: lost.append("a"))
    heartbeat.start()
    wait_until(lambda: lease_is_fresh(house, run_id, "a"))
    since = house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0]
    [(backend,)] = house.execute(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%INSERT INTO pools%RETURNING since%' "
        "AND datname = current_database() AND pid <> pg_backend_pid()"
    )

    os.kill(backend, signal.SIGSTOP)
    try:
        # A connection of its own again, and it says so: that is how an outage is told from a lost worker.
        wait_until(lambda: house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0] > since, 30)
        wait_until(lambda: lease_is_fresh(house, run_id, "a"))
    finally:
        os.kill(backend, signal.SIGCONT)
    assert lost == []


def test_a_process_that_stood_still_in_the_middle_of_a_beat_was_not_cut_off_by_anybody_else(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil", caplog: pytest.LogCaptureFixture
) -> None:
    # A step that keeps the interpreter's lock. Taken for a process that was cut off from Postgres, its worker would
    # excuse it every time, and it would come back for ever.
    standing_still = threading.Event()
    renew_leases = heartbeat._renew

    def renew(connection: psycopg.Connection) -> None:
        if standing_still.is_set():
            # Unlike `ctypes.CDLL`, it keeps the lock.
            ctypes.PyDLL(None).usleep(round(STANDSTILL_SECONDS * 1e6))
        renew_leases(connection)

    heartbeat._renew = renew  # type: ignore[method-assign]
    heartbeat.start()
    wait_until(lambda: house.execute("SELECT FROM pools WHERE pool = 'audit'"))
    since = house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0]

    standing_still.set()

    wait_until(lambda: "heartbeat missed" in caplog.messages, 60, message="its connection was cut")
    standing_still.clear()
    # Not even a row that was forgotten meanwhile makes it a new one.
    house.execute("DELETE FROM pools WHERE pool = 'audit'")
    wait_until(lambda: house.execute("SELECT FROM pools WHERE pool = 'audit'"), message="it beats again")
    assert house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0] == since


def test_a_process_without_a_file_or_a_thread_to_spare_was_not_cut_off_either(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil", caplog: pytest.LogCaptureFixture
) -> None:
    renew_leases, failures = heartbeat._renew, [OSError(24, "Too many open files"), RuntimeError("no new thread")]

    def renew(connection: psycopg.Connection) -> None:
        if since and failures:
            raise failures.pop()
        renew_leases(connection)

    since: list[datetime] = []
    heartbeat._renew = renew  # type: ignore[method-assign]
    heartbeat.start()
    wait_until(lambda: house.execute("SELECT FROM pools WHERE pool = 'audit'"))
    since.append(house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0])
    wait_until(lambda: caplog.messages.count("heartbeat missed") == 2)

    beats = house.execute("SELECT seen_at FROM pools WHERE pool = 'audit'")[0][0]
    wait_until(lambda: house.execute("SELECT seen_at FROM pools WHERE pool = 'audit'")[0][0] > beats)
    assert house.execute("SELECT since FROM pools WHERE pool = 'audit'")[0][0] == since[0]


def test_a_claim_that_this_very_process_took_over_is_reported_lost(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    successor = house.take_over(run_id, "a")
    lost: list[int] = []
    for held in (zombie, successor):
        epoch = held.claim.epoch
        heartbeat.hold(held.claim.step_id, epoch, lambda epoch=epoch: lost.append(epoch))  # type: ignore[misc]
    heartbeat.start()

    wait_until(lambda: lost == [1], message="the first claim is lost")

    assert lease_is_fresh(house, run_id, "a")


def test_a_process_that_starts_again_in_its_container_vouches_for_nothing_of_the_one_before(house: "House") -> None:
    # Host and pid are the same. Taken for a process that was cut off from Postgres, it would excuse a step that kills
    # its worker every time.
    before, after = new_holder("research"), new_holder("research")
    assert before != after
    assert {name.rpartition(":")[2] for name in (before, after)} == {str(os.getpid())}
    run_id = house.start(script("a"))
    house.claim(run_id, "a")
    house.execute("UPDATE steps SET holder = :holder WHERE run = :run", {"holder": before, "run": run_id})
    house.expire(run_id, "a")
    house.execute("INSERT INTO pools (holder, pool, slots) VALUES (:holder, 'research', 1)", {"holder": after})
    house.recover()
    assert house.row(run_id, "a").crashes == 1


def test_it_beats_while_every_other_connection_waits_for_a_locked_run(
    patient_house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    house = patient_house
    run_id = house.start(script("a"), script("b"))
    held = house.claim(run_id, "a")
    lost: list[str] = []
    heartbeat.hold(held.claim.step_id, 1, lambda: lost.append("a"))
    with house.owner.connect() as blocker, ThreadPoolExecutor(8) as threads:
        blocker.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{step_id(run_id, 'b')}' FOR UPDATE")
        # As many as the pool has connections wait for it.
        waiting = [threads.submit(house.claim, run_id, "b") for _ in range(8)]
        heartbeat.start()
        wait_until(lambda: lease_is_fresh(house, run_id, "a"), timeout_seconds=30)
        blocker.rollback()
        claimed = [one.exception(timeout=60) is None for one in waiting]
    assert (lost, sum(claimed)) == ([], 1)


def test_it_connects_again_after_its_connection_was_cut(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    lost: list[str] = []
    heartbeat.hold(held.claim.step_id, 1, lambda: lost.append("a"))
    heartbeat.start()
    wait_until(lambda: lease_is_fresh(house, run_id, "a"))

    house.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE '%renew_leases%' AND pid <> pg_backend_pid() AND datname = current_database()"
    )

    cut_at = house.execute("SELECT clock_timestamp()")[0][0]
    wait_until(
        lambda: house.execute("SELECT FROM pools WHERE pool = 'audit' AND seen_at > :cut_at", {"cut_at": cut_at})
    )
    wait_until(lambda: lease_is_fresh(house, run_id, "a"))
    assert lost == []

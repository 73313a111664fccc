"""The heartbeat: renews what this process holds, learns what it lost, on a connection of its own."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import OperationalError

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.heartbeat import Heartbeat
from chargehand.orchestrator.plan import Step, step_id

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

# A third of it is the beat.
LEASE_SECONDS = 0.15


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


def test_renewal_locks_in_the_order_of_the_plan(house: "House") -> None:
    # In the order of ids it deadlocked with a pause, which locks in the order of the plan.
    run_id = next(
        run
        for run in (house.start(script("a"), script("b")) for _ in itertools.count())
        if step_id(run, "a").int > step_id(run, "b").int
    )
    helds = [house.claim(run_id, key) for key in ("a", "b")]
    ids = [held.claim.step_id for held in helds]
    with house.owner.connect() as pause:
        pause.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{ids[0]}' FOR NO KEY UPDATE")
        renewing = threading.Thread(target=renew, args=(house, ids, [1, 1]))
        renewing.start()
        while not house.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert renewing.is_alive()
        try:
            pause.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{ids[1]}' FOR NO KEY UPDATE NOWAIT")
        except OperationalError:
            pytest.fail("the renewal holds the second step and waits for the first")
        finally:
            pause.rollback()
            renewing.join(timeout=5)


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


def test_a_claim_that_this_very_process_took_over_is_reported_lost(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    house.expire(run_id, "a")
    successor = house.claim(run_id, "a")
    lost: list[int] = []
    for held in (zombie, successor):
        epoch = held.claim.epoch
        heartbeat.hold(held.claim.step_id, epoch, lambda epoch=epoch: lost.append(epoch))  # type: ignore[misc]
    heartbeat.start()

    wait_until(lambda: lost == [1], message="the first claim is lost")

    assert lease_is_fresh(house, run_id, "a")


def test_it_beats_while_every_other_connection_waits_for_a_locked_run(
    house: "House", heartbeat: Heartbeat, wait_until: "WaitUntil"
) -> None:
    run_id = house.start(script("a"), script("b"))
    held = house.claim(run_id, "a")
    lost: list[str] = []
    heartbeat.hold(held.claim.step_id, 1, lambda: lost.append("a"))
    with house.owner.connect() as blocker, ThreadPoolExecutor(8) as threads:
        blocker.exec_driver_sql(f"SELECT FROM chargehand.steps WHERE id = '{step_id(run_id, 'b')}' FOR UPDATE")
        # As many as the pool has connections wait for it.
        waiting = [threads.submit(house.claim, run_id, "b") for _ in range(8)]
        heartbeat.start()
        wait_until(lambda: lease_is_fresh(house, run_id, "a"), timeout_seconds=1.5)
        blocker.rollback()
        claimed = [one.exception(timeout=10) is None for one in waiting]
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

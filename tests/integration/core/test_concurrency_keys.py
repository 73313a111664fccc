"""At most one run of a key is under way, however many ask at once and whoever dies between."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import explaining, runs
from chargehand.orchestrator.errors import ConcurrencyConflict, StepCancelled
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.supervisor.queueing import start_queued

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

KEY = "deploy-prod"
MANY = 200


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def submit(house: "House", **fields: object) -> UUID:
    return house.submit(script("a"), **{"concurrency_key": KEY, **fields})


def status(house: "House", run_id: UUID) -> str:
    return str(house.run_row(run_id).status)


def end(house: "House", run_id: UUID) -> None:
    with house.as_tenant() as session:
        assert runs.cancel(session, house.tenant, run_id)


def under_way(house: "House", key: str = KEY) -> int:
    rows = house.execute(
        "SELECT count(*) FROM runs WHERE concurrency_key = :key AND tenant = :tenant "
        "AND status IN ('running', 'paused')",
        {"key": key, "tenant": house.tenant},
    )
    return int(rows[0][0])


def test_a_second_run_of_a_key_waits_and_starts_when_the_first_has_ended(house: "House") -> None:
    house.open_pool("coding")
    house.open_pool("research")
    first, second = submit(house), submit(house)
    assert (status(house, first), status(house, second)) == ("running", "queued")
    house.watch()
    for run_id in (first, second):
        house.advance(run_id)
    assert house.statuses(first) == {"a": "ready"}
    # Nothing of it is on its way to a worker.
    assert house.statuses(second) == {"a": "pending"}
    with house.as_tenant() as session:
        assert explaining.explain(session, second) == [
            (
                "a",
                f"the run waits for its concurrency key, which run {first} has; "
                f"it starts when that run has ended, or `chargehand cancel {first}`",
            )
        ]

    house.admit()
    house.run(first, "a")
    house.advance(first)
    assert second in house.watch().runs

    assert (status(house, first), status(house, second)) == ("succeeded", "running")
    house.advance(second)
    house.admit()
    house.run(second, "a")
    house.advance(second)
    assert status(house, second) == "succeeded"
    assert house.kinds(second)[:3] == ["run.submitted", "run.queued", "run.started"]
    for run_id in (first, second):
        assert house.drift(run_id) == []
        assert house.objections(run_id) == []


def test_runs_of_a_key_start_in_the_order_in_which_they_were_accepted(house: "House") -> None:
    line = [submit(house) for _ in range(5)]
    for position, run_id in enumerate(line):
        assert [status(house, other) for other in line[position:]] == ["running"] + ["queued"] * (4 - position)
        end(house, run_id)
        start_queued(house.supervisor)


def test_keys_of_other_names_and_of_other_tenants_do_not_wait(house: "House") -> None:
    elsewhere = uuid4()
    mine, other = submit(house), submit(house, concurrency_key="deploy-test")
    theirs = house.submit(script("a"), tenant=elsewhere, concurrency_key=KEY)
    assert [status(house, run) for run in (mine, other, theirs)] == ["running"] * 3
    without = [house.submit(script("a")) for _ in range(2)]
    assert [status(house, run) for run in without] == ["running"] * 2


def test_a_request_that_must_not_wait_is_refused_and_leaves_nothing(house: "House") -> None:
    first = submit(house)
    with pytest.raises(ConcurrencyConflict, match=f"'deploy-prod' is taken by run {first}, which is running"):
        submit(house, on_conflict="reject")
    count = house.execute("SELECT count(*) FROM runs WHERE tenant = :tenant", {"tenant": house.tenant})[0][0]
    assert count == 1
    end(house, first)
    assert status(house, submit(house, on_conflict="reject")) == "running"


def test_a_request_that_is_refused_still_finds_its_own_earlier_self(house: "House") -> None:
    first = submit(house, on_conflict="reject", idempotency_key="release-7")
    assert submit(house, on_conflict="reject", idempotency_key="release-7") == first
    assert submit(house, on_conflict="cancel_older", idempotency_key="release-7") == first
    assert status(house, first) == "running"


def test_a_newer_run_takes_the_key_from_all_that_had_it_or_waited(house: "House") -> None:
    house.open_pool("coding")
    house.open_pool("research")
    first, second, third = submit(house), submit(house), submit(house)
    house.advance(first)
    house.admit()
    held = house.claim(first, "a")
    newest = submit(house, on_conflict="cancel_older")
    assert [status(house, run) for run in (first, second, third, newest)] == ["cancelled"] * 3 + ["running"]
    assert house.run_row(first).reason == f"run {newest} has taken its concurrency key"
    with pytest.raises(StepCancelled):
        held.finish(StepFinished(outcome="succeeded"))
    for run in (first, second, third, newest):
        house.advance(run)
        assert house.drift(run) == []
    assert under_way(house) == 1


def test_a_paused_run_keeps_its_key(house: "House") -> None:
    first, second = submit(house), submit(house)
    with house.as_tenant() as session:
        assert runs.pause(session, house.tenant, first)
        # It does not run, so there is nothing to pause.
        assert not runs.pause(session, house.tenant, second)
        assert not runs.resume(session, house.tenant, second)
    start_queued(house.supervisor)
    assert status(house, second) == "queued"
    with house.as_tenant() as session:
        assert runs.resume(session, house.tenant, first)
    assert under_way(house) == 1


def test_a_run_that_waits_can_be_cancelled_and_its_deadline_counts(house: "House") -> None:
    first, second, third = submit(house), submit(house), submit(house, deadline_seconds=3_600)
    end(house, second)
    house.execute("UPDATE runs SET deadline_at = clock_timestamp() WHERE id = :run", {"run": third})
    house.watch()
    assert [status(house, run) for run in (first, second, third)] == ["running", "cancelled", "failed"]
    assert house.run_row(third).reason == "its deadline has passed"


def test_submissions_in_callers_transactions_obey_the_key(house: "House") -> None:
    first = submit(house)
    asked = [house.request(script("a"), concurrency_key=KEY, on_conflict=policy) for policy in ("queue", "reject")]
    for request in asked:
        with house.as_tenant() as session:
            runs.enqueue(session, house.tenant, request)
    house.watch()
    waiting, refused = (request.run_id for request in asked)
    assert status(house, waiting) == "queued"
    # Its caller has gone on long ago: it finds a run, and in it the reason.
    assert status(house, refused) == "cancelled"
    assert f"is taken by run {first}" in house.run_row(refused).reason
    house.advance(refused)
    assert house.drift(refused) == []


def test_of_many_submitted_at_once_never_two_are_under_way(house: "House", threads: ThreadPoolExecutor) -> None:
    """200 submits from eight threads, two supervisors that start what waits, and a watcher that counts."""
    over = threading.Event()
    seen: list[int] = []
    started: list[UUID] = []

    def watch_them() -> None:
        while not over.is_set():
            seen.append(under_way(house))

    def supervise() -> None:
        while not over.is_set():
            started.extend(start_queued(house.supervisor))

    def finish_them() -> None:
        while not over.is_set():
            rows = house.execute(
                "SELECT id FROM runs WHERE tenant = :tenant AND status = 'running'", {"tenant": house.tenant}
            )
            for (run_id,) in rows:
                with tenant_session(house.app, house.tenant) as session:
                    runs.cancel(session, house.tenant, run_id)

    crew = [threading.Thread(target=act) for act in (watch_them, supervise, supervise, finish_them)]
    for one in crew:
        one.start()
    try:
        made = list(threads.map(lambda _number: submit(house), range(MANY)))
        deadline = threading.Event()
        for _ in range(600):
            left = house.execute(
                "SELECT count(*) FROM runs WHERE tenant = :tenant AND status IN ('queued', 'running')",
                {"tenant": house.tenant},
            )[0][0]
            if not left:
                break
            deadline.wait(0.1)
    finally:
        over.set()
        for one in crew:
            one.join()
    assert left == 0
    assert len(set(made)) == MANY
    assert seen
    assert max(seen) == 1
    # In the order in which they were accepted.
    rows = house.execute(
        "SELECT r.id FROM runs r JOIN journal j ON j.run = r.id AND j.kind = 'run.started' "
        "WHERE r.tenant = :tenant ORDER BY j.at",
        {"tenant": house.tenant},
    )
    begun = [run_id for (run_id,) in rows]
    ordered = house.execute("SELECT id FROM runs WHERE tenant = :t ORDER BY created_at", {"t": house.tenant})
    assert begun == [run_id for (run_id,) in ordered if run_id in begun]
    assert sorted(started) == sorted(begun)
    assert len(begun) > MANY / 2


def test_newer_runs_that_race_leave_one_under_way(house: "House", threads: ThreadPoolExecutor) -> None:
    made = list(threads.map(lambda _n: submit(house, on_conflict="cancel_older"), range(40)))
    alive = [run for run in made if status(house, run) == "running"]
    assert len(alive) == 1
    assert all(house.drift(run) == [] for run in made)

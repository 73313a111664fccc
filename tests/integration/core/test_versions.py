"""A deploy in the middle of runs: what a newer version has written to is left to processes that know it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from chargehand.orchestrator import explaining, facts, runs, views
from chargehand.orchestrator.errors import NewerVersion, NothingToClaim
from chargehand.orchestrator.facts import StepFinished, StepReleased, StepWaiting
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.supervisor.advance import has_rings
from chargehand.workers.scripts.registry import SCRIPTS, Script
from chargehand.workers.scripts.registry import script as register

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.core.conftest import House

OLD, NEW = facts.SCHEMA_VERSION, facts.SCHEMA_VERSION + 1


@pytest.fixture
def work() -> Iterator[Script[..., Any]]:
    """A script that does nothing."""
    yield register(name="work")(lambda: None)
    del SCRIPTS["work"]


@contextmanager
def version(number: int) -> Iterator[None]:
    """The code as it will be, or was, at a schema version."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("chargehand.") and hasattr(module, "SCHEMA_VERSION"):
                patch.setattr(module, "SCHEMA_VERSION", number)
        yield


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def versions(house: "House", run_id: "UUID") -> tuple[int, dict[str, int]]:
    rows = house.execute("SELECT key, schema_version FROM steps WHERE run = :run", {"run": run_id})
    return house.run_row(run_id).schema_version, {row.key: row.schema_version for row in rows}


def handed_back_by_new(house: "House", *planned: Step) -> "UUID":
    """A run whose first step was begun by a new worker and is queued again."""
    run_id = house.start(*planned)
    with version(NEW):
        house.claim(run_id, planned[0].key).release(StepReleased(reason="drain"))
    house.admit()
    return run_id


def test_an_old_worker_leaves_a_step_that_a_new_one_has_written_to(house: "House") -> None:
    run_id = handed_back_by_new(house, script("a"))
    assert versions(house, run_id) == (OLD, {"a": NEW})

    with pytest.raises(NothingToClaim, match="is queued"):
        house.claim(run_id, "a")
    with version(NEW):
        assert house.run(run_id, "a")

    assert house.kinds(run_id, "a")[-2:] == ["step.claimed", "step.finished"]


def test_an_old_worker_leaves_a_step_of_a_new_plan(house: "House") -> None:
    house.open_pool("research")
    with version(NEW):
        run_id = house.submit(script("a"))
        house.advance(run_id)
        house.admit()
    assert versions(house, run_id) == (NEW, {"a": NEW})
    with pytest.raises(NothingToClaim):
        house.claim(run_id, "a")


def test_a_step_that_no_worker_knows_is_sent_again_ever_more_patiently(house: "House") -> None:
    # With a message for each time that an old worker finds nothing, the two would keep each other busy.
    run_id = handed_back_by_new(house, script("a"))
    emissions = []
    with version(NEW):
        for _ in range(4):
            row = house.row(run_id, "a")
            emissions.append(row.emissions)
            patience = house.settings.unclaimed_seconds * 2 ** (row.emissions - 1)
            house.execute(
                "UPDATE steps SET queued_at = clock_timestamp() - make_interval(secs => :waited) WHERE run = :run",
                {"run": run_id, "waited": patience + 1},
            )
            assert house.watch().unclaimed == 1
            assert house.watch().unclaimed == 0, "ready, not queued"
            house.admit()
            with version(OLD), pytest.raises(NothingToClaim):
                house.claim(run_id, "a")
    assert emissions == [1, 2, 3, 4]
    assert (house.row(run_id, "a").epoch, house.row(run_id, "a").crashes) == (1, 0)


def test_an_old_supervisor_leaves_a_new_run_with_its_rings(house: "House") -> None:
    run_id = house.start(script("a"))
    house.run(run_id, "a")
    with version(NEW), house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, "from a new client")
    rings = house.rings(run_id)

    assert not house.advance(run_id)
    assert run_id not in house.watch().runs
    assert not has_rings(house.supervisor, run_id), "answering the bell would never end"
    assert house.rings(run_id) == rings > 0

    with version(NEW):
        assert run_id in house.watch().runs
        house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"


def test_runs_of_another_version_take_no_place_in_the_batches(house: "House", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BATCH", 1)
    new, old = (house.submit(script("a")) for _ in range(2))
    house.execute("UPDATE runs SET schema_version = :new WHERE id = :run", {"new": NEW, "run": new})
    assert watch.old_rings(house.supervisor, house.settings) == [old]
    house.execute("UPDATE runs SET schema_version = 1 WHERE id = :run", {"run": new})
    assert watch.old_rings(house.supervisor, house.settings) == [new], "the longest forgotten one first"


def test_an_old_supervisor_neither_recovers_nor_wakes_nor_ends_what_is_new(house: "House") -> None:
    lost, late, asleep, unclaimed, ended = (house.start(script("a", deadline_seconds=60)) for _ in range(5))
    with version(NEW):
        for run_id in (lost, late):
            house.claim(run_id, "a")
        house.claim(asleep, "a").wait(StepWaiting(wait_id=new_wait_id(), reason="rate", question="?"), after_seconds=-1)
        house.claim(unclaimed, "a").release(StepReleased(reason="drain"))
        house.claim(ended, "a")
    house.admit()
    house.expire(lost, "a")
    house.execute("UPDATE steps SET deadline_at = clock_timestamp() WHERE run = :run", {"run": late})
    house.execute(
        "UPDATE steps SET queued_at = clock_timestamp() - interval '1 day' WHERE run = :run", {"run": unclaimed}
    )
    house.execute("UPDATE runs SET deadline_at = clock_timestamp() WHERE id = :run", {"run": ended})

    found = house.watch()
    assert (found.recovered, found.unclaimed, found.overdue) == (0, 0, 0)
    assert house.row(asleep, "a").status == "waiting"

    with version(NEW):
        found = house.watch()
    assert (found.recovered, found.unclaimed, found.overdue) == (1, 1, 2)
    assert house.row(asleep, "a").status == "ready"


def test_an_old_supervisor_leaves_a_new_submission_in_its_place(house: "House") -> None:
    request = house.request(script("a"))
    with version(NEW), house.as_tenant() as session:
        runs.enqueue(session, house.tenant, request)
    with house.as_tenant() as session:
        runs.enqueue(session, house.tenant, other := house.request(script("a")))

    assert watch.accept_submissions(house.supervisor, house.settings) == [other.run_id]
    with version(NEW):
        assert watch.accept_submissions(house.supervisor, house.settings) == [request.run_id]


def test_an_old_worker_that_meets_a_new_result_hands_its_step_on(house: "House", work: Script[..., Any]) -> None:
    # The step is as old as the worker; what a predecessor gave it is not.
    run_id = house.start(script("a"), script("b", "a"))
    with version(NEW):
        house.run(run_id, "a")
    assert house.row(run_id, "b").status == "queued"

    assert house.deliver(run_id, "b", work) == "stop"

    assert house.kinds(run_id, "b") == ["step.claimed", "step.released"]
    assert (house.row(run_id, "b").status, house.row(run_id, "b").crashes) == ("ready", 0)
    house.admit()
    with pytest.raises(NothingToClaim):
        house.claim(run_id, "b")
    with version(NEW):
        assert house.deliver(run_id, "b", work) == "go_on"
        house.advance(run_id)
        assert house.drift(run_id) == []
    assert house.run_row(run_id).status == "succeeded"


def test_an_old_reader_says_which_version_it_would_have_to_know(house: "House") -> None:
    run_id = house.start(script("a"))
    with version(NEW):
        house.claim(run_id, "a").finish(StepFinished(outcome="succeeded"))
    with house.as_tenant() as session, pytest.raises(NewerVersion, match="upgrade this process") as met:
        views.events_after(session, run_id, {uuid4(): 1})
    assert met.value.version == NEW


def test_a_person_is_told_that_a_step_waits_for_a_newer_worker(house: "House") -> None:
    run_id = handed_back_by_new(house, script("a"))
    with house.as_tenant() as session:
        [(_, why)] = explaining.explain(session, run_id)
    assert why == f"was written by version {NEW}, this process is of version {OLD}; start workers of version {NEW}"

"""Asking for a run in the caller's own transaction: it is there if and only if that commits."""

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import DBAPIError

from chargehand.orchestrator import runs
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.supervisor import watch

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


class CallersError(Exception):
    """Something in the caller's own transaction went wrong."""


def exists(house: "House", run_id: object) -> bool:
    return bool(house.execute("SELECT FROM runs WHERE id = :run", {"run": run_id}))


def test_what_the_caller_commits_becomes_a_run(house: "House") -> None:
    request = house.request(script("a"), script("b", "a"), priority=7)
    with house.as_tenant() as session:
        runs.enqueue(session, house.tenant, request)
    assert not exists(house, request.run_id)

    assert request.run_id in house.watch().runs
    house.advance(request.run_id)

    row = house.run_row(request.run_id)
    assert (row.tenant, row.priority, row.status) == (house.tenant, 7, "running")
    assert house.statuses(request.run_id) == {"a": "ready", "b": "pending"}
    assert house.execute("SELECT FROM submissions") == []
    assert house.drift(request.run_id) == []


def test_what_the_caller_rolls_back_was_never_asked_for(house: "House") -> None:
    request = house.request(script("a"))
    with pytest.raises(CallersError), house.as_tenant() as session:  # noqa: PT012 - the block is the transaction
        runs.enqueue(session, house.tenant, request)
        raise CallersError
    assert watch.accept_submissions(house.supervisor, house.settings) == []
    assert not exists(house, request.run_id)


def test_a_submission_is_invisible_until_its_transaction_commits(house: "House") -> None:
    request = house.request(script("a"))
    with house.as_tenant() as session:
        runs.enqueue(session, house.tenant, request)
        session.flush()
        assert watch.accept_submissions(house.supervisor, house.settings) == []
    assert watch.accept_submissions(house.supervisor, house.settings) == [request.run_id]


def test_two_submissions_with_one_key_are_one_run(house: "House") -> None:
    requests = [house.request(script("a"), idempotency_key="k") for _ in range(2)]
    for request in requests:
        with house.as_tenant() as session:
            runs.enqueue(session, house.tenant, request)
    accepted = watch.accept_submissions(house.supervisor, house.settings)
    assert accepted == [requests[0].run_id] * 2
    assert not exists(house, requests[1].run_id)


def test_one_that_is_being_accepted_elsewhere_is_left_alone(house: "House") -> None:
    requests = [house.request(script("a")) for _ in range(2)]
    for request in requests:
        with house.as_tenant() as session:
            runs.enqueue(session, house.tenant, request)
    with house.owner.connect() as other:
        other.exec_driver_sql(f"SELECT FROM chargehand.submissions WHERE run = '{requests[0].run_id}' FOR UPDATE")
        assert watch.accept_submissions(house.supervisor, house.settings) == [requests[1].run_id]
        other.rollback()
    assert watch.accept_submissions(house.supervisor, house.settings) == [requests[0].run_id]


def test_a_submission_for_a_run_that_exists_already_is_taken_as_that_run(house: "House") -> None:
    run_id = house.submit(script("a"))
    house.submit(script("other"))
    with house.as_tenant() as session:
        runs.enqueue(session, house.tenant, house.request(script("a"), run_id=run_id))
    assert watch.accept_submissions(house.supervisor, house.settings) == [run_id]


def test_what_cannot_be_a_run_does_not_block_what_waits_behind_it(house: "House") -> None:
    good = house.request(script("a"))
    for problem in (
        house.request(Step(key="a", kind="agent", role="nobody")),
        house.request(script("a"), role_texts={"x": "no front matter"}),
        house.request(script("a"), priority=2**40),
    ):
        with house.as_tenant() as session:
            runs.enqueue(session, house.tenant, problem)
    with house.as_tenant() as session:
        runs.enqueue(session, house.tenant, good)

    assert watch.accept_submissions(house.supervisor, house.settings) == [good.run_id]
    assert house.execute("SELECT FROM submissions") == []


def test_nobody_submits_for_another_tenant(house: "House") -> None:
    other = house.request(script("a"))
    with pytest.raises(DBAPIError, match="row-level security"), house.as_tenant() as session:
        runs.enqueue(session, runs.new_run_id(), other)

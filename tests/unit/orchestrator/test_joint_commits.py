"""Statements that wait at the same moment share a commit, and each keeps its own outcome."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from chargehand.orchestrator.errors import ReplyLost
from chargehand.orchestrator.joint_commits import LONGEST_TEXT, Form, Joint, JointCommits
from chargehand.orchestrator.prepared import Parameters, Row

if TYPE_CHECKING:
    from tests.conftest import WaitUntil

TENANT = uuid4()
LONG_SECONDS = 60.0
FORM = Form(statement="many", gather=lambda each: {"each": list(each)})
ONE = Joint("one", FORM)


class Server:
    """Commits what it is told, and lets a statement about `gate` wait until it is opened."""

    def __init__(self) -> None:
        self.gate, self.began = threading.Event(), threading.Event()
        self.commits: list[list[UUID]] = []
        self.tenants: list[set[UUID]] = []
        self.refuse: Callable[[Sequence[Parameters]], Sequence[Parameters]] = lambda each: each

    def run(self, tenant: UUID, statement: str, parameters: Parameters) -> list[Row]:
        each: Any = parameters["each"] if statement == "many" else [parameters]
        if each[0].get("gate"):
            self.began.set()
            assert self.gate.wait(LONG_SECONDS)
        written = self.refuse(each) if statement == "many" else each
        self.commits.append([one["step"] for one in written])
        self.tenants.append({tenant})
        return [{"id": one["step"], "value": one["value"]} for one in written]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def commits(server: Server) -> JointCommits:
    return JointCommits(server.run, lanes=1, patience_seconds=LONG_SECONDS)


@contextmanager
def waiting(
    commits: JointCommits, server: Server, wait_until: "WaitUntil", wishes: Sequence[tuple[UUID, dict[str, object]]]
) -> Iterator[list["Future[list[Row]]"]]:
    """The wishes of so many threads, all of which wait for the only lane until the block ends."""
    with ThreadPoolExecutor(len(wishes) + 1) as pool:
        first = pool.submit(commits.run, TENANT, ONE, {"step": uuid4(), "value": "first", "gate": True})
        try:
            assert server.began.wait(LONG_SECONDS)
            given = []
            for number, (tenant, wish) in enumerate(wishes, start=1):
                given.append(pool.submit(commits.run, tenant, ONE, wish))
                wait_until(lambda number=number: len(commits._waiting) == number, LONG_SECONDS)
            yield given
        finally:
            server.gate.set()
        assert first.result(LONG_SECONDS)[0]["value"] == "first"


def wish(value: str, step: UUID | None = None) -> tuple[UUID, dict[str, object]]:
    return TENANT, {"step": step or uuid4(), "value": value}


def values(given: Sequence["Future[list[Row]]"]) -> list[str]:
    return [future.result(LONG_SECONDS)[0]["value"] for future in given]


def test_who_finds_a_lane_free_goes_alone(commits: JointCommits, server: Server) -> None:
    step = uuid4()
    for _ in range(3):
        assert commits.run(TENANT, ONE, {"step": step, "value": "a"})[0]["value"] == "a"
    assert server.commits == [[step]] * 3


def test_who_waits_together_is_committed_together_and_gets_its_own_row(
    commits: JointCommits, server: Server, wait_until: "WaitUntil"
) -> None:
    wishes = [wish(str(number)) for number in range(5)]
    with waiting(commits, server, wait_until, wishes) as given:
        assert not any(future.done() for future in given)
    assert values(given) == ["0", "1", "2", "3", "4"]
    assert [len(steps) for steps in server.commits] == [1, 5]


def test_who_is_passed_over_runs_alone_and_the_others_do_not_notice(
    commits: JointCommits, server: Server, wait_until: "WaitUntil"
) -> None:
    server.refuse = lambda each: [one for one in each if one["value"] != "1"]
    with waiting(commits, server, wait_until, [wish(str(number)) for number in range(3)]) as given:
        pass
    assert values(given) == ["0", "1", "2"]
    assert [len(steps) for steps in server.commits] == [1, 2, 1]


def test_what_is_refused_as_a_whole_is_run_by_each_alone(
    commits: JointCommits, server: Server, wait_until: "WaitUntil"
) -> None:
    def refuse(_: Sequence[Parameters]) -> Sequence[Parameters]:
        raise psycopg.errors.UniqueViolation("one of them")

    server.refuse = refuse
    with waiting(commits, server, wait_until, [wish(str(number)) for number in range(3)]) as given:
        pass
    assert values(given) == ["0", "1", "2"]
    assert [len(steps) for steps in server.commits] == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [ReplyLost("Postgres broke off: gone"), AssertionError("a mistake of ours")])
def test_each_is_told_when_nobody_knows_whether_it_was_committed(
    commits: JointCommits, server: Server, wait_until: "WaitUntil", error: Exception
) -> None:
    def break_off(_: Sequence[Parameters]) -> Sequence[Parameters]:
        raise error

    server.refuse = break_off
    with waiting(commits, server, wait_until, [wish(str(number)) for number in range(3)]) as given:
        pass
    carrier, *others = [future.exception(LONG_SECONDS) for future in given]
    assert type(carrier) is type(error)
    assert all(isinstance(told, ReplyLost) and "Postgres broke off" in str(told) for told in others)
    assert len(server.commits) == 1
    # The lane is free again.
    assert commits.run(TENANT, ONE, {"step": uuid4(), "value": "a"})


def test_tenants_do_not_share_a_commit(commits: JointCommits, server: Server, wait_until: "WaitUntil") -> None:
    other = uuid4()
    wishes = [wish("0"), (other, wish("1")[1]), wish("2"), (other, wish("3")[1])]
    with waiting(commits, server, wait_until, wishes) as given:
        pass
    assert values(given) == ["0", "1", "2", "3"]
    assert [len(steps) for steps in server.commits] == [1, 2, 2]
    assert server.tenants == [{TENANT}, {TENANT}, {other}]


def test_a_step_is_not_twice_in_one_statement(commits: JointCommits, server: Server, wait_until: "WaitUntil") -> None:
    step = uuid4()
    with waiting(commits, server, wait_until, [wish("0", step), wish("1"), wish("2", step)]) as given:
        pass
    assert values(given) == ["0", "1", "2"]
    assert [len(steps) for steps in server.commits] == [1, 2, 1]


def test_a_long_text_goes_alone_and_at_once(commits: JointCommits, server: Server, wait_until: "WaitUntil") -> None:
    with waiting(commits, server, wait_until, [wish("0")]) as given:
        long = {"step": uuid4(), "value": "long", "body": "x" * (LONGEST_TEXT + 1)}
        assert commits.run(TENANT, ONE, long)[0]["value"] == "long"
        assert not given[0].done()
    assert values(given) == ["0"]


def test_who_has_waited_long_enough_for_a_lane_goes_alone(server: Server, wait_until: "WaitUntil") -> None:
    commits = JointCommits(server.run, lanes=1, patience_seconds=0.01)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(commits.run, TENANT, ONE, {"step": uuid4(), "value": "hangs", "gate": True})
        try:
            assert server.began.wait(LONG_SECONDS)
            assert commits.run(TENANT, ONE, {"step": uuid4(), "value": "a"})[0]["value"] == "a"
            assert not hanging.done()
            assert not commits._waiting
        finally:
            server.gate.set()
        assert hanging.result(LONG_SECONDS)


def test_many_threads_all_get_what_they_asked_for(server: Server) -> None:
    commits = JointCommits(server.run, lanes=2)

    def work(number: int) -> bool:
        step = uuid4()
        return all(
            commits.run(TENANT, ONE, {"step": step, "value": turn})[0] == {"id": step, "value": turn}
            for turn in range(number % 7 + 20)
        )

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(64)))
    assert sum(map(len, server.commits)) == sum(number % 7 + 20 for number in range(64))
    assert commits._free == 2

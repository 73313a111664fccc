"""Runs by the clock: each tick's once, whoever looks at it and whoever dies between."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.orchestrator import runs, schedules
from chargehand.orchestrator.client.scheduling import Schedules
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.supervisor import firing
from chargehand.orchestrator.supervisor.firing import fire

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

PLAN = Plan.of((Step(key="a", kind="script", script="work"),))
EVERY_HOUR = "0 * * * *"


@pytest.fixture(autouse=True)
def _no_schedules_stay(house: "House") -> Any:
    yield
    house.execute("DELETE FROM schedules")


def of(house: "House") -> Schedules:
    return Schedules(house.as_tenant, house.tenant, house.settings)


def add(house: "House", expression: str = EVERY_HOUR, **fields: Any) -> None:
    of(house).add(expression, "Nightly", plan=PLAN, name="nightly", **fields)


def named(house: "House", name: str) -> schedules.Schedule:
    return next(schedule for schedule in of(house).list() if schedule.name == name)


def make_due(house: "House", *, ago: str = "1 second") -> None:
    """As if the clock had come to the next tick, and so far past it."""
    house.execute(
        "UPDATE schedules SET next_at = clock_timestamp() - CAST(:ago AS interval)",
        {"ago": ago},
    )


def made(house: "House") -> list[UUID]:
    rows = house.execute("SELECT id FROM runs WHERE tenant = :t ORDER BY created_at", {"t": house.tenant})
    return [run_id for (run_id,) in rows]


def test_a_schedule_makes_a_run_when_its_time_has_come_and_not_before(house: "House") -> None:
    add(house, budget_usd="2", priority=5, deadline_seconds=60)
    assert fire(house.supervisor, house.settings) == []
    make_due(house)
    tick = of(house).list()[0].next_at
    fired = fire(house.supervisor, house.settings)
    assert fire(house.supervisor, house.settings) == []

    assert made(house) == fired
    row = house.run_row(fired[0])
    found = of(house).list()[0]
    assert (row.goal, row.priority, house.budget(fired[0]).cap_microusd) == ("Nightly", 5, 2_000_000)
    assert row.idempotency_key == f"schedule/{found.schedule_id}/{found.last_tick.isoformat()}"
    assert (row.deadline_at - row.created_at).total_seconds() == pytest.approx(60, abs=1)
    assert (found.last_run, found.problem) == (fired[0], "")
    assert found.last_tick is not None
    assert found.last_tick >= tick
    assert found.next_at > house.execute("SELECT clock_timestamp()")[0][0]
    house.advance(fired[0])
    assert house.statuses(fired[0]) == {"a": "ready"}
    assert house.drift(fired[0]) == []


def test_ten_supervisors_that_race_make_one_run_a_tick(house: "House") -> None:
    # Ticks of hours that have passed: how many there are does not hang on how long the race takes.
    expected: list[str] = []
    with ThreadPoolExecutor(max_workers=10) as crew:
        for number in range(5):
            of(house).add(EVERY_HOUR, plan=PLAN, name=f"hourly{number}", missed="all")
            house.execute(
                "UPDATE schedules SET next_at = next_at - interval '4 hours' WHERE name = :n", {"n": f"hourly{number}"}
            )
            first = named(house, f"hourly{number}").next_at
            while any(list(crew.map(lambda _n: fire(house.supervisor, house.settings), range(10)))):
                pass
            raced = named(house, f"hourly{number}")
            # Four, or five when an hour has begun meanwhile.
            hours = (raced.next_at - first) // timedelta(hours=1)
            assert hours >= 4
            ticks = [first + timedelta(hours=hour) for hour in range(hours)]
            expected += [schedules.idempotency_key(raced.schedule_id, tick) for tick in ticks]
    rows = house.execute("SELECT idempotency_key FROM runs WHERE tenant = :t", {"t": house.tenant})
    assert sorted(key for (key,) in rows) == sorted(expected)


def test_a_supervisor_that_dies_between_run_and_commit_leaves_neither(
    house: "House", monkeypatch: pytest.MonkeyPatch
) -> None:
    add(house)
    make_due(house)
    before = of(house).list()[0]

    class Killed(BaseException):
        """As kill -9: nothing behind it runs."""

    def accept_and_die(*arguments: Any, **named: Any) -> UUID:
        real_accept(*arguments, **named)
        raise Killed

    real_accept = runs.accept
    with monkeypatch.context() as dying:
        dying.setattr(firing.runs, "accept", accept_and_die)
        with pytest.raises(Killed):
            fire(house.supervisor, house.settings)
    assert made(house) == []
    assert of(house).list()[0] == before
    assert fire(house.supervisor, house.settings) == made(house)
    assert len(made(house)) == 1


def test_missed_ticks_follow_the_policy(house: "House") -> None:
    expected = {"skip": 0, "once": 1, "all": 10}
    for policy, count in expected.items():
        of(house).add("30 4 * * *", plan=PLAN, name=policy, missed=policy)
        house.execute("UPDATE schedules SET next_at = next_at - interval '400 days' WHERE name = :n", {"n": policy})
        while fire(house.supervisor, house.settings):
            pass
        found = {one.name: one for one in of(house).list()}[policy]
        rows = house.execute(
            "SELECT count(*) FROM runs WHERE idempotency_key LIKE :key", {"key": f"schedule/{found.schedule_id}/%"}
        )
        late = (house.execute("SELECT clock_timestamp()")[0][0] - found.next_at) < timedelta(0)
        # Unless the suite runs at half past four.
        assert rows[0][0] in (count, 1 if policy == "skip" else count)
        assert late
    assert "skipped" in {one.name: one for one in of(house).list()}["skip"].problem


def test_a_paused_schedule_makes_no_runs_and_does_not_make_up_for_them(house: "House") -> None:
    add(house, missed="all")
    assert of(house).pause("nightly")
    assert not of(house).pause("nightly")
    make_due(house, ago="5 days")
    assert fire(house.supervisor, house.settings) == []
    assert of(house).resume("nightly")
    assert not of(house).resume("nightly")
    assert fire(house.supervisor, house.settings) == []
    make_due(house)
    assert len(fire(house.supervisor, house.settings)) >= 1


def test_a_schedule_that_is_removed_makes_no_more_runs(house: "House") -> None:
    add(house)
    make_due(house)
    of(house).remove("nightly")
    assert fire(house.supervisor, house.settings) == []
    for act in (of(house).remove, of(house).pause, of(house).resume, of(house).request):
        with pytest.raises(NotFound, match="There is no schedule 'nightly'; there are: none"):
            act("nightly")


def test_runs_of_a_schedule_overlap_only_if_they_may(house: "House") -> None:
    add(house, on_conflict="reject")
    make_due(house)
    (first,) = fire(house.supervisor, house.settings)
    make_due(house)
    assert fire(house.supervisor, house.settings) == []
    assert f"'schedule/nightly' is taken by run {first}" in of(house).list()[0].problem
    # That tick is over; the next one is not held up by it.
    assert of(house).list()[0].next_at > house.execute("SELECT clock_timestamp()")[0][0]
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, first)
    make_due(house)
    assert len(fire(house.supervisor, house.settings)) == 1


def test_names_are_unique_in_a_tenant_and_others_do_not_see_them(house: "House") -> None:
    add(house)
    with pytest.raises(UserError, match="There is a schedule 'nightly' already"):
        add(house)
    stranger = UUID(int=house.tenant.int ^ 1)
    theirs = Schedules(lambda: house.as_tenant(stranger), stranger, house.settings)
    assert theirs.list() == []
    theirs.add(EVERY_HOUR, plan=PLAN, name="nightly")
    with pytest.raises(NotFound):
        theirs.pause("other")
    make_due(house)
    assert len(fire(house.supervisor, house.settings)) == 2
    assert len(made(house)) == 1


def repository(folder: Path) -> str:
    folder.mkdir()
    for line in ("init -q", "commit -q --allow-empty -m first"):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *line.split()], cwd=folder, check=True
        )
    return str(folder)


def head_of(folder: str) -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def test_the_workspace_is_copied_at_each_tick_as_it_is_then(house: "House", tmp_path: Path) -> None:
    source = repository(tmp_path / "shop")
    add(house, workspace=source)
    commits = []
    for _ in range(2):
        make_due(house)
        (run_id,) = fire(house.supervisor, house.settings)
        commits.append(house.run_row(run_id).workspace["commit"])
        assert commits[-1] == head_of(source)
        assert (house.settings.artifacts / "repositories" / f"{run_id}.git").is_dir()
        repository_command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q"]
        subprocess.run([*repository_command, "--allow-empty", "-m", "next"], cwd=source, check=True)
    assert commits[0] != commits[1]


def test_ten_supervisors_copy_a_workspace_once(house: "House", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(house, workspace=repository(tmp_path / "shop"))
    copies: list[UUID] = []
    real = firing.Artifacts.import_repository

    def counted(self: Any, source: str, *, run_id: UUID) -> Any:
        copies.append(run_id)
        return real(self, source, run_id=run_id)

    monkeypatch.setattr(firing.Artifacts, "import_repository", counted)
    make_due(house)
    with ThreadPoolExecutor(max_workers=10) as crew:
        fired = [
            run for found in crew.map(lambda _n: fire(house.supervisor, house.settings), range(10)) for run in found
        ]
    assert fired == made(house) == copies
    assert len(fired) == 1


def test_a_workspace_that_is_gone_is_said_and_tried_again(house: "House", tmp_path: Path) -> None:
    source = repository(tmp_path / "shop")
    add(house, workspace=source)
    make_due(house)
    (tmp_path / "shop").rename(tmp_path / "moved")
    assert fire(house.supervisor, house.settings) == []
    assert "its workspace cannot be copied" in of(house).list()[0].problem
    # Not at once, and not by anybody.
    assert fire(house.supervisor, house.settings) == []
    (tmp_path / "moved").rename(tmp_path / "shop")
    house.execute("UPDATE schedules SET held_until = clock_timestamp()")
    assert fire(house.supervisor, house.settings) == made(house)
    assert len(made(house)) == 1
    assert of(house).list()[0].problem == ""


def test_the_id_of_a_tick_is_a_uuidv7_of_its_own(house: "House") -> None:
    add(house)
    found = of(house).list()[0]
    one = schedules.run_id_of(found.schedule_id, found.next_at)
    assert one.version == 7
    assert one == schedules.run_id_of(found.schedule_id, found.next_at)
    assert one != schedules.run_id_of(found.schedule_id, found.next_at + timedelta(seconds=1))
    assert one.int >> 80 == round(found.next_at.timestamp() * 1000)
